"""What can be named in a config and where it is implemented: methods, networks, data sources, attacks.

Nothing here imports torch: a config is checked before the DAG is built, and a `make run` with nothing to do should
not wait for a deep-learning framework.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dynat.config import method_options as options
from dynat.config.base import ConfigError, StrictModel, nearest, shortened


@dataclass(frozen=True)
class MethodInfo:
    """What the config must know about a method to refuse an impossible run."""

    where: str
    """`module:Class` of the implementation."""
    labels: tuple[str, ...] = ("true", "dynamic")
    """The labels that it accepts."""
    refusal: str = "it does not accept them"
    """Why it does not accept the others."""
    guide: Literal["labels", "always", "never"] = "labels"
    """Which runs need a guide: those with dynamic labels, every run, or none."""
    consistency: Literal["optional", "required", "never"] = "optional"
    """Whether the weight of KL(p(x)||p(x')) may be, must be, or must not be above zero."""
    adversarial: bool = True
    """Whether it trains on adversarial images."""
    maximizes_kl: bool = False
    """Whether its own inner attack maximizes a KL divergence, not the cross-entropy."""
    forwards_clean: bool = False
    """Whether its loss forwards the clean images through the target anyway."""
    options: type[StrictModel] = options.NoOptions
    """The settings that only this method reads, under `options:`."""


@dataclass(frozen=True)
class AttackInfo:
    """What the config must know about a kind of attack to refuse a setting that nothing would read."""

    where: str = ""
    """`module:function` of the implementation."""
    parts: tuple[str, ...] = ()
    """Instead: kinds that run one after the other, each on the images that are not broken yet."""
    reads: tuple[str, ...] = ()
    """Which of the settings below it reads."""
    steps: int | None = None
    """Its default number of steps."""
    eot: int = 1
    """Its default number of gradients per step."""
    norms: tuple[str, ...] = ("linf", "l2", "l1")
    """The norms that it supports."""
    searches: bool = True
    """Whether it changes images at all, and so reads `eps`, `norm` and `seed`."""


KIND_SETTINGS = ("steps", "step_size", "start", "restarts", "binary_search_steps", "eot")
"""The settings of an attack that not every kind reads."""


_LOGITS = "the target has no labels: it learns the guide's logits"

METHODS: dict[str, MethodInfo] = {
    "natural": MethodInfo(
        "dynat.methods.natural:Natural",
        labels=("true",),
        guide="never",
        consistency="never",
        adversarial=False,
        forwards_clean=True,
        refusal="it has no adversarial images that a guide could label",
    ),
    "at": MethodInfo("dynat.methods.at:AdversarialTraining"),
    "trades": MethodInfo("dynat.methods.trades:Trades", consistency="required", forwards_clean=True, maximizes_kl=True),
    "mart": MethodInfo("dynat.methods.mart:Mart", consistency="required", forwards_clean=True),
    "gairat": MethodInfo("dynat.methods.gairat:Gairat", options=options.Gairat),
    "mail-at": MethodInfo("dynat.methods.mail:MailAt", options=options.MailAt),
    "mail-trades": MethodInfo(
        "dynat.methods.mail:MailTrades",
        consistency="required",
        forwards_clean=True,
        maximizes_kl=True,
        options=options.MailTrades,
    ),
    "sat": MethodInfo("dynat.methods.sat:Sat", options=options.Sat),
    "lbgat": MethodInfo(
        "dynat.methods.lbgat:Lbgat", labels=("true",), guide="always", refusal=_LOGITS, maximizes_kl=True
    ),
    "adagat": MethodInfo(
        "dynat.methods.adagat:AdaGat",
        labels=("true",),
        guide="always",
        refusal=_LOGITS,
        maximizes_kl=True,
        options=options.AdaGat,
    ),
}

# Networks: a name, or a family with its size in the name.
NETWORKS: dict[str, str] = {
    "small": "dynat.models.small:small",
    "resnet18": "dynat.models.resnet:resnet18",
    "resnet18-heavy": "dynat.models.resnet:resnet18_heavy",
    "resnet50": "dynat.models.resnet:resnet50",
    "preact-resnet18": "dynat.models.preact:preact_resnet18",
    "preact-resnet18-bare": "dynat.models.preact:preact_resnet18_bare",
    "preact-resnet18-swish": "dynat.models.swish:preact_resnet18_swish",
    "resnet8-<width>": "dynat.models.resnet8:ResNet8",
    "wrn<depth>-<width>": "dynat.models.wideresnet:wide_resnet",
    "wrn<depth>-<width>-swish": "dynat.models.swish:wide_resnet_swish",
    "timm/<name>": "dynat.models.timm_networks:build",
    "torchvision/<name>": "dynat.models.torchvision_networks:build",
}

PACKAGES: dict[str, str] = {"timm": "dynat.models.timm_networks", "torchvision": "dynat.models.torchvision_networks"}
"""Packages of networks, and the module that builds, lists and normalizes them."""

MAX_DEPTH, MAX_WIDTH = 202, 32
"""Of a WideResNet; 106 and 16 is the largest that was published."""
MAX_CHANNELS = 512
"""Channels of a ResNet-8's first convolution."""

SOURCES: dict[str, str] = {
    "digits": "dynat.data.digits:prepare",
    "cifar10": "dynat.data.cifar:prepare",
    "cifar100": "dynat.data.cifar:prepare",
    "svhn": "dynat.data.svhn:prepare",
    "tiny-imagenet": "dynat.data.tiny_imagenet:prepare",
    "folder": "dynat.data.folder:prepare",
}
UNMIRRORED = ("svhn",)
"""Sources whose images are not mirrored in training unless a config says so: digits that are mirrored are no digits."""

TEST_IMAGES = {"digits": 359, "cifar10": 10_000, "cifar100": 10_000, "svhn": 26_032, "tiny-imagenet": 10_000}
"""Test images of a source, where every user has as many."""

_ASCENT = ("steps", "step_size", "start", "restarts")

ATTACKS: dict[str, AttackInfo] = {
    "clean": AttackInfo("dynat.attacks.first_order:clean", searches=False),
    "fgsm": AttackInfo("dynat.attacks.first_order:fgsm", reads=("step_size", "start", "restarts")),
    "pgd": AttackInfo("dynat.attacks.first_order:pgd", reads=_ASCENT, steps=20),
    "cw": AttackInfo("dynat.attacks.first_order:cw", reads=_ASCENT, steps=20),
    "cw-l2": AttackInfo(
        "dynat.attacks.cw_l2:cw_l2", reads=("steps", "step_size", "binary_search_steps"), steps=1000, norms=("l2",)
    ),
    "apgd-ce": AttackInfo("dynat.attacks.autoattack:apgd_ce", reads=("eot",)),
    "apgd-dlr": AttackInfo("dynat.attacks.autoattack:apgd_dlr", reads=("eot",)),
    "apgd-t": AttackInfo("dynat.attacks.autoattack:apgd_t"),
    "fab": AttackInfo("dynat.attacks.autoattack:fab"),
    "fab-t": AttackInfo("dynat.attacks.autoattack:fab_t"),
    "square": AttackInfo("dynat.attacks.autoattack:square", reads=("steps",), steps=5000),
    "autoattack": AttackInfo(parts=("apgd-ce", "apgd-t", "fab-t", "square")),
    "autoattack-plus": AttackInfo(
        parts=("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"), norms=("linf", "l2")
    ),
    "autoattack-rand": AttackInfo(parts=("apgd-ce", "apgd-dlr"), reads=("eot",), eot=20),
}


def attack_parts(kind: str) -> tuple[str, ...]:
    """The kinds that an attack consists of, in order; most consist of themselves."""
    return ATTACKS[kind].parts or (kind,)


def known(kind: str, name: str, table: Mapping[str, Any]) -> str:
    """The name, if the table has it; otherwise an error with the nearest known one."""
    if name not in table:
        raise ConfigError(f"unknown {kind} '{shortened(name)}': {nearest(name, table)}")
    return name


def network_entry(name: str) -> tuple[str, dict[str, int | str]]:
    """The table entry and the arguments that a network's name stands for.

    Does not check whether a package is installed and has the network: results are also read where it is not.
    """
    package, slash, inside = name.partition("/")
    if slash:
        return _package_entry(name, package, inside), {"name": inside}
    wide = re.fullmatch(r"wrn([0-9]+)-([0-9]+)(-swish)?", name)
    if wide:
        if len(name) > 20 or int(wide[1]) > MAX_DEPTH or int(wide[2]) > MAX_WIDTH:
            raise ConfigError(
                f"'{shortened(name)}': a WideResNet's depth is at most {MAX_DEPTH} and its width at most {MAX_WIDTH}; "
                "no larger one fits in memory"
            )
        depth, width = int(wide[1]), int(wide[2])
        if depth < 10 or (depth - 4) % 6:
            raise ConfigError(f"'{name}': a WideResNet's depth is 6n+4 (10, 16, 22, 28, 34, ...)")
        if width < 1:
            raise ConfigError(f"'{name}': a WideResNet's width is at least 1")
        return NETWORKS[f"wrn<depth>-<width>{wide[3] or ''}"], {"depth": depth, "width": width}
    narrow = re.fullmatch(r"resnet8-([0-9]{1,9})", name)
    if narrow:
        if not 1 <= int(narrow[1]) <= MAX_CHANNELS:
            raise ConfigError(f"'{name}': the width of a ResNet-8 is from 1 to {MAX_CHANNELS} channels")
        return NETWORKS["resnet8-<width>"], {"width": int(narrow[1])}
    if name not in NETWORKS:
        raise ConfigError(f"unknown network '{shortened(name)}': {nearest(name, _example_networks())}")
    return NETWORKS[name], {}


def _package_entry(name: str, package: str, inside: str) -> str:
    if package not in PACKAGES:
        raise ConfigError(f"unknown network '{shortened(name)}': {nearest(name, _example_networks())}")
    if not re.fullmatch(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?", inside):
        raise ConfigError(
            f"'{shortened(name)}': after '{package}/' comes the name of one of its networks, as in {package}/resnet50"
        )
    return NETWORKS[f"{package}/<name>"]


def _example_networks() -> list[str]:
    families = ("resnet8-32", "wrn34-10", "wrn28-10-swish", "timm/resnet50", "torchvision/resnet50")
    return [*(name for name in NETWORKS if "<" not in name), *families]


def check_network(name: str) -> None:
    """Refuse a network of a package that is not installed, or that has no network of this name.

    Imports the package, and with it torch; only users of its networks wait for that.
    """
    network_entry(name)
    package, slash, inside = name.partition("/")
    if not slash:
        return
    names = package_networks(package)
    if inside not in names:
        close = [f"'{package}/{other}'" for other in difflib.get_close_matches(inside, names, n=3, cutoff=0.5)]
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise ConfigError(f"unknown network '{name}': {hint}(`dynat list {package}` lists all {len(names)})")


def package_networks(package: str) -> list[str]:
    """The names of all networks of a package, without `<package>/`."""
    try:
        names: list[str] = locate(f"{PACKAGES[known('package', package, PACKAGES)]}:names")()
    except ModuleNotFoundError as error:
        raise ConfigError(f"networks of {package} need it to be installed ({error}): pip install {package}") from None
    return names


def locate(where: str) -> Any:
    """Import what a table entry (`module:object`) points to."""
    module, _, attribute = where.partition(":")
    return getattr(importlib.import_module(module), attribute)
