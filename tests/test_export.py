"""An exported run: a card with the run's numbers, weights that load as it says, code that needs torch alone."""

from __future__ import annotations

import ast
import csv
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import yaml
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from dynat import data, models
from dynat.config import Experiment, of_content, registry
from dynat.config.init import InitConfig
from dynat.data import to_pixels
from dynat.jobs import export, onnx_export
from dynat.jobs.evaluate_checkpoint import CheckpointRequest, evaluate_checkpoint
from dynat.jobs.evaluation import run_evaluation
from dynat.jobs.export import ExportOptions, export_run
from dynat.jobs.training import run_training
from dynat.nn.modes import evaluating
from dynat.provenance import PACKAGE
from dynat.report import hub, latex, model_card, robustbench, tables
from dynat.report.comparisons import compare, read_verdicts
from dynat.results.history import read_history
from dynat.results.metrics import read_metrics, write_metrics
from dynat.results.paths import ExportFiles, Paths, SingleRunPaths
from dynat.results.records import Check, Curves, RunMetrics, SanityMetrics, TrainingRecord, read_record, write_record
from dynat.results.weights import file_sha256
from dynat.runtime.errors import UserError
from tests import tiny
from tests.helpers import Dynat, Killed

NOISY = 0.5
SEEDS = (0, 3)
CONTENT: dict[str, Any] = {
    "dataset": {"name": "tiny", "source": "folder", "path": "images", "size": 8},
    "threat": {"eps": 0.1},
    "training": {
        "target": "small",
        "guide": "small",
        "epochs": 3,
        "batch": 16,
        "inner": {"steps": 2},
        "augmentation": {"padding": 0, "flip": False},
        "validation": {"steps": 2},
    },
    "runs": {"at": {"method": "at"}, "dynat": {"method": "at", "labels": "dynamic"}},
    "seeds": list(SEEDS),
    "attacks": {
        "clean": {},
        "pgd-4": {},
        "pgd-2": {"images": 20},
        "pgd-4-last": {"kind": "pgd", "steps": 4, "weights": "last"},
    },
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, Paths]:
    """Two runs of two seeds, trained and attacked; only to be read."""
    folder = tmp_path_factory.mktemp("done")
    paths = Paths(folder / "data", folder / "results", folder / "state")
    image_set = tiny.dataset()
    data.save(
        image_set.from_splits(
            name="tiny",
            classes=image_set.classes,
            origin=image_set.origin,
            train=tiny.images(20, seed=1, noise=NOISY),
            validation=image_set.validation,
            test=tiny.images(8, seed=3, noise=NOISY),
        ),
        paths.dataset("tiny"),
    )
    experiment = of_content(CONTENT, "tests")
    for run in experiment.runs:
        for seed in SEEDS:
            run_training(experiment.training(run), seed=seed, paths=paths, say=lambda _: None)
        for attack in experiment.attacks:
            run_evaluation(experiment.evaluation(run, attack), paths=paths, say=lambda _: None)
        write_metrics(paths.run("tests", run), list(experiment.attacks))
    return experiment, paths


@pytest.fixture(scope="module")
def exported(done: tuple[Experiment, Paths], tmp_path_factory: pytest.TempPathFactory) -> ExportFiles:
    experiment, paths = done
    out = tmp_path_factory.mktemp("exported")
    export_run(experiment, "dynat", paths, out=out, say=lambda _: None)
    return ExportFiles(out)


def metrics_of(done: tuple[Experiment, Paths], run: str) -> RunMetrics:
    return read_metrics(done[1].run_files("tests", run))


def config_of(exported: ExportFiles) -> hub.HubConfig:
    return hub.HubConfig.model_validate_json(exported.config.read_text())


def other_seed(exported: ExportFiles) -> int:
    (seed,) = set(SEEDS) - {config_of(exported).seed}
    return seed


def weights_of(exported: ExportFiles, seed: int) -> Path:
    return exported.model if seed == config_of(exported).seed else exported.other_seed(seed)


def metadata_of(card: str) -> dict[str, Any]:
    """The YAML between the first two lines of dashes."""
    start, head, _ = re.split(r"^---$", card, maxsplit=2, flags=re.MULTILINE)
    assert start == ""
    content: dict[str, Any] = yaml.safe_load(head)
    return content


def example(exported: ExportFiles) -> str:
    block = re.search(r"```python\n(.*?)```", exported.card.read_text(), re.DOTALL)
    assert block
    return block[1]


def answers(exported: ExportFiles, image_set: torch.Tensor) -> list[int]:
    """The predictions of the card's example on these images, in a process without dynat."""
    save_file({"images": image_set}, exported.folder / "input.safetensors")
    code = f"""
import sys
sys.modules["dynat"] = None
from safetensors.torch import load_file as read
images = read("input.safetensors")["images"]
{example(exported)}
print(logits.argmax(1).tolist())
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=exported.folder, check=True, capture_output=True, text=True)
    predictions: list[int] = json.loads(done.stdout)
    return predictions


def predictions(paths: Paths, seed: int) -> list[int]:
    with paths.outcome("tests", "dynat", "clean").open() as file:
        return [int(row["prediction"]) for row in csv.DictReader(file) if int(row["seed"]) == seed]


def test_the_example_runs_as_printed_and_without_this_package(
    done: tuple[Experiment, Paths], exported: ExportFiles
) -> None:
    assert len([line for line in example(exported).splitlines() if line]) == 5
    image_set = to_pixels(data.load(done[1].dataset("tiny")).test.images)
    own = predictions(done[1], seed=config_of(exported).seed)
    assert answers(exported, image_set) == own
    assert own != predictions(done[1], seed=other_seed(exported)), "the other seed predicts otherwise"


def test_a_third_party_network_is_exported_with_its_normalization(
    done: tuple[Experiment, Paths], tmp_path: Path, dynat: Dynat
) -> None:
    """Also from the command line, by the folder of the evaluation."""
    torch.manual_seed(5)
    theirs = models.build("small", classes=tiny.CLASSES, channels=1)
    file = tmp_path / "theirs\n```\n# {outside}.pt"
    torch.save(theirs.state_dict(), file)
    request = CheckpointRequest(
        file=file,
        arch="small",
        dataset="tiny",
        attacks=("pgd-4",),
        threat={"eps": 0.1},
        settings={},
        normalization={"mean": 0.7, "std": 0.1},
    )
    paths = SingleRunPaths(done[1].data, tmp_path / "evaluated", tmp_path / "state")
    evaluate_checkpoint(request, name="theirs", paths=paths, say=lambda _: None)
    code, printed = dynat("export", tmp_path / "evaluated", "--out", tmp_path / "export")
    assert code == 0 and "README.md, model.safetensors" in printed
    exported = ExportFiles(tmp_path / "export")
    image_set = to_pixels(data.load(done[1].dataset("tiny")).test.images)
    with evaluating(theirs), torch.no_grad():
        expected, bare = (theirs(x).argmax(1).tolist() for x in ((image_set - 0.7) / 0.1, image_set))
    assert answers(exported, image_set) == expected != bare
    text = exported.card.read_text()
    (recipe,) = re.findall(r"^````yaml\n(.*?)^````$", text, re.MULTILINE | re.DOTALL)
    assert yaml.safe_load(recipe)["file"] == str(file), "backticks in a name do not end the block"
    assert "Trained elsewhere: its training data" in text and "No test image was used to choose anything" not in text


OUR_NETWORKS = [name for name, where in registry.NETWORKS.items() if "<" not in name and where.startswith("dynat.")]


@pytest.mark.parametrize("name", [*OUR_NETWORKS, "wrn10-2"])
def test_the_code_of_every_network_needs_torch_alone(name: str) -> None:
    """It is exported as a file by itself."""
    for module in (registry.network_entry(name)[0].partition(":")[0], "dynat.nn.normalize"):
        tree = ast.parse((PACKAGE.parent / f"{module.replace('.', '/')}.py").read_text())
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert {each.partition(".")[0] for each in imported} <= {"__future__", "collections", "math", "torch"}


def test_a_network_is_exported_with_the_networks_whose_parts_it_uses() -> None:
    sources = export._sources("dynat.models.resnet8")
    assert set(sources) == {"network.py", "resnet.py"}
    assert "\nfrom resnet import BasicBlock\n" in sources["network.py"]
    assert not any("dynat" in line for code in sources.values() for line in code.splitlines() if "import" in line)


def test_the_files_are_those_of_the_run(done: tuple[Experiment, Paths], exported: ExportFiles) -> None:
    text = exported.card.read_text()
    for seed in SEEDS:
        content = weights_of(exported, seed).read_bytes()
        assert content == done[1].seed_files("tests", "dynat", seed).target().read_bytes()
        assert hashlib.sha256(content).hexdigest() in text
    files = {file.name for file in exported.folder.iterdir()} - {"input.safetensors", "__pycache__"}
    weights = {"model.safetensors", f"model-seed{other_seed(exported)}.safetensors"}
    assert files == {"README.md", "config.json", "row.tex", "network.py", *weights}, "no claim without AutoAttack"
    assert files == set(config_of(exported).files)


def test_the_table_of_the_card_is_that_of_the_metrics(done: tuple[Experiment, Paths], exported: ExportFiles) -> None:
    text, metrics = exported.card.read_text(), metrics_of(done, "dynat")
    for title, name in (
        ("Clean", "clean"),
        ("PGD-4", "pgd-4"),
        ("PGD-2", "pgd-2"),
        ("PGD-4-last, last epoch", "pgd-4-last"),
    ):
        cell = metrics.attacks[name]
        assert cell.std is not None
        line = next(line for line in text.splitlines() if line.startswith(f"| {title} "))
        shown = (
            f"{100 * cell.mean:.1f} % ± {100 * cell.std:.1f}",
            f"{100 * cell.low:.1f}–{100 * cell.high:.1f}",
        )
        assert all(f" {part} |" in line for part in (*shown, str(cell.n), "0, 3"))


def test_the_row_is_the_line_of_the_table_without_its_marks(
    done: tuple[Experiment, Paths], exported: ExportFiles
) -> None:
    experiment, paths = done
    metrics = {run: metrics_of(done, run) for run in experiment.runs}
    columns = tables.columns(experiment, metrics)
    compared = compare(read_verdicts(paths.experiment("tests"), metrics, columns), metrics, columns)
    whole = latex.to_tex(tables.build(experiment, metrics, compared))
    (line,) = (line.strip() for line in whole.splitlines() if line.strip().startswith(r"\texttt{dynat}"))
    plain = re.sub(r"\\textbf\{(.*?)\}|\$\^\{\\d?dagger\}\$", lambda mark: mark[1] or "", line)
    *comments, row = exported.row.read_text().splitlines()
    assert row == plain
    assert all(comment.startswith("% ") for comment in comments)
    assert "Bold" not in comments[-1] and "n = 40 test images unless the column says otherwise" in comments[-1]


# --- limits and warnings --------------------------------------------------------------------------------------


def with_autoattack(
    metrics: RunMetrics, *, kind: str = "autoattack", eps: float | None = None, **over: Any
) -> RunMetrics:
    """The metrics as if the fewest images had been attacked by AutoAttack."""
    cell = metrics.attacks["pgd-2"]
    attack = cell.attack.model_copy(update={"kind": kind, "eps": cell.attack.eps if eps is None else eps})
    changed = cell.model_copy(update={"attack": attack, **over})
    return metrics.model_copy(update={"attacks": {**metrics.attacks, "autoattack": changed}})


def with_check(metrics: RunMetrics, *, passed: bool, detail: str) -> RunMetrics:
    sanity = SanityMetrics(checks={"steps": Check(passed=passed, detail=detail)}, curves=Curves(eps=(), steps=()))
    return metrics.model_copy(update={"sanity": sanity})


def in_ball(metrics: RunMetrics, *, eps: float, dataset: str = "") -> RunMetrics:
    """The metrics as if radius and data set were others."""
    update: dict[str, Any] = {"threat": metrics.threat.model_copy(update={"eps": eps})}
    if dataset:
        update["dataset"] = metrics.dataset.model_copy(update={"name": dataset})
    return metrics.model_copy(update=update)


def with_every_attack_at(metrics: RunMetrics, eps: float) -> RunMetrics:
    attacks = {
        name: cell.model_copy(update={"attack": cell.attack.model_copy(update={"eps": eps})})
        for name, cell in metrics.attacks.items()
    }
    return metrics.model_copy(update={"attacks": attacks})


def one_seed(metrics: RunMetrics) -> RunMetrics:
    return metrics.model_copy(update={"seeds": (0,), "training": {0: metrics.training[0]}})


def card_of(metrics: RunMetrics) -> str:
    weights = {seed: model_card.Weights(f"{seed}.safetensors", "0" * 64, None) for seed in metrics.seeds}
    exported = model_card.ExportedRun(
        metrics=metrics, weights=weights, example="pass", sources=(), seed=metrics.seeds[0], choice=""
    )
    return model_card.to_markdown(exported)


Change = Callable[[RunMetrics], RunMetrics]
SHOWN: dict[str, tuple[Change, str]] = {
    "no AutoAttack": (lambda m: m, "AutoAttack was not run in this ball. PGD alone often overestimates"),
    "AutoAttack in another ball": (lambda m: with_autoattack(m, eps=0.01), "AutoAttack was not run in this ball"),
    "few images": (with_autoattack, "AutoAttack evaluated the first 20 of 40 test images: its accuracy is "),
    "a warning": (
        lambda m: with_autoattack(m, warnings=("it seems to be a randomized defense",)),
        "AutoAttack warned: it seems to be a randomized defense",
    ),
    "rejected examples": (
        lambda m: with_autoattack(m, rejected_examples=3),
        "AutoAttack returned 3 images outside the ball",
    ),
    "no sanity checks": (lambda m: m, "No sanity checks were run on it."),
    "a failed sanity check": (
        lambda m: with_check(m, passed=False, detail="61 to 64"),
        "**Sanity checks failed (More steps never raise accuracy): do not quote its robust accuracy.**",
    ),
    "one seed": (one_seed, "One seed: how much another"),
    "no leaderboard": (lambda m: m, "RobustBench has no leaderboard for this data set"),
    "another radius": (
        lambda m: in_ball(m, eps=0.031, dataset="cifar10"),
        "RobustBench compares at ε = 8/255; this is another radius.",
    ),
    "a guide": (lambda m: m, "The guide, which labeled images in training, is not exported"),
    "the last epoch": (lambda m: m, "Rows marked last epoch are about weights that are not exported"),
}


@pytest.mark.parametrize("what", SHOWN)
def test_the_card_shows_limits_and_warnings(what: str, done: tuple[Experiment, Paths]) -> None:
    change, sentence = SHOWN[what]
    assert sentence in card_of(change(metrics_of(done, "dynat")))


def test_limits_that_do_not_apply_are_not_shown(done: tuple[Experiment, Paths]) -> None:
    metrics = with_autoattack(metrics_of(done, "at"), n=40)
    metrics = with_check(metrics, passed=True, detail="61 to 61")
    metrics = with_every_attack_at(in_ball(metrics, eps=8 / 255, dataset="cifar10"), 8 / 255)
    text = card_of(metrics)
    for sentence in (
        "was not run",
        "evaluated the first",
        "failed",
        "One seed",
        "leaderboard",
        "another radius",
        "guide, which",
    ):
        assert sentence not in text
    assert "* passed: More steps never raise accuracy (61 to 61)" in text


# Every field of RobustBench's model_info of a network in an Lp ball, but `external`, which its maintainers fill in.
FIELDS = {
    "link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue", "architecture", "eps",
    "clean_acc", "reported", "autoattack_acc", "footnote", "unreliable",
}  # fmt: skip


def test_the_claim_is_in_robustbenchs_form_and_of_one_seed(done: tuple[Experiment, Paths]) -> None:
    metrics = with_autoattack(in_ball(metrics_of(done, "dynat"), eps=8 / 255), eps=8 / 255)
    for seed in SEEDS:
        claim = robustbench.claim(metrics, seed)
        assert claim is not None and set(claim.model_dump()) == FIELDS
        robust = f"{100 * metrics.attacks['autoattack'].per_seed[seed]:.2f}"
        assert claim.autoattack_acc == claim.reported == robust
        assert claim.clean_acc == f"{100 * metrics.attacks['clean'].per_seed[seed]:.2f}"
        assert claim.eps == "8/255" and claim.additional_data is False and claim.unreliable is False
        assert "first 20 of 40 test images" in claim.footnote
    start = metrics.config.model_copy(update={"init": InitConfig.model_validate({"target": {"file": "theirs.pt"}})})
    unknown = robustbench.claim(metrics.model_copy(update={"config": start}), 0)
    assert unknown is not None and unknown.additional_data is None, "nobody knows what the given weights have seen"
    warned = robustbench.claim(with_autoattack(metrics_of(done, "dynat"), warnings=("zero gradient",)), 0)
    assert warned is not None and warned.unreliable is True
    assert robustbench.claim(metrics_of(done, "dynat"), 0) is None
    assert robustbench.architecture("wrn34-10") == "WideResNet-34-10"


def test_the_claim_of_an_earlier_export_is_deleted(done: tuple[Experiment, Paths], tmp_path: Path) -> None:
    export_run(done[0], "at", done[1], out=tmp_path, say=lambda _: None)
    files = ExportFiles(tmp_path)
    config = config_of(files)
    files.config.write_text(config.model_copy(update={"files": [*config.files, files.claim(0).name]}).model_dump_json())
    files.claim(0).write_text("{}")
    mine = tmp_path / ".gitattributes"
    mine.write_text("")
    export_run(done[0], "at", done[1], out=tmp_path, say=lambda _: None)
    assert not files.claim(0).exists() and mine.exists()


def test_a_missing_run_is_named(dynat: Dynat, tmp_path: Path) -> None:
    code, printed = dynat("export", "dynta")
    assert code == 2 and "unknown run 'dynta': did you mean 'dynat'?" in printed
    code, printed = dynat("export", "dynat", "--results", tmp_path, "--out", tmp_path / "out")
    assert code == 2 and "metrics.json: no such file; make it with: snakemake" in printed
    assert not (tmp_path / "out").exists()


# --- Hugging Face Hub ---------------------------------------------------------------------------------------------


def test_the_metadata_has_the_numbers_of_the_exported_network(
    done: tuple[Experiment, Paths], exported: ExportFiles
) -> None:
    metadata, metrics, seed = (
        metadata_of(exported.card.read_text()),
        metrics_of(done, "dynat"),
        config_of(exported).seed,
    )
    assert metadata["library_name"] == "pytorch" and metadata["license"] == "unknown"
    assert metadata["tags"] == ["adversarial-robustness", "linf", "adversarial-training", "dynat", "at"]
    assert "datasets" not in metadata, "the hub has no page of these images"
    (model,) = metadata["model-index"]
    (result,) = model["results"]
    assert model["name"] == "dynat" and result["dataset"] == {"name": "tiny", "type": "tiny", "split": "test"}
    ball = "L∞, ε = 0.1"
    names = {
        "clean": "Clean accuracy",
        "pgd-4": f"Robust accuracy, PGD-4, {ball}",
        "pgd-2": f"Robust accuracy, PGD-2, {ball}, the first 20 of 40 test images (in the order of the files)",
    }  # and not pgd-4-last: its weights are not exported
    assert {each["name"]: each["value"] for each in result["metrics"]} == {
        title: pytest.approx(metrics.attacks[name].per_seed[seed], abs=1e-6) for name, title in names.items()
    }
    assert any(len(set(metrics.attacks[name].per_seed.values())) > 1 for name in names), "seeds differ"


def test_data_sets_of_the_hub_are_linked(done: tuple[Experiment, Paths]) -> None:
    metadata = metadata_of(card_of(in_ball(metrics_of(done, "at"), eps=8 / 255, dataset="cifar10")))
    assert metadata["datasets"] == ["uoft-cs/cifar10"]
    assert metadata["model-index"][0]["results"][0]["dataset"]["type"] == "uoft-cs/cifar10"


def test_the_model_is_the_best_seed_on_the_validation_images(
    done: tuple[Experiment, Paths], exported: ExportFiles, tmp_path: Path
) -> None:
    """The first one of equals; --seed chooses another."""
    run = done[1].run_files("tests", "dynat")
    metrics = metrics_of(done, "dynat")
    pgd = {
        seed: (rows[epoch - 1]["pgd"], rows[epoch - 1]["clean"])
        for seed in SEEDS
        if (rows := read_history(run.seed(seed))) and (epoch := metrics.training[seed].best_epoch)
    }
    assert len(set(pgd.values())) == 2, "the seeds are not equal"
    assert config_of(exported).seed == max(SEEDS, key=lambda seed: pgd[seed])
    assert "has the highest PGD accuracy on the validation images" in exported.card.read_text()
    other = other_seed(exported)
    export_run(done[0], "dynat", done[1], out=tmp_path, options=ExportOptions(seed=other), say=lambda _: None)
    assert config_of(ExportFiles(tmp_path)).seed == other
    assert ExportFiles(tmp_path).model.read_bytes() == exported.other_seed(other).read_bytes()
    with pytest.raises(UserError, match="--seed 7: dynat has the seeds 0, 3"):
        export_run(done[0], "dynat", done[1], out=tmp_path, options=ExportOptions(seed=7), say=lambda _: None)


def test_the_network_can_be_built_from_config_json(exported: ExportFiles) -> None:
    config = config_of(exported)
    code = (exported.folder / f"{config.network.module}.py").read_text()
    namespace: dict[str, Any] = {"__name__": "network"}
    exec(compile(code, "network.py", "exec"), namespace)
    network = namespace[config.network.factory](**config.network.arguments)
    network.load_state_dict(load_file(exported.model))
    assert config.num_classes == len(config.id2label) == tiny.CLASSES and config.image_size == [8, 8]
    assert config.threat_model == {"norm": "Linf", "eps": 0.1}


def test_a_folder_with_other_files_is_not_touched(done: tuple[Experiment, Paths], tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("mine")
    with pytest.raises(UserError, match="has files in it and is not an earlier export; name a new folder with --out"):
        export_run(done[0], "at", done[1], out=tmp_path, say=lambda _: None)
    assert readme.read_text() == "mine" and [readme] == list(tmp_path.iterdir())


HOSTILE = "a: b\n---\n# [x](http://y) `z` <script> 'q\" | &amp; {%"


def test_text_of_others_stays_text(done: tuple[Experiment, Paths]) -> None:
    """Names of classes and of the data set, a machine, a version, a warning: in YAML and in Markdown."""
    metrics = metrics_of(done, "at")
    data = metrics.dataset.model_copy(update={"name": HOSTILE, "classes": (HOSTILE,) * 3, "test_order": HOSTILE})
    training = {
        seed: each.model_copy(update={"machine": HOSTILE, "versions": {HOSTILE: HOSTILE}, "digest": HOSTILE})
        for seed, each in metrics.training.items()
    }
    card = card_of(
        with_autoattack(metrics.model_copy(update={"dataset": data, "training": training}), warnings=(HOSTILE,))
    )
    plain = " ".join(HOSTILE.split())
    dataset = metadata_of(card)["model-index"][0]["results"][0]["dataset"]
    assert dataset == {"name": plain, "type": plain, "split": "test"}
    text = card.split("\n---\n", 1)[1]
    assert "<script>" not in text and "http://y" not in text
    assert not re.search(r"^(---|# \[)", text, re.MULTILINE)


@pytest.mark.parametrize("change", [{"run": "a`b"}, {"attacks": {"a|b": None}}])
def test_a_name_that_no_run_or_attack_can_have_is_refused(
    change: dict[str, Any], done: tuple[Experiment, Paths]
) -> None:
    content = metrics_of(done, "at").model_dump(mode="json")
    if "attacks" in change:
        change = {"attacks": {"a|b": content["attacks"]["clean"]}}
    with pytest.raises(ValidationError, match="becomes the name of a folder or file"):
        RunMetrics.model_validate(content | change)


def test_license_and_seed_are_options(dynat: Dynat, done: tuple[Experiment, Paths], tmp_path: Path) -> None:
    code, printed = dynat("export", "dynat", "--license", "Apache 2", "--out", tmp_path / "x")
    assert code == 2 and "--license Apache 2: write it as the hub does: mit" in printed
    options = ExportOptions(license_id="apache-2.0")
    card = export_run(done[0], "at", done[1], out=tmp_path / "at", options=options, say=lambda _: None).read_text()
    assert metadata_of(card)["license"] == "apache-2.0"
    assert "Weights: apache-2.0. `network.py`: MIT, from dynat." in card


def test_the_hubs_own_parser_reads_the_card(exported: ExportFiles) -> None:
    hub_package = pytest.importorskip("huggingface_hub")
    card = hub_package.ModelCard(exported.card.read_text(), ignore_metadata_errors=False)
    assert {each.metric_name: each.metric_value for each in card.data.eval_results} == {
        each["name"]: each["value"]
        for each in metadata_of(exported.card.read_text())["model-index"][0]["results"][0]["metrics"]
    }


# --- RobustBench --------------------------------------------------------------------------------------------------


def on_cifar(metrics: RunMetrics, n: int) -> RunMetrics:
    """The metrics as if CIFAR-10 had been attacked by AutoAttack on n of its images."""
    whole = in_ball(metrics, eps=8 / 255, dataset="cifar10")
    whole = whole.model_copy(update={"dataset": whole.dataset.model_copy(update={"test": 10_000})})
    after = dict.fromkeys(("clean", *registry.ATTACKS["autoattack"].parts), 0.5)
    return with_autoattack(whole, eps=8 / 255, n=n, accuracy_after=after)


def submission_of(metrics: RunMetrics) -> str | None:
    claims = {seed: claim for seed in SEEDS if (claim := robustbench.claim(metrics, seed))}
    return robustbench.submission(metrics, claims, {seed: f"{seed}.safetensors" for seed in SEEDS})


def test_the_submission_uses_robustbenchs_names(done: tuple[Experiment, Paths]) -> None:
    metrics = on_cifar(metrics_of(done, "at"), 10_000)
    text = submission_of(metrics)
    assert text is not None and "Not ready" not in text
    claim = robustbench.claim(metrics, 3)
    assert claim is not None and "all 10,000 test images" in claim.footnote
    block = text.split("## ")[2]
    for line in (
        "- **Threat Model**: Linf",
        "- **Dataset**: cifar10",
        "- **eps**: 8/255",
        f"- **Clean accuracy**: {claim.clean_acc} %",
        f"- **Robust accuracy**: {claim.autoattack_acc} %",
        "- **Additional data**: false",
        "- **Evaluation method**: AutoAttack, standard version, 10,000 test images",
        "- **Checkpoint and code**: (URL of `3.safetensors`)",
    ):
        assert f"{line}\n" in block, line


def test_a_submission_of_fewer_images_says_so_first(done: tuple[Experiment, Paths]) -> None:
    text = submission_of(on_cifar(metrics_of(done, "at"), 1000))
    assert text is not None
    assert text.startswith("> **Not ready:** AutoAttack saw 1,000 images. RobustBench asks for all 10,000 test images.")
    assert "the first 1,000 of 10,000 test images" in text
    other = with_autoattack(on_cifar(metrics_of(done, "at"), 10_000), eps=8 / 255, n=10_000)
    assert "AutoAttack, not the standard version: pgd" in (submission_of(other) or "")
    assert submission_of(with_autoattack(metrics_of(done, "at"))) is None, "it has no leaderboard for these images"


@pytest.mark.parametrize(
    ("network", "name"),
    [
        ("wrn28-10", "WideResNet-28-10"),
        ("resnet18", "ResNet-18"),
        ("preact-resnet18", "PreActResNet-18"),
        ("wrn70-16-swish", "WideResNet-70-16"),
    ],
)
def test_architectures_have_the_names_of_the_leaderboards(network: str, name: str) -> None:
    assert robustbench.architecture(network) == name


# --- ONNX ---------------------------------------------------------------------------------------------------------


def test_without_its_packages_onnx_says_what_to_install(
    done: tuple[Experiment, Paths], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"uv pip install .*'.\[onnx\]'"):
        export_run(done[0], "at", done[1], out=tmp_path / "at", options=ExportOptions(onnx=True), say=lambda _: None)
    assert not (tmp_path / "at").exists()


def test_the_network_of_the_onnx_file_is_built_for_the_size_of_the_images(
    done: tuple[Experiment, Paths], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transformer has weights by the size of its images."""
    metrics, built = metrics_of(done, "at"), mock.Mock(side_effect=Killed)
    monkeypatch.setattr(onnx_export, "build_network", built)
    with pytest.raises(Killed):
        onnx_export.to_onnx(metrics, b"", "model.onnx")
    assert built.call_args.kwargs["size"] == metrics.dataset.size == (8, 8)


@pytest.fixture(scope="module")
def as_onnx(done: tuple[Experiment, Paths], tmp_path_factory: pytest.TempPathFactory) -> ExportFiles:
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    out = tmp_path_factory.mktemp("onnx") / "at"
    export_run(done[0], "at", done[1], out=out, options=ExportOptions(onnx=True), say=lambda _: None)
    return ExportFiles(out)


def test_the_onnx_file_gives_the_recorded_predictions(done: tuple[Experiment, Paths], as_onnx: ExportFiles) -> None:
    """Of every test image, in batches of any size."""
    import onnxruntime

    images = to_pixels(data.load(done[1].dataset("tiny")).test.images).numpy()
    session = onnxruntime.InferenceSession(as_onnx.onnx)
    answers = [int(k) for part in (images[:3], images[3:]) for k in session.run(None, {"images": part})[0].argmax(1)]
    seed = config_of(as_onnx).seed
    with done[1].outcome("tests", "at", "clean").open() as file:
        assert answers == [int(row["prediction"]) for row in csv.DictReader(file) if int(row["seed"]) == seed]
    assert config_of(as_onnx).onnx_opset == onnx_export.OPSET
    assert f"as ONNX, opset {onnx_export.OPSET}" in as_onnx.card.read_text()


def test_a_wrong_onnx_file_is_not_written(as_onnx: ExportFiles) -> None:
    """The smallest wrong thing: one weight of the last layer is off by a thousandth."""
    network = models.build("small", classes=tiny.CLASSES, channels=1).eval()
    network.load_state_dict(load_file(as_onnx.model))
    model, shape = as_onnx.onnx.read_bytes(), (1, 8, 8)
    checked = onnx_export.checked(network, model, shape, "model.onnx")
    assert 0 < checked.difference <= checked.tolerance < 1e-4
    with torch.no_grad():
        network.get_parameter("8.weight")[0, 0] *= 1.001
    with pytest.raises(UserError, match=r"differ from the network's by .*rounding explains"):
        onnx_export.checked(network, model, shape, "model.onnx")


def test_weights_that_the_metrics_are_not_about_are_refused(done: tuple[Experiment, Paths], tmp_path: Path) -> None:
    experiment, paths = done
    changed = Paths(paths.data, tmp_path / "results", paths.state)
    shutil.copytree(paths.results, changed.results)
    files, other = (changed.run_files("tests", "at").seed(seed) for seed in SEEDS)
    record = read_record(files.config, TrainingRecord)
    sums = record.weights | {"target.safetensors": file_sha256(other.target().read_bytes())}
    shutil.copyfile(other.target(), files.target())
    write_record(files.config, record.model_copy(update={"weights": sums}))
    with pytest.raises(UserError, match=r"target.safetensors: is not the network of metrics.json"):
        export_run(experiment, "at", changed, out=tmp_path / "out", say=lambda _: None)
    with pytest.raises(UserError, match=r"target.safetensors: was written after the attacks"):
        write_metrics(changed.run("tests", "at"))


def test_the_claim_is_about_the_selected_epoch(done: tuple[Experiment, Paths]) -> None:
    metrics = with_autoattack(in_ball(metrics_of(done, "dynat"), eps=8 / 255), eps=8 / 255)
    clean = metrics.attacks["clean"]
    last = clean.model_copy(
        update={"attack": clean.attack.model_copy(update={"weights": "last"}), "per_seed": {0: 0.11, 1: 0.11}}
    )
    claim = robustbench.claim(metrics.model_copy(update={"attacks": {"clean-last": last, **metrics.attacks}}), 0)
    assert claim is not None and claim.clean_acc == f"{100 * clean.per_seed[0]:.2f}" != "11.00"
