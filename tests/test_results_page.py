"""docs/results.md from result files: archives keep what tables and verdicts need, and unfinished runs are dashes."""

from __future__ import annotations

import re
import shutil
import tarfile
from pathlib import Path

import pytest

from dynat.config import Experiment, load
from dynat.report import comparisons, tables
from dynat.results.history import read_history, write_history
from dynat.results.metrics import read_metrics, write_metrics
from dynat.results.outcomes import read_outcome
from dynat.results.paths import ExperimentFiles
from dynat.results.records import Check, TrainingRecord, read_record, write_record
from dynat.runtime.errors import UserError
from tests.fake_results import write_fake_results, write_outcome
from tools import results_page
from tools.preset_results import Results
from tools.results_archive import extract, pack, unpack
from tools.results_page import draw, sections, with_sections
from tools.results_tables import TABLES, epochs_table, main_table, sanity_statement

FINISHED = ["natural", "at", "at-gauss-clean-forward", "trades", "lbgat6", "dynat"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[ExperimentFiles, Experiment]:
    """Six finished runs of the preset, of one seed; another one that is not finished: it has no metrics."""
    plan = load({"preset": "cifar10-laptop", "select": [*FINISHED, "dynat-kl-inner"], "seeds": [0]})
    files = ExperimentFiles(tmp_path_factory.mktemp("results") / "cifar10-laptop")
    write_fake_results(files, plan, images=60)
    files.run("dynat-kl-inner").metrics.unlink(missing_ok=True)
    for name in FINISHED:
        write_metrics(files.run(name).folder)
    return files, plan


def test_an_archive_gives_the_same_table(results: tuple[ExperimentFiles, Experiment], tmp_path: Path) -> None:
    files, plan = results
    archive = tmp_path / "kept" / "cifar10-laptop.tar.xz"
    assert sorted(pack(files.folder, archive)) == sorted(FINISHED)
    kept = unpack(archive, tmp_path)
    for name in FINISHED:
        assert read_metrics(kept.run(name)) == read_metrics(files.run(name))
        for attack in plan.attacks:
            one, other = (read_outcome(f.run(name), attack).verdicts for f in (files, kept))
            assert one.equals(other)
    experiment = plan.model_copy(update={"runs": {name: plan.runs[name] for name in FINISHED}})
    written = []
    for folder in (files, kept):
        metrics = {name: read_metrics(folder.run(name)) for name in FINISHED}
        columns = tables.columns(experiment, metrics)
        compared = comparisons.compare(comparisons.read_verdicts(folder, metrics, columns), metrics, columns)
        written.append(tables.to_csv(tables.build(experiment, metrics, compared)))
    assert written[0] == written[1]
    with tarfile.open(archive) as tar:
        names = tar.getnames()
    assert not [name for name in names if name.endswith("safetensors")]
    assert "cifar10-laptop/dynat/seed0/history.csv" in names


def test_packing_again_gives_the_same_bytes(results: tuple[ExperimentFiles, Experiment], tmp_path: Path) -> None:
    files, _ = results
    archive = tmp_path / "cifar10-laptop.tar.xz"
    pack(files.folder, archive)
    first = archive.read_bytes()
    pack(files.folder, archive)
    assert archive.read_bytes() == first


def fake_seeds(folder: Path, seeds: list[int], images: int = 60) -> ExperimentFiles:
    files = ExperimentFiles(folder / "cifar10-laptop")
    write_fake_results(files, load({"preset": "cifar10-laptop", "select": ["at"], "seeds": seeds}), images=images)
    write_metrics(files.run("at").folder)
    return files


def test_seeds_that_were_trained_elsewhere_are_added(tmp_path: Path) -> None:
    archive = tmp_path / "kept.tar.xz"
    for seeds in ([1], [0, 2], [2]):
        pack(fake_seeds(tmp_path / str(seeds), seeds).folder, archive)
    kept = unpack(archive, tmp_path / "read").run("at")
    together = fake_seeds(tmp_path / "together", [0, 1, 2])
    metrics = read_metrics(together.run("at"))
    assert metrics.seeds == (0, 1, 2)
    assert read_metrics(kept).model_copy(update={"sanity": metrics.sanity}) == metrics
    for attack in metrics.attacks:
        assert read_outcome(kept, attack).verdicts.equals(read_outcome(together.run("at"), attack).verdicts)


def test_attacks_are_added_to_those_on_the_same_network(tmp_path: Path) -> None:
    files, archive = fake_seeds(tmp_path / "made", [0, 1]), tmp_path / "kept.tar.xz"
    run = files.run("at")
    pack(files.folder, archive)
    write_metrics(run.folder, ["clean", "fgsm"])
    seed = run.seed(1)  # trained again, to the same weights, which took longer
    table = write_history(seed.history, [{**row, "seconds": 2 * row["seconds"]} for row in read_history(seed)])
    record = read_record(seed.config, TrainingRecord)
    write_record(seed.config, record.model_copy(update={"digest": "of another commit", "table": table}))
    pack(files.folder, archive)
    assert set(read_metrics(unpack(archive, tmp_path / "same").run("at")).attacks) == set(run.attacks())


def test_a_network_that_was_trained_again_replaces_the_first_one_if_it_was_attacked_as_much(tmp_path: Path) -> None:
    both, archive = fake_seeds(tmp_path / "both", [0, 1]), tmp_path / "kept.tar.xz"
    pack(both.folder, archive)
    first = read_metrics(both.run("at"))
    files = fake_seeds(tmp_path / "again", [1], images=50)
    run = files.run("at")
    seed = run.seed(1)
    rows = read_history(seed)
    table = write_history(seed.history, [{**row, "loss": row["loss"] + 1e-9} for row in rows])
    record = read_record(seed.config, TrainingRecord)
    write_record(seed.config, record.model_copy(update={"digest": "another network", "table": table}))
    write_metrics(run.folder, ["clean", "fgsm"])
    assert pack(files.folder, archive) == []
    assert read_metrics(unpack(archive, tmp_path / "less").run("at")).attacks == first.attacks
    write_metrics(run.folder)
    assert pack(files.folder, archive) == ["at"]
    kept = read_metrics(unpack(archive, tmp_path / "as-much").run("at"))
    assert kept.training[1].digest == "another network"
    for name, cell in kept.attacks.items():
        assert cell.per_seed[0] == first.attacks[name].per_seed[0]
        assert cell.per_seed[1] == read_metrics(run).attacks[name].per_seed[1]
        assert cell.cost.forward_passes == 21 * (60 + 50)


def test_results_on_different_images_are_not_put_together(tmp_path: Path) -> None:
    archive = tmp_path / "kept.tar.xz"
    pack(fake_seeds(tmp_path / "one", [0]).folder, archive)
    before = archive.read_bytes()
    files = fake_seeds(tmp_path / "other", [1])
    config = files.run("at").seed(1).config
    record = read_record(config, TrainingRecord)
    other = record.dataset.model_copy(update={"digest": "e" * 64})
    write_record(config, record.model_copy(update={"dataset": other}))
    write_metrics(files.run("at").folder)
    with pytest.raises(UserError, match="an archive holds results on the same images"):
        pack(files.folder, archive)
    assert archive.read_bytes() == before


def test_the_page(results: tuple[ExperimentFiles, Experiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results_page, "IMAGES", tmp_path / "images")
    files, plan = results
    one = Results("cifar10-laptop", files)
    parts = sections({"cifar10-laptop": one})
    rows = parts["cifar10-laptop/table"].splitlines()
    for name in plan.runs:
        (row,) = [line for line in rows if line.startswith(f"| `{name}`")]
        assert ("%" in row or "." in row) == (name in FINISHED), "what is not finished is a dash"
    (row,) = [line for line in rows if line.startswith("| `dynat-beta-6`")]
    assert set(row.split("|", 3)[3]) == {"|", " ", "–"}
    assert row.count("|") == rows[0].count("|")
    (title,) = [line for line in rows if line.startswith("| **Balance parameter**")]
    assert rows.index(row) - rows.index(title) in (1, 2), "in its group"
    # By the made-up skills dynat is above at, and lbgat6 far below.
    gap = (
        read_metrics(files.run("dynat")).attacks["clean"].mean - read_metrics(files.run("lbgat6")).attacks["clean"].mean
    )
    assert f"| `dynat` − `lbgat6` | Clean | +{100 * gap:.1f} |" in parts["claims"]
    assert "| (b) | An inner attack on the dynamic labels" in parts["verdicts"]
    assert "| not tested |" in parts["verdicts"], "claim b needs a run that is not finished"
    assert (tmp_path / "images" / "cifar10-laptop" / "tradeoff.png").exists()
    at = read_metrics(files.run("at")).attacks
    (selected,) = [row for row in parts["cifar10-laptop/selected"].splitlines() if row.startswith("| `at` |")]
    assert [cell.strip() for cell in selected.split("|")][2] == "18"  # of the made-up 20 epochs
    assert selected.endswith(f"| {100 * at['cw-20'].mean:.1f} → {100 * at['cw-20-last'].mean:.1f} |")
    held_out = read_history(files.run("at").seed(0))
    assert f"| {100 * held_out[17]['pgd']:.1f} → {100 * held_out[19]['pgd']:.1f} |" in selected
    assert parts["cifar10-laptop/sanity"] == "6 of 6 runs pass all sanity checks."
    sanity = one.metrics["at"].sanity
    assert sanity
    checks = {**sanity.checks, "steps": Check(passed=False, detail="20 to 100 steps: 31.0 → 35.0")}
    one.metrics["at"] = one.metrics["at"].model_copy(update={"sanity": sanity.model_copy(update={"checks": checks})})
    one.metrics["trades"] = one.metrics["trades"].model_copy(update={"sanity": None})
    assert sanity_statement(one) == (
        "4 of 6 runs pass all sanity checks. Not all are passed by `at` (More steps never raise accuracy: "
        "20 to 100 steps: 31.0 → 35.0). Not checked: `trades`."
    )
    page = "Before.\n<!-- results:verdicts -->\nold\n<!-- end -->\n<!-- results:nothing -->\n<!-- end -->\nAfter.\n"
    filled = with_sections(page, parts)
    assert "old" not in filled
    assert parts["verdicts"].strip() in filled
    assert "Not finished yet." in filled
    assert with_sections(filled, parts) == filled


def test_a_difference_between_precisions_is_marked(
    results: tuple[ExperimentFiles, Experiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results_page, "IMAGES", tmp_path / "images")
    files = ExperimentFiles(tmp_path / "cifar10-laptop")
    shutil.copytree(results[0].folder, files.folder)
    of_claims = sections({"cifar10-laptop": Results("cifar10-laptop", files)})["claims"]
    assert "‡" not in of_claims
    seed = files.run("trades").seed(0)
    write_record(seed.config, read_record(seed.config, TrainingRecord).model_copy(update={"compute_dtype": "bfloat16"}))
    write_metrics(files.run("trades").folder)
    parts = sections({"cifar10-laptop": Results("cifar10-laptop", files)})
    assert "| `dynat` − `trades`‡ |" in parts["claims"] and "| `dynat` − `lbgat6` |" in parts["claims"]
    (row,) = [line for line in parts["cifar10-laptop/cost"].splitlines() if line.startswith("| `trades`")]
    assert row.endswith("| bfloat16 |")
    (row,) = [line for line in parts["verdicts"].splitlines() if line.startswith("| (a)")]
    assert "‡" in row.split("|")[3]


def test_results_of_other_settings_are_refused(tmp_path: Path) -> None:
    files = ExperimentFiles(tmp_path / "cifar10-laptop")
    plan = load({"preset": "cifar10-laptop", "select": ["at"], "seeds": [0], "training": {"epochs": 13}})
    write_fake_results(files, plan, images=30)
    write_metrics(files.run("at").folder)
    with pytest.raises(UserError, match="'at' was trained with other settings than the preset's"):
        Results("cifar10-laptop", files)


def test_every_mark_of_the_pages_is_known() -> None:
    """A misspelled mark would say "Not finished yet." for ever."""
    names = {*TABLES, *results_page.FIGURES}
    known = {"verdicts", "claims", *(f"{preset}/{name}" for preset in results_page.PRESETS for name in names)}
    marks = [mark[1] for page in results_page.PAGES for mark in results_page.MARK.findall(page.read_text())]
    assert marks
    assert set(marks) <= known


def test_images_of_the_pages_exist() -> None:
    for page in results_page.PAGES:
        for image in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text()):
            assert (page.parent / image).is_file(), (page.name, image)


def test_no_image_is_kept_that_no_page_shows() -> None:
    shown = "".join(page.read_text() for page in results_page.PAGES)
    kept = [image for preset in results_page.PRESETS for image in (results_page.IMAGES / preset).glob("*.png")]
    assert kept and [image.name for image in kept if f"images/{image.parent.name}/{image.name}" not in shown] == []


@pytest.mark.parametrize("name", ["../outside", "/outside"])
def test_an_archive_writes_only_below_its_folder(name: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    with tarfile.open(tmp_path / "bad.tar") as tar, pytest.raises(UserError, match="nothing is unpacked"):
        extract(tar, tmp_path / "into")
    assert not (tmp_path / "into").exists()


def test_a_run_that_not_all_attacks_have_attacked_has_dashes_and_no_worst_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worst case would be over weaker attacks; and it has no place in the figure of the attack that is missing."""
    plan = load({"preset": "cifar10-laptop", "select": ["at-gauss-clean-forward", "dynat"], "seeds": [0]})
    fewer = load(
        {
            "preset": "cifar10-laptop",
            "select": ["dynat"],
            "seeds": [0],
            "attacks": ["clean", "pgd-20"],
            "headline": "pgd-20",
        }
    )
    files = ExperimentFiles(tmp_path / "cifar10-laptop")
    write_fake_results(
        files,
        plan.model_copy(update={"runs": {"at-gauss-clean-forward": plan.runs["at-gauss-clean-forward"]}}),
        images=60,
    )
    write_fake_results(files, fewer, images=60)
    for name in plan.runs:
        write_metrics(files.run(name).folder)
    monkeypatch.setattr(results_page, "IMAGES", tmp_path / "images")
    results = Results("cifar10-laptop", files)
    row = next(line for line in main_table(results).splitlines() if line.startswith("| `dynat` |")).split(" | ")
    assert [cell.strip(" |") == "–" for cell in row[2:]] == [
        name not in fewer.attacks for name in results.selected.attacks
    ] + [True]
    drawn = draw(results)
    assert results.metrics["at-gauss-clean-forward"].worst_case is not None and drawn["tradeoff"]
    assert "pairs" not in drawn, "the pair of these two runs lacks an accuracy"
    assert "held-out validation images after each epoch" in drawn["epochs"]


def test_the_verdicts_on_a_selected_last_epoch_are_those_of_the_last_epoch(tmp_path: Path) -> None:
    files = fake_seeds(tmp_path, [0])
    run = files.run("at")
    for epoch, known in ((20, True), (18, False)):
        config = run.seed(0).config
        write_record(config, read_record(config, TrainingRecord).model_copy(update={"best_epoch": epoch}))
        write_metrics(run.folder, ["clean", "pgd-20", "cw-20"])
        results = Results("cifar10-laptop", files)
        last, selected = results.correct("at", "cw-20-last"), results.correct("at", "cw-20")
        assert selected is not None
        assert last is not None and last.equals(selected) if known else last is None
        assert ("–" in epochs_table(results).splitlines()[2].partition("`at`")[2]) == (not known)


def test_each_seed_gives_its_own_last_epoch(tmp_path: Path) -> None:
    """Seed 0 was attacked at its last epoch, seed 1 selected its last epoch, and seed 2 has no verdicts on its last."""
    files = fake_seeds(tmp_path, [0, 1, 2])
    run = files.run("at")
    for seed, epoch in ((0, 18), (1, 20), (2, 18)):
        config = run.seed(seed).config
        write_record(config, read_record(config, TrainingRecord).model_copy(update={"best_epoch": epoch}))
    write_outcome(run, "cw-20-last", [(0, i, 0, i % 2) for i in range(60)], attack=load({}).attacks["cw-20"])
    write_metrics(run.folder)
    results = Results("cifar10-laptop", files)
    last, selected = results.correct("at", "cw-20-last"), results.correct("at", "cw-20")
    assert last is not None and selected is not None
    assert list(last.index.unique("seed")) == [0, 1]
    assert last.loc[[0]].mean() == 0.5 and last.loc[[1]].equals(selected.loc[[1]])
    assert results.epochs("at", "cw-20") == (selected.loc[[0, 1]].mean(), last.mean())


def test_the_readme_compares_the_runs_that_it_shows() -> None:
    """The best of a column is a row of the table, not a run that only docs/results.md shows."""
    text = (results_page.ROOT / "README.md").read_text()
    (table,) = [m[0] for m in results_page.MARK.finditer(text) if m[2] == "cifar10-laptop/short-table"]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| `")]
    assert all(any(row[column].startswith("**") for row in rows) for column in range(2, len(rows[0])))
    shown = {row[0].strip("| `§") for row in rows}
    assert not [
        run for run in load({"preset": "cifar10-laptop"}).runs if f" {run} in float32" in table and run not in shown
    ]
