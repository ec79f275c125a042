"""What a run's checkpoint is, where the run names its format less exactly (`checkpoints.toml`)."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any

DYNAMIC = "fp8"
"""Label of a run that says nothing of scales; as a format its scales are found while serving."""

STATIC = "fp8_static"


@cache
def _rules() -> list[dict[str, str]]:
    text = files("aicalib.calibrate").joinpath("checkpoints.toml").read_text()
    found = [dict(rule) for rule in tomllib.loads(text)[STATIC]]
    return [{key: each.lower() for key, each in rule.items() if key != "because"} for rule in found]


def weight_format(record: Mapping[str, Any]) -> str | None:
    """Return the format of a run's weights: its label, or the static one where its checkpoint holds scales.

    Parameters
    ----------
    record : mapping
        A run, in the runs format.
    """
    label = record.get("weight_quant")
    if not isinstance(label, str):
        return None
    if label == DYNAMIC and any(
        all(fnmatchcase(str(record.get(key) or "").lower(), each) for key, each in rule.items())
        for rule in _rules()
    ):
        return STATIC
    return label
