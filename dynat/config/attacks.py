"""The attacks of an evaluation, and the small ones of the sanity checks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from dynat.config import registry
from dynat.config.base import Count, NotNegative, Positive, Seed, StrictModel
from dynat.config.dataset import ThreatModel

SOME = Field(min_length=1, max_length=100)

SurrogatePrecision = Literal["auto", "none", "float32", "float16", "bfloat16"]


ImageFormat = Literal["pt", "safetensors"]


class AttackConfig(StrictModel):
    """One column of the table: an attack within a radius, on one of the two saved states of a row."""

    kind: str
    """`clean`, `fgsm`, `pgd`, `cw`, `cw-l2`, `autoattack`, `autoattack-plus`, `autoattack-rand`, one of their parts
    (`apgd-ce`, `apgd-dlr`, `apgd-t`, `fab`, `fab-t`, `square`), or a plug-in's. The name of the column may give it:
    `pgd-20`. `autoattack` becomes `autoattack-rand`, with a message, where the network answers differently each
    time."""
    steps: Count | None = None
    """`pgd`, `cw`: steps, by default 20. `cw-l2`: iterations of each search, by default 1000. `square`: queries, by
    default 5000."""
    step_size: NotNegative | None = None
    """Pixels of [0,1] per step; by default a quarter of `eps`, and for `fgsm` `eps` itself. `cw-l2`: Adam's learning
    rate, by default 0.01."""
    start: Literal["uniform", "none"] | None = None
    """Where the attack starts: uniformly in the ball, or at the image. By default at the image for `fgsm` and uniformly
    for the others; `start: uniform` makes FGSM the variant with a random start."""
    restarts: Count = 1
    """`pgd`, `cw`, `fgsm`: number of random restarts; an image counts as broken if one of them breaks it."""
    binary_search_steps: Count | None = None
    """`cw-l2`: steps of the binary search for the weight of the classification term; by default 9."""
    eot: Count | None = None
    """`autoattack-rand`, `apgd-ce`, `apgd-dlr`: gradients that are averaged in every step (expectation over
    transformation), for networks that answer differently each time; by default 20 for the first, 1 for the others."""
    eps: NotNegative | None = None
    """Radius in pixels of [0,1]; by default that of the threat model. 0 (for `pgd`, `cw`, `fgsm`) is a check: it must
    break no image."""
    norm: Literal["linf", "l2", "l1"] | None = None
    """Norm of the ball; by default that of the threat model."""
    images: Count | None = None
    """Attack only this many test images, the first ones; by default all. The table says so."""
    weights: Literal["best", "last"] = "best"
    """The weights to attack: those of the epoch chosen by validation, or of the last epoch."""
    surrogate: SurrogatePrecision = "auto"
    """The model that the attack queries: a copy of the network with BatchNorm folded into the convolutions, in this
    precision, or with `none` the network itself. `auto` is `float16` on a GPU and `float32` elsewhere. Every claimed
    adversarial image is verified by the plain float32 network; see
    [docs/evaluation.md](../docs/evaluation.md)."""
    batch: Count = 250
    """Images attacked at once."""
    seed: Seed = 0
    """Seed of the attack."""

    adversarial_images: ImageFormat | None = Field(default=None, exclude=True)
    """Write the adversarial images of all attacked test images, for every seed, as
    `seed<k>/<attack>.adversarial.<format>`: `pt` (a float32 tensor in [0,1], as RobustBench asks for) or
    `safetensors`. It changes no verdict; see
    [docs/evaluation.md](../docs/evaluation.md#adversarial-images-as-a-file)."""

    @field_validator("kind")
    @classmethod
    def _kind(cls, value: str) -> str:
        return registry.known("attack", value, registry.ATTACKS)

    @model_validator(mode="after")
    def _reads_what_is_given(self) -> AttackConfig:
        info = registry.ATTACKS[self.kind]
        for setting in registry.KIND_SETTINGS:
            if setting not in info.reads and getattr(self, setting) != type(self).model_fields[setting].default:
                read = f"it reads {', '.join(info.reads)}" if info.reads else "it has none of its own"
                raise ValueError(f"{setting} is not a setting of attack '{self.kind}': {read}")
        if self.norm is not None and self.norm not in info.norms:
            raise ValueError(f"attack '{self.kind}' measures in {info.norms[0]}: set norm: {info.norms[0]} and an eps")
        if self.eps == 0 and "start" not in info.reads:
            raise ValueError(f"eps 0 is for pgd, cw and fgsm; attack '{self.kind}' needs a radius above zero")
        if self.step_size == 0 and self.eps != 0:
            raise ValueError("step_size 0 never moves: leave it out for a quarter of eps")
        return self


class SanityConfig(StrictModel):
    """Small evaluations of every row: the sanity checks, the curves and the transfer matrix use them."""

    images: Count = 200
    """Number of test images, the first ones."""
    radii: Annotated[tuple[NotNegative, ...], SOME] = (0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2)
    """PGD-20 at these multiples of the `eps` of the threat model."""
    steps: Annotated[tuple[Count, ...], SOME] = (1, 2, 5, 10, 20, 50, 100)
    """PGD with these numbers of steps, each of a quarter of `eps`; at least one above 20."""
    restarts: Annotated[Count, Field(ge=2)] = 5
    """PGD-20 with this number of restarts, compared with one."""
    queries: Count = 1000
    """Queries of the Square attack, which uses no gradient."""
    large_eps: Positive = 0.5
    """`linf`: the radius in pixels of [0,1] at which every image must be broken, since all can become gray. Under `l2`
    and `l1` the radius is twenty times `eps`."""
    surrogate: SurrogatePrecision = "auto"
    """The model that these attacks query; see the same key of an [attack](#attacks)."""

    @field_validator("steps")
    @classmethod
    def _more_than_twenty(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if max(value) <= 20:
            raise ValueError("name at least one above 20: a sanity check compares the largest with 20 steps")
        return value

    def attacks(self, threat: ThreatModel) -> dict[str, AttackConfig]:
        """The attacks by name; equal ones may have two names."""

        def pgd(eps: float, steps: int = 20, step: float = 0.25, restarts: int = 1) -> AttackConfig:
            return AttackConfig(
                kind="pgd", norm=threat.norm, eps=eps, steps=steps, step_size=eps * step, start="uniform",
                restarts=restarts, images=self.images, surrogate=self.surrogate,
            )  # fmt: skip

        radii = sorted({0.0, *self.radii})
        inside = [radius for radius in radii if threat.norm != "linf" or radius * threat.eps < 1]
        square = AttackConfig(
            kind="square",
            norm=threat.norm,
            eps=threat.eps,
            steps=self.queries,
            images=self.images,
            surrogate=self.surrogate,
        )
        return {
            **{f"eps-{radius:g}": pgd(radius * threat.eps) for radius in inside},
            **{f"steps-{steps}": pgd(threat.eps, steps) for steps in sorted({1, 20, *self.steps})},
            f"restarts-{self.restarts}": pgd(threat.eps, restarts=self.restarts),
            "large_eps": pgd(self.large_eps if threat.norm == "linf" else 20 * threat.eps, steps=50, step=0.1),
            "square": square,
        }
