"""The verdicts on the claims as Markdown: one table of all, and for each claim the differences behind its verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dynat.report import formatting
from dynat.report.markdown import markdown_table
from tools.claims import Claim, Difference, decide

OTHER_PRECISION = "‡"
NOTE = (
    f"{OTHER_PRECISION} The two runs were trained in different precisions ([cost](#cost)), so the difference may come "
    "from this too."
)


@dataclass(frozen=True)
class Judged:
    """A claim with what is known about it."""

    claim: Claim
    found: Sequence[Difference]
    """What the verdict reads."""
    beside: Sequence[Difference]
    mixed: Callable[[Difference], bool]
    """Whether the runs of a difference were trained in different precisions."""

    @property
    def verdict(self) -> str:
        mark = OTHER_PRECISION if any(self.mixed(one) for one in self.found) else ""
        return decide(self.claim, self.found) + mark


def verdict_table(judged: Sequence[Judged]) -> str:
    head = ["", "Claim", "Verdict", "Trainings of each run", "Differences in points"]
    rows = [
        [f"({one.claim.letter})", one.claim.text, one.verdict, _trainings(one.found), _differences(one.found)]
        for one in judged
    ]
    marked = any(OTHER_PRECISION in one.verdict for one in judged)
    return "\n\n".join([markdown_table(head, rows, right=[]), *([NOTE] if marked else [])])


def claim_section(judged: Judged) -> str:
    claim = judged.claim
    lines = [
        f"### ({claim.letter}) {claim.text}",
        f"**{judged.verdict[0].upper()}{judged.verdict[1:]}.** {claim.rule}",
    ]
    if judged.found or judged.beside:
        lines.append(_table(judged, judged.found))
    if judged.beside:
        lines += ["Further comparisons, which the verdict does not read:", _table(judged, judged.beside)]
    if any(judged.mixed(one) for one in (*judged.found, *judged.beside)):
        lines.append(NOTE)
    return "\n\n".join(lines)


def attack_title(attack: str) -> str:
    if " - " in attack:
        return "PGD-20: best minus last epoch"
    base = attack.removesuffix("-last")
    return formatting.column_title(base) + (", last epoch" if base != attack else "")


def _table(judged: Judged, differences: Sequence[Difference]) -> str:
    head = ["Difference", "Attack", "Points", "95 % interval", "n", "Per seed"]
    rows = [
        [
            f"`{one.run}` − `{one.base}`" + (OTHER_PRECISION if judged.mixed(one) else ""),
            attack_title(one.attack),
            _points(one.value),
            f"{_points(one.low)} to {_points(one.high)}",
            f"{one.images:,}",
            ", ".join(f"{seed}: {_points(value)}" for seed, value in one.per_seed.items()),
        ]
        for one in differences
    ]
    return markdown_table(head, rows, right=range(2, 5))


def _trainings(found: Sequence[Difference]) -> str:
    counts = {len(one.per_seed) for one in found}
    return formatting.span(sorted(counts)) if counts else "–"


def _differences(found: Sequence[Difference]) -> str:
    """Pair by pair; bold beyond the interval."""
    pairs: dict[str, list[str]] = {}
    for one in found:
        value = f"**{_points(one.value)}**" if one.higher or one.lower else _points(one.value)
        pairs.setdefault(f"`{one.run}` − `{one.base}`", []).append(f"{attack_title(one.attack)} {value}")
    return "<br>".join(f"{pair}: {', '.join(values)}" for pair, values in pairs.items()) or "–"


def _points(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")
