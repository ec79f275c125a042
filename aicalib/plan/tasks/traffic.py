"""Traffic scenarios of a benchmark, as genai-bench writes them: how many tokens its requests have.

Source: sgl-project/genai-bench:genai_bench/scenarios/text.py.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from aicalib.errors import InvalidValue

_PAIR: Final = r"\((\d{1,9}),\s*(\d{1,9})\)"


class Lengths(NamedTuple):
    """Tokens of a request.

    Attributes
    ----------
    isl, osl : float
        Mean input and output [tokens].
    fixed : bool
        All requests have the same.
    """

    isl: float
    osl: float
    fixed: bool


def read_scenario(scenario: Any) -> Lengths:
    """Read a scenario: one length, normal lengths by mean and deviation, or even ones, of input and of output.

    Parameters
    ----------
    scenario : object
        "D(in,out)", "N(mean,deviation)/(mean,deviation)", "U(least,most)/(least,most)" or "U(most,most)".

    Raises
    ------
    InvalidValue
        For any other one; data sets, shared prefixes, embeddings and rankings are such.

    Examples
    --------
    >>> read_scenario("U(50,150)/(200,300)")
    Lengths(isl=100.0, osl=250.0, fixed=False)
    """
    text = str(scenario).strip()
    if found := re.fullmatch(f"D{_PAIR}", text):
        lengths = Lengths(float(found[1]), float(found[2]), True)
    elif found := re.fullmatch(f"N{_PAIR}/{_PAIR}", text):
        lengths = Lengths(float(found[1]), float(found[3]), False)
    elif found := re.fullmatch(f"U{_PAIR}/{_PAIR}", text):
        least_in, most_in, least_out, most_out = (float(each) for each in found.groups())
        lengths = Lengths((least_in + most_in) / 2.0, (least_out + most_out) / 2.0, False)
    elif found := re.fullmatch(f"U{_PAIR}", text):
        lengths = Lengths((1.0 + float(found[1])) / 2.0, (1.0 + float(found[2])) / 2.0, False)
    else:
        raise InvalidValue(
            f"traffic_scenarios: {scenario!r} is no scenario whose lengths are known",
            ["D(1024,256)", "N(480,240)/(300,150)", "U(50,100)/(200,250)"],
        )
    if min(lengths.isl, lengths.osl) < 1.0:
        raise InvalidValue(f"traffic_scenarios: {text} has requests without tokens", ["D(1024,256)"])
    return lengths
