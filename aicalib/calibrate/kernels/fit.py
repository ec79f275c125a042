"""From kernel runs to the surfaces of one kind of kernel, and how well they do on what they did not see."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from aicalib.calibrate.kernels.surface_fit import fit_surface
from aicalib.calibrate.kernels.table import Calls, Table
from aicalib.hardware import Accelerator
from aicalib.physics.kernels.kind import Kind, Machine
from aicalib.physics.surface import interpolate
from aicalib.profiles.kernels import ANY, Label, donor

Array = NDArray[np.float64]

FOLDS = 4
"""Parts that the blocks of shapes are left out in."""

FIRST: NDArray[np.intp] = np.zeros((), dtype=np.intp)
"""Code of the only surface of a stack."""


@dataclass(frozen=True)
class Sample:
    """All calls of one accelerator and variant.

    Attributes
    ----------
    accelerator : Accelerator
    calls : Calls
        Of one variant.
    engine_versions : tuple of str
        Versions of the engine they were timed with.
    """

    accelerator: Accelerator
    calls: Calls
    engine_versions: tuple[str, ...]


@dataclass(frozen=True)
class Fit:
    """The surfaces of one kind.

    Attributes
    ----------
    labels : list of (accelerator, variant)
    surfaces : ndarray of float16, shape (labels, knots...)
    rows : list of int
        Timings behind each surface; those of `ANY` are the sum.
    engine_versions : list of tuple of str
    scores : list of mapping
        `accelerator`, `variant`, `left_out` (name of the blocks, or "accelerator"), `n`, `median_ape`; with
        `donor` where a whole accelerator was left out.
    """

    labels: list[Label]
    surfaces: NDArray[np.float16]
    rows: list[int]
    engine_versions: list[tuple[str, ...]]
    scores: list[dict[str, str | int | float]]


def take(calls: Calls, chosen: NDArray[np.bool_]) -> Calls:
    """Return some of the calls."""
    return replace(
        calls,
        variant=calls.variant[chosen],
        shape={name: size[chosen] for name, size in calls.shape.items()},
        bits=calls.bits[chosen],
        peak=calls.peak[chosen],
        latency_s=calls.latency_s[chosen],
        blocks={name: label[chosen] for name, label in calls.blocks.items()},
    )


def join(parts: list[Calls]) -> Calls:
    """Return the calls of several tables as one."""
    first = parts[0]
    if len(parts) == 1:
        return first
    return Calls(
        variant=np.concatenate([part.variant for part in parts]),
        shape={name: np.concatenate([part.shape[name] for part in parts]) for name in first.shape},
        bits=np.concatenate([part.bits for part in parts]),
        peak=np.concatenate([part.peak for part in parts]),
        latency_s=np.concatenate([part.latency_s for part in parts]),
        blocks={name: np.concatenate([part.blocks[name] for part in parts]) for name in first.blocks},
    )


def machine(accelerator: Accelerator, calls: Calls) -> Machine:
    """Return what the ideal times of calls read of an accelerator; without a link its host bus is the link."""
    link = accelerator.link_bytes_s or accelerator.pcie_bytes_s or np.nan
    rates, place = np.unique(calls.peak, return_inverse=True)
    return Machine(
        bandwidth_bytes_s=np.array(accelerator.bandwidth_bytes_s),
        peak_flops_s=np.array([accelerator.peak_flops[str(name)] for name in rates])[place],
        bits=calls.bits,
        link_bytes_s=np.array(link),
    )


def points_and_logs(kind: Kind, sample: Sample) -> tuple[tuple[Array, ...], Array]:
    """Return the coordinates of calls, each of shape (n,), and log(measured / ideal)."""
    calls = sample.calls
    ideal = kind.ideal_s(calls.shape, machine(sample.accelerator, calls))
    points = tuple(np.broadcast_to(at, calls.latency_s.shape) for at in kind.coordinates(calls.shape))
    return points, np.log(calls.latency_s / ideal)


def fitted_surface(table: Table, points: tuple[Array, ...], logs: Array) -> Array:
    """Fit a surface; at knots beyond the outermost points of an axis the value at the last one holds.

    The fit alone would go on in a straight line there, to any height.
    """
    surface = fit_surface(table.kind.axes, points, logs, table.bend)
    for axis, (knots, at) in enumerate(zip(table.kind.axes, points, strict=True)):
        first = np.clip(np.searchsorted(knots, at.min(), side="right") - 1, 0, knots.size - 1)
        last = np.clip(np.searchsorted(knots, at.max()), 0, knots.size - 1)
        surface = surface.take(np.clip(np.arange(knots.size), first, last), axis=axis)
    return surface


def fold_of(labels: NDArray[np.str_]) -> NDArray[np.intp]:
    """Return the part that each block belongs to: by a hash of its label, the same on every machine."""
    names, place = np.unique(labels, return_inverse=True)
    return np.array([crc32(str(name).encode()) % FOLDS for name in names], dtype=np.intp)[place]


def median_ape(logs: Array) -> float:
    """Return the median of |predicted / measured - 1| from log(measured / predicted)."""
    return float(np.median(np.abs(np.expm1(-logs))))


def left_out_blocks(table: Table, sample: Sample) -> list[dict[str, str | int | float]]:
    """Score a sample on blocks of shapes that its surface was not fitted to."""
    kind = table.kind
    points, logs = points_and_logs(kind, sample)
    scores: list[dict[str, str | int | float]] = []
    for name, labels in sample.calls.blocks.items():
        folds = fold_of(labels)
        residuals = np.full(logs.size, np.nan)
        for fold in np.unique(folds):
            seen = folds != fold
            if not seen.any():
                continue
            surface = fitted_surface(table, tuple(at[seen] for at in points), logs[seen])
            out = tuple(at[~seen] for at in points)
            residuals[~seen] = logs[~seen] - interpolate(surface[None], FIRST, kind.axes, out)
        residuals = residuals[np.isfinite(residuals)]
        if residuals.size:
            scores.append(
                {"left_out": name, "n": int(residuals.size), "median_ape": round(median_ape(residuals), 4)}
            )
    return scores


def fit_kind(table: Table, samples: Mapping[Label, Sample], tick: Callable[[], object] = lambda: None) -> Fit:
    """Fit one surface an accelerator and variant, and score them.

    Parameters
    ----------
    table : Table
    samples : mapping
        (accelerator, variant) -> its calls.
    tick : callable
        Called after each surface.
    """
    kind = table.kind
    fitted: dict[Label, Array] = {}
    scores: list[dict[str, str | int | float]] = []
    for label, sample in sorted(samples.items()):
        points, logs = points_and_logs(kind, sample)
        fitted[label] = fitted_surface(table, points, logs)
        who: dict[str, str | int | float] = {"accelerator": label[0], "variant": label[1]}
        scores += [who | score for score in left_out_blocks(table, sample)]
        tick()
    for label, sample in sorted(samples.items()):
        owners = [each.accelerator for (name, variant), each in samples.items() if variant == label[1]]
        lender = donor(sample.accelerator, [each for each in owners if each.name != label[0]])
        if lender is not None:
            points, logs = points_and_logs(kind, sample)
            lent = fitted[lender.name, label[1]][None]
            residuals: Array = logs - interpolate(lent, FIRST, kind.axes, points)
            scores.append(
                {
                    "accelerator": label[0],
                    "variant": label[1],
                    "left_out": "accelerator",
                    "donor": lender.name,
                    "n": int(residuals.size),
                    "median_ape": round(median_ape(residuals), 4),
                }
            )
    for variant in sorted({variant for _, variant in samples}):
        fitted[ANY, variant] = np.mean([fitted[label] for label in samples if label[1] == variant], axis=0)
    labels = sorted(fitted)
    return Fit(
        labels=labels,
        surfaces=np.stack([fitted[label] for label in labels]).astype(np.float16),
        rows=[_rows(samples, label) for label in labels],
        engine_versions=[_versions(samples, label) for label in labels],
        scores=scores,
    )


def _behind(samples: Mapping[Label, Sample], label: Label) -> Iterable[Sample]:
    """Return the samples that a surface comes from."""
    return [
        each for (name, variant), each in samples.items() if variant == label[1] and label[0] in (name, ANY)
    ]


def _rows(samples: Mapping[Label, Sample], label: Label) -> int:
    return sum(each.calls.latency_s.size for each in _behind(samples, label))


def _versions(samples: Mapping[Label, Sample], label: Label) -> tuple[str, ...]:
    return tuple(sorted({version for each in _behind(samples, label) for version in each.engine_versions}))
