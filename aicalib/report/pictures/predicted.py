"""Pictures of predictions as a command or a page asks for them: what is drawn, and the words around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aicalib.calibrate.runs import Runs
from aicalib.prediction import Prediction
from aicalib.report.beside import points
from aicalib.report.pictures import concurrency as curves
from aicalib.report.pictures import memory as bars
from aicalib.report.pictures import roofline as roofs
from aicalib.report.prediction import formats_text, heading

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Document = Mapping[str, Any]

SAME_CURVE = (
    "points: runs of this deployment, lengths of the same half octave, under any version of the engine"
)


def names(presets: Sequence[str | None], documents: Sequence[Document]) -> list[str]:
    """Return what tells predictions apart: the preset, else the formats, and the widths."""
    found = []
    for preset, each in zip(presets, documents, strict=True):
        at = each["deployment"]
        found.append(f"{preset + ': ' if preset else ''}{formats_text(at)}, tp {at['tp']}")
    return found


def source(document: Document) -> str:
    """Return the line below a picture: what computed its figures."""
    at = document["deployment"]
    kinds = {each["origin"] for each in document["prediction"].values()}
    return (
        f"aicalib, profile {document['profile']} ({', '.join(sorted(kinds))}); "
        f"{at['engine']} {at['engine_version']}"
    )


def memory(
    presets: Sequence[str | None],
    predictions: Sequence[Prediction],
    documents: Sequence[Document],
    width: float = 8.0,
) -> Figure:
    """Draw the memory of predictions of one model on one GPU; of each the first row."""
    at, load = documents[0]["deployment"], documents[0]["workload"]
    labels = [
        f"{preset}\ntp {each['deployment']['tp']}" if preset else f"tp {each['deployment']['tp']}"
        for preset, each in zip(presets, documents, strict=True)
    ]
    found = [bars.bar(label, each) for label, each in zip(labels, predictions, strict=True)]
    lines = names(presets, documents)
    lines.append(f"requests of {load['isl']:g} tokens in, {load['osl']:g} out")
    return bars.draw(
        found, f"{at['model']} on {at['gpu']}: memory of one GPU", lines, source(documents[0]), width
    )


def concurrency(
    presets: Sequence[str | None],
    options: Sequence[Mapping[str, Any]],
    predictions: Sequence[Prediction],
    documents: Sequence[Document],
    runs: Runs | None = None,
    size: tuple[float, float] = (8.0, 5.2),
) -> Figure:
    """Draw TPOT over concurrency of predictions under closed loads, with the measured runs of each.

    Parameters
    ----------
    presets, options, predictions, documents : sequence
        One element a deployment: its preset, the options that ask for it, its prediction and the document of that.
    runs : Runs, optional
        Sound runs of a store (`aicalib.report.beside.sound`); those that the profile was fitted on are known without.
    size : (float, float)
        Inches.
    """
    at, load = documents[0]["deployment"], documents[0]["workload"]
    profile = predictions[0].profile
    known = zip(names(presets, documents), options, predictions, documents, strict=True)
    found = [
        curves.curve(label, asked, profile, points(each.batch, profile, runs))
        for label, asked, each, document in known
        if document["status"] == "ok"
    ]
    lines = [f"{load['isl']:g} tokens in, {load['osl']:g} out"]
    lines += [
        f"not drawn: {name} ({document['status']})"
        for name, document in zip(names(presets, documents), documents, strict=True)
        if document["status"] != "ok"
    ]
    lines += [SAME_CURVE] if any(each.points for each in found) else ["no run of this deployment is known"]
    return curves.draw(
        found,
        f"{at['model']} on {at['gpu']}, {at['engine']}: TPOT over concurrency",
        lines,
        source(documents[0]),
        size,
    )


def roofline(prediction: Prediction, document: Document) -> Figure:
    """Draw the operators of a decode and a prefill step under the ceilings of their GPU."""
    accelerator = prediction.batch.deployment(0).identity.accelerator
    title = "\n".join(heading(dict(document)))
    return roofs.draw(document["breakdown"], accelerator, title, source(document)).figure
