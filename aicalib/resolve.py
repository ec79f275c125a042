"""From names and flags to fully filled deployments and workloads, for one row or for a million.

Rows are columns of options (the options of `aicalib predict` with underscores). Names are looked up once
for each distinct combination; numbers are checked and filled in as arrays. What cannot be resolved is
refused row by row with the error that says why; nothing is guessed unsaid: what was filled in stands in
`Identity.notes`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aicalib.deployment import Deployment, Identity, Workload
from aicalib.engines import defaults
from aicalib.engines.releases import ENGINES, newest_version, release_month
from aicalib.errors import InvalidValue, NotCovered, RequestError, UnknownName, fold
from aicalib.hardware import Accelerator, get_accelerator
from aicalib.models import Architecture, get_architecture
from aicalib.models.stack import ArchitectureArrays, stack
from aicalib.physics.memory import memory
from aicalib.physics.system import System
from aicalib.profiles.coefficients import FORMAT_CLASSES, KV_CLASSES
from aicalib.quant import (
    FMHAQuantMode,
    GEMMQuantMode,
    KVCacheQuantMode,
    MoEQuantMode,
    ParsedMode,
    QuantConfig,
    compute_path,
    parse_mode,
    storage_bits,
)
from aicalib.serving.load import LOADS, Load

Array = NDArray[np.float64]
Codes = NDArray[np.intp]

NAME_COLUMNS = ("model", "gpu", "gemm", "kv", "fmha", "moe", "engine", "engine_version")
"""Columns that are looked up as one name each."""

NUMBER_COLUMNS = (
    "tp", "dp", "ep", "pp", "isl", "osl", "concurrency", "num_prompts", "mem_fraction",
    "chunked_prefill_size", "max_running_requests", "cuda_graph_max_bs", "scheduler_recv_interval",
    "engine_month",
)  # fmt: skip
"""Columns of numbers; NaN or None where not given."""

DEFAULTS: Mapping[str, Any] = {
    "model": "llama-70b",
    "gpu": "h100-sxm",
    "engine": "sglang",
    "isl": 1024.0,
    "osl": 256.0,
    "concurrency": 32.0,
    "dp": 1.0,
    "ep": 1.0,
    "pp": 1.0,
    "load": "closed",
    "lockstep": False,
    "warmed_up": True,
}
"""What `predict` takes where an option is missing. tp is then the smallest that fits."""

PROMPTS_PER_SLOT = 10.0
"""Requests of a benchmark over its concurrency where not given, as InferenceX runs it."""

WIDTHS = (1, 2, 4, 8)
"""Tensor-parallel widths that are tried for the smallest that fits: up to one node."""


@dataclass(frozen=True)
class Batch:
    """The rows that were resolved, and why the others were not.

    Attributes
    ----------
    rows : ndarray of int, shape (n,)
        Positions of the resolved rows in the input.
    identities : list of Identity
        Distinct combinations of names.
    codes : ndarray of int, shape (n,)
        For each resolved row its place in `identities`.
    system, load
        What physics and serving read, n rows.
    refused : dict of int to RequestError
        For each other row the reason.
    """

    rows: Codes
    identities: list[Identity]
    codes: Codes
    system: System
    load: Load
    refused: dict[int, RequestError]

    def take(self, chosen: Codes) -> Batch:
        """Return some of the resolved rows, in that order."""
        return Batch(
            self.rows[chosen],
            self.identities,
            self.codes[chosen],
            self.system.take(chosen),
            self.load.take(chosen),
            self.refused,
        )

    def deployment(self, index: int) -> Deployment:
        """Return one resolved row as an object."""
        s = self.system
        return Deployment(
            identity=self.identities[self.codes[index]],
            tp=int(s.tp[index]),
            dp=int(s.dp[index]),
            ep=int(s.ep[index]),
            pp=int(s.pp[index]),
            memory_fraction=float(s.memory_fraction[index]),
            chunk_tokens=int(s.chunk_tokens[index]),
            max_running=int(s.max_running[index]),
            graph_max_batch=int(s.graph_max_batch[index]),
            poll_interval=int(s.poll_interval[index]),
        )

    def workload(self, index: int) -> Workload:
        """Return the workload of one resolved row as an object."""
        at = self.load
        return Workload(
            isl=float(at.isl[index]),
            osl=float(at.osl[index]),
            concurrency=int(at.concurrency[index]),
            load="static_batch" if at.static[index] else "closed",
            num_prompts=int(at.num_prompts[index]),
            lockstep=bool(at.lockstep[index]),
            warmed_up=bool(at.warmed_up[index]),
        )


def _wide_mode(enum: Any, accelerator: Accelerator) -> Any:
    return enum.bfloat16 if "bf16" in accelerator.peak_flops else enum.float16


def _gemm_and_moe(
    arch: Architecture, accelerator: Accelerator, gemm: str | None, moe: str | None, notes: list[str]
) -> tuple[ParsedMode, ParsedMode]:
    """Resolve the two weight formats; `auto` is what the published checkpoint is."""
    wanted = parse_mode("gemm", gemm or "auto")
    experts = parse_mode("moe", moe or "auto")
    native = parse_mode("gemm", arch.weight_format)
    if native is None or native.mode in (GEMMQuantMode.float16, GEMMQuantMode.bfloat16):
        native = ParsedMode(_wide_mode(GEMMQuantMode, accelerator), None)
    if wanted is None and experts is not None and native.mode not in (
        GEMMQuantMode.bfloat16, GEMMQuantMode.float16
    ):  # fmt: skip
        notes.append(f"gemm: {native.mode.name}, as the published checkpoint")
    if arch.moe_layers == 0:
        if experts is not None:
            raise InvalidValue(
                f"moe '{moe}' on {arch.name}: it is a dense model without experts; leave moe out", ["auto"]
            )
        chosen = wanted or native
        return chosen, ParsedMode(_wide_mode(MoEQuantMode, accelerator), None)
    if experts is None:
        if wanted is None:
            found = parse_mode("moe", arch.expert_weight_format)
        else:
            found = ParsedMode(MoEQuantMode[wanted.mode.name], wanted.variant) if (
                wanted.mode.name in MoEQuantMode.__members__
            ) else None  # fmt: skip
            if found is None:
                raise InvalidValue(
                    f"gemm '{gemm}' has no counterpart for experts; say what they are with moe",
                    list(MoEQuantMode.__members__),
                )
        experts = found or ParsedMode(_wide_mode(MoEQuantMode, accelerator), None)
        if experts.mode in (MoEQuantMode.float16, MoEQuantMode.bfloat16):
            experts = ParsedMode(_wide_mode(MoEQuantMode, accelerator), None)
    return wanted or native, experts


def _kv_and_fmha(
    arch: Architecture, accelerator: Accelerator, engine: str, kv: str | None, fmha: str | None,
    notes: list[str],
) -> tuple[KVCacheQuantMode, FMHAQuantMode]:  # fmt: skip
    """Resolve cache and attention: attention multiplies in FP8 where the cache is FP8 and the kernel can."""
    wanted = parse_mode("kvcache", kv or "auto")
    if wanted is not None:
        cache = wanted.mode
    elif arch.sparse_layers > 0 and accelerator.capability.startswith("10.") and engine == "sglang":
        cache = KVCacheQuantMode.fp8_e4m3
        notes.append("kv: fp8_e4m3, SGLang's own choice for sparse attention on this GPU")
    else:
        cache = _wide_mode(KVCacheQuantMode, accelerator)
    parsed = parse_mode("fmha", fmha or "auto")
    kernels = accelerator.capability in ("9.0", "10.0", "10.3")
    if parsed is not None:
        attention = parsed.mode
    elif cache in (KVCacheQuantMode.fp8, KVCacheQuantMode.fp8_e4m3) and kernels:
        attention = FMHAQuantMode.fp8
        notes.append("fmha: fp8, as the default kernels of this GPU do with an FP8 cache")
    else:
        attention = _wide_mode(FMHAQuantMode, accelerator)
    return cache, attention


@lru_cache(maxsize=4096)
def identify(
    model: str, gpu: str, gemm: str | None, kv: str | None, fmha: str | None, moe: str | None, engine: str,
    engine_version: str | None,
) -> Identity:  # fmt: skip
    """Look up one combination of names.

    Raises
    ------
    UnknownName, InvalidValue, NotCovered
        With the reason and what would work.
    """
    arch = get_architecture(model)
    accelerator = get_accelerator(gpu)
    engine = {fold(name): name for name in ENGINES}.get(fold(engine), engine)
    if engine not in ENGINES:
        raise UnknownName("engine", engine, ENGINES)
    if engine == "trtllm":
        raise NotCovered("engine 'trtllm' is not covered yet: its runs need speculation as a hidden state",
                         ["sglang", "vllm"])  # fmt: skip
    notes: list[str] = list(arch.notes)
    if engine_version is None:
        engine_version = newest_version(engine)
    month = release_month(engine, engine_version)
    if month is None:
        month = release_month(engine, newest_version(engine))
        assert month is not None
        notes.append(f"engine version '{engine_version}' has no number: taken as the newest")
    dense, experts = _gemm_and_moe(arch, accelerator, gemm, moe, notes)
    cache, attention = _kv_and_fmha(arch, accelerator, engine, kv, fmha, notes)
    quant = QuantConfig(
        gemm=dense.mode,
        kvcache=cache,
        fmha=attention,
        moe=experts.mode,
        gemm_variant=dense.variant,
        moe_variant=experts.variant,
    )
    for field, parsed in (("gemm", dense), ("moe", experts)):
        path = compute_path(parsed.mode, accelerator.vendor, accelerator.capability, parsed.variant)
        if path not in accelerator.peak_flops:
            raise InvalidValue(
                f"{field} '{parsed.mode.name}' multiplies in {path}, for which {accelerator.name} has no rate",
                sorted(accelerator.peak_flops),
            )
    return Identity(arch, accelerator, quant, engine, engine_version, month, tuple(notes))


def _format_class(mode: Any, variant: str | None, path: str) -> int:
    """Return the class of formats that share an efficiency, as an index into `FORMAT_CLASSES`."""
    if path in ("fp4", "int8"):
        name = path
    elif path == "fp8":
        name = "fp8_block" if mode.name in ("fp8_block", "mxfp8") else "fp8"
    else:
        bits = storage_bits(mode, variant)
        name = "wide" if bits >= 16 else "weight_only_8" if bits > 7 else "weight_only_4"
    return FORMAT_CLASSES.index(name)


def _link(accelerator: Accelerator, width: int) -> float:
    """Return the one-way rate in bytes/s between `width` GPUs: the link's, or PCIe where it joins fewer."""
    rate = accelerator.link_bytes_s
    if rate is None or width > accelerator.link_gpus:
        rate = accelerator.pcie_bytes_s
    return rate if rate is not None else np.nan


def _numbers_of(identity: Identity) -> dict[str, float]:
    """Return what physics reads of the names of one identity, as numbers."""
    quant, gpu = identity.quant, identity.accelerator
    paths = {
        "gemm": compute_path(quant.gemm, gpu.vendor, gpu.capability, quant.gemm_variant),
        "expert": compute_path(quant.moe, gpu.vendor, gpu.capability, quant.moe_variant),
        "attention": compute_path(quant.fmha, gpu.vendor, gpu.capability, None),
    }
    kv_bits = storage_bits(quant.kvcache)
    return {
        "gemm_bits": storage_bits(quant.gemm, quant.gemm_variant),
        "expert_bits": storage_bits(quant.moe, quant.moe_variant),
        "kv_bits": kv_bits,
        **{f"{field}_peak_flops_s": gpu.peak_flops[path] for field, path in paths.items()},
        "gemm_class": _format_class(quant.gemm, quant.gemm_variant, paths["gemm"]),
        "expert_class": _format_class(quant.moe, quant.moe_variant, paths["expert"]),
        "kv_class": KV_CLASSES.index("wide" if kv_bits >= 16 else "fp8"),
        "attention_class": KV_CLASSES.index("fp8" if paths["attention"] == "fp8" else "wide"),
        "bandwidth_bytes_s": gpu.bandwidth_bytes_s,
        "memory_bytes": gpu.memory_bytes,
        **{f"link_{width}_bytes_s": _link(gpu, width) for width in WIDTHS[1:]},
        "is_amd": gpu.vendor == "AMD",
        "engine": ENGINES.index(identity.engine),
        "engine_month": identity.engine_month,
        "version": defaults.version_number(identity.engine_version),
        "gpus_together": min(max(gpu.gpus_per_node, gpu.link_gpus), WIDTHS[-1]),
    }


def _missing(value: Any) -> bool:
    return value is None or value != value or value == ""


def _columns(options: Mapping[str, Sequence[Any]], n: int) -> dict[str, list[Any]]:
    known = {*NAME_COLUMNS, *NUMBER_COLUMNS, "load", "lockstep", "warmed_up"}
    for name in options:
        if name not in known:
            raise UnknownName("option", name, known)
    return {
        name: [DEFAULTS.get(name) if _missing(value) else value for value in options.get(name, [None] * n)]
        for name in known
    }


def _number_arrays(columns: dict[str, list[Any]], refused: dict[int, RequestError]) -> dict[str, Array]:
    arrays = {}
    for name in NUMBER_COLUMNS:
        values = np.full(len(columns[name]), np.nan)
        for row, value in enumerate(columns[name]):
            if value is None:
                continue
            try:
                values[row] = float(value)
            except (TypeError, ValueError):
                refused.setdefault(row, InvalidValue(f"{name} '{value}' is not a number"))
        arrays[name] = values
    return arrays


def options_of(deployment: Deployment, workload: Workload) -> dict[str, list[Any]]:
    """Return a deployment and a workload as columns of options with one row."""
    who = deployment.identity
    quant = who.quant.to_mapping()
    dense = who.architecture.moe_layers == 0
    options = {
        "model": who.architecture.name,
        "gpu": who.accelerator.name,
        "gemm": quant["gemm"],
        "kv": quant["kvcache"],
        "fmha": quant["fmha"],
        "moe": None if dense else quant["moe"],
        "engine": who.engine,
        "engine_version": who.engine_version,
        "engine_month": who.engine_month,
        "tp": deployment.tp,
        "dp": deployment.dp,
        "ep": deployment.ep,
        "pp": deployment.pp,
        "mem_fraction": deployment.memory_fraction,
        "chunked_prefill_size": deployment.chunk_tokens,
        "max_running_requests": deployment.max_running,
        "cuda_graph_max_bs": deployment.graph_max_batch,
        "scheduler_recv_interval": deployment.poll_interval,
        **workload.as_dict(),
    }
    return {name: [value] for name, value in options.items()}


def resolve(options: Mapping[str, Sequence[Any]], rows: int | None = None) -> Batch:
    """Resolve columns of options.

    Parameters
    ----------
    options : mapping of str to sequence
        Columns of one length; names from `NAME_COLUMNS`, `NUMBER_COLUMNS`, `load` ("closed" or
        "static_batch"), `lockstep`, `warmed_up`. None or NaN means not given.
    rows : int, optional
        Number of rows, where there may be no column at all.

    Returns
    -------
    Batch

    Raises
    ------
    UnknownName
        For a column that is no option. Whatever is wrong with a row is in `Batch.refused` instead.
    """
    n = rows if rows is not None else max((len(values) for values in options.values()), default=1)
    columns = _columns(options, n)
    refused: dict[int, RequestError] = {}
    numbers = _number_arrays(columns, refused)

    places: dict[Hashable, int] = {}
    identities: list[Identity] = []
    failures: dict[Hashable, RequestError] = {}
    codes = np.full(n, -1, dtype=np.intp)
    for row, key in enumerate(zip(*(columns[name] for name in NAME_COLUMNS), strict=True)):
        if key not in places and key not in failures:
            try:
                identities.append(identify(*key))
                places[key] = len(identities) - 1
            except RequestError as error:
                failures[key] = error
        if key in places:
            codes[row] = places[key]
        else:
            refused.setdefault(row, failures[key])
    for row, load in enumerate(columns["load"]):
        if load not in LOADS:
            refused.setdefault(
                row, NotCovered(f"load '{load}' is not covered yet; covered are {', '.join(LOADS)}", LOADS)
            )
    identity_numbers = _stack_numbers(identities)
    kept = np.array([row for row in range(n) if row not in refused], dtype=np.intp)
    given = {name: values[kept] for name, values in numbers.items()}
    sized = {name: values[codes[kept]] for name, values in identity_numbers.items()}
    arch = stack([each.architecture for each in identities]).take(codes[kept])
    filled = _fill(arch, sized, given)
    for place, error in _wrong_numbers(arch, sized, filled, [identities[code] for code in codes[kept]]):
        refused.setdefault(int(kept[place]), error)
    good = np.array([place for place, row in enumerate(kept) if int(row) not in refused], dtype=np.intp)
    rows = kept[good]
    flags = {
        name: np.array([bool(columns[name][row]) for row in rows]) for name in ("lockstep", "warmed_up")
    }
    static = np.array([columns["load"][row] == "static_batch" for row in rows], dtype=bool)
    final = {name: values[good] for name, values in filled.items()}
    system = _system(arch.take(good), {name: values[good] for name, values in sized.items()}, final)
    load = Load(
        isl=final["isl"],
        osl=final["osl"],
        concurrency=final["concurrency"],
        num_prompts=final["num_prompts"],
        lockstep=flags["lockstep"].astype(bool),
        warmed_up=flags["warmed_up"].astype(bool),
        static=static,
    )
    return Batch(rows, identities, codes[rows], system, load, refused)


def _stack_numbers(identities: Sequence[Identity]) -> dict[str, Array]:
    rows = [_numbers_of(each) for each in identities]
    names = rows[0] if rows else {}
    return {name: np.array([row[name] for row in rows], dtype=float) for name in names}


def _settings(sized: dict[str, Array], given: dict[str, Array], tp: Array) -> defaults.Settings:
    """Return the engine's settings: what was given, else what the engine takes by itself."""
    asked = defaults.Settings(
        memory_fraction=given["mem_fraction"],
        chunk_tokens=given["chunked_prefill_size"],
        max_running=given["max_running_requests"],
        graph_max_batch=given["cuda_graph_max_bs"],
        poll_interval=given["scheduler_recv_interval"],
    )
    where = (sized["version"], sized["memory_bytes"], tp, given["dp"], given["pp"])
    by_engine = defaults.sglang(asked, *where), defaults.vllm(asked, *where)
    vllm = sized["engine"] == ENGINES.index("vllm")
    return defaults.Settings(*(np.where(vllm, b, a) for a, b in zip(*by_engine, strict=True)))


def _system(arch: ArchitectureArrays, sized: dict[str, Array], numbers: dict[str, Array]) -> System:
    tp = numbers["tp"]
    settings = _settings(sized, numbers, tp)
    whole = {name: sized[name].astype(np.intp) for name in ("gemm_class", "expert_class", "kv_class",
                                                            "attention_class", "engine")}  # fmt: skip
    plain = ("gemm_bits", "expert_bits", "kv_bits", "gemm_peak_flops_s", "expert_peak_flops_s",
             "attention_peak_flops_s", "bandwidth_bytes_s", "memory_bytes")  # fmt: skip
    return System(
        arch=arch,
        **{name: sized[name] for name in plain},
        **whole,
        link_bytes_s=np.select(
            [tp <= 2, tp <= 4], [sized["link_2_bytes_s"], sized["link_4_bytes_s"]], sized["link_8_bytes_s"]
        ),
        is_amd=sized["is_amd"] > 0,
        tp=tp,
        dp=numbers["dp"],
        ep=numbers["ep"],
        pp=numbers["pp"],
        engine_month=np.where(
            np.isnan(numbers["engine_month"]), sized["engine_month"], numbers["engine_month"]
        ),
        memory_fraction=settings.memory_fraction,
        chunk_tokens=settings.chunk_tokens,
        max_running=settings.max_running,
        graph_max_batch=settings.graph_max_batch,
        poll_interval=settings.poll_interval,
    )


def fits(system: System, load_tokens: Array) -> NDArray[np.bool_]:
    """Return whether the pool holds at least `load_tokens` tokens, one request, shape (n,)."""
    return memory(system).max_total_tokens >= load_tokens * system.dp


def _fill(
    arch: ArchitectureArrays, sized: dict[str, Array], given: dict[str, Array]
) -> dict[str, Array]:
    """Fill in the workload's and the widths' defaults; tp is the smallest that fits, else the widest."""
    filled = dict(given)
    asked = filled["num_prompts"]
    filled["num_prompts"] = np.where(np.isnan(asked), PROMPTS_PER_SLOT * filled["concurrency"], asked)
    tp = filled["tp"]
    open_ = np.isnan(tp)
    if open_.any():
        filled["tp"] = np.where(open_, smallest_tp(arch, sized, filled), tp)
    return filled


def smallest_tp(arch: ArchitectureArrays, sized: dict[str, Array], numbers: dict[str, Array]) -> Array:
    """Return for each row the smallest width of `WIDTHS` that divides the heads and fits.

    Where none fits it is the widest that divides: the answer is then that the model does not fit.
    """
    best = np.ones_like(arch.heads)
    for width in reversed(WIDTHS):
        tp = np.full_like(best, width)
        possible = (np.mod(arch.heads, tp / numbers["dp"]) == 0) & (np.mod(tp, numbers["dp"]) == 0)
        possible &= (np.mod(tp, numbers["ep"]) == 0) & (tp <= sized["gpus_together"])
        trial = _system(arch, sized, {**numbers, "tp": tp})
        holds = fits(trial, numbers["isl"] + numbers["osl"])
        best = np.where(possible & (holds | (best < width)), width, best)
    return best


def _wrong_numbers(
    arch: ArchitectureArrays, sized: dict[str, Array], numbers: dict[str, Array], identities: list[Identity]
) -> Iterator[tuple[int, RequestError]]:
    """Yield the rows whose numbers cannot be, each with the reason."""
    for name in ("tp", "dp", "ep", "pp", "concurrency", "num_prompts", "isl", "osl"):
        value = numbers[name]
        whole = name not in ("isl", "osl")
        bad = ~(value >= (1.0 if whole else 0.5)) | ~np.isfinite(value)
        if whole:
            bad |= np.nan_to_num(value) % 1 != 0
        for place in np.flatnonzero(bad):
            kind = "a positive whole number" if whole else "a positive number of tokens"
            yield int(place), InvalidValue(f"{name} {value[place]:g} is not {kind}")
    tp, dp, ep, heads = numbers["tp"], numbers["dp"], numbers["ep"], arch.heads
    with np.errstate(invalid="ignore"):
        checks = (
            (numbers["pp"] > 1, lambda at: NotCovered(f"pp {numbers['pp'][at]:g}: pipeline parallelism is not "
                                                      "covered yet", ["pp 1"])),
            (tp > sized["gpus_together"], lambda at: NotCovered(
                f"tp {tp[at]:g} spans more than the {sized['gpus_per_node'][at]:g} {identities[at].accelerator.name} of a node; "
                "several nodes are not covered yet", [f"tp {sized['gpus_per_node'][at]:g}"])),
            (np.mod(tp, dp) != 0, lambda at: InvalidValue(f"dp {dp[at]:g} does not divide tp {tp[at]:g}")),
            (np.mod(tp, ep) != 0, lambda at: InvalidValue(f"ep {ep[at]:g} does not divide tp {tp[at]:g}")),
            (np.mod(heads, tp / dp) != 0, lambda at: InvalidValue(
                f"tp {tp[at]:g} (dp {dp[at]:g}) does not divide the {heads[at]:g} attention heads of "
                f"{identities[at].architecture.name}",
                [f"tp {width}" for width in WIDTHS if heads[at] % (width / dp[at]) == 0])),
            ((ep > 1) & (np.mod(arch.num_experts, ep) != 0) | (ep > 1) & (arch.num_experts == 0),
             lambda at: InvalidValue(f"ep {ep[at]:g} does not divide the {arch.num_experts[at]:g} experts of "
                                     f"{identities[at].architecture.name}", ["ep 1"])),
        )  # fmt: skip
        for mask, error in checks:
            for place in np.flatnonzero(mask):
                yield int(place), error(int(place))


def question(**options: Any) -> tuple[Deployment, Workload]:
    """Return one deployment and workload from options; what is not given takes the command's defaults.

    Raises
    ------
    RequestError
        With the reason and what would work.
    """
    batch = resolve({name: [value] for name, value in options.items()}, 1)
    for error in batch.refused.values():
        raise error
    return batch.deployment(0), batch.workload(0)


def smallest_fitting_tp(batch: Batch, index: int) -> int | None:
    """Return the smallest width of one node on which a resolved row fits, None where there is none."""
    for width in WIDTHS:
        options = options_of(batch.deployment(index), batch.workload(index)) | {"tp": [width], "mem_fraction": [None]}
        trial = resolve(options)
        if trial.rows.size and fits(trial.system, trial.load.isl + trial.load.osl).all():
            return width
    return None
