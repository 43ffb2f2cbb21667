"""The short form of `make storm`: one try of each kill and of each full disk, and one flipped bit of each kind."""

from __future__ import annotations

import argparse
import importlib
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
