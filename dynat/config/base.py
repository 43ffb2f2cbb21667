"""The base of every config model: frozen, without unknown keys, with errors that say what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from dynat.config.renamed import renamed_key
from dynat.runtime.errors import UserError


class ConfigError(UserError):
    """A config that cannot be run. Its text is meant for the person who wrote the config."""


def nearest(name: str, known: Iterable[str]) -> str:
    """What to write instead of an unknown name: the closest known one, and all of them."""
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}(known: {', '.join(choices)})"


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
                    raise ValueError(f"unknown key '{key}': {advice}")
        return value


def _number(value: Any) -> Any:
    """'8/255' is a number too, the way the literature writes it; 'yes' and true are not."""
    if isinstance(value, bool):
        raise ValueError("expected a number, not true or false")
    if isinstance(value, str):
        numerator, slash, denominator = value.partition("/")
        try:
            if not slash:
                return float(value)
            if "/" in denominator:
                raise ValueError
            return float(Fraction(numerator.strip()) / Fraction(denominator.strip()))
        except (ValueError, ZeroDivisionError, OverflowError):
            raise ValueError(f"'{value}' is not a number; write 0.031, 8/255 or 2.5/255") from None
    return value


def _whole(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a whole number, not true or false")
    return value


Real = Annotated[float, BeforeValidator(_number)]
Whole = Annotated[int, BeforeValidator(_whole)]
Positive = Annotated[Real, Field(gt=0)]
NotNegative = Annotated[Real, Field(ge=0)]
Share = Annotated[Real, Field(ge=0, le=1)]
Count = Annotated[Whole, Field(ge=1)]
Seed = Annotated[Whole, Field(ge=0)]


def _seed_list(value: Any) -> Any:
    """One number is a list of one; no seed, or the same one twice, is a mistake."""
    if isinstance(value, int) and not isinstance(value, bool):
        return (value,)
    if isinstance(value, list | tuple):
        if not value:
            raise ValueError("name at least one, such as [0]")
        if len(set(map(str, value))) < len(value):
            raise ValueError(f"{list(value)} names a seed twice")
    return value


Seeds = Annotated[tuple[Seed, ...], BeforeValidator(_seed_list)]


def problems(error: ValidationError, prefix: str = "") -> list[str]:
    """One line for each problem: the field, the reason, the given value."""
    lines = []
    for problem in error.errors():
        field = ".".join(str(part) for part in problem["loc"] if part != "[key]")
        reason = problem["msg"].removeprefix("Value error, ")
        given = problem.get("input")
        shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) else ""
        where = f"{prefix}{field}" if field else prefix.rstrip(". :")
        lines.append(f"{where}: {reason}{shown}" if where else f"{reason}{shown}")
    return lines


def pixel_fraction(value: float) -> str:
    """A radius as papers write it: 8/255 where it is a whole number of gray levels, else the decimal."""
    levels = value * 255
    return f"{round(levels)}/255" if value < 1 and abs(levels - round(levels)) < 1e-6 else f"{value:g}"
