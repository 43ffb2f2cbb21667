"""Write the tables of config/README.md from the config's models: keys, values, defaults, and the fields' docstrings.

make manual

A table follows a mark such as `<!-- model: Run -->`, which names a model of `dynat.config`, or `<!-- methods -->`,
`<!-- attacks -->` and `<!-- renamed -->`, which list names. The text between the tables is written by hand.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dynat.config import method_options, registry, renamed
from dynat.config.attacks import AttackConfig, SanityConfig
from dynat.config.checkpoint import Checkpoint
from dynat.config.corruptions import CorruptionsConfig
from dynat.config.dataset import DatasetConfig, ExtraImagesConfig, ThreatModel
from dynat.config.init import InitConfig, WeightSource
from dynat.config.preset_input import PresetInput
from dynat.config.report import ReportConfig
from dynat.config.run import Run
from dynat.config.training import (
    AugmentationConfig,
    AWPConfig,
    InnerAttack,
    OptimizerConfig,
    ScheduleConfig,
    SWAConfig,
    ValidationConfig,
)

MANUAL = Path(__file__).parents[1] / "config" / "README.md"
MODELS: dict[str, type[BaseModel]] = {
    model.__name__: model
    for model in (
        PresetInput, DatasetConfig, ExtraImagesConfig, ThreatModel, Run, InnerAttack, ScheduleConfig, OptimizerConfig,
        AugmentationConfig, CorruptionsConfig,
        ValidationConfig, AWPConfig, SWAConfig, InitConfig, WeightSource, Checkpoint, AttackConfig, SanityConfig,
        ReportConfig, method_options.Gairat,
        method_options.MailAt, method_options.MailTrades, method_options.Sat, method_options.AdaGat,
    )
}  # fmt: skip
MARK = re.compile(r"<!-- (model: (\w+)|methods|attacks|renamed) -->\n\n((?:\|.*\n)*)")


def written(page: str) -> str:
    """The page with all its tables written from the code."""

    def table(mark: re.Match[str]) -> str:
        lists = {"methods": methods, "attacks": attacks, "renamed": renamed_names}
        lines = model_table(MODELS[mark[2]]) if mark[2] else lists[mark[1]]()
        return f"<!-- {mark[1]} -->\n\n" + "".join(f"{line}\n" for line in lines)

    return MARK.sub(table, page)


def model_table(model: type[BaseModel]) -> list[str]:
    """One row for each field: required ones first."""
    texts = docstrings(model)
    fields = sorted(model.model_fields.items(), key=lambda item: not item[1].is_required())
    rows = [f"| `{name}` | {value(field)} | {default(field)} | {texts[name]} |" for name, field in fields]
    return ["| key | value | default | meaning |", "|---|---|---|---|", *rows]


def docstrings(model: type[BaseModel]) -> dict[str, str]:
    """The string below each field, on one line. Read here and not by pydantic, which would do it at every start."""
    texts: dict[str, str] = {}
    for owner in reversed(model.__mro__):
        if not issubclass(owner, BaseModel) or owner is BaseModel:
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        assert isinstance(tree, ast.ClassDef)
        for node, below in pairwise(tree.body):
            if (
                isinstance(node, ast.AnnAssign)
                and isinstance(node.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
            ):
                texts[node.target.id] = " ".join(str(below.value.value).split()).replace("|", "\\|")
    return texts


def value(field: FieldInfo) -> str:
    """The values that a field takes."""
    return described(field.annotation, field.metadata)


def described(annotation: Any, metadata: list[Any]) -> str:
    """A type in words, with its limits."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return described(parts[0], [*parts[1:], *metadata])
    if origin in (Union, UnionType):
        return " or ".join(described(part, metadata) for part in parts if part is not type(None))
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin in (tuple, list):
        return "list of names" if parts[0] is str else f"list: {described(parts[0], [])}"
    if annotation is bool:
        return "`true`, `false`"
    if annotation in (int, float):
        return f"{'whole number' if annotation is int else 'number'}{limits(metadata)}"
    return "text" if annotation is str else "mapping"


def limits(metadata: list[Any]) -> str:
    """The limits of a number, as in ` > 0, < 1`; of two lower or upper limits, the last one."""
    words: dict[str, str] = {}
    for mark in [part for item in metadata for part in getattr(item, "metadata", [item])]:
        for name, sign in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤")):
            limit = getattr(mark, name, None)
            if limit is not None:
                words[sign] = f" {sign} {limit:g}"
    return ",".join(words.values())


def default(field: FieldInfo) -> str:
    """The default as it would be written in YAML; a dash where it depends on something else or is nothing."""
    if field.is_required():
        return "required"
    content = field.get_default(call_default_factory=True)
    if content is None:
        return "–"
    if isinstance(content, BaseModel):
        return "its defaults"
    if isinstance(content, str):
        return f"`{content}`"
    if isinstance(content, dict):
        return "`{" + ", ".join(f"{key}: {json.dumps(part)}" for key, part in content.items()) + "}`"
    if isinstance(content, float) and len(repr(content)) > 8:
        return f"`{Fraction(content).limit_denominator(1000)}`"
    return f"`{json.dumps(content)}`"


def methods() -> list[str]:
    """What each method accepts."""
    guide = {"labels": "with dynamic labels", "always": "always", "never": "never"}
    rows = [
        f"| `{name}` | {', '.join(info.labels)} | {guide[info.guide]} | {info.consistency} |"
        for name, info in registry.METHODS.items()
        if info.where.startswith("dynat.")
    ]
    return ["| method | labels | guide | `consistency` |", "|---|---|---|---|", *rows]


def attacks() -> list[str]:
    """Which settings each kind of attack reads, and in which norms."""
    rows = []
    for name, info in registry.ATTACKS.items():
        reads = ", ".join(f"`{setting}`" for setting in info.reads) or "–"
        parts = ", then ".join(f"`{part}`" for part in info.parts)
        norms = ", ".join(f"`{norm}`" for norm in info.norms)
        rows.append(f"| `{name}` | {norms} | {parts or reads} |")
    return ["| kind | norms | settings that not every kind reads, or its parts |", "|---|---|---|", *rows]


def renamed_names() -> list[str]:
    """Old and new names of keys and values."""
    keys = {**renamed.RENAMED_KEYS, **renamed.ALIASES}
    rows = [f"| `{old}` | `{new}` |" for old, new in keys.items()]
    rows += [
        f"| `{old}`, a value of `objective` and `proxy` | `{new}` |" for old, new in renamed.RENAMED_VALUES.items()
    ]
    return ["| old | new |", "|---|---|", *rows]


if __name__ == "__main__":
    MANUAL.write_text(written(MANUAL.read_text(encoding="utf-8")), encoding="utf-8")
