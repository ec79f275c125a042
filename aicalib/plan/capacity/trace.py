"""Traffic read from a CSV file: a log with one row for a request, or rows that each say what came in a stretch of time.

A log has the shape of Azure's public traces, `TIMESTAMP,ContextTokens,GeneratedTokens`. Nothing in a file is repaired
unasked: what cannot be read as it stands is refused with its line.
"""

from __future__ import annotations

import tomllib
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from aicalib.errors import InvalidValue, UnknownName, fold
from aicalib.plan.capacity.demand import HOUR_S, Demand

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

BIN_S: Final = 300.0
"""Width of the bins of a log of requests for which none is asked."""

FILLS: Final = ("refuse", "zero")
"""What is done with a stretch of time of which a file says nothing."""

_WIDER: Final = "a larger --bin-minutes"
_PERCENTILES: Final = (50, 90, 99)

_FIRST_LINE: Final = 2
"""Line of the file in which the first row of data stands."""

_LAST_S: Final = 1e10
"""Seconds since 1970 that no traffic of this century has: times beyond are in another unit."""

_MOST_BINS: Final = 100_000
"""Bins beyond which traffic is told too finely, or a file has a time that is far off."""

_UNEVEN: Final = 0.01
"""Share of a bin by which the time of a row may be off the grid."""


def read_traffic(
    path: str | Path,
    isl: float | None = None,
    osl: float | None = None,
    bin_s: float | None = None,
    fill_gaps: str = "refuse",
    columns: Mapping[str, str] | None = None,
) -> Demand:
    """Read a CSV file of traffic.

    Parameters
    ----------
    path : str or Path
        With a header. Columns are found by the names in `traffic_columns.toml`; others are not read.
    isl, osl : float, optional
        Mean tokens of a request, where the file has no such column.
    bin_s : float, optional
        Width of the bins of a log of requests [s]; 300 if not given. The width used divides the log's length. Rows
        of stretches have the width at which they follow each other, and need it only where there is one row.
    fill_gaps : {"refuse", "zero"}
        What a stretch of time without a row or request is: refused, or one without traffic.
    columns : mapping of str to str, optional
        "time", "isl", "osl", "rate" or "requests" to the column that holds it.

    Raises
    ------
    InvalidValue, UnknownName
        For a file that is not there, without rows, traffic, or a column that is needed; and with its line for a cell
        that is no number or time, a negative or missing number, times that mix zones, or, in rows of stretches,
        go back, come twice, or leave a gap.
    """
    if fill_gaps not in FILLS:
        raise UnknownName("fill_gaps", fill_gaps, FILLS)
    if bin_s is not None and not (np.isfinite(bin_s) and bin_s > 0.0):
        raise InvalidValue(f"bins of {bin_s:g} s: a width is above 0", [f"{BIN_S:g}"])
    table = _table(path)
    header = list(table.columns)
    found = _found_columns(path, header, columns or {})
    table = table[list(found.values())]
    filled = np.flatnonzero((table != "").any(axis=1))
    if not filled.size:
        raise InvalidValue(f"{path} has no traffic: there is no row below its header")
    table = table.iloc[: filled[-1] + 1]
    given = {"isl": isl, "osl": osl}
    held = {name: _numbers(path, table[found[name]], found[name]) for name in found if name != "time"}
    seconds, label = _times(path, table[found["time"]], found["time"])
    for name, value in given.items():
        if name in held and value is not None:
            raise InvalidValue(f"{path} has a column '{found[name]}': leave {name} {value:g} out")
        if name not in held:
            held[name] = np.full(seconds.size, _length(path, name, value, header))
    if "rate" in found and "requests" in found:
        raise InvalidValue(
            f"{path} has both '{found['rate']}' and '{found['requests']}'; which of them is the traffic?",
            [f"--column rate={found['rate']}", f"--column requests={found['requests']}"],
        )
    if "rate" in found or "requests" in found:
        return _stretches(path, seconds, label, held, bin_s, fill_gaps)
    return _requests(path, seconds, label, held, bin_s or BIN_S, fill_gaps)


def _table(path: str | Path) -> pd.DataFrame:
    """Read a CSV file as text; a line with more cells than the header, as decimal commas make, is refused."""
    import pandas as pd

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(
                path,
                dtype=str,
                skipinitialspace=True,
                keep_default_na=False,
                skip_blank_lines=False,
                index_col=False,
            )
    except FileNotFoundError:
        raise InvalidValue(f"there is no {path}") from None
    except (OSError, ValueError, pd.errors.ParserWarning) as error:  # pandas' parser errors are value errors
        raise InvalidValue(f"cannot read {path}: {str(error).strip()}") from error


@cache
def _known_columns() -> Mapping[str, Sequence[str]]:
    return tomllib.loads(
        files("aicalib.plan.capacity").joinpath("traffic_columns.toml").read_text(encoding="utf-8")
    )


def _found_columns(path: str | Path, header: list[str], named: Mapping[str, str]) -> dict[str, str]:
    """Return what each column that is read is called in the file."""
    for what, column in named.items():
        if what not in _known_columns():
            raise UnknownName("column", what, _known_columns())
        if column not in header:
            raise UnknownName(f"column of {path}", column, header)
    found = dict(named)
    for what, spellings in _known_columns().items():
        if what in ("rate", "requests") and {"rate", "requests"} & set(named):
            continue
        known = {fold(each) for each in spellings}
        there = [column for column in header if fold(column) in known]
        if what not in found and len(there) > 1:
            raise InvalidValue(
                f"{path} has {len(there)} columns for {what}: {', '.join(there)}",
                [f"--column {what}={each}" for each in there],
            )
        if what not in found and there:
            found[what] = there[0]
    if "time" not in found:
        raise InvalidValue(
            f"{path}: no column of its header ({', '.join(header)}) is known as a time, "
            f"as {', '.join(_known_columns()['time'][:4])} are",
            [f"--column time={header[0]}"],
        )
    return found


def _length(path: str | Path, name: str, value: float | None, header: list[str]) -> float:
    if value is None:
        known = ", ".join(_known_columns()[name][:4])
        raise InvalidValue(
            f"{path}: no column of its header ({', '.join(header)}) is known as {name}, as {known} are, "
            f"and --{name} is not given",
            [f"--{name} TOKENS", f"--column {name}=COLUMN"],
        )
    if not (np.isfinite(value) and value >= 1.0):
        raise InvalidValue(f"{name} {value:g}: a request has at least one token")
    return value


def _wrong(path: str | Path, row: int, what: str, works: Sequence[str] = ()) -> InvalidValue:
    return InvalidValue(f"{path} line {row + _FIRST_LINE}: {what}", works)


def _numbers(path: str | Path, cells: pd.Series[str], column: str) -> Array:
    """Return a column of numbers, NaN where a cell is empty."""
    import pandas as pd

    numbers = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64)
    empty = (cells.str.strip() == "").to_numpy()
    for row in np.flatnonzero(~np.isfinite(numbers) & ~empty)[:1]:
        raise _wrong(path, int(row), f"{column} '{cells.iloc[row]}' is not a number")
    for row in np.flatnonzero(numbers < 0.0)[:1]:
        raise _wrong(path, int(row), f"{column} {cells.iloc[row]} is below 0")
    return numbers


def _times(path: str | Path, cells: pd.Series[str], column: str) -> tuple[Array, np.datetime64 | None]:
    """Return seconds from the first time of a column, and that time where it is a date."""
    import pandas as pd

    cells = cells.str.strip()
    for row in np.flatnonzero((cells == "").to_numpy())[:1]:
        raise _wrong(path, int(row), f"{column} is empty")
    numbers = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64)
    if np.isfinite(numbers).all():
        for row in np.flatnonzero(np.abs(numbers) > _LAST_S)[:1]:
            raise _wrong(
                path, int(row), f"{column} {cells.iloc[row]} is no number of seconds", ["milliseconds / 1000"]
            )
        return numbers - numbers.min(), None
    for row in np.flatnonzero(np.isfinite(numbers[0]) & ~np.isfinite(numbers))[:1]:
        raise _wrong(
            path, int(row), f"{column} '{cells.iloc[row]}' is no number of seconds, as the rows before are"
        )
    zones = cells.str.extract(r":\d\d(?:[.,]\d+)?\s*(Z|UTC|[+-]\d\d:?\d\d)$", expand=False).fillna("no zone")
    for row in np.flatnonzero((zones != zones.iloc[0]).to_numpy())[:1]:
        raise _wrong(
            path,
            int(row),
            f"{column} '{cells.iloc[row]}' has {_zone(zones.iloc[row])}, the first row {_zone(zones.iloc[0])}: "
            "one file has one time zone",
            ["all times in UTC"],
        )
    local = (
        cells.str.replace(r"\s*(?:Z|UTC|[+-]\d\d:?\d\d)$", "", regex=True)
        if zones.iloc[0] != "no zone"
        else cells
    )
    times = pd.to_datetime(local, format="ISO8601", errors="coerce")
    for row in np.flatnonzero(times.isna().to_numpy())[:1]:
        raise _wrong(
            path,
            int(row),
            f"{column} '{cells.iloc[row]}' is neither a date with a time of day nor a number of seconds",
            ["2026-01-31 13:05:00", "2026-01-31T13:05:00Z", "47100"],
        )
    first = times.min()
    since: Array = np.asarray((times - first).dt.total_seconds(), dtype=np.float64)
    return since, first.to_datetime64()


def _zone(zone: str) -> str:
    return zone if zone == "no zone" else f"zone {zone}"


def _begins(seconds: NDArray[np.floating[Any]], first: np.datetime64 | None) -> NDArray[np.str_]:
    """Return when bins begin, to be read by people."""
    if first is None:
        return np.array([f"{each:.0f} s" for each in seconds])
    stamps = first + np.round(seconds * 1e3).astype("timedelta64[ms]")
    return np.char.replace(np.datetime_as_string(stamps, unit="s"), "T", " ")


def _complete(path: str | Path, held: Mapping[str, Array], rows: NDArray[np.bool_]) -> None:
    """Refuse a row with requests and without their tokens."""
    for name in ("isl", "osl"):
        for row in np.flatnonzero(rows & ~(held[name] >= 1.0))[:1]:
            value = held[name][row]
            said = "no number" if np.isnan(value) else f"{value:g} tokens"
            raise _wrong(path, int(row), f"{name} is {said}; a request has at least one token")


def _requests(
    path: str | Path,
    seconds: Array,
    first: np.datetime64 | None,
    held: Mapping[str, Array],
    bin_s: float,
    fill_gaps: str,
) -> Demand:
    """Bin a log with one row for a request: as many equal bins as come nearest to the width asked for."""
    _complete(path, held, np.ones(seconds.size, dtype=np.bool_))
    whole_s = float(seconds.max())
    if whole_s <= 0.0:
        raise InvalidValue(
            f"{path} has {seconds.size} requests, all at one time: that is no rate",
            ["--rate REQUESTS_PER_SECOND"],
        )
    bins = _few_enough(path, max(round(whole_s / bin_s), 1), bin_s)
    at = np.minimum((seconds / whole_s * bins).astype(np.intp), bins - 1)
    count = np.bincount(at, minlength=bins).astype(np.float64)
    width_s = whole_s / bins
    starts = np.arange(bins) * width_s
    begins = _begins(starts, first)
    for place in np.flatnonzero(count == 0.0)[:1] if fill_gaps == "refuse" else ():
        until = place + int((count[place:] > 0.0).argmax())
        raise _gap(path, begins[place], begins[until], (until - place) * width_s, _WIDER)
    with np.errstate(invalid="ignore"):
        isl, osl = (np.bincount(at, held[name], bins) / count for name in ("isl", "osl"))
    mix = {
        name: {f"p{each}": float(np.percentile(values, each)) for each in _PERCENTILES}
        | {"max": float(values.max())}
        for name, values in (("isl", held["isl"]), ("osl", held["osl"]), ("total", held["isl"] + held["osl"]))
    }
    return Demand(width_s, count / width_s, isl, osl, begins, mix, str(path))


def _step_s(steps: Array) -> float:
    """Return the most common step, of equally common ones the shortest."""
    values, counts = np.unique(steps, return_counts=True)
    return float(values[counts.argmax()])


def _few_enough(path: str | Path, bins: int, width_s: float) -> int:
    if bins > _MOST_BINS:
        raise InvalidValue(
            f"{path} spans {bins} bins of {width_s:g} s; {_MOST_BINS} are the most",
            [_WIDER],
        )
    return bins


def _gap(path: str | Path, begin: str, end: str, seconds: float, *also: str) -> InvalidValue:
    return InvalidValue(
        f"{path} says nothing of {begin} to {end} ({seconds:g} s): no traffic, or missing from the file?",
        ["--fill-gaps zero, if there was no traffic", *also, "a file without the gap"],
    )


def _stretches(
    path: str | Path,
    seconds: Array,
    first: np.datetime64 | None,
    held: Mapping[str, Array],
    bin_s: float | None,
    fill_gaps: str,
) -> Demand:
    """Return rows that each say what came in a stretch of time."""
    name = "rate" if "rate" in held else "requests"
    for row in np.flatnonzero(np.isnan(held[name]))[:1]:
        raise _wrong(path, int(row), f"{name} is empty")
    steps = np.diff(seconds)
    for row in np.flatnonzero(steps <= 0.0)[:1]:
        said = "is there twice" if steps[row] == 0.0 else "goes back in time"
        raise _wrong(
            path, int(row) + 1, f"its time {said}; rows of stretches follow each other", ["sorted by time"]
        )
    width_s = _step_s(steps) if steps.size else bin_s
    if width_s is None:
        if name == "requests":
            raise InvalidValue(f"{path} has one row: how long a stretch is it?", ["--bin-minutes 60"])
        width_s = HOUR_S
    elif bin_s is not None and abs(bin_s / width_s - 1.0) > _UNEVEN:
        raise InvalidValue(
            f"bins of {bin_s:g} s: the rows of {path} are {width_s:g} s apart", ["no --bin-minutes"]
        )
    place = seconds / width_s
    at = np.round(place).astype(np.intp)
    for row in np.flatnonzero(np.abs(place - at) > _UNEVEN)[:1]:
        raise _wrong(
            path,
            int(row),
            f"{seconds[row]:g} s after the first row is no multiple of the step {width_s:g} s",
        )
    for row in np.flatnonzero(np.diff(at) > 1)[:1] if fill_gaps == "refuse" else ():
        edges_s = np.array([seconds[row] + width_s, seconds[row + 1]])
        begin, end = _begins(edges_s, first).tolist()
        raise _gap(path, begin, end, float(edges_s[1] - edges_s[0]))
    bins = _few_enough(path, int(at[-1]) + 1, width_s)
    rate = np.zeros(bins)
    rate[at] = held[name] / (width_s if name == "requests" else 1.0)
    if not rate.any():
        raise InvalidValue(
            f"{path} has no traffic: its {seconds.size} rows have no request", ["a row above 0"]
        )
    _complete(path, held, held[name] > 0.0)
    lengths = {}
    for each in ("isl", "osl"):
        lengths[each] = np.full(bins, np.nan)
        lengths[each][at] = np.where(held[name] > 0.0, held[each], np.nan)
    return Demand(
        width_s, rate, **lengths, begins=_begins(np.arange(bins) * width_s, first), mix={}, source=str(path)
    )
