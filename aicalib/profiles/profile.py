"""A Profile: coefficients and levels that were fitted, how sure they are, and the runs they come from."""

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

SCHEMA = 2
"""Version of the JSON form."""

PHYSICS = "1"
"""Version of the formulas; a profile fitted under another one is refused."""

METRICS = ("ttft_ms", "tpot_ms", "e2e_ms", "output_tok_s")
"""Metrics that are scored and carry residual quantiles of their own."""


Levels = Mapping[str, Mapping[str, tuple[float, int]]]
"""Metric -> key of a place -> (logarithm of the factor on the prediction, number of runs behind it)."""

BOUND_SLACK = 1e-4
"""Relative distance past a coefficient's bound that rounding explains."""

DEPTH_MARK = " / "
"""Separates the parts of a key: a place, and the wider ones that it lies in before it."""


@dataclass(frozen=True)
class Profile:
    """A fitted set of coefficients, and what runs of a group, configuration or curve have in common beyond them.

    Attributes
    ----------
    name, version : str
        The version is the hash of what the profile was fitted on and of its values.
    values : ndarray, shape (number of coefficients,)
        In the order of `all_coefficients()`, in their units.
    deviations : ndarray, same shape
        Standard deviation of log(value), 0 where the prior was kept.
    quantiles : mapping
        Engine (or "any") -> metric -> nearness -> q: 90 % of log(measured / predicted) lies within -q and q, where what
        is asked is as near to runs that were fitted (`aicalib.nearness.NEARNESS`).
    fitted : mapping
        Column -> list: the runs it was fitted on (run_id, engine, model, gpu, ... and what they measured).
    lineage : mapping
        How it was made: method, scope, splits, scores, words about the fit.
    levels : mapping
        Of places whose runs were fitted: metric -> key -> (logarithm of the factor on the prediction, runs).
    spreads : mapping
        Metric -> depth of a place, or "noise" -> standard deviation of log(measured / predicted) among such places.
    """

    name: str
    version: str
    values: Array
    deviations: Array
    quantiles: Mapping[str, Mapping[str, Mapping[str, float]]]
    fitted: Mapping[str, list[Any]] = field(default_factory=dict)
    lineage: Mapping[str, Any] = field(default_factory=dict)
    levels: Levels = field(default_factory=dict)
    spreads: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

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
            "spreads": self.spreads,
        }
        # A group's levels and a column of fitted runs take one line each: thousands of lines would hide the rest.
        head = json.dumps(document, indent=1).removesuffix("\n}")
        levels, fitted = _lines(_nested(self.levels)), _lines(self.fitted)
        return f'{head},\n "levels": {{\n{levels}\n }},\n "fitted": {{\n{fitted}\n }}\n}}\n'

    def check(self, origin: str) -> None:
        """Refuse figures that no fit gives, which an edit by hand may leave.

        Raises
        ------
        InvalidValue
            If a coefficient is out of its bounds, a deviation or quantile is negative, any of them or a level is not
            finite, or the columns of fitted runs do not belong together.
        """
        for each, value, deviation in zip(
            all_coefficients(), self.values.tolist(), self.deviations.tolist(), strict=True
        ):
            if not each.low * (1 - BOUND_SLACK) <= value <= each.high * (1 + BOUND_SLACK):
                raise InvalidValue(
                    f"{origin}: {each.name} is {value:g} {each.unit}, outside {each.low:g} to {each.high:g}: it was "
                    "altered, or fitted under other bounds; calibrate again",
                    ["aicalib calibrate"],
                )
            if not 0.0 <= deviation < np.inf:
                raise InvalidValue(
                    f"{origin}: the deviation of {each.name} is {deviation:g}, not a number from 0 on"
                )
        found = {
            f"quantile of {engine} {metric} {near}": value if value >= 0.0 else np.nan
            for engine, metrics in self.quantiles.items()
            for metric, by in metrics.items()
            for near, value in by.items()
        }
        found |= {
            f"level of {key}": level for levels in self.levels.values() for key, (level, _) in levels.items()
        }
        wrong = [name for name, value in found.items() if not np.isfinite(value)]
        if wrong:
            raise InvalidValue(f"{origin}: the {wrong[0]} is no number that a fit gives: it was altered")
        lengths = {column: len(values) for column, values in self.fitted.items()}
        if len(set(lengths.values())) > 1:
            raise InvalidValue(f"{origin}: the columns of its fitted runs differ in length: {lengths}")

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
                    f"and physics {PHYSICS}: its runs are not lost, calibrate again from the store",
                    ["aicalib calibrate --base default", "the profile 'default'"],
                )
            kept = {
                each.name: {"value": each.absent, "log_deviation": 0.0}
                for each in all_coefficients()
                if each.absent is not None
            }
            entries = kept | document["coefficients"]
            names = [each.name for each in all_coefficients()]
            if sorted(entries) != sorted(names):
                raise InvalidValue(
                    f"{origin} has other coefficients than this version: calibrate again from the store",
                    ["aicalib calibrate --base default", "the profile 'default'"],
                )
            read = Profile(
                name=str(document["name"]),
                version=str(document["version"]),
                values=np.array([float(entries[name]["value"]) for name in names]),
                deviations=np.array([float(entries[name]["log_deviation"]) for name in names]),
                quantiles={
                    engine: {
                        metric: {near: float(each) for near, each in by.items()}
                        for metric, by in metrics.items()
                    }
                    for engine, metrics in document["quantiles"].items()
                },
                fitted=dict(document["fitted"]),
                lineage=dict(document["lineage"]),
                levels=_flat(document["levels"]),
                spreads={metric: dict(each) for metric, each in document["spreads"].items()},
            )
            read.check(origin)
            return read
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidValue(f"{origin} is not a profile: {error!r}") from error


def _lines(entries: Mapping[str, Any]) -> str:
    return ",\n".join(f"  {json.dumps(name)}: {json.dumps(each)}" for name, each in entries.items())


def _nested(levels: Levels) -> dict[str, Any]:
    """Return levels as their keys lie in each other: a place has its metrics, and the narrower places in it."""
    tree: dict[str, Any] = {}
    for metric, by_key in levels.items():
        for key, level in by_key.items():
            *wider, last = key.split(DEPTH_MARK)
            place = tree
            for part in wider:
                place = place.setdefault(part, {}).setdefault("in", {})
            place.setdefault(last, {})[metric] = list(level)
    return tree


def _flat(tree: Mapping[str, Any], wider: tuple[str, ...] = ()) -> dict[str, dict[str, tuple[float, int]]]:
    """Return levels by metric and key, as `_nested` wrote them."""
    found: dict[str, dict[str, tuple[float, int]]] = {}
    for name, place in tree.items():
        path = (*wider, name)
        for metric, entry in place.items():
            if metric != "in":
                found.setdefault(metric, {})[DEPTH_MARK.join(path)] = (float(entry[0]), int(entry[1]))
        for metric, by_key in _flat(place.get("in", {}), path).items():
            found.setdefault(metric, {}).update(by_key)
    return found


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
