"""What several test files share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import perfdb

ROOT = Path(__file__).parent.parent
MEASUREMENTS = ROOT / "measurements"


@pytest.fixture(scope="session")
def published():
    """The published runs as they stand in their file."""
    with (MEASUREMENTS / "runs.jsonl").open() as lines:
        return [json.loads(line) for line in lines]


@pytest.fixture
def store(tmp_path):
    """An empty store."""
    with perfdb.Store(tmp_path / "store.duckdb") as opened:
        yield opened
