"""`evaluate` and `attack`: the attacks of the pipeline on tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dynat import attacks as evaluation
from dynat import provenance
from dynat.api.inputs import Images, Labels, classes, digests, image_digest, labeled, together
from dynat.api.results import AttackResult, Result
from dynat.attacks.randomized import suited_to
from dynat.config import AttackConfig, ThreatModel, digest
from dynat.config.attack_cost import expected_cost
from dynat.config.resolve import checked, resolve_attack
from dynat.data import LabeledImages
from dynat.nn.numerics import restored_numerics, set_evaluation_numerics
from dynat.results.take_off import near_chance
from dynat.runtime.progress import Progress

Attacks = str | Sequence[str] | Mapping[str, Mapping[str, Any] | None]


def evaluate(
    model: nn.Module,
    images: Images,
    labels: Labels,
    *,
    attacks: Attacks = "autoattack",
    eps: float | str,
    norm: str = "linf",
    device: str | torch.device | None = None,
    state: str | PathLike[str] | None = None,
    progress: bool = True,
) -> Result:
    """Attack a network and verify every adversarial image. Clean accuracy is always computed first.

    `model` maps pixels in [0,1] to logits: a network that expects normalized pixels needs its normalization as a first
    layer. It is evaluated in evaluation mode on the device that it is on, or on `device`, and left in its own mode.
    `attacks` are names (`"pgd-20"`, `["pgd-20", "autoattack"]`) or settings by name, as under `attacks:` of a preset
    (`{"pgd-50": {"restarts": 5}, "autoattack": {"images": 1000}}`). Finished batches are kept in the folder `state`; a
    call with the same network, images and settings resumes from them.
    """
    threat = checked(ThreatModel, {"eps": eps, "norm": norm})
    configs = {name: resolve_attack(name, row, threat) for name, row in {"clean": {}, **_rows(attacks)}.items()}
    image_set = labeled(images, labels)
    model, image_set = together(model, image_set, device)
    count = classes(model, image_set)
    identity = digests(model, image_set)  # before a model that keeps something of its last images has seen any
    results, warnings = {}, []
    for name, config in configs.items():
        code = provenance.plugins_digest(provenance.attack_plugins(config.kind))
        folder = None if state is None else Path(state) / digest(config, *identity, code)
        results[name] = _attacked(model, image_set, name, config, folder, progress)
        warnings += [f"{name}: {warning}" for warning in results[name].warnings]
        if name == "clean" and near_chance(results[name].interval[0], count):
            warnings.append(
                f"clean accuracy {100 * results[name].accuracy:.1f} % is near chance ({100 / count:.1f} %): does the "
                "model expect normalized pixels, or another order of the classes?"
            )
    return Result(results, tuple(warnings), image_digest(image_set))


class Adversarial(NamedTuple):
    """What `attack` found."""

    images: Tensor
    """In the order of the given images; an image that is not broken is as the attack left it."""
    broken: Tensor
    """Whether the network misclassifies it. An image that is misclassified anyway is not attacked."""


def attack(
    model: nn.Module,
    images: Images,
    labels: Labels,
    name: str = "pgd-20",
    *,
    eps: float | str,
    norm: str = "linf",
    device: str | torch.device | None = None,
    progress: bool = True,
    **settings: Any,
) -> Adversarial:
    """The adversarial images of one attack, verified. `settings` are those under `attacks:` of a preset."""
    config = resolve_attack(name, settings, checked(ThreatModel, {"eps": eps, "norm": norm}))
    model, image_set = together(model, labeled(images, labels), device)
    classes(model, image_set)
    columns = _run(model, image_set, name, config, None, progress, adversarial=True).columns
    return Adversarial(columns["adversarial"], ~columns["correct"])


def _rows(attacks: Attacks) -> dict[str, Mapping[str, Any]]:
    if isinstance(attacks, str):
        attacks = (attacks,)
    if isinstance(attacks, Mapping):
        return {name: settings or {} for name, settings in attacks.items()}
    return {name: {} for name in attacks}


def _run(
    model: nn.Module,
    images: LabeledImages,
    name: str,
    config: AttackConfig,
    state: Path | None,
    progress: bool,
    *,
    adversarial: bool = False,
) -> evaluation.Evaluation:
    config, warnings = suited_to(model, images, config)
    count = min(config.images or len(images), len(images))
    with restored_numerics(), Progress(name, expected_cost(config) * count, hidden=not progress) as shown:
        set_evaluation_numerics()
        found = evaluation.evaluate(model, images, config, state=state, progress=shown, adversarial=adversarial)
    return replace(found, warnings=(*warnings, *found.warnings))


def _attacked(
    model: nn.Module, images: LabeledImages, name: str, config: AttackConfig, state: Path | None, progress: bool
) -> AttackResult:
    found = _run(model, images, name, config, state, progress)
    columns = found.columns
    warnings = found.warnings
    if found.rejected_examples:
        warnings += (f"returned {found.rejected_examples} images outside the ball or outside [0,1]; not counted",)
    return AttackResult(
        config, columns["correct"].bool(), columns["prediction"], columns["margin"], found.seconds, warnings
    )
