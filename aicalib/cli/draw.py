"""What `predict --plot` draws: the choice of a picture, checked before any work is done, and its drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from aicalib.calibrate.runs import Runs
    from aicalib.prediction import Prediction


class Picture(StrEnum):
    """Pictures of predictions."""

    ROOFLINE = "roofline"
    MEMORY = "memory"
    CONCURRENCY = "concurrency"


def check_picture(file: Path, picture: Picture, presets: int, options: Mapping[str, Any]) -> None:
    """Refuse a picture that cannot be drawn.

    Raises
    ------
    InvalidValue
        For a file that can be no picture, several presets under one roofline, and a load that has no concurrency.
    """
    from aicalib.errors import InvalidValue
    from aicalib.report.pictures.style import picture_file

    picture_file(file)
    if picture is Picture.ROOFLINE and presets > 1:
        raise InvalidValue(
            "a roofline shows the operators of one preset; memory and concurrency take several",
            ["--picture memory", "--picture concurrency"],
        )
    if picture is Picture.CONCURRENCY and (
        options.get("request_rate") is not None or options.get("load") not in (None, "closed")
    ):
        raise InvalidValue(
            "a curve over concurrency is of a closed load, with a fixed number of requests in flight",
            ["--concurrency N without --request-rate and --load"],
        )


def draw_picture(
    picture: Picture,
    file: Path,
    presets: Sequence[str | None],
    options: Sequence[Mapping[str, Any]],
    predictions: Sequence[Prediction],
    documents: Sequence[dict[str, Any]],
    store: Path,
    wait_s: float,
) -> None:
    """Draw a picture of predictions under one profile, each with its preset, its options and its document."""
    from aicalib.report.pictures import predicted
    from aicalib.report.pictures.style import save

    if picture is Picture.MEMORY:
        save(predicted.memory(presets, predictions, documents), file)
    elif all(each["status"] != "ok" for each in documents):
        typer.echo(f"{file}: nothing to draw, the model does not fit", err=True)
    elif picture is Picture.CONCURRENCY:
        runs = stored(store, wait_s)
        save(predicted.concurrency(presets, options, predictions, documents, runs), file)
    else:
        save(predicted.roofline(predictions[0], documents[0]), file)


def stored(path: Path, wait_s: float) -> Runs | None:
    """Return the sound runs of a store, None where there is no store yet."""
    if not path.is_file():
        return None
    from aicalib.calibrate.records import stored_runs
    from aicalib.calibrate.runs import as_runs
    from aicalib.report.beside import sound
    from perfdb import Store

    with Store(path, read_only=True, wait_s=wait_s) as store:
        records = stored_runs(store)
    return sound(as_runs(records)) if records else None
