"""Verify the container image: build it, run the pipeline as an unprivileged user, compare with the host's numbers.

make image-check

Builds with Docker, or with Podman, or, where neither can run a container (inside of one, say), with Podman and Buildah
in a chroot, on a base system made by debootstrap. (As root; Debian: apt-get install podman buildah debootstrap.)

Then, in the image, as its unprivileged user: the smoke test, the default pipeline, the quick tests; and with a user id
without a name: dvc repro. The same pipeline runs on the host in a copy of the project, and `dynat diff` compares both.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
IMAGE = "localhost/dynat:check"
TESTS = "localhost/dynat:check-tests"
"""The image with the packages of developers."""
BASE = "localhost/dynat-base:bookworm"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
UNNAMED_USER = 12345
"""A user id without a name in the image."""
NONE: Mapping[str, Path] = {}
QUICK = ["select=[at]", "seeds=[0]", "attacks=[clean]", "headline=clean", 'training={"epochs":1}']


def run(*words: str | Path, quiet: bool = False) -> str:
    """Run a command that must succeed; its output, if it was quiet."""
    done = subprocess.run(words, cwd=ROOT, capture_output=quiet, text=True, check=False)
    if done.returncode:
        output = (done.stdout or "")[-4000:] + (done.stderr or "")[-4000:]
        sys.exit(f"failed with {done.returncode}: {shlex.join(map(str, words))}\n{output}")
    return (done.stdout or "").strip()


class Engine:
    """Docker or Podman: build, run, inspect."""

    def __init__(self, program: str) -> None:
        self.program = program

    def works(self) -> bool:
        """Whether it can run containers here. Podman may be installed but unable to; try this system's own `true`."""
        request = {"docker": ["info"], "podman": ["run", "--rm", "--network", "none", "--rootfs", "/:O", "true"]}
        if not shutil.which(self.program):
            return False
        done = subprocess.run([self.program, *request[self.program]], capture_output=True, check=False)
        return done.returncode == 0

    def build(self, options: Sequence[str]) -> None:
        run(self.program, "build", *options, "-t", IMAGE, ".")
        run(self.program, "build", *options, "--target", "tests", "-t", TESTS, ".")

    def do(
        self, command: Sequence[str], *, image: str = IMAGE, user: int | None = None, mounts: Mapping[str, Path] = NONE
    ) -> None:
        options = [] if user is None else ["--user", f"{user}:{user}"]
        for place, folder in mounts.items():
            options += ["-v", f"{folder}:{place}"]
        run(self.program, "run", "--rm", *options, image, *command)

    def size(self) -> int:
        return int(run(self.program, "image", "inspect", "--format", "{{.Size}}", IMAGE, quiet=True))

    def layers(self) -> list[tuple[str, str]]:
        history = run(self.program, "history", "--no-trunc", "--format", "{{.Size}}\t{{.CreatedBy}}", IMAGE, quiet=True)
        return [(line.partition("\t")[0], line.partition("\t")[2]) for line in history.splitlines()]


class Chroot(Engine):
    """Podman builds and Buildah runs, both by chroot: no namespaces, no cgroups, the host's network."""

    def __init__(self) -> None:
        super().__init__("podman")

    def works(self) -> bool:
        missing = [name for name in ("podman", "buildah", "debootstrap") if not shutil.which(name)]
        if missing or os.geteuid() != 0:
            sys.exit(
                "no engine can run a container here (docker info, podman info), and the way without one needs root and "
                f"podman, buildah, debootstrap (missing: {', '.join(missing) or 'none'})"
            )
        return True

    def build(self, options: Sequence[str]) -> None:
        if subprocess.run(["podman", "image", "exists", BASE], check=False).returncode:
            with timed("base system (debootstrap)"), tempfile.TemporaryDirectory() as folder:
                run("debootstrap", "--variant=minbase", "bookworm", folder, quiet=True)
                _complete_sources(Path(folder, "etc/apt/sources.list"))
                pack = f"tar -C {shlex.quote(folder)} -c . | podman import --quiet - {BASE}"
                run("bash", "-o", "pipefail", "-c", pack, quiet=True)
        chroot = ("--isolation", "chroot", "--network", "host", "--build-arg", f"BASE={BASE}")
        super().build([*chroot, *options])

    def do(
        self, command: Sequence[str], *, image: str = IMAGE, user: int | None = None, mounts: Mapping[str, Path] = NONE
    ) -> None:
        container = run("buildah", "from", image, quiet=True)
        try:
            options = ["--isolation", "chroot"] + ([] if user is None else ["--user", f"{user}:{user}"])
            for place, folder in mounts.items():
                options += ["-v", f"{folder}:{place}"]
            config = json.loads(run("podman", "image", "inspect", image, quiet=True))[0]["Config"]
            run("buildah", "run", *options, container, "--", *config["Entrypoint"], *(command or config["Cmd"]))
        finally:
            run("buildah", "rm", container, quiet=True)


def _complete_sources(file: Path) -> None:
    """Add the update repositories, as in published base images; debootstrap writes only the release itself."""
    _, mirror, suite, *parts = file.read_text().split()
    mirror = mirror.rstrip("/")
    lines = [(mirror, suite), (mirror, f"{suite}-updates"), (f"{mirror}-security", f"{suite}-security")]
    file.write_text("".join(f"deb {where} {what} {' '.join(parts)}\n" for where, what in lines))


TIMES: dict[str, float] = {}


@contextmanager
def timed(what: str) -> Iterator[None]:
    print(f"\n== {what}", flush=True)
    started = time.monotonic()
    yield
    TIMES[what] = time.monotonic() - started
    print(f"   ({TIMES[what]:.0f} s)", flush=True)


def writable(work: Path, name: str, user: int) -> Path:
    """A folder as a user creates it before it is mounted."""
    folder = work / name
    folder.mkdir()
    if os.geteuid() == 0:
        os.chown(folder, user, user)
    else:
        folder.chmod(0o777)
    return folder


def on_the_host(work: Path, words: Sequence[str]) -> Path:
    """Run the same pipeline without the image, in a copy of the project; its results."""
    copy = work / "host"
    files = run("git", "ls-files", "--cached", "--others", "--exclude-standard", quiet=True).splitlines()
    for name in files:
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    run("bash", "-c", f"cd {shlex.quote(str(copy))} && {shlex.join([str(BIN / 'snakemake'), *words])}", quiet=True)
    return copy / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["docker", "podman", "chroot"], help="by default the first that works")
    parser.add_argument("--quick", action="store_true", help="one short training instead of the default pipeline")
    parser.add_argument("--built", action="store_true", help=f"check {IMAGE} and {TESTS} as they are")
    parser.add_argument(
        "--option", action="append", default=[], help="for the build: --option=--build-arg=PYTHON_INDEX=..."
    )
    given = parser.parse_args()

    engines: dict[str, Callable[[], Engine]] = {
        "docker": lambda: Engine("docker"),
        "podman": lambda: Engine("podman"),
        "chroot": Chroot,
    }
    name = given.engine or next(name for name, make in engines.items() if make().works())
    engine = engines[name]()
    print(f"engine: {name}")
    if not given.built:
        secret = [f"--secret=id=ca,src={CERTIFICATES}"] if CERTIFICATES.exists() else []
        with timed("build"):
            engine.build([*secret, *given.option])

    work = Path(tempfile.mkdtemp(prefix="image-check-"))
    work.chmod(0o755)
    words = ["snakemake", "--cores", "all", "all"]
    changed = ["--config", *QUICK] if given.quick else []
    with timed("smoke"):
        engine.do(["python", "tools/smoke.py"])
    results = writable(work, "results", 1000)
    with timed("digits in the image"):
        engine.do([*words, *changed] if changed else [], mounts={"/app/results": results})
    with timed("digits on the host"):
        host = on_the_host(work, [*words[1:], *changed])
    with timed("compare the numbers"):
        run(BIN / "dynat", "diff", results, host)
    with timed("dvc repro, twice, as an unnamed user"):
        folders = {f"/app/{part}": writable(work, f"dvc-{part}", UNNAMED_USER) for part in ("results", "data")}
        options = f"--cores all --config {' '.join(QUICK)}"
        twice = "dvc repro && dvc repro | tee /tmp/output && grep -q 'up to date' /tmp/output"
        engine.do(["env", f"SNAKEMAKE_OPTS={options}", "sh", "-c", twice], user=UNNAMED_USER, mounts=folders)
    with timed("quick tests in the image"):
        engine.do(["pytest", "-q"], image=TESTS)
    shutil.rmtree(work)

    print("\n== sizes")
    for size, command in engine.layers():
        print(f"  {size:>8}  {' '.join(command.split())[:100]}")
    print(f"  {engine.size() / 1e9:.2f} GB in all")
    print("\n== times")
    for what, seconds in TIMES.items():
        print(f"  {seconds:6.0f} s  {what}")
    print("all passed")


if __name__ == "__main__":
    main()
