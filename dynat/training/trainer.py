"""The training loop: epochs of joint steps, a validation after each, the state saved, the best kept.

Every epoch draws its order, crops and noise from generators seeded by (seed, epoch), so a training that was
killed and goes on is the training that was not killed (on a GPU up to rounding: it may choose other kernels).
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dynat import methods
from dynat.config import Run, Threat
from dynat.data import Dataset, Pictures, augment, to_pixels
from dynat.training.captured import Captured, Step
from dynat.training.networks import Weights, average_of, build_pair, update_average, weights_of
from dynat.training.schedule import learning_rate
from dynat.training.state import TrainingState
from dynat.training.step import joint_step
from dynat.training.validate import validate
from dynat.training.world import ALONE, World

Row = dict[str, float]

LOOK_EVERY = {"cpu": 1, "cuda": 50}
"""Steps between two looks at the loss: to look is to wait for the device."""


class Diverged(RuntimeError):
    """The loss is no number any more; the step that saw it moved no weight."""


@dataclass(frozen=True)
class Trained:
    """What a training leaves: weights by validation and at the end, and its history."""

    best_epoch: int
    target: Weights
    guide: Weights | None
    target_last: Weights
    history: list[Row]


def train(
    run: Run,
    threat: Threat,
    data: Dataset,
    *,
    seed: int,
    device: torch.device,
    state: TrainingState,
    world: World = ALONE,
    report: Callable[[Row], None] = lambda row: None,
    track: Callable[[Iterator[Any], int, str], Iterator[Any]] = lambda steps, total, title: steps,
) -> Trained:
    """Train `run` on `data`, going on from `state` where there is one. The process that leads saves and reports."""
    trainer = Trainer(run, threat, data, seed=seed, device=device, world=world)
    saved = state.load(device)
    if saved is not None:
        trainer.restore(saved)
    while trainer.finished < run.epochs:
        row = trainer.epoch(track)
        if trainer.world.leads:
            state.save(trainer.snapshot())
            report(row)
    return trainer.result()


class Trainer:
    def __init__(
        self,
        run: Run,
        threat: Threat,
        data: Dataset,
        *,
        seed: int,
        device: torch.device,
        world: World = ALONE,
    ) -> None:
        self.run, self.threat, self.seed, self.device = run, threat, seed, device
        self.world = world
        self.train_set, self.held_out = data.train.to(device), data.validation.to(device)
        self.method = methods.build(run, threat)
        self.pair = build_pair(
            run, classes=len(data.classes), channels=data.channels, seed=seed, device=device, world=self.world
        )
        self.average = average_of(self.pair.target) if run.ema else None
        self.recorded = run.captured and device.type == "cuda"
        self.optimiser = torch.optim.SGD(
            self.pair.parameters(),
            # A tensor where steps are recorded, so that a recording reads today's rate.
            lr=torch.tensor(run.schedule.lr, device=device) if self.recorded else run.schedule.lr,
            momentum=run.optimiser.momentum,
            weight_decay=run.optimiser.weight_decay,
            nesterov=run.optimiser.nesterov,
            fused=True,
        )
        self.noise = torch.Generator(device)
        self.advance: Step = Captured(self._advance) if self.recorded else self._advance
        self.finished = 0
        self.history: list[Row] = []
        self.best: dict[str, Any] | None = None

    @property
    def examined(self) -> nn.Module:
        """The target that is validated and kept: the average where the run keeps one."""
        return self.pair.target if self.average is None else self.average

    def epoch(self, track: Callable[[Iterator[Any], int, str], Iterator[Any]]) -> Row:
        began, epochs = time.perf_counter(), self.run.epochs
        batches = list(epoch_batches(self.train_set, self.run.batch, self._generator("order")))
        crops = self._generator("crops")
        self.begin_epoch()
        rate = learning_rate(self.run.schedule, epochs=epochs, progress=self.finished)
        total: dict[str, Tensor] = {}
        title = f"epoch {self.finished + 1}/{epochs}"
        for number, index in enumerate(track(iter(batches), len(batches), title)):
            progress = self.finished + number / len(batches)
            self._set_rate(learning_rate(self.run.schedule, epochs=epochs, progress=progress))
            images = augment(
                self.train_set.images[index],
                padding=self.run.augmentation.padding,
                flip=self.run.augmentation.flip,
                generator=crops,
            )
            seen = self._step(to_pixels(images), self.train_set.labels[index])
            total = {name: total.get(name, 0) + value for name, value in seen.items()}
            if (number + 1) % LOOK_EVERY[self.device.type] == 0 and not torch.isfinite(total["loss"]):
                raise self._diverged(self.finished + 1)
        self.finished += 1
        self.world.average(list(total.values()))
        row: Row = {"epoch": self.finished, "learning_rate": rate}
        row |= {name: float(value) / len(batches) for name, value in total.items()}
        if not math.isfinite(row["loss"]) or not all(
            bool(torch.isfinite(parameter).all()) for parameter in self.pair.parameters()
        ):
            raise self._diverged(self.finished)  # the last update of the epoch, which no loss has seen
        row |= self._validate()
        row["seconds"] = time.perf_counter() - began
        self.history.append(row)
        return row

    def begin_epoch(self) -> None:
        """What every epoch starts with: fresh noise, training mode, and no recording, which knows its epoch alone."""
        self.noise.manual_seed(self._seed("noise"))
        self.pair.train()
        if isinstance(self.advance, Captured):
            self.advance.forget()

    def _step(self, pixels: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """A step on a whole batch. All that is random is drawn for all of it; then each process takes its share."""
        start = self.method.start(pixels, self.noise)
        return self.advance(*(self.world.share(part) for part in (pixels, truth, start)))

    def _advance(self, pixels: Tensor, truth: Tensor, start: Tensor) -> dict[str, Tensor]:
        seen = joint_step(
            self.pair,
            self.method,
            self.run,
            pixels,
            truth,
            start,
            progress=self.finished / self.run.epochs,
            update=self._update,
            world=self.world,
        )
        if self.average is not None:  # only now: under AWP the update happens at perturbed weights
            update_average(self.average, self.pair.target, self.run.ema)
        return seen

    def _update(self, loss: Tensor) -> None:
        """One optimiser step for both networks, which the optimiser itself leaves out if the loss is no number."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        mean = loss.detach().clone()
        self.world.average([mean, *(p.grad for p in self.pair.parameters() if p.grad is not None)])
        self.optimiser.found_inf = (~torch.isfinite(mean)).float()  # type: ignore[attr-defined]
        self.optimiser.step()

    def _validate(self) -> Row:
        if self.finished % self.run.validation.every and self.finished != self.run.epochs:
            return {}
        seen = validate(
            self.examined,
            self.pair.guide,
            self.held_out,
            self.run,
            self.threat,
            generator=self._generator("validation", epoch=0),
        )
        chosen_by = [seen[self.run.validation.select], seen["clean"]]
        if self.best is None or chosen_by > self.best["score"]:
            guide = None if self.pair.guide is None else weights_of(self.pair.guide)
            self.best = {
                "score": chosen_by,
                "epoch": self.finished,
                "target": weights_of(self.examined),
                "guide": guide,
            }
        return seen

    def snapshot(self) -> dict[str, Any]:
        return {
            "finished": self.finished,
            "history": self.history,
            "best": self.best,
            "target": self.pair.target.state_dict(),
            "guide": None if self.pair.guide is None else self.pair.guide.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        self.finished, self.history, self.best = saved["finished"], saved["history"], saved["best"]
        self.pair.target.load_state_dict(saved["target"])
        if self.pair.guide is not None:
            self.pair.guide.load_state_dict(saved["guide"])
        if self.average is not None:
            self.average.load_state_dict(saved["average"])
        self.optimiser.load_state_dict(saved["optimiser"])

    def result(self) -> Trained:
        assert self.best is not None, "the last epoch always validates"
        return Trained(
            best_epoch=self.best["epoch"],
            target=self.best["target"],
            guide=self.best["guide"],
            target_last=weights_of(self.examined),
            history=self.history,
        )

    def _set_rate(self, rate: float) -> None:
        for group in self.optimiser.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def _seed(self, purpose: str, epoch: int | None = None) -> int:
        """A seed for this purpose in this epoch; the same whether or not the training was interrupted."""
        text = f"{self.seed}/{self.finished if epoch is None else epoch}/{purpose}".encode()
        return int.from_bytes(hashlib.sha256(text).digest()[:7], "big")

    def _generator(self, purpose: str, epoch: int | None = None) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(self._seed(purpose, epoch))

    def _diverged(self, epoch: int) -> Diverged:
        return Diverged(
            f"the loss is not finite in epoch {epoch}: the weights of the epoch before are kept in the training's "
            "state. Lower schedule.lr, or try precision: float32"
        )


def epoch_batches(pictures: Pictures, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of full batches in a fresh order; what does not fill a batch waits for the next epoch."""
    order = torch.randperm(len(pictures), generator=generator, device=pictures.images.device)
    size = min(size, len(pictures))
    yield from order[: len(pictures) // size * size].view(-1, size)
