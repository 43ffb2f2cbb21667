"""The training loop: epochs of training steps, a validation after each, the state saved, the best epoch kept.

Every epoch draws its order, crops and noise from generators seeded by (seed, epoch), so a training that was killed and
resumed is the training that was not killed (on a GPU up to rounding: it may choose other kernels).
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from dynat import methods
from dynat.config import Run, ThreatModel
from dynat.data import Dataset
from dynat.data.extra import ExtraImages
from dynat.nn.cuda_graph import CUDAGraphStep, Step
from dynat.runtime.errors import JobError
from dynat.runtime.progress import HIDDEN, Progress
from dynat.training.batches import Batches
from dynat.training.distributed import SINGLE_PROCESS, Distributed
from dynat.training.networks import Weights, build_networks, weights_of
from dynat.training.optimizer import build_optimizer, clip_gradients
from dynat.training.schedule import learning_rate
from dynat.training.state import TrainingState
from dynat.training.step import training_step
from dynat.training.swa import compute_statistics
from dynat.training.validation import validate

Row = dict[str, float]

CHECK_EVERY = {"cpu": 1, "cuda": 50}
"""Steps between two checks that the loss is finite: a check waits for the device."""


class Diverged(JobError):
    """The loss became non-finite; the update was skipped."""


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
    threat: ThreatModel,
    data: Dataset,
    *,
    seed: int,
    device: torch.device,
    extra: ExtraImages | None = None,
    init: Mapping[str, Weights] | None = None,
    state: TrainingState | None = None,
    distributed: Distributed = SINGLE_PROCESS,
    report: Callable[[Row], None] = lambda row: None,
    resumed: Callable[[Sequence[Row]], None] = lambda rows: None,
    progress: Progress = HIDDEN,
) -> Trained:
    """Train `run` on `data`, resuming from `state` where something is saved. The main process saves and reports.

    `init` holds the first weights of `target` or `guide`, where they are not random.
    `resumed` gets the epochs of earlier calls, `report` every new one; `progress` counts epochs.
    """
    trainer = Trainer(run, threat, data, seed=seed, device=device, extra=extra, init=init, distributed=distributed)
    saved = None if state is None else state.load(device)
    if saved is not None:
        trainer.restore(saved)
        progress.skip(trainer.finished)
        if trainer.distributed.is_main:
            resumed(trainer.history)
    while trainer.finished < run.epochs and not trainer.stopped_early:
        row = trainer.epoch(progress)
        if trainer.distributed.is_main:
            if state is not None:
                state.save(trainer.snapshot())
            report(row)
    return trainer.result()


def try_step(run: Run, threat: ThreatModel, data: Dataset, device: torch.device) -> None:
    """The first step of this training, and nothing else: does it fit into memory?"""
    trainer = Trainer(run.model_copy(update={"extra": None}), threat, data, seed=0, device=device)
    _, batches = trainer.batches.epoch(trainer._seed)
    trainer.begin_epoch()
    trainer.step(*next(iter(batches)))


class Trainer:
    def __init__(
        self,
        run: Run,
        threat: ThreatModel,
        data: Dataset,
        *,
        seed: int,
        device: torch.device,
        extra: ExtraImages | None = None,
        init: Mapping[str, Weights] | None = None,
        distributed: Distributed = SINGLE_PROCESS,
    ) -> None:
        self.run, self.threat, self.seed, self.device = run, threat, seed, device
        self.distributed = distributed
        self.train_set, self.held_out = data.train.near(device), data.validation.to(device)
        self.batches = Batches(self.train_set, run, device, classes=len(data.classes), extra=extra)
        self.method = methods.build(run, threat)
        self.networks = build_networks(
            run,
            classes=len(data.classes),
            channels=data.channels,
            size=data.size,
            seed=seed,
            device=device,
            distributed=distributed,
            init=init,
        )
        graph = run.cuda_graph and device.type == "cuda"
        self.optimizer = build_optimizer(run, self.networks, device, recorded=graph)
        self.noise = torch.Generator(device)
        self.run_step: Step = CUDAGraphStep(self._training_step) if graph else self._training_step
        self.finished = 0
        self.history: list[Row] = []
        self.best: dict[str, Any] | None = None

    def epoch(self, progress: Progress = HIDDEN) -> Row:
        began, epochs = time.perf_counter(), self.run.epochs
        steps, batches = self.batches.epoch(self._seed)
        self.begin_epoch()
        rate = learning_rate(self.run.schedule, epochs=epochs, progress=self.finished)
        total: dict[str, Tensor] = {}
        title = f"epoch {self.finished + 1}/{epochs}"
        progress.describe(lambda: f"{title}, loss {float(total['loss']) / (number + 1):.3f}")
        for number, (pixels, labels) in enumerate(batches):
            self._set_rate(learning_rate(self.run.schedule, epochs=epochs, progress=self.finished + number / steps))
            values = self.step(pixels, labels)
            total = {name: total.get(name, 0) + value for name, value in values.items()}
            if (number + 1) % CHECK_EVERY[self.device.type] == 0 and not torch.isfinite(total["loss"]):
                raise self._diverged(self.finished + 1)
            progress.advance(1 / steps)
        self.finished += 1
        self.distributed.average(list(total.values()))
        row: Row = {"epoch": self.finished, "learning_rate": rate}
        row |= {name: float(value) / steps for name, value in total.items()}
        if not math.isfinite(row["loss"]) or not all(
            bool(torch.isfinite(parameter).all()) for parameter in self.networks.parameters()
        ):
            raise self._diverged(self.finished)  # the last update of the epoch, which no loss has seen
        if self.run.swa is not None and self.finished > self.run.swa.start * epochs:
            assert self.networks.swa is not None
            self.networks.swa.update_parameters(self.networks.target)
        row |= self._validate(progress.tick)
        row["seconds"] = time.perf_counter() - began
        self.history.append(row)
        return row

    def begin_epoch(self) -> None:
        """What every epoch starts with: fresh noise, training mode, a new CUDA graph (one is valid for one epoch)."""
        self.noise.manual_seed(self._seed("noise"))
        self.networks.train()
        if isinstance(self.run_step, CUDAGraphStep):
            self.run_step.discard()

    def step(self, pixels: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """One update on a batch. All that is random is drawn for the whole batch; then each process takes its share."""
        start = self.method.starting_point(pixels, self.noise)
        return self.run_step(*(self.distributed.shard(part) for part in (pixels, truth, start)))

    def _training_step(self, pixels: Tensor, truth: Tensor, start: Tensor) -> dict[str, Tensor]:
        return training_step(
            self.networks, self.method, self.run, pixels, truth, start,
            progress=self.finished / self.run.epochs, update=self.update, distributed=self.distributed,
        )  # fmt: skip

    def update(self, loss: Tensor) -> None:
        """One optimizer step for both networks; the optimizer itself skips it where the loss is not finite."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        mean = loss.detach().clone()
        self.distributed.average([mean, *(p.grad for p in self.networks.parameters() if p.grad is not None)])
        if self.run.optimizer.max_grad_norm is not None:
            clip_gradients(self.networks.trained, self.run.optimizer.max_grad_norm)
        self.optimizer.found_inf = (~torch.isfinite(mean)).float()  # type: ignore[attr-defined]
        self.optimizer.step()

    def _validate(self, tick: Callable[[], None]) -> Row:
        if self.finished % self.run.validation.every and self.finished != self.run.epochs:
            return {}
        if self.networks.swa is not None and self.networks.evaluated is not self.networks.target:
            self._compute_average_statistics()
        accuracy = validate(
            self.networks.evaluated,
            self.networks.guide,
            self.held_out,
            self.run,
            self.threat,
            generator=self._generator("validation", epoch=0),
            tick=tick,
        )
        accuracy = self.distributed.of_main(accuracy)
        score = [accuracy[self.run.validation.select], accuracy["clean"]]
        if self.best is None or score > self.best["score"]:
            guide = None if self.networks.guide is None else weights_of(self.networks.guide)
            self.best = {
                "score": score,
                "epoch": self.finished,
                "target": weights_of(self.networks.evaluated),
                "guide": guide,
            }
        return accuracy

    def _compute_average_statistics(self) -> None:
        assert self.run.swa is not None
        _, batches = self.batches.epoch(lambda purpose: self._seed(f"statistics {purpose}"))
        compute_statistics(
            self.networks.evaluated,
            self.networks.guide,
            self.method,
            self.run,
            islice(batches, self.run.swa.bn_batches),
            noise=self._generator("statistics noise"),
            progress=(self.finished - 1) / self.run.epochs,
            distributed=self.distributed,
        )

    @property
    def stopped_early(self) -> bool:
        """Whether the last `patience` validations brought no new best epoch."""
        if self.best is None or self.run.validation.patience is None:
            return False
        in_vain = [row for row in self.history if row["epoch"] > self.best["epoch"] and "clean" in row]
        return len(in_vain) >= self.run.validation.patience

    def snapshot(self) -> dict[str, Any]:
        return {
            "finished": self.finished,
            "history": self.history,
            "best": self.best,
            "target": self.networks.target.state_dict(),
            "guide": None if self.networks.guide is None else self.networks.guide.state_dict(),
            "ema": None if self.networks.ema is None else self.networks.ema.state_dict(),
            "swa": None if self.networks.swa is None else self.networks.swa.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        self.finished, self.history, self.best = saved["finished"], saved["history"], saved["best"]
        self.networks.target.load_state_dict(saved["target"])
        if self.networks.guide is not None:
            self.networks.guide.load_state_dict(saved["guide"])
        if self.networks.ema is not None:
            self.networks.ema.load_state_dict(saved["ema"])
        if self.networks.swa is not None:
            self.networks.swa.load_state_dict(saved["swa"])
        self.optimizer.load_state_dict(saved["optimizer"])

    def result(self) -> Trained:
        assert self.best is not None, "the last epoch always validates"
        return Trained(
            best_epoch=self.best["epoch"],
            target=self.best["target"],
            guide=self.best["guide"],
            target_last=weights_of(self.networks.evaluated),
            history=self.history,
        )

    def _set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
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
        kept = f"The state after epoch {epoch - 1} is kept" if epoch > 1 else "No state is kept: no epoch was finished"
        return Diverged(
            f"the loss became non-finite in epoch {epoch}; the update was skipped. {kept}. Lower schedule.lr, or try "
            "precision: float32"
        )
