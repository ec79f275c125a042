"""What a family of kernels says about the timings it is fitted to: which tables, and how rows become shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from aicalib.physics.kernels.kind import Kind

if TYPE_CHECKING:
    import pandas as pd

ENGINE = "sglang"
"""Engine whose kernels the surfaces are of, but for those kinds that name others."""

Array = NDArray[np.float64]
Names = NDArray[np.str_]


@dataclass(frozen=True)
class Calls:
    """Timed calls of one kind of kernel; every array has shape (n,), one entry a timing.

    Attributes
    ----------
    variant : ndarray of str
        Which surface of the accelerator each call is on: a format class, a backend and a format, ...
    shape : mapping of str to ndarray
        The sizes of the kind.
    bits : ndarray
        True storage bits of an element of what the kernel reads from memory.
    peak : ndarray of str
        Number format of the math, a key of `Accelerator.peak_flops`.
    latency_s : ndarray
        Measured time in seconds, positive.
    blocks : mapping of str to ndarray of str
        Name of a way to leave shapes out -> the label of each call's block. Calls of one label are left out
        together: (n, k) pairs, head configurations, model shapes, ranges of tokens. Never a random number.
    """

    variant: Names
    shape: Mapping[str, Array]
    bits: Array
    peak: Names
    latency_s: Array
    blocks: Mapping[str, Names]


def octave(size: Array, span: int = 1) -> Names:
    """Return which `span` powers of two a size lies in, as a label: shapes of one label are left out together."""
    labels: Names = np.floor(np.log2(size) / span).astype(int).astype(str)
    return labels


@dataclass(frozen=True)
class Table:
    """One kind of kernel and the stored kernel runs that its surfaces are fitted to.

    Attributes
    ----------
    kind : Kind
        From `aicalib.physics.kernels`.
    tables : tuple of str
        Names of the tables read, as the files are called: "gemm_perf".
    calls : callable
        Kernel runs of one accelerator, one engine version and one table -> their calls. The frame has the
        table's own columns (latencies in the table's unit) and `table`, `accelerator`, `engine`, `engine_version`. Rows
        that do not belong to the kind are dropped by it; an empty result is fine.
    bend : float or tuple of float
        Weight of bends against residuals in `fit_surface`, of all axes or of each.
    target : float
        Median absolute percentage error that left-out shapes should meet, as a fraction.
    engines : tuple of str
        Whose timings are read.
    """

    kind: Kind
    tables: tuple[str, ...]
    calls: Callable[[pd.DataFrame], Calls]
    bend: float | tuple[float, ...] = 1.0
    target: float = 0.10
    engines: tuple[str, ...] = (ENGINE,)
