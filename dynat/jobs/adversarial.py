"""The adversarial images of an attack on one network, all of them, as a file that others can check.

    seed<k>/<attack>.adversarial.pt            a tensor N x C x H x W, float32 in [0,1], as RobustBench asks for
    seed<k>/<attack>.adversarial.safetensors   the same as `images`, with `labels`
    seed<k>/<attack>.adversarial.<format>.json   AdversarialRecord: SHA-256, attack, number of correct images

The order is that of the test set. An image that the attack did not break is as the attack left it. The file is read
again after it was written: its images must be inside the ball, and the network must give the recorded verdicts.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from dynat.attacks.evaluation import verify
from dynat.attacks.surrogate import COMPARED_IMAGES, answers_differently
from dynat.config import AttackConfig, EvaluationSpec
from dynat.config.attack_cost import expected_cost
from dynat.data import LabeledImages, to_pixels
from dynat.jobs.evaluation import Evaluator
from dynat.nn.modes import evaluating
from dynat.results.outcomes import read_outcome
from dynat.results.paths import Paths, SeedFiles
from dynat.results.reading import required
from dynat.results.records import AdversarialRecord, read_record, write_record
from dynat.results.weights import file_sha256
from dynat.runtime.errors import UserError
from dynat.runtime.files import atomic_write, check_writable
from dynat.runtime.progress import Progress

UNDECIDED = 1e-4
"""Margin of the logits up to which the verdict on an image may change with the size of the batch it is in."""


def run_adversarial(
    spec: EvaluationSpec,
    seed: int,
    ending: str,
    *,
    paths: Paths,
    device: str = "auto",
    say: Callable[[str], None] = print,
) -> Path:
    """Write the adversarial images of one seed and check what was written; resumes from the batches of the attack."""
    run, files = paths.run_files(spec.preset, spec.name), paths.seed_files(spec.preset, spec.name, seed)
    check_writable(files.folder)
    outcome = read_outcome(run, spec.attack_name)
    correct = torch.tensor(outcome.verdicts.query("seed == @seed")["correct"].to_numpy() == 1)
    evaluator = Evaluator.of(spec.preset, spec.data, paths, device)
    images = evaluator.images.first(spec.attack.images)
    model, weights = evaluator.network(spec.name, seed, spec.attack.weights)
    title = f"{spec.name} {spec.attack_name} seed {seed} adversarial images"
    with Progress(title, expected_cost(spec.attack) * len(images), say=say) as progress:
        evaluation, _ = evaluator.evaluate(model, weights, spec.attack, progress, adversarial=True)
    adversarial = evaluation.columns["adversarial"].contiguous()
    content = _content(adversarial, images.labels.cpu(), ending)
    file = files.adversarial(spec.attack_name, ending)
    atomic_write(file, lambda draft: draft.write_bytes(content))
    record = AdversarialRecord(
        plugins=spec.plugins,
        run=spec.name,
        seed=seed,
        attack_name=spec.attack_name,
        attack=spec.attack,
        file=file.name,
        file_sha256=file_sha256(content),
        shape=tuple(adversarial.shape),
        correct=int(correct.sum()),
        weights=weights,
        images=evaluator.image_digest,
    )
    write_record(files.adversarial_record(spec.attack_name, ending), record)
    checked = check_adversarial(files, spec.attack_name, ending, model, images, correct)
    say(f"{title}: {len(images)} images in {file}, {checked}")
    return file


def check_adversarial(
    files: SeedFiles, attack_name: str, ending: str, model: nn.Module, images: LabeledImages, correct: Tensor
) -> str:
    """Read a written file again; `UserError` unless it is what its record says. What was checked, in words."""
    record_file = files.adversarial_record(attack_name, ending)
    record = read_record(record_file, AdversarialRecord)
    file = required(files.adversarial(attack_name, ending))
    content = file.read_bytes()
    if file_sha256(content) != record.file_sha256:
        raise UserError(f"{file}: changed after it was written: its SHA-256 is not the one in {record_file.name}")
    adversarial = _tensor(content, file)
    if (adversarial.dtype, tuple(adversarial.shape)) != (torch.float32, (len(images), *images.images.shape[1:])):
        raise UserError(f"{file}: {adversarial.dtype} of shape {tuple(adversarial.shape)}, which are other images")
    attack = record.attack
    with evaluating(model):
        random = answers_differently(model, to_pixels(images.first(COMPARED_IMAGES).images))
    outside, other = 0, 0
    for start, (batch, labels) in zip(range(0, len(images), attack.batch), images.batches(attack.batch), strict=True):
        here = slice(start, start + len(labels))
        valid, right, sure = _verdicts(model, to_pixels(batch), labels, adversarial[here].to(labels.device), attack)
        outside += int((~valid).sum())
        other += int(((right != correct[here].to(right.device)) & sure).sum())
    if outside:
        raise UserError(f"{file}: {outside} images are outside the ball or outside [0,1]")
    if random:
        return "all inside the ball; the network answers differently each time, so verdicts are not compared"
    if other:
        raise UserError(f"{file}: {other} images have another verdict than {attack_name}.csv says")
    return f"all inside the ball, {record.correct} classified correctly, as recorded"


@torch.no_grad()
def _verdicts(
    model: nn.Module, pixels: Tensor, labels: Tensor, adversarial: Tensor, attack: AttackConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """For each image: inside the ball, classified correctly, and whether that is beyond rounding."""
    valid, logits = verify(model, pixels, adversarial, attack)
    top = logits.topk(2).values
    return valid, logits.argmax(1) == labels, top[:, 0] - top[:, 1] > UNDECIDED


def _content(adversarial: Tensor, labels: Tensor, ending: str) -> bytes:
    if ending == "safetensors":
        return save({"images": adversarial, "labels": labels.contiguous()})
    buffer = io.BytesIO()
    torch.save(adversarial, buffer)
    return buffer.getvalue()


def _tensor(content: bytes, file: Path) -> Tensor:
    try:
        tensor = (
            load(content)["images"]
            if file.suffix == ".safetensors"
            else torch.load(io.BytesIO(content), weights_only=True)
        )
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise UserError(f"{file}: no complete file of adversarial images ({error})") from None
    assert isinstance(tensor, Tensor), "its checksum is right"
    return tensor
