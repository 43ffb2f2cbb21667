"""The outcome of an attack on a run: a table of verdicts, an OutcomeRecord beside it, and a few example images.

outcomes/<attack>.csv                    seed, index, label, clean_prediction, prediction, correct, margin, distance,
                                         broken_by: a row per seed and test image
outcomes/<attack>.json                   OutcomeRecord
outcomes/<attack>.examples.safetensors   images of the first seed before and after the attack
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynat.config import ThreatModel
from dynat.results.csv_files import read_table, write_table
from dynat.results.paths import RunFiles
from dynat.results.reading import made_again, required
from dynat.results.records import OutcomeRecord, read_record, write_record
from dynat.runtime.errors import UserError
from dynat.runtime.files import atomic_write

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

COLUMNS = (
    "seed",
    "index",
    "label",
    "clean_prediction",
    "prediction",
    "correct",
    "margin",
    "distance",
    "broken_by",
)
READ = ["seed", "index", "label", "correct", "broken_by"]
"""The columns that metrics and report are computed from."""
CLEAN = "clean"
"""In the column `broken_by`: misclassified before any attack. Other values name a part of the attack, or nothing."""


@dataclass(frozen=True)
class Verdicts:
    """One seed's verdicts, a list entry per test image; each list is the column of its name."""

    label: Sequence[int]
    clean_prediction: Sequence[int]
    prediction: Sequence[int]
    correct: Sequence[int]
    """1: classified correctly, also under attack; 0: misclassified."""
    margin: Sequence[float]
    distance: Sequence[float]
    broken_by: Sequence[str]


@dataclass(frozen=True)
class Examples:
    """A few images before and after an attack, an array entry per image."""

    clean: NDArray[Any]
    adversarial: NDArray[Any]
    label: NDArray[Any]
    clean_prediction: NDArray[Any]
    prediction: NDArray[Any]


@dataclass(frozen=True)
class Outcome:
    """One attack on one run, read back."""

    name: str
    verdicts: pd.DataFrame
    """seed, index, label, correct (1 or 0), broken_by."""
    record: OutcomeRecord


def write_outcome(run: RunFiles, record: OutcomeRecord, verdicts: Mapping[int, Verdicts]) -> Path:
    """Write table and record, the record last; the file of the table."""
    rows: list[Sequence[object]] = []
    for seed, of_seed in verdicts.items():
        columns = (of_seed.label, of_seed.clean_prediction, of_seed.prediction, of_seed.correct)
        numbers = zip(*columns, of_seed.margin, of_seed.distance, of_seed.broken_by, strict=True)
        for index, (*whole, margin, distance, broken_by) in enumerate(numbers):
            rows.append([seed, index, *whole, f"{margin:.6g}", f"{distance:.8g}", broken_by])
    name, file = record.attack_name, run.outcome(record.attack_name)
    table = write_table(file, COLUMNS, rows)
    write_record(run.outcome_record(name), record.model_copy(update={"table": table}))
    return file


def write_examples(file: Path, examples: Examples, classes: Sequence[str]) -> None:
    from safetensors.numpy import save

    # One note, because safetensors writes several in random order: equal attacks give equal files.
    note = json.dumps({"classes": list(classes), "sha256": _checksum(examples)})
    # Not with safetensors' own writer, which hides that a disk is full.
    content = save(dict(vars(examples)), {"examples": note})
    atomic_write(file, lambda draft: draft.write_bytes(content))


def read_examples(file: Path) -> Examples:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(required(file), framework="np") as tensors:
            examples = Examples(**{name: tensors.get_tensor(name) for name in tensors.keys()})  # noqa: SIM118
            expected = json.loads((tensors.metadata() or {}).get("examples", "{}")).get("sha256")
    except (SafetensorError, TypeError, ValueError) as error:  # TypeError: other arrays than those of an Examples
        raise UserError(f"{file}: no complete file of example images ({error}); {made_again(file)}") from None
    if expected not in (None, _checksum(examples)):  # files of earlier versions have none
        raise UserError(f"{file}: changed after it was written (another SHA-256); {made_again(file)}")
    return examples


def _checksum(examples: Examples) -> str:
    content = hashlib.sha256()
    for array in vars(examples).values():
        content.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return content.hexdigest()


def read_outcome(run: RunFiles, name: str) -> Outcome:
    """Verdicts and record of an attack; `UserError` names a file that is missing or contradicts itself."""
    import pandas as pd

    file, record_file = required(run.outcome(name)), run.outcome_record(name)
    record = read_record(record_file, OutcomeRecord)
    text = read_table(file, record.table, record_file, COLUMNS)
    table = pd.read_csv(io.StringIO(text), usecols=READ, dtype={"broken_by": str})[READ].fillna({"broken_by": ""})
    _check(file, table, record)
    return Outcome(name, table, record)


def _check(file: Path, verdicts: pd.DataFrame, record: OutcomeRecord) -> None:
    if verdicts.empty:
        raise UserError(f"{file}: not one image was evaluated; {made_again(file)}")
    twice = verdicts.duplicated(["seed", "index"])
    if twice.any():
        seed, index, *_ = verdicts[twice].iloc[0]
        raise UserError(f"{file}: seed {seed} has two verdicts on image {index}; delete it and make it again")
    if not verdicts["correct"].isin([0, 1]).all():
        raise UserError(f"{file}: column 'correct' holds something other than 0 and 1; delete it and make it again")
    if sorted(record.seeds) != sorted(verdicts["seed"].unique()):
        raise UserError(
            f"{file}: its seeds are not those of {file.with_suffix('.json').name}; delete both and make them again"
        )


def outcome_names(run: RunFiles) -> list[str]:
    """The attacks that have an outcome, by name; at least one."""
    names = run.attacks()
    if not names:
        file = run.outcome("clean")
        raise UserError(f"{file.parent}: no outcome of any attack; make one with: snakemake --cores all {file}")
    return names


def worst_case_attacks(outcomes: Sequence[Outcome], threat: ThreatModel) -> list[Outcome]:
    """The attacks that the worst case is made of: those on the `best` weights, inside the threat model's own ball."""

    def counts(outcome: Outcome) -> bool:
        attack = outcome.record.attack
        if attack.weights != "best":
            return False
        same_ball = attack.norm == threat.norm and abs((attack.eps or 0.0) - threat.eps) < 1e-9
        return same_ball or attack.kind == "clean"

    return [outcome for outcome in outcomes if counts(outcome)]


def worst_case(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Verdicts of the worst case: an image is correct if it is correct under every attack, over the images (of each
    seed) that every attack evaluated."""
    import pandas as pd

    tables = [outcome.verdicts.set_index(["seed", "index"]) for outcome in outcomes]
    correct = pd.concat([table["correct"] for table in tables], axis="columns", join="inner").min(axis="columns")
    if correct.empty:
        raise UserError("worst case: no image was evaluated by all of " + ", ".join(o.name for o in outcomes))
    label = tables[0]["label"].loc[correct.index]
    return pd.DataFrame({"label": label, "correct": correct}).reset_index()
