"""The worked example of docs/add-a-method.md is run as printed: file, configuration, command line, loss."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch.nn.functional import one_hot

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "add-a-method.md"

CHECK_LOSS = """
import torch
from dynat import methods
from dynat.config import load
from dynat.methods import AttackResult, StepInputs

run = load({params!r}).runs["smooth-at"]
method = methods.build(run, load({params!r}).threat)
logits, labels = torch.load({tensors!r})
attack = AttackResult(torch.rand(6, 1, 8, 8))
inputs = StepInputs(lambda images: logits, torch.rand(6, 1, 8, 8), labels, attack, None, 0.0)
torch.save(method.loss(inputs)["ce"], {out!r})
"""


def block(language: str) -> str:
    match = re.search(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert match, f"{PAGE} shows no {language}"
    return match[1]


def params() -> dict[str, object]:
    content: dict[str, object] = yaml.safe_load(block("yaml"))
    return content


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    (tmp_path / "smooth_at.py").write_text(block("python"))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"preset": "digits", **params()}))
    return tmp_path


def run(plugin: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(plugin), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)},
        capture_output=True,
        text=True,
        check=False,
    )


def check(plugin: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    assignments = [argument for setting in settings for argument in ("--set", setting)]
    return run(plugin, "-m", "dynat", "check", "--params", str(plugin / "params.yaml"), *assignments)


def test_the_config_accepts_it_with_true_and_dynamic_labels(plugin: Path) -> None:
    done = check(plugin, "select=[smooth-at,dynat-smooth-at]")
    assert done.returncode == 0, done.stderr
    assert "  smooth-at: smooth-at, true labels" in done.stdout
    assert "  dynat-smooth-at: smooth-at, dynamic labels, target small, guide small" in done.stdout


def test_its_options_are_checked(plugin: Path) -> None:
    done = check(plugin, "runs.smooth-at.options={smothing: 0.2}")
    assert done.returncode == 2
    assert "unknown key 'smothing': did you mean 'smoothing'" in done.stderr


def test_a_missing_module_is_named(plugin: Path) -> None:
    done = check(plugin, "plugins=[smoth_at]")
    assert done.returncode == 2
    assert "plugins: module 'smoth_at' cannot be imported" in done.stderr


def test_its_loss_is_the_formula_on_the_page(plugin: Path) -> None:
    """1 - smoothing on the label, the rest spread evenly over all classes."""
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(6, 10, generator=generator), torch.arange(6)
    torch.save((logits, labels), plugin / "tensors.pt")
    script = CHECK_LOSS.format(params=params(), tensors=str(plugin / "tensors.pt"), out=str(plugin / "loss.pt"))
    done = run(plugin, "-c", script)
    assert done.returncode == 0, done.stderr
    target = 0.8 * one_hot(labels, 10) + 0.2 / 10
    expected = -(target * logits.log_softmax(1)).sum(1)
    torch.testing.assert_close(torch.load(plugin / "loss.pt"), expected)


def test_a_job_of_the_pipeline_finds_it(plugin: Path) -> None:
    """A rule passes only the resolved config to a job, so it must name the plug-ins to import."""
    written = run(
        plugin,
        "-c",
        f"from dynat.config import load; print(load({params()!r}).training('smooth-at').model_dump_json())",
    )
    assert written.returncode == 0, written.stderr
    job = run(plugin, "-m", "dynat", "job", "training", "--spec", written.stdout, "--data", str(plugin / "nothing"))
    assert "unknown method" not in job.stderr
    assert "nothing" in job.stderr, "the job should get as far as missing its images"


def test_the_attack_of_the_page_is_run_as_printed(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "corners.py").write_text(next(text for text in blocks if "ATTACKS" in text))
    script = """
import torch
from dynat import models
from dynat.attacks import evaluate
from dynat.config import load
from tests import tiny

plan = load({"plugins": ["corners"], "attacks": {"corners": {"steps": 7}}, "runs": {"at": {"target": "mine"}}})
attack = plan.attacks["corners"].model_copy(update={"batch": 16})
evaluation = evaluate(models.build("mine", classes=5, channels=1).eval(), tiny.dataset().test, attack)
assert plan.attacks["corners"].steps == 7 and evaluation.rejected_examples == 0
print(int(evaluation.columns["correct"].sum()), len(evaluation.columns["correct"]))
"""
    network = """
from dynat.config import registry
from dynat.models.small import small

registry.NETWORKS["mine"] = "corners:build"


def build(classes, channels):
    return small(classes=classes, channels=channels)
"""
    with (tmp_path / "corners.py").open("a") as file:
        file.write(network)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    correct, total = map(int, done.stdout.split())
    assert 0 <= correct < total


ATTACK = """
from dynat.config import registry
from shift_steps import amount

registry.ATTACKS["shift"] = registry.AttackInfo("shift:shift")


def shift(*_):
    return amount()
"""


def test_the_files_of_a_plugin_are_sources_of_what_uses_it(tmp_path: Path) -> None:
    """Otherwise verdicts of an attack that was edited since would be used again."""
    (tmp_path / "shift.py").write_text(ATTACK)
    (tmp_path / "shift_steps.py").write_text(
        "import torch\nfrom shift_parts.size import SIZE\n\ndef amount():\n    return SIZE\n"
    )
    (tmp_path / "shift_parts").mkdir()
    (tmp_path / "shift_parts" / "__init__.py").touch()
    (tmp_path / "shift_parts" / "size.py").write_text("from . import other\nSIZE = 1\n")
    (tmp_path / "shift_parts" / "other.py").touch()
    (tmp_path / "unused.py").touch()
    script = """
from pathlib import Path
from dynat import provenance
from dynat.config import plugin_modules, registry
plugin_modules.import_plugins(["shift"])
registry.NETWORKS["shifted"] = "shift:build"
registry.ATTACKS["both"] = registry.AttackInfo(parts=("square", "shift"))
registry.METHODS["shifting"] = registry.MethodInfo("shift:Method")
for sources in (
    provenance.attack_plugins("shift"), provenance.attack_plugins("both"),
    provenance.network_plugins("resnet18", "shifted", None), provenance.training_sources("shifting"),
    provenance.attack_plugins("pgd"), provenance.network_plugins("resnet18", None), provenance.training_sources("at"),
    provenance.evaluation_sources(),
):
    print(*sorted(file.name for file in sources if provenance.PACKAGE not in file.parents))
"""
    done = run(tmp_path, "-c", script)
    named = "__init__.py other.py shift.py shift_steps.py size.py"
    assert done.stdout.splitlines() == [*[named] * 4, *[""] * 4], done.stderr


def test_jobs_that_use_no_plugin_do_not_know_of_it(tmp_path: Path) -> None:
    """Otherwise a new attack would train every run again."""
    (tmp_path / "shift.py").write_text(ATTACK)
    (tmp_path / "shift_steps.py").write_text("def amount():\n    return 1\n")
    script = """
from dynat.config import load
plan = load({"plugins": ["shift"], "select": ["at"], "attacks": {"shift": {}}})
before = load({"select": ["at"]})
assert plan.training("at") == before.training("at")
assert plan.evaluation("at", "pgd-20") == before.evaluation("at", "pgd-20")
assert (plan.sanity_checks("at"), plan.transfer()) == (before.sanity_checks("at"), before.transfer())
print(*plan.evaluation("at", "shift").plugins, *plan.plugins)
"""
    done = run(tmp_path, "-c", script)
    assert done.stdout == "shift shift\n", done.stderr


NETWORK = """
from dynat.config import registry

registry.NETWORKS["tiny"] = "tiny_net:build"
"""
PARTS = """
from torch import nn


def build(classes, channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(64 * channels, classes))
"""


def test_a_plugin_network_is_evaluated_and_exported_with_its_code(tmp_path: Path) -> None:
    (tmp_path / "tiny_plugin.py").write_text(NETWORK)
    (tmp_path / "tiny_net.py").write_text(PARTS)
    script = """
import sys
import torch
from pathlib import Path
from dynat.cli import main
from dynat.config import DatasetConfig
from dynat.data import prepare
from tiny_net import build
prepare(DatasetConfig(name="digits", source="digits", validation=0.1), Path("data"))
torch.save(build(10, 1).state_dict(), "theirs.pt")
sys.argv = ["dynat", "evaluate", "theirs.pt", "--arch", "tiny", "--plugin", "tiny_plugin", "--dataset", "digits",
            "--attacks", "pgd-2", "--eps", "0.1", "--images", "20", "--out", "out"]
main()
"""
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and "| PGD-2 " in done.stdout, done.stdout + done.stderr
    exporting = """
from pathlib import Path
from dynat.config import of_content, plugin_modules
from dynat.jobs.export import _loading
from dynat.results.metrics import read_metrics
from dynat.results.paths import RunFiles
plugin_modules.import_plugins(["tiny_plugin"])
loading = _loading(read_metrics(RunFiles(Path("out"))), "model.safetensors")
print(*loading.sources, loading.network.module)
"""
    exported = subprocess.run(
        [sys.executable, "-c", exporting], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert exported.stdout == "tiny_net.py tiny_net\n", exported.stderr
