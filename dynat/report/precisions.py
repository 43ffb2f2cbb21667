"""Whether all trainings of an experiment computed in the same precision: `precision: auto` depends on the processor."""

from __future__ import annotations

from collections.abc import Mapping

from dynat.results.records import RunMetrics


def mixed_precision_warnings(metrics: Mapping[str, RunMetrics]) -> tuple[str, ...]:
    """A sentence if trainings differ in it; it names those of the less frequent precisions."""
    trainings: dict[str, list[str]] = {}
    for run, m in metrics.items():
        for seed, training in m.training.items():
            if training.compute_dtype:
                name = run if len(m.training) == 1 else f"{run} with seed {seed}"
                trainings.setdefault(training.compute_dtype, []).append(name)
    if len(trainings) < 2:
        return ()
    *fewer, most = sorted(trainings, key=lambda precision: len(trainings[precision]))
    named = "; ".join(f"{', '.join(trainings[precision])} in {precision}" for precision in fewer)
    return (
        f"these trainings computed in another precision than the others: {named} (the others in {most}). A difference "
        "between them may come from this; training: {precision: float32} is the same precision on every machine",
    )
