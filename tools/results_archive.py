"""Keep finished runs in one small file, and read them back: metrics, histories, records and verdicts, without weights.

    python -m tools.results_archive results/cifar10-laptop docs/results/cifar10-laptop.tar.xz

adds every finished run of a folder of results to the archive. A run that is there already gains seeds and attacks: what
is new replaces what it repeats, and seeds that were trained elsewhere stay. A seed that was trained again, to another
network, replaces the first one unless it was attacked less. Unpacked, an archive is a folder of results
that tables, figures and comparisons are made from. It has no weights and no examples, and of the verdicts on each image
only whether it is correct and what broke it: all attacks of a run in one table, which compresses to a tenth. Of the
sanity checks only the metrics are kept, of the seeds that were added last.
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import lzma
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from dynat.results.csv_files import csv_text, read_table, write_table
from dynat.results.history import read_history
from dynat.results.metrics import read_metrics, run_metrics
from dynat.results.outcomes import COLUMNS
from dynat.results.paths import ExperimentFiles, RunFiles
from dynat.results.records import OutcomeRecord, RunMetrics, TrainingRecord, read_record, write_record
from dynat.runtime.errors import UserError
from dynat.runtime.files import atomic_write

VERDICTS = "verdicts.csv"
"""In an archive, in place of the tables of outcomes: a row per seed and image, a column per attack."""
IMAGE = ("seed", "index", "label")
KEPT = frozenset({*IMAGE, "correct", "broken_by"})
"""The columns of an outcome that are kept; the cells of the others are empty."""

BY_SEED = ("seconds", "queried_model", "digest")
COUNTS = ("forward_passes", "backward_passes", "rejected_examples", "reattacked")
"""Fields of an outcome's record: a value per seed; counts over all seeds."""

Rows = list[dict[str, str]]
"""Of an outcome's table, as text."""


def pack(results: Path, archive: Path) -> list[str]:
    """Add the finished runs in `results` to `archive`; the names of those of which something was added."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / results.name
        if archive.exists():
            unpack(archive, Path(temporary))
        new = list(finished(ExperimentFiles(results)))
        kept = finished(ExperimentFiles(root)) if root.exists() else ()
        same_images([*(metrics for _, metrics in kept), *(metrics for _, metrics in new)], archive)
        added = [m.run for run, m in new if _add(run, m, ExperimentFiles(root).run(run.folder.name))]
        if added:
            archive.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(archive, lambda draft: _write(root, draft))
    return added


def same_images(metrics: Sequence[RunMetrics], archive: Path) -> None:
    """Verdicts on different images cannot be compared image by image."""
    for first, other in itertools.pairwise(metrics):
        one, two = (f"{m.dataset.name} ({m.dataset.digest[:12]})" for m in (first, other))
        if one != two:
            raise UserError(
                f"{archive}: '{first.run}' was evaluated on {one}, '{other.run}' on {two}; an archive holds results on "
                "the same images: move the archive away to begin another one"
            )


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
        files = ExperimentFiles(into / Path(tar.getnames()[0]).parts[0])
    for table in files.folder.glob(f"*/{VERDICTS}"):
        _unfold(table)
    return files


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


def _add(run: RunFiles, metrics: RunMetrics, kept: RunFiles) -> bool:
    """Add the seeds and attacks of a finished run to what is kept of it; False if nothing was added."""
    before = read_metrics(kept) if kept.metrics.exists() else None
    sanity = metrics.sanity or (before and before.sanity)
    again = [
        seed
        for seed in metrics.seeds
        if before and seed in before.seeds and _network(run, seed) != _network(kept, seed)
    ]
    left_out = tuple(seed for seed in again if before and not _attacks(before, seed) <= _attacks(metrics, seed))
    seeds = [seed for seed in metrics.seeds if seed not in left_out]
    for seed in seeds:
        source, target = run.seed(seed), kept.seed(seed)
        if seed in again:
            _forget(kept, seed)
        target.folder.mkdir(parents=True, exist_ok=True)
        for file in (source.config, source.history):
            if file.exists():  # a checkpoint has no history
                shutil.copyfile(file, target.folder / file.name)
    for name in metrics.attacks:
        record, rows = _without(*_read(run, name), left_out)
        if not record.seeds:
            continue
        if kept.outcome_record(name).exists():
            old, old_rows = _without(*_read(kept, name), record.seeds)
            if old.seeds and old.attack == record.attack:
                record, rows = _joined(old, record), [*old_rows, *rows]
        _write_outcome(kept, record, rows)
    if not seeds:
        return False
    order = dict.fromkeys((*metrics.attacks, *(before.attacks if before else ())))
    names = [name for name in order if name in kept.attacks()]
    write_record(kept.metrics, run_metrics(kept, names).model_copy(update={"sanity": sanity}))
    return True


def _network(run: RunFiles, seed: int) -> object:
    """What tells the networks of two trainings apart: every loss and validation. (Files of the same weights differ,
    because they say which training wrote them.)"""
    files = run.seed(seed)
    rows = read_history(files) if files.history.exists() else []  # a checkpoint has none
    history = [{key: row[key] for key in row if key != "seconds"} for row in rows]
    return history or read_record(files.config, TrainingRecord).weights


def _attacks(metrics: RunMetrics, seed: int) -> set[str]:
    return {name for name, cell in metrics.attacks.items() if seed in cell.seeds}


def _forget(kept: RunFiles, seed: int) -> None:
    """Remove the verdicts on a network that was trained again."""
    for name in kept.attacks():
        record, rows = _without(*_read(kept, name), (seed,))
        if record.seeds:
            _write_outcome(kept, record, rows)
        else:
            kept.outcome(name).unlink()
            kept.outcome_record(name).unlink()


def _read(run: RunFiles, name: str) -> tuple[OutcomeRecord, Rows]:
    record = read_record(run.outcome_record(name), OutcomeRecord)
    text = read_table(run.outcome(name), record.table, run.outcome_record(name), COLUMNS)
    return record, list(csv.DictReader(io.StringIO(text, newline="")))


def _without(record: OutcomeRecord, rows: Rows, seeds: tuple[int, ...]) -> tuple[OutcomeRecord, Rows]:
    """An outcome without some of its seeds; what is counted over all seeds keeps its share."""
    left = tuple(seed for seed in record.seeds if seed not in seeds)
    share = len(left) / len(record.seeds)
    cut = {
        "seeds": left,
        **{name: {seed: getattr(record, name)[seed] for seed in left} for name in BY_SEED},
        **{name: round(share * getattr(record, name)) for name in COUNTS},
    }
    return record.model_copy(update=cut), [row for row in rows if int(row["seed"]) in left]


def _joined(one: OutcomeRecord, other: OutcomeRecord) -> OutcomeRecord:
    """The record of an attack on the seeds of both, which share none."""
    both = {
        "seeds": tuple(sorted({*one.seeds, *other.seeds})),
        **{name: getattr(one, name) | getattr(other, name) for name in BY_SEED},
        **{name: getattr(one, name) + getattr(other, name) for name in COUNTS},
        "warnings": tuple(dict.fromkeys((*one.warnings, *other.warnings))),
        "device": "; ".join(dict.fromkeys((*one.device.split("; "), *other.device.split("; ")))),
    }
    return one.model_copy(update=both)


def _write_outcome(kept: RunFiles, record: OutcomeRecord, rows: Rows) -> None:
    """The rows in the order of seeds and images, with the columns that are kept; which weights they are about was
    checked when the metrics were made, and a training that is repeated writes other files of the same weights."""
    rows = sorted(rows, key=lambda row: (int(row["seed"]), int(row["index"])))
    file = kept.outcome(record.attack_name)
    file.parent.mkdir(parents=True, exist_ok=True)
    table = write_table(file, COLUMNS, ([row[c] if c in KEPT else "" for c in COLUMNS] for row in rows))
    write_record(kept.outcome_record(record.attack_name), record.model_copy(update={"table": table, "networks": {}}))


def _folded(run: RunFiles) -> str:
    """The verdicts of all attacks as one table: `1`, or `0` and what broke the image; empty if it was not attacked."""
    cells: dict[tuple[str, ...], dict[str, str]] = {}
    for name in run.attacks():
        for row in _read(run, name)[1]:
            of_image = cells.setdefault(tuple(row[column] for column in IMAGE), {})
            of_image[name] = row["correct"] + row["broken_by"]
    images = sorted(cells, key=lambda image: (int(image[0]), int(image[1])))
    rows = ([*image, *(cells[image].get(name, "") for name in run.attacks())] for image in images)
    return csv_text((*IMAGE, *run.attacks()), rows)


def _unfold(table: Path) -> None:
    """Write the tables of outcomes again, byte for byte, in place of the one of all attacks."""
    run = RunFiles(table.parent)
    images = list(csv.DictReader(io.StringIO(table.read_text(encoding="utf-8"), newline="")))
    for name in (column for column in images[0] if column not in IMAGE):
        rows = [{**image, "correct": image[name][0], "broken_by": image[name][1:]} for image in images if image[name]]
        write_table(run.outcome(name), COLUMNS, ([row[c] if c in KEPT else "" for c in COLUMNS] for row in rows))
    table.unlink()


def _write(root: Path, draft: Path) -> None:
    """The same content gives the same bytes: names in order, no times and no owners."""
    contents: dict[Path, bytes] = {}
    for folder in sorted(root.iterdir()):
        run = RunFiles(folder)
        tables = {run.outcome(name) for name in run.attacks()}
        contents |= {file: file.read_bytes() for file in folder.rglob("*") if file.is_file() and file not in tables}
        contents[folder / VERDICTS] = _folded(run).encode()
    with lzma.open(draft, "wb", preset=9) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for file in sorted(contents):
            info = tarfile.TarInfo(str(file.relative_to(root.parent)))
            info.size = len(contents[file])
            tar.addfile(info, io.BytesIO(contents[file]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("archive", type=Path)
    given = parser.parse_args()
    packed_runs = pack(given.results, given.archive)
    print(f"{given.archive}: {', '.join(packed_runs) or 'no finished run'}")
