"""The short form of `make storm`: one try of each kill and of each full disk, and one flipped bit of each kind.

And what `make audit` says.
"""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

storm: Any = importlib.import_module("tools.storm")
audit: Any = importlib.import_module("tools.audit")


@pytest.mark.slow
def test_the_short_form(tmp_path: Path) -> None:
    counts = argparse.Namespace(trainings=1, evaluations=1, pipelines=1, flips=1, disks=1)
    rows = storm.storm(1, counts, tmp_path)
    assert not [failure for row in rows for failure in row.failures]
    assert len(rows) == 14


def test_the_table_counts_what_passed() -> None:
    rows = [storm.Row("a pipeline is killed and resumed", tries=4, passed=3, seconds=12.4, failures=["not equal"])]
    assert "| a pipeline is killed and resumed | 4 | 3 | 12 |" in storm.table(rows, seed=5)
    assert "Seed 5;" in storm.table(rows, seed=5)


@pytest.mark.parametrize(
    ("license_", "family"),
    [
        ("LicenseRef-NVIDIA-Proprietary", "proprietary"),
        ("GNU General Public License v2 (GPLv2)", "copyleft"),
        ("GNU Lesser General Public License v3 (LGPLv3)", "weak copyleft"),
        ("MIT License", "permissive"),
        ("limited to friends", "not recognized"),
    ],
)
def test_licenses_are_grouped(license_: str, family: str) -> None:
    assert audit.family_of(license_) == family


def test_without_a_database_nothing_is_called_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit.shutil, "which", lambda _: None)
    assert "NOT CHECKED" in audit.vulnerabilities()[0]


def known(name: str, *vulnerabilities: str) -> dict[str, Any]:
    return {
        "name": name,
        "version": "1.0",
        "vulns": [{"id": each, "fix_versions": ["2.0"]} for each in vulnerabilities],
    }


UNKNOWN = {"name": "c", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("printed", "text", "code"),
    [
        ([known("a"), known("b")], "0 in 2 packages", 0),
        ([known("a", "CVE-1"), known("b")], "1 in 2 packages\n  a 1.0: CVE-1, fixed in 2.0", 1),
        ([known("a"), UNKNOWN], "0 in 1 packages; NOT CHECKED, because the database did not answer for them: c", 0),
        ([UNKNOWN], "NOT CHECKED: the database answered for none of 1 packages", 0),
        (None, "NOT CHECKED: pip-audit failed: no route to host", 0),
    ],
)
def test_what_the_database_does_not_know_is_not_called_safe(
    printed: list[dict[str, Any]] | None, text: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip-audit itself ends well, with "no known vulnerabilities", where its database knows none of the packages."""
    answer = "" if printed is None else json.dumps({"dependencies": printed, "fixes": []})
    program = tmp_path / "pip-audit"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{answer}\nEND\necho no route to host >&2\n")
    program.chmod(0o755)
    monkeypatch.setattr(audit.shutil, "which", lambda _: str(program))
    printed_text, exit_code = audit.vulnerabilities()
    assert text in printed_text and exit_code == code
