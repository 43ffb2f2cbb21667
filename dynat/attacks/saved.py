"""The verdicts of an evaluation: of a batch, as a file with a checksum, or of all batches joined."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from dynat.runtime.files import read_with_checksum, write_with_checksum

REJECTED_ALLOWED = 0.01
"""The share of attacked images that an attack may move outside the ball without a warning: rounding does."""


@dataclass
class Evaluation:
    """The verdicts of one attack on one network, and what they cost; of a batch or of all images."""

    columns: dict[str, Tensor]
    """An entry per image: label, clean_prediction, prediction, correct, margin, distance, broken_by."""
    examples: dict[str, Tensor]
    """For the gallery: clean and adversarial images, label, clean_prediction, prediction; of the first batch. The
    adversarial image is the strongest attempt where the attack failed."""
    seconds: float = 0.0
    forward_passes: int = 0
    backward_passes: int = 0
    rejected_examples: int = 0
    """Claimed adversarial images outside the ball or outside [0,1]."""
    reattacked: int = 0
    """Images attacked again on the network itself, because only the surrogate was fooled or its logits were not
    finite."""
    queried_model: str = "network"
    """Which model the attack queried."""
    warnings: tuple[str, ...] = ()
    """AutoAttack's warnings about the network."""
    kind: str = "clean"
    """The kind of attack that was run; `broken_by` counts its parts."""

    def save(self, file: Path) -> None:
        # Through memory: a full disk is then an OSError that says so; torch's own writer raises an internal error.
        buffer = io.BytesIO()
        torch.save(vars(self), buffer)
        write_with_checksum(file, buffer.getbuffer())

    @classmethod
    def load(cls, file: Path) -> Evaluation | None:
        """What was saved; None where there is no file. A damaged one is set aside, with a message, and is None too."""
        content = read_with_checksum(file)
        return None if content is None else cls(**torch.load(io.BytesIO(content), weights_only=True))

    @classmethod
    def join(cls, batches: list[Evaluation]) -> Evaluation:
        """The evaluation of all batches together; its examples are those of the first batch."""
        return cls(
            columns={name: torch.cat([batch.columns[name] for batch in batches]) for name in batches[0].columns},
            examples=batches[0].examples,
            seconds=sum(batch.seconds for batch in batches),
            forward_passes=sum(batch.forward_passes for batch in batches),
            backward_passes=sum(batch.backward_passes for batch in batches),
            rejected_examples=sum(batch.rejected_examples for batch in batches),
            kind=batches[0].kind,
            reattacked=sum(batch.reattacked for batch in batches),
            queried_model=", ".join(sorted({batch.queried_model for batch in batches})),
            warnings=tuple(sorted({warning for batch in batches for warning in batch.warnings})),
        ).with_rejections()

    def with_rejections(self) -> Evaluation:
        """With a warning if many images of the attack are invalid: its author would take them for failed attacks."""
        attacked = int((self.columns["clean_prediction"] == self.columns["label"]).sum())
        if self.rejected_examples <= REJECTED_ALLOWED * attacked:
            return self
        text = (
            f"{self.rejected_examples:,} of its images were outside the ball or outside [0,1], or not finite; they "
            f"count as not broken ({attacked:,} images were attacked)"
        )
        return replace(self, warnings=(*self.warnings, text))
