"""A Profile: the coefficients that were fitted, how sure they are, and the runs they come from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aicalib.errors import InvalidValue
from aicalib.profiles.coefficients import all_coefficients, priors

Array = NDArray[np.float64]

SCHEMA = 1
"""Version of the JSON form."""

PHYSICS = "1"
"""Version of the formulas; a profile fitted under another one is refused."""

METRICS = ("ttft_ms", "tpot_ms", "e2e_ms", "output_tok_s")
"""Metrics that are scored and carry residual quantiles of their own."""


@dataclass(frozen=True)
class Profile:
    """A fitted set of coefficients.

    Attributes
    ----------
    name, version : str
        The version is the hash of what the profile was fitted on and of its values.
    values : ndarray, shape (number of coefficients,)
        In the order of `all_coefficients()`, in their units.
    deviations : ndarray, same shape
        Standard deviation of log(value), 0 where the prior was kept.
    quantiles : mapping
        engine -> metric -> (low, high): quantiles 0.05 and 0.95 of log(measured / predicted) on left-out
        groups.
    fitted : mapping
        Column -> list: the runs it was fitted on (run_id, engine, model, gpu, ... and what they measured).
    lineage : mapping
        How it was made: method, splits, scores, words about the fit.
    """

    name: str
    version: str
    values: Array
    deviations: Array
    quantiles: Mapping[str, Mapping[str, tuple[float, float]]]
    fitted: Mapping[str, list[Any]] = field(default_factory=dict)
    lineage: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """NAME@VERSION, as shown beside every prediction."""
        return f"{self.name}@{self.version}"

    def to_json(self) -> str:
        """Return the profile as JSON text, stable under equal content."""
        known = all_coefficients()
        document = {
            "schema": SCHEMA,
            "physics": PHYSICS,
            "name": self.name,
            "version": self.version,
            "coefficients": {
                each.name: {
                    "value": float(f"{value:.6g}"),
                    "log_deviation": float(f"{deviation:.4g}"),
                    "prior": each.prior,
                    "unit": each.unit,
                }
                for each, value, deviation in zip(known, self.values, self.deviations, strict=True)
            },
            "quantiles": self.quantiles,
            "lineage": self.lineage,
        }
        # The columns of fitted runs take one line each: a thousand lines a column would hide the rest.
        lines = (f"  {json.dumps(name)}: {json.dumps(each)}" for name, each in self.fitted.items())
        columns = ",\n".join(lines)
        head = json.dumps(document, indent=1).removesuffix("\n}")
        return f'{head},\n "fitted": {{\n{columns}\n }}\n}}\n'

    @staticmethod
    def from_json(text: str, origin: str = "profile") -> Profile:
        """Read a profile.

        Raises
        ------
        InvalidValue
            If the text is not a profile, or of another schema or version of the physics.
        """
        try:
            document = json.loads(text)
            found = document["schema"], document["physics"]
            if found != (SCHEMA, PHYSICS):
                raise InvalidValue(
                    f"{origin} has schema {found[0]} and physics {found[1]}; this version reads schema {SCHEMA} "
                    f"and physics {PHYSICS}: calibrate again",
                    ["aicalib calibrate"],
                )
            entries = document["coefficients"]
            names = [each.name for each in all_coefficients()]
            if sorted(entries) != sorted(names):
                raise InvalidValue(f"{origin} has other coefficients than this version; calibrate again")
            return Profile(
                name=str(document["name"]),
                version=str(document["version"]),
                values=np.array([float(entries[name]["value"]) for name in names]),
                deviations=np.array([float(entries[name]["log_deviation"]) for name in names]),
                quantiles={
                    engine: {metric: (float(low), float(high)) for metric, (low, high) in metrics.items()}
                    for engine, metrics in document["quantiles"].items()
                },
                fitted=dict(document["fitted"]),
                lineage=dict(document["lineage"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidValue(f"{origin} is not a profile: {error!r}") from error


def uncalibrated() -> Profile:
    """Return the profile of priors alone: no run was looked at."""
    values = priors()
    return Profile("priors", "0", values, np.zeros_like(values), {})


@cache
def default_profile() -> Profile:
    """Return the shipped profile, fitted on the published runs (`make profile` rebuilds it)."""
    return Profile.from_json(
        files("aicalib.profiles").joinpath("default.json").read_text(), "default profile"
    )


def load_profile(name_or_path: str | None) -> Profile:
    """Return a profile by name ("default", "priors") or by the path of its JSON file.

    Raises
    ------
    InvalidValue
        If there is no such profile, or the file is not one.
    """
    if name_or_path in (None, "default"):
        return default_profile()
    if name_or_path == "priors":
        return uncalibrated()
    path = Path(str(name_or_path))
    if not path.is_file():
        raise InvalidValue(
            f"no profile '{name_or_path}': neither a file nor a known name", ["default", "priors"]
        )
    return Profile.from_json(path.read_text(errors="replace"), str(path))
