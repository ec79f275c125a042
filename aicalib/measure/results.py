"""What a client wrote and an engine logged: checked against what was asked, and taken into the store."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from aicalib.calibrate.limits import refresh_flags
from aicalib.calibrate.spellings import alike
from aicalib.errors import AicalibError
from aicalib.measure.client import Load
from perfdb import StorageFull, Store, StoreError, read_records
from perfdb.readers.redact import redact_text

LENGTH_TOLERANCE: Final = 0.1
"""Share by which mean lengths may be off those asked: a tokenizer that merges reads random tokens back as others."""

FIGURES: Final = ("mean_ttft_ms", "mean_tpot_ms", "mean_e2e_ms", "requests_s", "output_tok_s")

_EXPERTS_ONLY: Final = ("int4", "mxfp4")
_WIDE: Final = ("bfloat16", "float16")

_SETTINGS: Final = ("mem_fraction", "chunked_prefill_size", "max_running_requests", "cuda_graph_max_bs")
"""Settings that vLLM logs when it starts and its client does not write."""

_OF_A_START: Final = (
    "model", "gpu", "n_gpus", "tp", "pp", "dp", "ep", "engine", "engine_version", "weight_quant", "kv_dtype",
)  # fmt: skip


_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ResultRefused(AicalibError):
    """What a client wrote is not what was asked for; nothing of it is stored.

    Parameters
    ----------
    reason : str
        One word: "wrote_nothing", "unreadable", "another_model", "another_deployment", "another_load" or
        "nothing_completed".
    message : str
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def deployment_keys(deployment: Mapping[str, Any], model: str | None, version: str | None) -> dict[str, Any]:
    """Return a deployment, as predictions name it, in the keys of a run.

    Parameters
    ----------
    deployment : mapping
        `aicalib.deployment.Deployment.as_dict`, or keys of a run.
    model : str or None
        What the engine loads: the name where the catalogue has none.
    version : str or None
        What the server says that it is.
    """
    said = dict(deployment)
    name = said.get("hf_id") or model or said.get("model")
    if name is not None and Path(name).exists():
        name = str(Path(name).resolve())
    gemm, moe = said.get("weight_quant") or said.get("gemm"), said.get("moe")
    keys = {name: said.get(name) for name in _OF_A_START} | {
        "model": name,
        "engine_version": version or said.get("engine_version"),
        "weight_quant": moe if moe in _EXPERTS_ONLY and gemm in _WIDE else gemm,
        "kv_dtype": said.get("kv_dtype") or said.get("kvcache"),
    }
    return {name: value for name, value in keys.items() if value is not None}


def write_sidecar(path: Path, keys: Mapping[str, Any]) -> None:
    """Write what a result file lacks beside it, so that it can be ingested again anywhere."""
    lines = [f"{name} = {json.dumps(value)}" for name, value in keys.items() if value is not None]
    path.with_name(f"{path.name}.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def checked(path: Path, load: Load, num_prompts: int, model: str | None) -> dict[str, Any]:
    """Read the one run of a client's file and hold it to what was asked.

    Parameters
    ----------
    path : Path
        With its sidecar beside it.
    load : Load
    num_prompts : int
    model : str or None
        What the server was told to load.

    Returns
    -------
    dict
        The run in the runs format.

    Raises
    ------
    ResultRefused
    """
    if not path.is_file() or not path.read_bytes().strip():
        raise ResultRefused("wrote_nothing", f"the client ended without an error and wrote nothing to {path}")
    found = _one_object(path)
    named = _model_in(found)
    if model is not None and named is not None and not same_model(named, model):
        raise ResultRefused("another_model", f"the results are of model {named}; asked was {model}")
    try:
        read = read_records(path, alike=alike)
    except StoreError as error:
        raise ResultRefused("unreadable", str(error)) from error
    lacking = [name for each in read.records for name in each["missing"]]
    if read.rejected or len(read.records) != 1 or lacking:
        reasons = "; ".join(each.reason for each in read.rejected)
        reasons = reasons or (
            f"it lacks {', '.join(lacking)}" if lacking else f"{len(read.records)} runs in one file"
        )
        if "no request was answered" in reasons:
            raise ResultRefused("nothing_completed", reasons)
        word = "another_deployment" if "the context says" in reasons else "unreadable"
        raise ResultRefused(word, reasons)
    run = read.records[0]
    _hold_to(run, load, num_prompts)
    return run


def _one_object(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ResultRefused("unreadable", f"{path} is not one whole JSON object: {error}") from error
    if not isinstance(found, Mapping):
        raise ResultRefused("unreadable", f"{path} holds a {type(found).__name__}, not one JSON object")
    return found


def _model_in(result: Mapping[str, Any]) -> str | None:
    """Return what a result line says that was loaded."""
    info = result.get("server_info")
    named = info.get("model_path") if isinstance(info, Mapping) else result.get("model_id")
    return str(named) if named else None


def same_model(one: str, other: str) -> bool:
    """Tell whether two texts name one model: a folder, or a name of the catalogue or the hub."""
    if one == other or Path(one).resolve() == Path(other).resolve():
        return True
    return not (Path(one).exists() or Path(other).exists()) and alike("model", one, other)


def _hold_to(run: Mapping[str, Any], load: Load, num_prompts: int) -> None:
    """Compare what was sent with what was asked.

    Raises
    ------
    ResultRefused
    """
    off = [
        f"{key} is {run[key]}, not {asked}"
        for key, asked in (
            ("concurrency", load.concurrency), ("request_rate", load.request_rate), ("num_prompts", num_prompts),
        )
        if run[key] != asked
    ]  # fmt: skip
    tolerance = LENGTH_TOLERANCE + load.spread
    for key, asked in (("mean_isl_actual", load.isl), ("mean_osl_actual", load.osl)):
        actual = run[key]
        if actual is not None and abs(actual - asked) > tolerance * asked + 1.0:
            off.append(f"{key} is {actual:g}, not {asked}")
    if off:
        raise ResultRefused("another_load", f"the results are of another load than {load}: {', '.join(off)}")


def keep(store: Path, path: Path, run_id: str, doubts: Mapping[str, str]) -> tuple[str, ...]:
    """Take a checked file into the store, whole or not at all, and return the flags of its run.

    Parameters
    ----------
    store, path : Path
    run_id : str
        Of the run that it holds.
    doubts : mapping
        Name of a flag -> its reason, set on the run.
    """
    with Store(store) as opened:
        opened.ingest(path, alike=alike)
        rows = [{"run_id": run_id, "flag": name, "reason": reason} for name, reason in doubts.items()]
        if rows:
            opened.flag(rows, origin="measure")
        return (*opened.judge([run_id])[run_id], *doubts)


def judge(store: Path) -> None:
    """Compute the quality flags of a store anew, those that compare runs among them."""
    with Store(store) as opened:
        refresh_flags(opened)


def logged(log: Path) -> dict[str, Any]:
    """Return what a log says of the last start in it; empty where no reader knows it."""
    try:
        records = read_records(log).records
    except StoreError:
        return {}
    starts = [each for each in records if "startup_id" in each]
    provenance = ("startup_id", "source", "src_ref", "licence", "attribution", "notes")
    return {name: value for name, value in starts[-1].items() if name not in provenance} if starts else {}


def settings_logged(log: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run that a log states."""
    return {name: log[name] for name in _SETTINGS if log.get(name) is not None}


def without_secrets(text: str) -> str:
    """Return a launch line or a log with its keys and tokens replaced."""
    return redact_text(text)


def keep_start(store: Path, path: Path, record: Mapping[str, Any]) -> str:
    """Write what became of a start as one line, without secrets, and take it into the store; return its id."""
    plain = {
        name: without_secrets(value) if isinstance(value, str) else value
        for name, value in record.items()
        if value is not None
    }
    path.write_text(json.dumps(plain, ensure_ascii=False) + "\n", encoding="utf-8")
    with Store(store) as opened:
        report = opened.ingest(path, alike=alike)
        if report.rejected:
            raise AicalibError(f"{path}: {report.rejected[0].reason}")
        (row,) = opened.query(f"SELECT startup_id FROM startup_sources WHERE source = '{path.name}'")
    return str(row["startup_id"])


@contextmanager
def disk_full_named(folder: Path) -> Iterator[None]:
    """Raise a full disk as what it is.

    Raises
    ------
    perfdb.StorageFull
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise StorageFull(
            f"no room left for results in {folder}; what was measured before is kept"
        ) from error
