"""Keep finished runs in one small file, and read them back: metrics, histories, records and verdicts, without weights.

    python -m tools.results_archive results/cifar10-laptop docs/results/cifar10-laptop.tar.xz

adds every finished run of a folder of results to the archive; a run that is there already is replaced by a run with at
least as many seeds. Unpacked, an archive is a folder of results that tables, figures and comparisons are made from. It
has no weights and no examples, and of the verdicts on each image only whether it is correct and what broke it.
"""

from __future__ import annotations

import argparse
import csv
import io
import lzma
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dynat.results.csv_files import read_table, write_table
from dynat.results.metrics import read_metrics
from dynat.results.outcomes import COLUMNS
from dynat.results.paths import ExperimentFiles, RunFiles
from dynat.results.records import OutcomeRecord, RunMetrics, read_record, write_record
from dynat.runtime.errors import UserError
from dynat.runtime.files import atomic_write

KEPT = frozenset({"seed", "index", "label", "correct", "broken_by"})
"""The columns of an outcome that are kept; the cells of the others are empty."""


def pack(results: Path, archive: Path) -> list[str]:
    """Add the finished runs in `results` to `archive`; their names."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / results.name
        if archive.exists():
            unpack(archive, Path(temporary))
        names = []
        for run, metrics in finished(ExperimentFiles(results)):
            kept = ExperimentFiles(root).run(run.folder.name)
            if kept.metrics.exists() and len(read_metrics(kept).seeds) > len(metrics.seeds):
                continue
            shutil.rmtree(kept.folder, ignore_errors=True)
            _copy(run, kept, metrics)
            names.append(run.folder.name)
        if names:
            archive.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(archive, lambda draft: _write(root, draft))
    return names


def extract(tar: tarfile.TarFile, into: Path) -> None:
    """Only plain files and folders, and only below `into`. Python before 3.11.4 has no filter that sees to it."""
    for member in tar.getmembers():
        path = Path(member.name)
        if path.is_absolute() or ".." in path.parts or not (member.isfile() or member.isdir()):
            raise UserError(f"{path} in the archive is not a file below the folder to unpack to: nothing is unpacked")
    if hasattr(tarfile, "data_filter"):
        tar.extractall(into, filter="data")
    else:
        tar.extractall(into)


def unpack(archive: Path, into: Path) -> ExperimentFiles:
    """Unpack an archive below `into`: a folder of results."""
    with tarfile.open(archive, "r:xz") as tar:
        extract(tar, into)
        return ExperimentFiles(into / Path(tar.getnames()[0]).parts[0])


def finished(files: ExperimentFiles) -> Iterator[tuple[RunFiles, RunMetrics]]:
    """The runs whose metrics are complete and agree with their outcomes."""
    for folder in sorted(files.folder.iterdir()):
        run = RunFiles(folder)
        if run.metrics.exists():
            metrics = read_metrics(run)
            for name, cell in metrics.attacks.items():
                record = read_record(run.outcome_record(name), OutcomeRecord)
                if set(record.seeds) != set(cell.seeds):
                    raise UserError(f"{run.metrics}: {name} has other seeds than its outcome; make the metrics again")
            yield run, metrics


def _copy(run: RunFiles, kept: RunFiles, metrics: RunMetrics) -> None:
    for seed in metrics.seeds:
        source, target = run.seed(seed), kept.seed(seed)
        target.folder.mkdir(parents=True)
        for file in (source.config, source.history):
            if file.exists():  # a checkpoint has no history
                shutil.copyfile(file, target.folder / file.name)
    for name in metrics.attacks:
        record = read_record(run.outcome_record(name), OutcomeRecord)
        text = read_table(run.outcome(name), record.table, run.outcome_record(name), COLUMNS)
        rows = csv.DictReader(io.StringIO(text, newline=""))
        kept.outcome(name).parent.mkdir(parents=True, exist_ok=True)
        table = write_table(
            kept.outcome(name), COLUMNS, ([row[c] if c in KEPT else "" for c in COLUMNS] for row in rows)
        )
        write_record(kept.outcome_record(name), record.model_copy(update={"table": table}))
    shutil.copyfile(run.metrics, kept.metrics)


def _write(root: Path, draft: Path) -> None:
    """The same content gives the same bytes: names in order, no times and no owners."""
    with lzma.open(draft, "wb", preset=9) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for file in sorted(path for path in root.rglob("*") if path.is_file()):
            info = tarfile.TarInfo(str(file.relative_to(root.parent)))
            content = file.read_bytes()
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("archive", type=Path)
    given = parser.parse_args()
    packed_runs = pack(given.results, given.archive)
    print(f"{given.archive}: {', '.join(packed_runs) or 'no finished run'}")
