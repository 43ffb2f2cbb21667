"""One layer of a config merged over another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel


@dataclass(frozen=True)
class Replaced:
    """Marks a field whose mapping is one value: an upper layer replaces it instead of merging into it."""


@dataclass(frozen=True)
class Layer:
    """Marks a field that holds some fields of a model; other layers hold the rest."""

    model: type[BaseModel]


@dataclass(frozen=True)
class LayerRows:
    """Marks a field that maps names to rows, each with some fields of a model."""

    model: type[BaseModel]


class ChosenRows(dict[str, Any]):
    """Rows of `attacks:` that are also a choice, as a list of names is: the preset's other rows are left out."""


def merge(base: Mapping[str, Any], over: Mapping[str, Any], schema: Layer | LayerRows | None = None) -> dict[str, Any]:
    """`over` merged into `base`, mapping by mapping, except into fields marked `Replaced`; a null changes nothing."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        if value is None and key in base:
            continue
        marks = _marks(schema, key)
        if (
            isinstance(value, Mapping)
            and isinstance(below, Mapping)
            and not any(isinstance(m, Replaced) for m in marks)
        ):
            inside = next((mark for mark in marks if isinstance(mark, Layer | LayerRows)), None)
            value = merge(below, value, inside)
        result[key] = value
    return result


def _marks(schema: Layer | LayerRows | None, key: str) -> list[object]:
    """What the schema says of the values under a key."""
    if schema is None:
        return []
    if isinstance(schema, LayerRows):
        return [Layer(schema.model)]
    field = schema.model.model_fields.get(key)
    if field is None:
        return []
    nested = [Layer(model) for model in _models(field.annotation)]
    return [*field.metadata, *nested]


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models that an annotation allows, as in `AWPConfig | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return [model for part in get_args(annotation) for model in _models(part)]
    return []
