"""The base of every config model: frozen, no unknown key, errors that name the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator


class ConfigError(ValueError):
    """A config that cannot be run. Its text is meant for the person who wrote the config."""


def nearest(name: str, known: Iterable[str]) -> str:
    """How to go on after an unknown name: the closest known one, and all of them."""
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}(known: {', '.join(choices)})"


class Strict(BaseModel):
    """A frozen model that refuses unknown keys with the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, value: Any) -> Any:
        if isinstance(value, dict):
            for key in value:
                if key not in cls.model_fields:
                    raise ValueError(f"unknown key '{key}': {nearest(str(key), cls.model_fields)}")
        return value


def _number(value: Any) -> Any:
    """'8/255' is a number too, the way the literature writes it; 'yes' and true are not."""
    if isinstance(value, bool):
        raise ValueError("a number is wanted, not true or false")
    if isinstance(value, str):
        try:
            return float(Fraction(value.replace(" ", "")))
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"'{value}' is not a number; write 0.031 or 8/255") from None
    return value


def _whole(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a whole number is wanted, not true or false")
    return value


Real = Annotated[float, BeforeValidator(_number)]
Whole = Annotated[int, BeforeValidator(_whole)]


def pixel_fraction(value: float) -> str:
    """How people read a radius: 8/255 where it is a whole number of grey levels, else the decimal."""
    levels = value * 255
    return f"{round(levels)}/255" if value < 1 and abs(levels - round(levels)) < 1e-6 else f"{value:g}"
