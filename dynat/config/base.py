"""The base of every config model: frozen, without unknown keys, with errors that say what to write instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from dynat.config.renamed import renamed_key
from dynat.runtime.errors import UserError


class ConfigError(UserError):
    """A config that cannot be run. Its text is meant for the person who wrote the config."""


def shortened(text: str, length: int = 60) -> str:
    """The text as a message shows it."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def nearest(name: str, known: Iterable[str]) -> str:
    """What to write instead of an unknown name: the closest known one, and all of them."""
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}(known: {', '.join(choices)})"


@dataclass(frozen=True)
class WrittenIfSet:
    """Marks a field that is left out where it has its default: settings of older results keep their digest."""


class StrictModel(BaseModel):
    """A frozen model that refuses unknown keys and names the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, value: Any) -> Any:
        if isinstance(value, dict):
            for key in value:
                if key not in cls.model_fields:
                    now = renamed_key(str(key), cls.model_fields)
                    advice = f"it is now '{now}'" if now else nearest(str(key), cls.model_fields)
                    raise ValueError(f"unknown key '{shortened(str(key))}': {advice}")
        return value

    @model_serializer(mode="wrap")
    def _without_unset(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        for name, field in type(self).model_fields.items():
            if any(isinstance(mark, WrittenIfSet) for mark in field.metadata):
                default = field.get_default(call_default_factory=True)
                if name in content and getattr(self, name) == default:
                    del content[name]
        return content


DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]{1,3})?", re.IGNORECASE | re.ASCII)
MAX_DIGITS = 50
"""Characters of a number; arithmetic with a fraction of a million digits would take minutes."""
LARGEST, SMALLEST = 1e6, 1e-9
"""The range of every number in a config, beside zero. What is beyond is a slip of the keyboard."""

MAX_THREADS, MAX_SEED, MAX_SHARDS = 1024, 2**32 - 1, 1000


def _number(value: Any) -> Any:
    """'8/255' is a number too, the way the literature writes it; 'yes' and true are not."""
    if isinstance(value, bool):
        raise ValueError("expected a number, not true or false")
    if isinstance(value, str):
        parts = [part.strip() for part in value.split("/")]
        try:
            if len(value) > MAX_DIGITS or len(parts) > 2 or not all(map(DECIMAL.fullmatch, parts)):
                raise ValueError
            return float(parts[0]) if len(parts) == 1 else float(Fraction(parts[0]) / Fraction(parts[1]))
        except (ValueError, ZeroDivisionError, OverflowError):
            raise ValueError(f"'{shortened(value)}' is not a number; write 0.031, 8/255 or 2.5/255") from None
    if isinstance(value, int) and abs(value) > LARGEST**2:
        raise ValueError("the number is too large")
    return value


def _sensible(value: float) -> float:
    if value != 0 and abs(value) < SMALLEST:
        raise ValueError(f"{value:g} is too small to have an effect: at least {SMALLEST:g}")
    if abs(value) > LARGEST:
        raise ValueError(f"should be less than or equal to {LARGEST:g}")
    return value


def _at_most(limit: int) -> AfterValidator:
    """A bound that every field of a type has; the manual does not repeat it."""

    def check(value: int) -> int:
        if value > limit:
            raise ValueError(f"should be less than or equal to {limit}")
        return value

    return AfterValidator(check)


def _whole(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a whole number, not true or false")
    if isinstance(value, str) and len(value) > MAX_DIGITS:
        raise ValueError(f"'{shortened(value)}' is not a whole number")
    return value


def _shards(value: Any) -> Any:
    if value != "auto" and (isinstance(value, bool) or not str(value).isdecimal() or not 1 <= int(value) <= MAX_SHARDS):
        raise ValueError(f"expected a number of jobs from 1 to {MAX_SHARDS}, or auto")
    return value


Real = Annotated[float, BeforeValidator(_number), AfterValidator(_sensible)]
Whole = Annotated[int, BeforeValidator(_whole)]
Positive = Annotated[Real, Field(gt=0)]
NotNegative = Annotated[Real, Field(ge=0)]
Share = Annotated[Real, Field(ge=0, le=1)]
Count = Annotated[Whole, Field(ge=1), _at_most(1_000_000)]
Threads = Annotated[Count, Field(le=MAX_THREADS)]
Shards = Annotated[Literal["auto"] | Count, BeforeValidator(_shards)]
Seed = Annotated[Whole, Field(ge=0), _at_most(MAX_SEED)]


def _seed_list(value: Any) -> Any:
    """One number is a list of one; no seed is a mistake."""
    if isinstance(value, int) and not isinstance(value, bool):
        return (value,)
    if isinstance(value, list | tuple) and not value:
        raise ValueError("name at least one, such as [0]")
    return value


def _no_seed_twice(value: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(value)) < len(value):
        raise ValueError(f"{list(value)} names a seed twice")
    return value


Seeds = Annotated[tuple[Seed, ...], Field(max_length=1000), BeforeValidator(_seed_list), AfterValidator(_no_seed_twice)]


def problems(error: ValidationError, prefix: str = "") -> list[str]:
    """One line for each problem: the field, the reason, the given value."""
    lines = []
    for problem in error.errors():
        field = ".".join(shortened(str(part)) for part in problem["loc"] if part != "[key]")
        reason = problem["msg"].removeprefix("Value error, ")
        given = problem.get("input")
        shown = f" (given: {shortened(repr(given))})" if isinstance(given, str | int | float | bool) else ""
        where = f"{prefix}{field}" if field else prefix.rstrip(". :")
        lines.append(f"{where}: {reason}{shown}" if where else f"{reason}{shown}")
    return lines


def pixel_fraction(value: float) -> str:
    """A radius as papers write it: 8/255 where it is a whole number of gray levels, else the decimal."""
    levels = value * 255
    return f"{round(levels)}/255" if value < 1 and abs(levels - round(levels)) < 1e-6 else f"{value:g}"
