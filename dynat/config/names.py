"""What can be named in a config and where it lives: the one place where variants are found by name.

Nothing here imports torch: a config is checked before the DAG exists, and a second `make run` should not
wait for a deep-learning framework only to learn that there is nothing to do.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dynat.config import options
from dynat.config.strict import ConfigError, Strict, nearest


@dataclass(frozen=True)
class Method:
    """What the config must know of a method to refuse a run that makes no sense."""

    where: str
    """`module:Class` of the implementation."""
    labels: tuple[str, ...] = ("true", "dynamic")
    """The sources of labels it can be driven by."""
    refusal: str = "it cannot"
    """Why not by the others."""
    guide: Literal["labels", "always", "never"] = "labels"
    """Who needs a guide: only a run with dynamic labels, every run, or none."""
    consistency: Literal["optional", "required", "never"] = "optional"
    """Whether the weight of KL(p(x)||p(x')) may be, must be, or must not be above zero."""
    adversarial: bool = True
    """Whether it trains on adversarial pictures."""
    forwards_clean: bool = False
    """Whether its loss shows the clean pictures to the target anyway."""
    options: type[Strict] = options.NoOptions
    """The settings it alone reads, under `options:`."""


@dataclass(frozen=True)
class AttackKind:
    """What the config must know of a kind of attack to refuse a setting that nothing would read."""

    where: str = ""
    """`module:function` of the implementation."""
    parts: tuple[str, ...] = ()
    """Instead: kinds that are run one after the other, each on the pictures still standing."""
    reads: tuple[str, ...] = ()
    """Which of the settings below it reads."""
    steps: int | None = None
    """Its steps where none are asked for."""
    norms: tuple[str, ...] = ("linf", "l2")
    """The balls it can search."""


TUNED = ("steps", "step_size", "start", "restarts", "searches")
"""The settings of an attack that not every kind reads."""


_PULLED = "it has no labels on the target's side: the target learns the guide's logits"

METHODS: dict[str, Method] = {
    "natural": Method(
        "dynat.methods.natural:Natural",
        labels=("true",),
        guide="never",
        consistency="never",
        adversarial=False,
        forwards_clean=True,
        refusal="it has no adversarial pictures that a guide could label",
    ),
    "external": Method(
        "dynat.models.foreign:load_foreign",
        labels=("true",),
        guide="never",
        consistency="never",
        adversarial=False,
        forwards_clean=True,
        refusal="it is trained already",
        options=options.External,
    ),
    "at": Method("dynat.methods.at:AdversarialTraining"),
    "trades": Method("dynat.methods.trades:Trades", consistency="required", forwards_clean=True),
    "mart": Method("dynat.methods.mart:Mart", consistency="required", forwards_clean=True),
    "gairat": Method("dynat.methods.gairat:Gairat", options=options.Gairat),
    "mail-at": Method("dynat.methods.mail:MailAt", options=options.MailAt),
    "mail-trades": Method(
        "dynat.methods.mail:MailTrades", consistency="required", forwards_clean=True, options=options.MailTrades
    ),
    "sat": Method("dynat.methods.sat:Sat", options=options.Sat),
    "lbgat": Method("dynat.methods.lbgat:Lbgat", labels=("true",), guide="always", refusal=_PULLED),
    "adagat": Method(
        "dynat.methods.adagat:AdaGat", labels=("true",), guide="always", refusal=_PULLED, options=options.AdaGat
    ),
}

# Networks: a name, or a family with its size in the name.
NETWORKS: dict[str, str] = {
    "small": "dynat.models.small:small",
    "resnet18": "dynat.models.resnet:resnet18",
    "resnet18-heavy": "dynat.models.resnet:resnet18_heavy",
    "preact-resnet18": "dynat.models.preact:preact_resnet18",
    "preact-resnet18-bare": "dynat.models.preact:preact_resnet18_bare",
    "wrn<depth>-<width>": "dynat.models.wideresnet:wide_resnet",
}

SOURCES: dict[str, str] = {
    "digits": "dynat.data.digits:prepare",
    "cifar10": "dynat.data.cifar:prepare",
    "cifar100": "dynat.data.cifar:prepare",
    "folder": "dynat.data.folder:prepare",
}

_ASCENT = ("steps", "step_size", "start", "restarts")

ATTACKS: dict[str, AttackKind] = {
    "clean": AttackKind("dynat.attacks.first_order:clean"),
    "fgsm": AttackKind("dynat.attacks.first_order:fgsm", reads=("step_size", "start", "restarts")),
    "pgd": AttackKind("dynat.attacks.first_order:pgd", reads=_ASCENT, steps=20),
    "cw": AttackKind("dynat.attacks.first_order:cw", reads=_ASCENT, steps=20),
    "cw-l2": AttackKind(
        "dynat.attacks.minimal:cw_l2", reads=("steps", "step_size", "searches"), steps=1000, norms=("l2",)
    ),
    "apgd-ce": AttackKind("dynat.attacks.auto:apgd_ce"),
    "apgd-t": AttackKind("dynat.attacks.auto:apgd_t"),
    "fab-t": AttackKind("dynat.attacks.auto:fab_t"),
    "square": AttackKind("dynat.attacks.auto:square", reads=("steps",), steps=5000),
    "autoattack": AttackKind(parts=("apgd-ce", "apgd-t", "fab-t", "square")),
}


def attack_parts(kind: str) -> tuple[str, ...]:
    """The kinds that an attack consists of, in order; most consist of themselves."""
    return ATTACKS[kind].parts or (kind,)


def known(kind: str, name: str, table: Mapping[str, Any]) -> str:
    if name not in table:
        raise ValueError(f"unknown {kind} '{name}': {nearest(name, table)}")
    return name


def network_entry(name: str) -> tuple[str, dict[str, int]]:
    """The table entry and the sizes that a network's name stands for."""
    wide = re.fullmatch(r"wrn(\d+)-(\d+)", name)
    if wide:
        depth, width = int(wide[1]), int(wide[2])
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"'{name}': a WideResNet's depth is 6n+4 (10, 16, 22, 28, 34, ...)")
        if width < 1:
            raise ValueError(f"'{name}': a WideResNet's width is at least 1")
        return NETWORKS["wrn<depth>-<width>"], {"depth": depth, "width": width}
    if name not in NETWORKS:
        examples = [n for n in NETWORKS if "<" not in n] + ["wrn34-10"]
        raise ValueError(f"unknown network '{name}': {nearest(name, examples)}")
    return NETWORKS[name], {}


def attack_from_name(name: str) -> dict[str, Any]:
    """`pgd-20`, `cw-100` and `square-500` say their kind and steps by themselves; a bare kind is its own name."""
    counted = re.fullmatch(r"(pgd|cw|square)-(\d+)", name)
    if counted:
        return {"kind": counted[1], "steps": int(counted[2])}
    return {"kind": name} if name in ATTACKS else {}


def locate(where: str) -> Any:
    """Import what a table entry (`module:object`) points to."""
    module, _, attribute = where.partition(":")
    return getattr(importlib.import_module(module), attribute)


def import_plugins(modules: tuple[str, ...]) -> None:
    """Modules named in the config; each adds its entries to the tables above when it is imported."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"plugins: module '{module}' cannot be imported ({error}); "
                "is its folder on PYTHONPATH or its package installed?"
            ) from None
