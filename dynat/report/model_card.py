"""The model card of an exported run: README.md of a repository on the Hugging Face Hub, with its metadata at the top.

The card is made of the metrics and configs of the run; where they are silent, it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import yaml

from dynat.config import Checkpoint, Run
from dynat.config.base import pixel_fraction
from dynat.report import formatting, hub, run_table
from dynat.report.markdown import escape, markdown_table
from dynat.report.robustbench import LEADERBOARDS, RADIUS, autoattack, network_of
from dynat.results.records import DatasetInfo, RunMetrics


@dataclass(frozen=True)
class Weights:
    """One seed's network as a file."""

    file: str
    sha256: str
    claim: str | None
    """The file of its claim."""


@dataclass(frozen=True)
class OnnxFile:
    """The network of the best seed as ONNX, and how far its logits are from the network's."""

    file: str
    opset: int
    images: int
    """Images of the comparison."""
    difference: float
    """The largest difference from the logits in float64."""
    tolerance: float
    rounding: float
    """The same difference of PyTorch's float32 logits."""


@dataclass(frozen=True)
class ExportedRun:
    """All that is exported of a run."""

    metrics: RunMetrics
    weights: Mapping[int, Weights]
    example: str
    """Lines of Python that load the network of `seed`."""
    sources: tuple[str, ...]
    """Files of code that lie beside the weights."""
    seed: int
    """The seed whose network is model.safetensors."""
    choice: str
    """Why this one."""
    license_id: str = hub.UNKNOWN
    onnx: OnnxFile | None = None

    @property
    def row(self) -> Run | Checkpoint:
        return self.metrics.config

    @property
    def imported(self) -> bool:
        """Whether it was trained elsewhere."""
        return isinstance(self.row, Checkpoint)


def to_markdown(exported: ExportedRun) -> str:
    """The card, with the hub's metadata at its top."""
    metrics, data = exported.metrics, exported.metrics.dataset
    ball, title = formatting.ball(metrics.threat), escape(formatting.dataset_title(data.name))
    trained = "Trained elsewhere" if exported.imported else formatting.method_title(exported.row)
    sections = {
        "Results": [run_table.to_markdown(metrics), _about_results(exported)],
        "Sanity checks of the evaluation": [_bullets(_checks(metrics))],
        "Limits": [_bullets(_limits(exported))],
        "How to load it": [
            f"```python\n{exported.example}\n```",
            _about_loading(exported),
            *_about_onnx(exported.onnx),
        ],
        "Files": [_files(exported), exported.choice],
        "License": [_about_license(exported)],
        "Data": [_about_data(data), *_about_extra(exported.row, data)],
        "Recipe": [_recipe(exported)],
        "Cost": [_bullets(_cost(metrics))],
        "Environment": [_bullets(_environment(metrics))],
    }
    opening = (
        f"# `{metrics.run}`: {network_of(exported.row)} on {title}",
        f"{len(data.classes)} classes, images of "
        f"{data.channels} × {data.size[0]} × {data.size[1]}. {trained}. Evaluated against {ball}.",
    )
    body = [part for name, parts in sections.items() for part in (f"## {name}", *parts)]
    return "\n\n".join([hub.metadata(metrics, exported.seed, exported.license_id), *opening, *body]) + "\n"


def _about_results(exported: ExportedRun) -> str:
    several = len(exported.metrics.seeds) > 1
    spread = "Mean and standard deviation over seeds; the" if several else "The"
    chosen = "" if exported.imported else " No test image was used to choose anything."
    return (
        f"{spread} interval is Wilson's of the pooled accuracy, with n the number of images.{chosen} "
        "CW is PGD on the logit margin within the ball."
    )


def _checks(metrics: RunMetrics) -> list[str]:
    checks = run_table.sanity_checks(metrics) or ["No sanity checks were run on it."]
    quiet = "No attack gave a warning, and every adversarial image passed verification."
    return [*checks, *(list(map(escape, run_table.notices(metrics))) or [quiet])]


def _limits(exported: ExportedRun) -> list[str]:
    metrics = exported.metrics
    threat, cell, data = metrics.threat, autoattack(metrics), metrics.dataset
    limits = [
        f"Evaluated within {formatting.ball(threat)} only: other norms and radii, patches, rotations, noise and other "
        "data may all break it.",
        "An accuracy under attack is an upper bound. An attack made for this network may break more images.",
    ]
    if cell is None:
        limits.append(
            "AutoAttack was not run in this ball. PGD alone often overestimates robustness, especially that of "
            "reweighted methods."
        )
    elif cell.n < data.test:
        limits.append(
            f"AutoAttack evaluated the first {cell.n:,} of {data.test:,} test images: its accuracy is "
            f"{formatting.interval(cell)} %, and is not comparable with attacks on other images. The images are "
            f"{escape(formatting.image_order(data))}."
        )
    if failed := run_table.failed_titles(metrics):
        limits.append(f"**Sanity checks failed ({', '.join(failed)}): do not quote its robust accuracy.**")
    if any(each.attack.weights == "last" for each in metrics.attacks.values()):
        limits.append("Rows marked last epoch are about weights that are not exported.")
    if isinstance(exported.row, Run) and exported.row.guide:
        limits.append("The guide, which labeled images in training, is not exported: the network needs none.")
    if len(metrics.seeds) == 1:
        limits.append("One seed: how much another training would differ is not known.")
    if data.name not in LEADERBOARDS:
        claimed = "; the claims only use its form" if any(each.claim for each in exported.weights.values()) else ""
        limits.append(f"RobustBench has no leaderboard for this data set{claimed}.")
    elif threat.norm not in RADIUS:
        limits.append("RobustBench has no leaderboard for this norm.")
    elif abs(threat.eps - RADIUS[threat.norm]) > 1e-9:
        usual = pixel_fraction(RADIUS["linf"]) if threat.norm == "linf" else f"{RADIUS[threat.norm]:g}"
        limits.append(f"RobustBench compares at ε = {usual}; this is another radius.")
    if exported.imported:
        limits.append(
            "Trained elsewhere: its training data, and whether test images were used to choose it, are not known here."
        )
    return limits


def _about_loading(exported: ExportedRun) -> str:
    data = exported.metrics.dataset
    shape = " × ".join(map(str, (data.channels, *data.size)))
    classes = ", ".join(map(escape, data.classes[:20])) + (", ..." if len(data.classes) > 20 else "")
    beside = formatting.listing(f"`{file}`" for file in exported.sources)
    verb = "needs" if len(exported.sources) == 1 else "need"
    plugin = "The code of the network is in a plug-in, which is not exported."
    package, slash, _ = network_of(exported.row).partition("/")
    libraries = f"torch and {package}" if slash else "torch alone"
    needs = f"Run it in this folder: {beside} {verb} {libraries}." if exported.sources else plugin
    return (
        f"{needs} Images are float32, N × {shape}, with values in [0,1] and no other normalization; "
        f"the output is logits. Classes, in order: {classes}."
    )


def _about_onnx(onnx: OnnxFile | None) -> list[str]:
    if onnx is None:
        return []
    code = f'session = onnxruntime.InferenceSession("{onnx.file}")\n(logits,) = session.run(None, {{"images": array}})'
    return [
        f"```python\nimport onnxruntime\n\n{code}\n```",
        f"`{onnx.file}` is the same network as ONNX, opset {onnx.opset}; `array` is a float32 NumPy array of any "
        f"number of images. Checked on {onnx.images} random images in batches of three sizes: its logits differ from "
        f"those in float64 by at most {onnx.difference:.1e}. PyTorch's float32 logits differ by {onnx.rounding:.1e}; "
        f"eight times this rounding error ({onnx.tolerance:.1e}) is allowed.",
    ]


def _about_license(exported: ExportedRun) -> str:
    files = formatting.listing(f"`{file}`" for file in exported.sources)
    code = f" {files}: MIT, from dynat." if files else ""
    if exported.license_id == hub.UNKNOWN:
        return f"Weights: not chosen yet; `dynat export --license mit` writes one.{code}"
    return f"Weights: {escape(exported.license_id)}.{code}"


def _files(exported: ExportedRun) -> str:
    rows = [
        (
            f"`{weights.file}`",
            str(seed),
            str(exported.metrics.training[seed].best_epoch or "–"),
            f"`{weights.claim}`" if weights.claim else "–",
            f"`{weights.sha256}`",
        )
        for seed, weights in exported.weights.items()
    ]
    return markdown_table(("weights", "seed", "epoch", "RobustBench", "SHA-256"), rows, right=(1, 2))


def _about_data(data: DatasetInfo) -> str:
    return (
        f"{escape(formatting.dataset_title(data.name))}: {data.train:,} training images, {data.validation:,} "
        f"validation images to choose the epoch, {data.test:,} test images. "
        f"SHA-256 of images and labels: {escape(data.digest)}."
    )


def _about_extra(row: Run | Checkpoint, data: DatasetInfo) -> list[str]:
    if isinstance(row, Checkpoint) or row.extra is None or data.extra is None:
        return []
    extra, count = data.extra, row.extra.count(row.batch)
    labels = "the labels of the file"
    if row.labels == "dynamic":
        known = row.extra.labels == "file" and extra.unlabeled < extra.images
        labels = f"labels of the guide, which learned {'from them too' if known else 'from the original images alone'}"
    shared = f" {extra.test_images:,} of them are test images, pixel for pixel." if extra.test_images else ""
    return [
        f"Extra images: {count} of the {row.batch} images of every batch are from {escape(extra.file)}, "
        f"{extra.images:,} images, with {labels}.{shared} SHA-256: {escape(extra.digest)}."
    ]


def _recipe(exported: ExportedRun) -> str:
    config = exported.row.model_dump(mode="json")
    given = {key: value for key, value in config.items() if value not in (None, {}, [])}
    text = yaml.safe_dump(given, sort_keys=False, allow_unicode=True, width=math.inf).strip()
    longest = max(map(len, re.findall("`+", text)), default=0)  # in the path of a checkpoint
    fence = "`" * max(3, longest + 1)
    return f"{fence}yaml\n{text}\n{fence}"


def _cost(metrics: RunMetrics) -> list[str]:
    lines = [
        f"Training, seed {seed}: {formatting.duration(t.seconds)} for {formatting.count(t.epochs, 'epoch')} on "
        f"{escape(t.machine)}; {t.parameters.target:,} weights"
        for seed, t in metrics.training.items()
        if t.epochs
    ]
    for name, cell in metrics.attacks.items():
        cost, images = cell.cost, cell.n * len(cell.seeds)
        lines.append(
            f"{formatting.column_title(name)}: {formatting.duration(cost.seconds)} on {escape(cost.device)}; per image "
            f"{cost.forward_passes / images:,.0f} forward and {cost.backward_passes / images:,.0f} backward passes"
        )
    return lines


def _environment(metrics: RunMetrics) -> list[str]:
    return [
        f"Seed {seed}: {escape(', '.join(map(' '.join, t.versions.items())))}; digest {escape(t.digest)}"
        for seed, t in metrics.training.items()
    ]


def _bullets(texts: list[str]) -> str:
    return "\n".join(f"* {text}" for text in texts)
