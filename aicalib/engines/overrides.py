"""Which quantization method an engine runs, given what it is asked and what the checkpoint already is.

The rows of `overrides.toml` repeat what each engine's own check does: it knows the checkpoint by some name, may put
another name in place of the request (without a word in some versions), lets a few pairs through, and stops on all
others.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from aicalib.engines.releases import newest_version, version_key
from aicalib.errors import InvalidValue, NotCovered, UnknownName
from aicalib.physics.system import ENGINES
from aicalib.quant.checkpoint import Checkpoint

Row = Mapping[str, Any]


def resolve_method(
    engine: str, version: str, requested: str | None, checkpoint: Checkpoint, *, capability: str | None = None
) -> str | None:
    """Return the method that an engine runs a checkpoint with.

    Parameters
    ----------
    engine : str
        One of "sglang", "vllm", "trtllm".
    version : str
        Its version; one without a number counts as the newest.
    requested : str or None
        The value of `--quantization`; None leaves it out. TensorRT-LLM has no such flag.
    checkpoint : Checkpoint
        What the checkpoint is.
    capability : str, optional
        Compute capability, which decides between kernels of AWQ and GPTQ. Default: one that has them all.

    Returns
    -------
    str or None
        The engine's own name; None where weights are run as they are. For TensorRT-LLM the algorithm.

    Raises
    ------
    UnknownName
        The engine, or this version of it, knows no such method.
    InvalidValue
        The engine stops: the request contradicts the checkpoint, or needs a checkpoint of its own.
    NotCovered
        The version is older than those that were read.
    """
    if engine not in ENGINES:
        raise UnknownName("engine", engine, ENGINES)
    if engine == "trtllm":
        return _tensorrt(requested, checkpoint)
    at = version_key(version) or version_key(newest_version(engine))
    assert at is not None
    label = f"{engine} {version}"
    known = _registered(engine, at, label)
    wanted = requested.lower() if requested else None
    if checkpoint.method is None:
        return _online(engine, at, label, wanted, known)
    name = next(
        (row["becomes"] for row in _rows("called", engine, at) if _fits(row, checkpoint.method, checkpoint)),
        checkpoint.method,
    )
    found = _ruled(engine, at, label, wanted, name, checkpoint, capability)
    if found is None:
        found = name if wanted in (None, name) else None
    if found is None:
        raise _contradiction(engine, at, label, str(wanted), name, checkpoint, known, capability)
    if found not in known:
        raise UnknownName(f"quantization method of {label}", found, known)
    return found


def _ruled(
    engine: str,
    at: tuple[int, ...],
    label: str,
    wanted: str | None,
    name: str,
    checkpoint: Checkpoint,
    capability: str | None,
) -> str | None:
    """Apply the first row that fits; None where none does."""
    for row in _rows("rule", engine, at):
        if not {wanted or "", "*"} & set(row["requested"]):
            continue
        if not _fits(row, name, checkpoint) or not _capable(row, capability):
            continue
        if "error" in row:
            whole = "*" in row["requested"]
            asked = "" if whole else f"--quantization {wanted} on "
            raise InvalidValue(
                f"{label} refuses {asked}a checkpoint of {name}: {row['error']}", [] if whole else [name]
            )
        if row["becomes"] == "=":
            return wanted or name
        return name if row["becomes"] == "method" else str(row["becomes"])
    return None


def _online(
    engine: str, at: tuple[int, ...], label: str, wanted: str | None, known: tuple[str, ...]
) -> str | None:
    """Settle a request on a 16-bit checkpoint."""
    if wanted is None:
        return None
    if wanted not in known:
        raise UnknownName(f"quantization method of {label}", wanted, known)
    offline = {name for row in _rows("offline", engine, at) for name in row["names"]}
    if wanted in offline:
        online = sorted(set(known) - offline)
        raise InvalidValue(
            f"{label} cannot make {wanted} from a 16-bit checkpoint; it needs one quantized so, or one of"
            f" {', '.join(online)}",
            online,
        )
    return wanted


def _contradiction(
    engine: str,
    at: tuple[int, ...],
    label: str,
    wanted: str,
    name: str,
    checkpoint: Checkpoint,
    known: tuple[str, ...],
    capability: str | None,
) -> InvalidValue | UnknownName:
    if wanted not in known:
        return UnknownName(f"quantization method of {label}", wanted, known)
    allowed = [name] if name in known else []
    for candidate in known:
        try:
            taken = _ruled(engine, at, label, candidate, name, checkpoint, capability)
        except InvalidValue:
            continue
        if taken is not None and taken in known:
            allowed.append(candidate)
    hint = f"; leave --quantization out, or take {', '.join(allowed)}" if allowed else ""
    return InvalidValue(
        f"{label} stops: --quantization {wanted} does not match the checkpoint, which is {name}{hint}",
        allowed,
    )


def _tensorrt(requested: str | None, checkpoint: Checkpoint) -> str | None:
    """Return the algorithm that TensorRT-LLM reads from a checkpoint.

    Source: NVIDIA/TensorRT-LLM@1a0dc5f70054:tensorrt_llm/_torch/model_config.py (load_modelopt_quant_config,
    load_hf_quant_config).
    """
    if requested is not None:
        raise InvalidValue(
            f"trtllm has no flag for the quantization of weights, so '{requested}' cannot be asked for: the"
            " checkpoint decides",
            ["a ModelOpt checkpoint", "FP8 in blocks of 128 x 128", "MXFP4"],
        )
    if checkpoint.method is None:
        return None
    for row in _tables()["trtllm"]:
        if _fits(row, checkpoint.method, checkpoint):
            algorithm = checkpoint.settings.get("quant_algo")
            return (
                str(algorithm) if row["becomes"] == "quant_algo" and algorithm else _algorithm(row["becomes"])
            )
    raise InvalidValue(
        f"trtllm does not read a checkpoint of {checkpoint.method}",
        ["a ModelOpt checkpoint", "FP8 in blocks of 128 x 128", "MXFP4"],
    )


def _algorithm(name: str) -> str | None:
    """Return a fixed algorithm; a ModelOpt checkpoint without one quantizes the cache alone."""
    return None if name == "quant_algo" else name


def _registered(engine: str, at: tuple[int, ...], label: str) -> tuple[str, ...]:
    rows = [row for row in _tables()["registered"] if row["engine"] == engine]
    at_or_below = [row for row in rows if _key(row["since"]) <= at]
    if not at_or_below:
        raise NotCovered(f"{label} is older than the oldest version that was read", [rows[0]["since"]])
    return tuple(max(at_or_below, key=lambda row: _key(row["since"]))["names"])


def _rows(kind: str, engine: str, at: tuple[int, ...]) -> Iterator[Row]:
    for row in _tables()[kind]:
        if (
            row["engine"] == engine
            and _key(row["since"]) <= at
            and ("before" not in row or at < _key(row["before"]))
        ):
            yield row


def _fits(row: Row, method: str, checkpoint: Checkpoint) -> bool:
    if method not in row["method"] and "*" not in row["method"]:
        return False
    return all(
        any(_equal(checkpoint.settings.get(key, ""), option) for option in options)
        for key, options in row.get("where", {}).items()
    )


def _equal(value: object, option: object) -> bool:
    """Compare without taking True for 1."""
    return value == option and isinstance(value, bool) == isinstance(option, bool)


def _capable(row: Row, capability: str | None) -> bool:
    needed = row.get("capability")
    return needed is None or capability is None or _key(capability) >= _key(needed)


def _key(version: str) -> tuple[int, ...]:
    key = version_key(version)
    if key is None:
        raise InvalidValue(f"'{version}' is no version", ["0.5.23", "9.0"])
    return key


@cache
def _tables() -> dict[str, list[dict[str, Any]]]:
    return tomllib.loads(files("aicalib.engines").joinpath("overrides.toml").read_text(encoding="utf-8"))
