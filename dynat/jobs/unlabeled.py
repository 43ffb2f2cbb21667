"""Extra images without a label are for runs whose guide labels them: said before anything is trained."""

from __future__ import annotations

from dynat.config import Run
from dynat.prepared import ExtraInfo
from dynat.runtime.errors import UserError


def refuse_unlabeled(images: ExtraInfo, name: str, run: Run) -> None:
    if run.extra is not None and run.labels == "true" and images.unlabeled:
        raise UserError(
            f"runs.{name}: trains on true labels, and {images.unlabeled:,} of {images.images:,} images in "
            f"{images.path} have none; set labels: dynamic, with which the guide labels them, or extra: {{ratio: 0}}"
        )
