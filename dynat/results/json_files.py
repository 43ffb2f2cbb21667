"""JSON files whose last entry is a checksum of the others, so that no digit of a result changes unnoticed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from dynat.results.reading import made_again, required
from dynat.runtime.errors import UserError

CHECKSUM = "sha256"
"""The name of this entry."""


def json_text(content: dict[str, Any]) -> str:
    """The content with its checksum."""
    return json.dumps({**content, CHECKSUM: _checksum(content)}, indent=2) + "\n"


def read_json(file: Path) -> tuple[dict[str, Any], bool]:
    """The content without its checksum, and whether it is what was written. Files of earlier versions have none."""
    text = required(file).read_bytes()
    try:
        content = json.loads(text.decode())
    except (ValueError, RecursionError) as error:  # also bytes that are no UTF-8, and numbers of 5,000 digits
        raise UserError(f"{file}: not valid JSON ({error}); {made_again(file)}") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected a JSON object, found {type(content).__name__}; {made_again(file)}")
    expected = content.pop(CHECKSUM, None)
    return content, expected is None or expected == _checksum(content)


def _checksum(content: dict[str, Any]) -> str:
    """SHA-256 of the values, however the text is laid out."""
    values = json.loads(json.dumps(content))  # keys that are numbers become text
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
