"""Several predictions side by side: what each differs from the first, and what is too near to tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aicalib.prediction import Prediction
from aicalib.report.prediction import formats_text
from aicalib.ties import ties_with_first

METRICS = ("ttft_ms", "tpot_ms", "output_tok_s")

HEADER = ["preset", "", "value", "90 % interval", "against the first"]


def comparison(
    names: Sequence[str], found: Sequence[dict[str, Any]], prediction: Prediction
) -> list[list[str]]:
    """Return the rows of a table: for each prediction its formats, its metrics, its KV pool.

    A difference from the first is in percent, "tie" where it is less than the interval of the ratio.

    Parameters
    ----------
    names : sequence of str
    found : sequence of dict
        Documents of `aicalib.report.prediction`.
    prediction : Prediction
        Their rows, under one profile.
    """
    base = found[0]
    rows = []
    ties = {metric: ties_with_first(prediction, metric) for metric in METRICS}
    for at, (name, each) in enumerate(zip(names, found, strict=True)):
        rows.append([name, "formats", "", "", _formats(each)])
        if each["status"] != "ok":
            rows.append(["", "status", "", "", f"{each['status']}: {each.get('reason', '')}"])
            continue
        rows += [["", metric, *_cells(each, base, metric, bool(ties[metric][at]))] for metric in METRICS]
        tokens, other = (one["memory"]["max_total_tokens"] for one in (each, base))
        change = (
            f"{100.0 * (tokens / other - 1.0):+.0f} %" if each is not base and base["status"] == "ok" else ""
        )
        rows.append(["", "max tokens", str(tokens), "", change])
    return rows


def _formats(found: dict[str, Any]) -> str:
    text, run = formats_text(found["deployment"]), found["runnable"]
    if run["ok"]:
        return text
    return (
        f"{text}; needs {run['needs_checkpoint']}" if run["needs_checkpoint"] else f"{text}; {run['reason']}"
    )


def _cells(found: dict[str, Any], base: dict[str, Any], metric: str, tie: bool) -> list[str]:
    """Return value, interval and difference of one metric."""
    value = found["prediction"][metric]
    known = value["low"] == value["low"]  # an uncalibrated profile has no intervals
    interval = f"{value['low']:.4g} to {value['high']:.4g}" if known else "-"
    if found is base or base["status"] != "ok":
        return [f"{value['value']:.4g}", interval, ""]
    other = base["prediction"][metric]
    change = f"{100.0 * (value['value'] / other['value'] - 1.0):+.0f} %"
    return [f"{value['value']:.4g}", interval, f"{change}, tie" if known and tie else change]
