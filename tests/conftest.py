"""What several test files share."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import perfdb

ROOT = Path(__file__).parent.parent
MEASUREMENTS = ROOT / "measurements"

# A machine that is busy with something else is no fault of what is tested.
settings.register_profile(
    "suite",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    # The same cases on every machine; with AICALIB_RANDOM set new ones are drawn.
    derandomize=not os.environ.get("AICALIB_RANDOM"),
)
settings.load_profile("suite")


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
