"""One evaluation as files: a row's weights of all seeds in; a verdict per seed and image out."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import nn

from dynat import data, models, provenance
from dynat.attacks import Evaluation, evaluate
from dynat.attacks.evaluation import CORRECT, MISCLASSIFIED
from dynat.attacks.randomized import suited_to
from dynat.attacks.surrogate import try_gradients
from dynat.checkpoints.network import build_network
from dynat.checkpoints.weights import load_weights
from dynat.config import AttackConfig, Checkpoint, EvaluationSpec, digest, registry
from dynat.config.attack_cost import expected_cost
from dynat.config.base import StrictModel
from dynat.config.shards import Shard
from dynat.data import LabeledImages
from dynat.nn.numerics import set_evaluation_numerics
from dynat.results.outcomes import CLEAN, Examples, Verdicts, write_examples, write_outcome
from dynat.results.paths import Paths, SeedFiles
from dynat.results.records import OutcomeRecord, TrainingRecord, read_record, required
from dynat.results.weights import network_of, read_weights
from dynat.runtime.device import choose_device, describe
from dynat.runtime.errors import UserError
from dynat.runtime.files import atomic_text, check_writable
from dynat.runtime.memory import names_a_batch
from dynat.runtime.progress import Progress, duration


def run_evaluation(
    spec: EvaluationSpec,
    *,
    paths: Paths,
    device: str = "auto",
    say: Callable[[str], None] = print,
    keep_images: bool = False,
) -> Path:
    """Attack the networks of all seeds as `spec` says and write the verdict on every image.

    With `keep_images`, the saved batches hold the adversarial images too.
    """
    evaluator = Evaluator.of(spec.preset, spec.data, paths, device)
    run = paths.run_files(spec.preset, spec.name)
    check_writable(run.outcome(spec.attack_name).parent)
    _require_trained(spec, paths)
    evaluations: dict[int, Evaluation] = {}
    digests: dict[int, str] = {}
    networks: dict[int, str] = {}
    images = min(spec.attack.images or len(evaluator.images), len(evaluator.images))
    title = f"{spec.name} {spec.attack_name}"
    with Progress(title, expected_cost(spec.attack) * images * len(spec.seeds), say=say) as progress:
        for seed in spec.seeds:
            model, weights = evaluator.network(spec.name, seed, spec.attack.weights)
            networks |= evaluator.identity(spec.name, seed, spec.attack.weights)
            evaluations[seed], digests[seed] = evaluator.evaluate(
                model, weights, spec.attack, progress, adversarial=keep_images
            )
            if len(spec.seeds) > 1:
                took = duration(evaluations[seed].seconds)
                progress.say(f"{spec.name} seed {seed} {spec.attack_name}: {_accuracy([evaluations[seed]])}, {took}")
    first = evaluations[spec.seeds[0]].examples
    examples = Examples(**{name: tensor.numpy() for name, tensor in first.items()})
    write_examples(run.examples(spec.attack_name), examples, evaluator.classes)
    verdicts = {seed: _verdicts(evaluation) for seed, evaluation in evaluations.items()}
    written = write_outcome(run, _record(spec, evaluations, digests, networks, evaluator.device), verdicts)
    seeds = f", {len(spec.seeds)} seeds" if len(spec.seeds) > 1 else ""
    took = duration(sum(evaluation.seconds for evaluation in evaluations.values()))
    say(f"{title}: {_accuracy(list(evaluations.values()))}{seeds}, {took}")
    return written


def run_shard(
    spec: EvaluationSpec,
    shard: Shard,
    *,
    paths: Paths,
    device: str = "auto",
    say: Callable[[str], None] = print,
    keep_images: bool = False,
) -> None:
    """Attack the batches of a shard. `run_evaluation` finds them finished, and attacks those that are missing."""
    evaluator = Evaluator.of(spec.preset, spec.data, paths, device)
    check_writable(paths.state)
    images = evaluator.images.first(spec.attack.images or len(evaluator.images))
    sizes = [len(labels) for _, labels in images.batches(spec.attack.batch)]
    chosen = {seed: shard.batches(position, len(sizes)) for position, seed in enumerate(spec.seeds)}
    count = sum(sizes[batch] for batches in chosen.values() for batch in batches)
    title = f"{spec.name} {spec.attack_name} shard {shard}"
    seconds = 0.0
    with Progress(title, expected_cost(spec.attack) * count, say=say) as progress:
        for seed, batches in chosen.items():
            if batches:
                model, weights = evaluator.network(spec.name, seed, spec.attack.weights)
                found, _ = evaluator.evaluate(model, weights, spec.attack, progress, batches, adversarial=keep_images)
                seconds += found.seconds
    number = sum(map(len, chosen.values()))
    say(f"{title}: {number} of {len(sizes) * len(spec.seeds)} batches, {duration(seconds)}")


def _require_trained(spec: EvaluationSpec, paths: Paths) -> None:
    """`UserError` before the first attack if a seed has no network yet."""
    absent = [seed for seed in spec.seeds if not paths.seed_files(spec.preset, spec.name, seed).config.exists()]
    trained = [seed for seed in spec.seeds if seed not in absent]
    if absent and trained:
        raise UserError(
            f"{spec.name}: seed {absent[0]} is not trained: dynat train {spec.name} --seed {absent[0]}; to attack the "
            f"others only, add --set 'seeds={list(trained)}'"
        )


class EvaluationKey(StrictModel):
    """All that the verdicts of one network under one attack depend on; saved beside the finished batches."""

    attack: AttackConfig
    weights: str
    images: str
    code: str
    device: str
    torch: str
    pyautoattack: str


@dataclass(frozen=True)
class Evaluator:
    """What all evaluations of a preset share: the device, the test images, and the folder of finished batches."""

    paths: Paths
    preset: str
    device: torch.device
    images: LabeledImages
    classes: tuple[str, ...]
    image_digest: str
    code: str

    @classmethod
    def of(cls, preset: str, dataset: str, paths: Paths, device: str) -> Evaluator:
        set_evaluation_numerics()
        chosen = choose_device(device)
        images = data.load(paths.dataset(dataset))
        code = provenance.code_digest(provenance.evaluation_sources())
        return cls(paths, preset, chosen, images.test.to(chosen), images.classes, images.digest, code)

    def network(self, run: str, seed: int, weights: str = "best") -> tuple[nn.Module, str]:
        """A row's network on the device, and the digest of its weights."""
        model, name = load_target(self.paths.seed_files(self.preset, run, seed), weights)
        return model.to(self.device), name

    def identity(self, run: str, seed: int, weights: str = "best") -> dict[int, str]:
        """By seed, for records: which network that is."""
        network = network_of(read_record(self.paths.seed_files(self.preset, run, seed).config, TrainingRecord), weights)
        return {} if network is None else {seed: network}

    def evaluate(
        self,
        model: nn.Module,
        weights: str,
        attack: AttackConfig,
        progress: Progress,
        numbers: Collection[int] | None = None,
        *,
        adversarial: bool = False,
    ) -> tuple[Evaluation, str]:
        """The evaluation of a network, or that of some of its batches, and its digest; resumes from the batches that
        are saved under that. A network that answers differently each time is attacked as such."""
        attack, warnings = suited_to(model, self.images, attack)
        key = EvaluationKey(
            attack=attack,
            weights=weights,
            images=self.image_digest,
            code=self.code + provenance.plugins_digest(provenance.attack_plugins(attack.kind)),
            device=self.device.type,
            torch=package_version("torch"),
            pyautoattack=package_version("pyautoattack"),
        )
        name = digest(key)
        state = self.paths.evaluation_state(name)
        _refuse_other_evaluation(state, key)
        with names_a_batch(
            attack.batch,
            lambda batch: try_gradients(model, data.to_pixels(self.images.first(batch).images), attack.surrogate),
            lambda batch: f"set batch: {batch} for this attack",
        ):
            found = evaluate(
                model, self.images, attack, state=state, progress=progress, numbers=numbers, adversarial=adversarial
            )
        return replace(found, warnings=(*warnings, *found.warnings)), name


def _refuse_other_evaluation(state: Path, key: EvaluationKey) -> None:
    """Refuse a folder of finished batches that was copied or renamed: it is of another evaluation. Set it aside if its
    key is damaged, and start again."""
    file = state / "key.json"
    if not any(state.glob("batch-*.pt")):
        atomic_text(file, key.model_dump_json(indent=2) + "\n")
        return
    try:
        saved = EvaluationKey.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise UserError(
            f"{state}: holds verdicts, and there is no {file.name} that says of which evaluation; remove that folder "
            "and call again"
        ) from None
    except ValidationError:
        aside = state.with_name(f"{state.name}.damaged")
        shutil.rmtree(aside, ignore_errors=True)
        state.rename(aside)
        print(
            f"dynat: {file} is damaged: {state.name} renamed to {aside.name}, and its verdicts are not used",
            file=sys.stderr,
            flush=True,
        )
        atomic_text(file, key.model_dump_json(indent=2) + "\n")
        return
    if parts := [part for part in EvaluationKey.model_fields if getattr(saved, part) != getattr(key, part)]:
        raise UserError(
            f"{state}: holds verdicts of another evaluation: {', '.join(parts)} differ from this one; "
            f"remove that folder and call again"
        )


def package_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a machine that only trains has no AutoAttack
        return "absent"


def load_target(files: SeedFiles, weights: str = "best") -> tuple[nn.Module, str]:
    """A published network in float32, and its digest: the same weights can be of two networks."""
    record = read_record(files.config, TrainingRecord)
    row, dataset = record.config, record.dataset
    model = build_network(row, classes=len(dataset.classes), channels=dataset.channels, size=dataset.size)
    load_weights(model, required(files.target(weights)))
    content = read_weights(files, record, weights)
    network = row.arch if isinstance(row, Checkpoint) else row.target
    code = " ".join([network, *models.package_versions(network).values()])
    code += provenance.plugins_digest(provenance.network_plugins(network))
    if isinstance(row, Checkpoint) and row.padding:  # has no weights
        code += f" padding {row.padding}"
    return model, hashlib.sha256(code.encode() + b"\0" + content).hexdigest()


def _accuracy(evaluations: Sequence[Evaluation]) -> str:
    """The mean accuracy over seeds, and of how many images."""
    accuracies = [float(evaluation.columns["correct"].float().mean()) for evaluation in evaluations]
    mean, images = sum(accuracies) / len(accuracies), len(evaluations[0].columns["correct"])
    return f"accuracy {100 * mean:.1f} % on {images} images"


def _verdicts(evaluation: Evaluation) -> Verdicts:
    broken_by = {CORRECT: "", MISCLASSIFIED: CLEAN, **dict(enumerate(registry.attack_parts(evaluation.kind)))}
    columns = evaluation.columns
    return Verdicts(
        label=columns["label"].tolist(),
        clean_prediction=columns["clean_prediction"].tolist(),
        prediction=columns["prediction"].tolist(),
        correct=columns["correct"].int().tolist(),
        margin=columns["margin"].to(torch.float64).tolist(),
        distance=columns["distance"].to(torch.float64).tolist(),
        broken_by=[broken_by[value] for value in columns["broken_by"].tolist()],
    )


def _record(
    spec: EvaluationSpec,
    evaluations: Mapping[int, Evaluation],
    digests: dict[int, str],
    networks: dict[int, str],
    device: torch.device,
) -> OutcomeRecord:
    all_seeds = evaluations.values()
    return OutcomeRecord(
        plugins=spec.plugins,
        run=spec.name,
        attack_name=spec.attack_name,
        attack=spec.attack,
        parts=tuple(dict.fromkeys(part for found in all_seeds for part in registry.attack_parts(found.kind))),
        seeds=tuple(evaluations),
        seconds={seed: evaluation.seconds for seed, evaluation in evaluations.items()},
        forward_passes=sum(evaluation.forward_passes for evaluation in all_seeds),
        backward_passes=sum(evaluation.backward_passes for evaluation in all_seeds),
        rejected_examples=sum(evaluation.rejected_examples for evaluation in all_seeds),
        reattacked=sum(evaluation.reattacked for evaluation in all_seeds),
        queried_model={seed: evaluation.queried_model for seed, evaluation in evaluations.items()},
        warnings=tuple(sorted({warning for evaluation in all_seeds for warning in evaluation.warnings})),
        device=describe(device),
        digest=digests,
        networks=networks,
    )
