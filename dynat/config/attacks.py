"""What an examination asks: one attack, and the small ones by which an evaluation examines itself."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from dynat.config import names
from dynat.config.parts import Count, NotNegative, Positive, Threat
from dynat.config.strict import Strict, Whole

View = Literal["auto", "none", "float32", "float16", "bfloat16"]


class Attack(Strict):
    """One column of the table: an attack at a radius on one of a run's checkpoints."""

    kind: str
    steps: Count | None = None
    """Steps; iterations of each search for cw-l2, queries for square. The kind's own number where not given."""
    step_size: NotNegative | None = None
    """Pixels per step, a quarter of eps where not given; for cw-l2 Adam's learning rate, 0.01."""
    start: Literal["uniform", "none"] | None = None
    """Uniform in the ball, or the picture itself; where not given, uniform, but for fgsm the picture."""
    restarts: Count = 1
    searches: Count | None = None
    """cw-l2: how often the weight of being wrong is searched anew; 9 where not given."""
    eps: NotNegative | None = None
    """Radius; the threat model's where not given. 0 is for checks: nothing may fall."""
    norm: Literal["linf", "l2"] | None = None
    """Norm; the threat model's where not given."""
    pictures: Count | None = None
    """Only the first so many test pictures; all where not given. Said in the table."""
    weights: Literal["best", "last"] = "best"
    """The checkpoint to examine: chosen on the validation split, or that of the last epoch."""
    view: View = "auto"
    """What the search asks: a view of the network in this precision, auto float16 on a GPU and float32 elsewhere, or,
    none, the network itself, which has the last word in any case."""
    batch: Count = 250
    seed: Annotated[Whole, Field(ge=0)] = 0

    @field_validator("kind")
    @classmethod
    def _kind(cls, value: str) -> str:
        return names.known("attack", value, names.ATTACKS)

    @model_validator(mode="after")
    def _reads_what_is_given(self) -> Attack:
        facts = names.ATTACKS[self.kind]
        for setting in names.TUNED:
            if setting not in facts.reads and getattr(self, setting) != type(self).model_fields[setting].default:
                read = f"it reads {', '.join(facts.reads)}" if facts.reads else "it has none of its own"
                raise ValueError(f"{setting} is not a setting of attack '{self.kind}': {read}")
        if self.norm is not None and self.norm not in facts.norms:
            raise ValueError(
                f"attack '{self.kind}' measures in {facts.norms[0]}: set norm: {facts.norms[0]} and an eps"
            )
        if self.eps == 0 and "start" not in facts.reads:
            raise ValueError(f"eps 0 is for pgd, cw and fgsm; attack '{self.kind}' needs a radius above zero")
        if self.step_size == 0 and self.eps != 0:
            raise ValueError("step_size 0 goes nowhere: leave it out for a quarter of eps")
        return self


class Probing(Strict):
    """Small examinations of every run: the validity gates, the curves and the matrix of transfer rest on them."""

    pictures: Count = 200
    """The first so many test pictures."""
    radii: Annotated[tuple[NotNegative, ...], Field(min_length=1)] = (0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2)
    """PGD-20 at these multiples of the threat's eps."""
    steps: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 2, 5, 10, 20, 50, 100)
    """PGD with so many steps at the threat's eps."""
    restarts: Annotated[Whole, Field(ge=2)] = 5
    """PGD-20 with so many restarts, against one."""
    queries: Count = 1000
    """Queries of Square, which sees no gradient."""
    large: Positive = 0.5
    """A radius at which nothing may stand: under linf every picture can become grey; of l2 twenty times eps."""
    view: View = "auto"
    """What these searches ask."""

    @field_validator("steps")
    @classmethod
    def _more_than_usual(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if max(value) <= 20:
            raise ValueError("name at least one above 20: a gate holds the largest against 20 steps")
        return value

    def attacks(self, threat: Threat) -> dict[str, Attack]:
        """The examinations by name; equal ones may have two names."""

        def pgd(eps: float, steps: int = 20, step: float = 0.25, restarts: int = 1) -> Attack:
            return Attack(
                kind="pgd", norm=threat.norm, eps=eps, steps=steps, step_size=eps * step, start="uniform",
                restarts=restarts, pictures=self.pictures, view=self.view,
            )  # fmt: skip

        radii = sorted({0.0, *self.radii})
        fits = [radius for radius in radii if threat.norm != "linf" or radius * threat.eps < 1]
        square = Attack(
            kind="square", norm=threat.norm, eps=threat.eps, steps=self.queries, pictures=self.pictures, view=self.view
        )
        return {
            **{f"eps-{radius:g}": pgd(radius * threat.eps) for radius in fits},
            **{f"steps-{steps}": pgd(threat.eps, steps) for steps in sorted({1, 20, *self.steps})},
            f"restarts-{self.restarts}": pgd(threat.eps, restarts=self.restarts),
            "large": pgd(self.large if threat.norm == "linf" else 20 * threat.eps, steps=50, step=0.1),
            "square": square,
        }
