"""One page about a deployment: prediction beside measurement, scoreboard, residuals, what to measure next.

`Asked` is what the page is about, `document` its data, `page` the HTML: one file without scripts and without anything
that is loaded from elsewhere.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from aicalib.calibrate.evaluate import Evaluation
from aicalib.engines.launch import launch
from aicalib.engines.request import request_of_deployment
from aicalib.errors import RequestError
from aicalib.nearness import LEVELED
from aicalib.prediction import Prediction
from aicalib.report.beside import FAR, Residuals, near_runs, residuals, sound
from aicalib.report.evidence import number
from aicalib.report.pictures import predicted
from aicalib.report.pictures import residuals as residual_picture
from aicalib.report.pictures.style import as_svg
from aicalib.report.prediction import SHOWN, at_once, heading
from aicalib.report.prediction import document as prediction_document
from aicalib.report.scores import METRIC_NAMES, percent

TEMPLATE = "page.html"

PICTURE_INCHES = 6.4
"""Width of the page's pictures: narrower than a file's, so that their words stay legible where a page is narrow."""

MOST_GROUPS = 12
"""Groups in the table of residuals: the deployment's own, then its kin with most runs."""


@dataclass(frozen=True)
class Asked:
    """What a page is about.

    Attributes
    ----------
    presets : list of str or None
        Names of what stands side by side, the deployment of the page first; None where no preset was asked for.
    options : list of mapping
        The options that ask for each.
    predictions : list of Prediction
        One row each, under one profile.
    held : Evaluation, optional
        The profile on the runs of a store.
    given : str, optional
        The engine's command that the deployment was read from.
    next_runs : mapping, optional
        What to measure next, as `aicalib next --json` prints it.
    """

    presets: Sequence[str | None]
    options: Sequence[Mapping[str, Any]]
    predictions: Sequence[Prediction]
    held: Evaluation | None = None
    given: str | None = None
    next_runs: Mapping[str, Any] | None = None

    @property
    def group(self) -> tuple[str, str, str]:
        """(engine, model family, GPU) of the page's deployment."""
        who = self.predictions[0].batch.deployment(0).identity
        return who.engine, who.architecture.family, who.accelerator.name


def kin(asked: Asked) -> list[Residuals]:
    """Return the residuals of the deployment's group, then of groups of its family or its GPU, most runs first."""
    if asked.held is None:
        return []
    own = asked.group
    groups = [each for each in set(asked.held.runs.groups) if each[1] == own[1] or each[2] == own[2]]
    found = residuals(asked.held, groups)
    return sorted(found, key=lambda each: each[:3] != own)


def document(asked: Asked) -> dict[str, Any]:
    """Return the data of a page.

    Returns
    -------
    dict
        `predictions`: as `predict --json` prints them, each with its `preset`; `launch`: what starts the first, or why
        nothing does; `measured`: stored runs near it with their own predictions, None without a store; `scoreboard` of
        the profile on left-out groups; `residuals` by group, None without a store; `next` where it was asked for.
    """
    found = asked.predictions[0]
    documents = [prediction_document(each, 0) for each in asked.predictions]
    lineage = found.profile.lineage
    data: dict[str, Any] = {
        "profile": found.profile.label,
        "predictions": [
            {"preset": name, **each} for name, each in zip(asked.presets, documents, strict=True)
        ],
        "launch": _launch(asked),
        "measured": None,
        "scoreboard": {
            "runs": lineage.get("runs"),
            "own_runs": lineage.get("own_runs"),
            "left_out": list(lineage.get("scoreboard", [])),
        },
        "residuals": None,
    }
    if asked.held is not None:
        runs = near_runs(found, 0, max(at_once(found, 0), 1.0), asked.held)
        data["measured"] = {"stored": len(asked.held.runs.records), "far": FAR, "runs": runs}
        own = asked.group
        data["residuals"] = [{"own": each[:3] == own, **each.as_dict()} for each in kin(asked)]
    if asked.next_runs is not None:
        data["next"] = dict(asked.next_runs)
    return data


def _launch(asked: Asked) -> dict[str, Any]:
    """Return what starts the deployment: as it was given, else the line for its engine, or why there is none."""
    deployment = asked.predictions[0].batch.deployment(0)
    if asked.given is not None:
        return {"line": asked.given, "given": True, "notes": [], "files": {}}
    try:
        found = launch(request_of_deployment(deployment))
    except RequestError as error:
        return {"line": None, "given": False, "reason": str(error), "alternatives": list(error.alternatives)}
    return {"line": found.line(), "given": False, "notes": list(found.notes), "files": dict(found.files)}


def pictures(asked: Asked, data: Mapping[str, Any]) -> dict[str, str]:
    """Return the page's pictures as SVG, by name; those alone for which there is something to draw."""
    documents, first = data["predictions"], data["predictions"][0]
    found = {"memory": predicted.memory(asked.presets, asked.predictions, documents, PICTURE_INCHES)}
    if first["status"] == "ok":
        if first["breakdown"]:
            found["roofline"] = predicted.roofline(asked.predictions[0], first)
        if first["workload"]["load"] == "closed":
            runs = None if asked.held is None else sound(asked.held.runs)
            size = (PICTURE_INCHES, 4.8)
            found["concurrency"] = predicted.concurrency(
                asked.presets, asked.options, asked.predictions, documents, runs, size
            )
    related = kin(asked)
    if related:
        title = "Measured over predicted, by group"
        found["residuals"] = residual_picture.draw(
            related, LEVELED, title, predicted.source(first), (PICTURE_INCHES, 4.4)
        )
    return {name: as_svg(figure, name) for name, figure in found.items()}


def page(asked: Asked, data: Mapping[str, Any] | None = None) -> str:
    """Return a page as HTML.

    Parameters
    ----------
    asked : Asked
    data : mapping, optional
        Its `document`, where that is known already.
    """
    from jinja2 import Environment, StrictUndefined

    known = document(asked) if data is None else data
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _number, "percent": percent, "linked": _linked, "shell": shlex.join}
    template = environment.from_string((files("aicalib.report") / TEMPLATE).read_text(encoding="utf-8"))
    first = known["predictions"][0]
    return template.render(
        **known,
        first=first,
        heading=heading(first),
        svg=pictures(asked, known),
        shown=SHOWN,
        names=METRIC_NAMES,
        most_groups=MOST_GROUPS,
    )


def _number(value: float | None) -> str:
    """Return a figure as the prediction's text has it, a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else number(value)


def _linked(text: str) -> list[tuple[str, bool]]:
    """Return the parts of a text, and of each whether it is an address that a reader may follow."""
    return [(part, part.startswith("https://")) for part in re.split(r"(https://[^\s,;)]+)", text) if part]
