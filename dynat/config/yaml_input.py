"""YAML as a config is written in it: read strictly, so that nothing is dropped, expanded or run on the way.

Beyond `yaml.safe_load`: a key that is given twice is refused instead of the last one winning; nesting and size are
bounded; and aliases (`*name`) are few and not nested, since otherwise a few lines of them stand for gigabytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dynat.config.base import ConfigError, shortened

MAX_DEPTH = 20
"""Levels of nesting; a config has six."""
MAX_ALIASES = 100
MAX_CHARACTERS = 1_000_000
"""Size of a file; the longest preset that is shipped has ten thousand."""


class _Loader(yaml.SafeLoader):
    depth = aliases = anchors_open = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        mark: Any = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            self.aliases += 1
            if self.aliases > MAX_ALIASES:
                raise yaml.MarkedYAMLError(problem=f"more than {MAX_ALIASES} aliases (*name)", problem_mark=mark)
            if self.anchors_open:
                raise yaml.MarkedYAMLError(
                    problem="an alias (*name) inside a value that has an anchor (&name) itself: write the value again",
                    problem_mark=mark,
                )
            return super().compose_node(parent, index)
        anchored = event.anchor is not None
        self.depth += 1
        self.anchors_open += anchored
        if self.depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=f"nested more than {MAX_DEPTH} levels deep", problem_mark=mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        self.anchors_open -= anchored
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[Any] = set()
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        for key_node, _ in pairs:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str | int | float) and key in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key '{key}' is given twice: remove one", problem_mark=key_node.start_mark
                )
            if isinstance(key, str | int | float):
                seen.add(key)
        return super().construct_mapping(node, deep=deep)

    def construct_decimal(self, node: yaml.ScalarNode) -> Any:
        """YAML reads `010` as 8 and `1:30` as 90; Snakemake's --config does not."""
        if re.match(r"[-+]?0[0-9_]|.*:", node.value):
            raise yaml.MarkedYAMLError(
                problem=f"'{shortened(node.value)}' is no decimal number to YAML but one in base 8 or 60: no zeros "
                "before it and no ':', or quotes around a text",
                problem_mark=node.start_mark,
            )
        construct = {"int": self.construct_yaml_int, "float": self.construct_yaml_float}
        return construct[node.tag.rpartition(":")[2]](node)


for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_decimal)


def parse_yaml(text: str) -> Any:
    """What the text holds; `yaml.YAMLError` says what cannot be read."""
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except (ValueError, OverflowError) as error:  # a date without a meaning, a number of thousands of digits
        raise yaml.YAMLError(str(error)) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a file holds; an empty file is an empty mapping."""
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ConfigError(f"{path}: not a regular file")
        with path.open(encoding="utf-8") as file:
            text = file.read(MAX_CHARACTERS + 1)
        if len(text) > MAX_CHARACTERS:
            raise ConfigError(f"{path}: longer than {MAX_CHARACTERS:,} characters: not a config")
        content = parse_yaml(text)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file (run from the project's folder)") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a directory, not a file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start}): save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected 'key: value' lines, not {type(content).__name__}")
    return content


def why(error: yaml.YAMLError) -> str:
    """The reason alone, without its place."""
    return str(getattr(error, "problem", None) or "not valid YAML")


def parsed(value: Any) -> Any:
    """Read `seeds=[0,1]` as YAML: a command line may pass it as text."""
    if isinstance(value, str) and value.strip()[:1] in ("[", "{"):
        try:
            return parse_yaml(value)
        except yaml.YAMLError as error:
            raise ConfigError(
                f"{shortened(value)}: not a complete list or mapping ({why(error)}); write [0, 1] or {{epochs: 5}}"
            ) from None
    return value


def command_line_values(value: Any) -> Any:
    """The values of `snakemake --config` as YAML has them, and `dynat --set`: Snakemake passes most of them as text."""
    if isinstance(value, Mapping):
        return {command_line_values(key): command_line_values(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [command_line_values(each) for each in value]
    if not isinstance(value, str) or value.strip()[:1] in ("[", "{"):
        return value
    try:
        scalar = parse_yaml(value)
    except yaml.YAMLError:
        return value
    return value if isinstance(scalar, dict | list) else scalar
