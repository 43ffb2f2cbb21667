"""What a config is written in: YAML, read from files and command lines, one layer laid over another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dynat.config.strict import ConfigError


def read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file (run from the project's folder)") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected 'key: value' lines, found {type(content).__name__}")
    return content


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, mapping by mapping; a null changes nothing, `factors` is one value."""
    result = dict(base)
    for key, value in over.items():
        if value is None and key in base:
            continue
        if isinstance(value, Mapping) and isinstance(result.get(key), Mapping) and key != "factors":
            value = merge(result[key], value)
        result[key] = value
    return result


def parsed(value: Any) -> Any:
    """`snakemake --config 'seeds=[0,1]'` arrives as text; read it as YAML."""
    if isinstance(value, str) and value.strip()[:1] in ("[", "{"):
        try:
            return yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"{value}: not a whole list or mapping; write [0, 1] or {{epochs: 5}}") from None
    return value
