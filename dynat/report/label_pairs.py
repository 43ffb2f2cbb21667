"""Runs that differ in one thing, read from their resolved configs and not from their names.

A label pair is a run with true labels and the same run with dynamic labels. An ablation is the reference DYNAT run
with a field or two changed; a sweep over beta is the ablations that change beta alone.
"""

from __future__ import annotations

from dynat.config import Experiment, Run, registry

LABELING = ("labels", "guide", "guide_mode", "beta")
"""Fields that belong to having a guide; all others are the same in a label pair, also the clean forward that feeds
BatchNorm."""
WHOLE = ("awp", "swa", "init")
"""Parts of a run that are off by default."""


def label_pairs(experiment: Experiment) -> list[tuple[str, str]]:
    """(run with true labels, the same run with dynamic labels), in the order of the preset."""
    fields = {name: flat_fields(run, without=LABELING) for name, run in experiment.runs.items()}
    dynamic = [
        name for name, run in experiment.runs.items() if run.labels == "dynamic" and _usual_guide(experiment, run)
    ]
    pairs = []
    for name, run in experiment.runs.items():
        if run.labels == "true":
            pairs += [(name, other) for other in dynamic if fields[other] == fields[name]][:1]
    return pairs


def _usual_guide(experiment: Experiment, run: Run) -> bool:
    """Whether a run has its guide as the reference has it, so that its pair differs in the labels alone."""
    base = experiment.runs[reference(experiment) or ""]
    return (run.guide_mode, run.beta) == (base.guide_mode, base.beta)


def reference(experiment: Experiment) -> str | None:
    """The DYNAT run that ablations are compared with: the first with dynamic labels."""
    return next((name for name, run in experiment.runs.items() if run.labels == "dynamic"), None)


def beta_runs(experiment: Experiment) -> list[str]:
    """The reference and the runs that differ from it in beta alone, by beta; nothing where beta is always the same."""
    base = reference(experiment)
    if base is None:
        return []
    runs = experiment.runs
    others = [name for name, run in runs.items() if list(changed_fields(runs[base], run)) == ["beta"]]
    return sorted([base, *others], key=lambda name: runs[name].beta or 0.0) if others else []


def changed_fields(base: Run, run: Run) -> dict[str, str]:
    """What another run has changed, field by field, as text; nothing where method or labels differ."""
    one, other = flat_fields(base), flat_fields(run)
    if run.labels != base.labels or run.method != base.method:
        return {}
    return {
        key: f"{key}: {_text(other.get(key, _default(key)))} (not {_text(one.get(key, _default(key)))})"
        for key in (*one, *(key for key in other if key not in one))
        if one.get(key) != other.get(key)
    }


def flat_fields(run: Run, without: tuple[str, ...] = ()) -> dict[str, object]:
    """The run's fields, nested ones as `inner.steps`; each of `WHOLE` is one field, off or on with its settings."""
    flat: dict[str, object] = {}
    for key, value in run.model_dump(mode="json", exclude=set(without)).items():
        if isinstance(value, dict) and key not in ("options", *WHOLE):
            flat |= {f"{key}.{inner}": content for inner, content in value.items()}
        else:
            flat[key] = value
    if flat.get("inner.objective") == "method":  # the same as naming it
        flat["inner.objective"] = "kl" if registry.METHODS[run.method].maximizes_kl else "ce"
    for name in WHOLE:
        if isinstance(part := flat.get(name), dict):
            flat[name] = ", ".join(f"{key} {_text(value)}" for key, value in part.items() if value is not None)
    return flat


def _default(key: str) -> object:
    """What a field has that is not written down."""
    outer, _, inner = key.partition(".")
    default = Run.model_fields[outer].get_default(call_default_factory=True)
    return getattr(default, inner, None) if inner else default


def _text(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "on", False: "off", None: "none"}[value]
    if isinstance(value, dict):  # where weights come from
        return " of ".join(str(value[key]) for key in ("weights", "network", "run", "file") if value.get(key))
    return f"{value:g}" if isinstance(value, float) else str(value)
