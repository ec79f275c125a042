"""The engines' own check of `--quantization` against a checkpoint, run beside `aicalib.engines.overrides`.

The functions that decide are cut out of a release's source and run on their own, in a machine with an H100; what they
need of the rest of the engine is stood in for. Nothing of an engine is imported or kept.
"""

from __future__ import annotations

import ast
import builtins
import copy
import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from aicalib.engines.overrides import resolve_method
from aicalib.errors import NotCovered, RequestError
from aicalib.quant.checkpoint import checkpoint_of
from checks.engines.methods import REGISTRIES
from checks.engines.readers import world_of
from checks.engines.sources import Source

REFUSED = "refused"

CAPABILITY = (9, 0)

MARLIN_GROUPS = (-1, 32, 64, 128)
"""Group sizes that the Marlin kernels take."""

DECIDING = {
    "override_quantization_method", "_modelopt_override_quantization_method", "is_gptq_marlin_compatible",
    "is_awq_marlin_compatible", "is_moe_wna16_compatible", "is_petit_nvfp4_compatible", "_extract_modelopt_quant_algo",
    "_is_quark_mxfp4_ocp", "get_name", "get_min_capability",
}  # fmt: skip
"""Methods of quantization classes that take part."""

HELPING = {
    "check_marlin_format", "canonicalize_modelopt_quant_algo", "unwrap_modelopt_quantization_config",
    "_quant_config_to_dict", "normalize_and_validate_gptq_desc_act",
}  # fmt: skip
"""Functions beside them."""

TABLES = {"REQUANTIZATION_METHODS", "_MODELOPT_QUANT_ALGO_TO_METHOD"}
"""Tables beside them."""


BESIDE = {
    "sglang": ("sglang/srt/", "srt/configs/model_config.py", "layers/modelopt_utils.py"),
    "vllm": (
        "vllm/",
        "vllm/config/model.py",
        "model_arch_config_convertor.py",
        "deepseek_v41/quant_config.py",
    ),
}
"""Where the rest is found: a folder, and how its files end."""


class Anything:
    """Stands in for what does not decide: has every attribute and takes every call."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *_: Any, **__: Any) -> Any:
        """Return itself."""
        return self


class Off(Anything):
    """Stands in for the environment, in which nothing is switched on."""

    def __bool__(self) -> bool:
        return False


class Judged(NamedTuple):
    """What came of one release.

    Attributes
    ----------
    asked, refused : int
        Pairs of checkpoint and request, and those that the engine refuses.
    uncovered : int
        1 for a release that `overrides.toml` does not cover.
    mismatches : list of str
    """

    asked: int
    refused: int
    uncovered: int
    mismatches: list[str]


@cache
def checkpoints() -> Mapping[str, Mapping[str, Any]]:
    """Return the checkpoints that are asked about."""
    return tomllib.loads(Path(__file__).with_name("checkpoints.toml").read_text(encoding="utf-8"))


def judge(source: Source) -> Judged:
    """Compare what a release runs on each checkpoint, for each value of `--quantization`, with what we say."""
    try:
        resolve_method(source.engine, source.version, None, checkpoint_of({"torch_dtype": "bfloat16"}))
    except NotCovered:
        return Judged(0, 0, 1, [])
    engine = _Engine(source)
    asked = refused = 0
    mismatches = []
    for name, given in checkpoints().items():
        config = given.get("config")
        model = {"torch_dtype": "bfloat16", "model_type": given.get("model_type", "llama")}
        checkpoint = checkpoint_of({**model, **({"quantization_config": config} if config else {})})
        for requested in (None, *(sorted({*engine.names, "nothing"}) if config else ())):
            asked += 1
            try:
                ours = resolve_method(source.engine, source.version, requested, checkpoint)
            except RequestError:
                ours = REFUSED
            theirs = engine.run(given, requested)
            refused += theirs == REFUSED
            if theirs != ours:
                mismatches.append(f"{name}, --quantization {requested}: runs {theirs}, we say {ours}")
    return Judged(asked, refused, 0, mismatches)


class _Engine:
    """The deciding functions of one release."""

    def __init__(self, source: Source) -> None:
        self.engine = source.engine
        folder = REGISTRIES[source.engine].replace(".", "/") + "/"
        beside, *endings = BESIDE[source.engine]
        trees = [
            ast.parse(text)
            for path, text in source.texts.items()
            if path.startswith(folder) or (path.startswith(beside) and path.endswith(tuple(endings)))
        ]
        self.names_of_module = self._machine()
        self.classes: dict[str, ast.ClassDef] = {}
        self.made: dict[str, type] = {}
        for tree in trees:
            for node in tree.body:
                if isinstance(node, ast.ClassDef):
                    self.classes.setdefault(node.name, node)
                elif isinstance(node, ast.FunctionDef) and node.name in HELPING:
                    self.cut(node)
                elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                    if isinstance(target, ast.Name) and target.id in TABLES:
                        self.names_of_module[target.id] = ast.literal_eval(node.value)
        registered = self._registered(source)
        self.names = list(registered)
        self._register(source, registered)
        owner = self.classes["ModelConfig"]
        self.functions = {
            node.name: self.cut(node)
            for node in owner.body
            if isinstance(node, ast.FunctionDef)
            and node.name
            in ("_verify_quantization", "_parse_quant_hf_config", "_parse_modelopt_quant_config")
        }
        convertor = next(
            (n for each in self.classes.values() for n in each.body
             if isinstance(n, ast.FunctionDef) and n.name == "_normalize_quantization_config"), None,
        )  # fmt: skip
        self.normalize = self.cut(convertor) if convertor is not None else None

    def _machine(self) -> dict[str, Any]:
        """Return the names that the functions find in their modules."""
        platform = SimpleNamespace(
            is_cuda=lambda: True, is_cuda_alike=lambda: True, is_rocm=lambda: False, is_cpu=lambda: False,
            is_xpu=lambda: False, is_sm90=True, is_sm100=False, verify_quantization=lambda name: None,
            get_device_capability=lambda *_: SimpleNamespace(to_int=lambda: 10 * CAPABILITY[0] + CAPABILITY[1]),
        )  # fmt: skip
        names: dict[str, Any] = {"_is_cuda": True, "_is_hip": False, "current_platform": platform}
        names |= dict.fromkeys(
            ("is_hip", "is_npu", "is_sm100_supported", "is_qwen3_5_mtp_draft"), lambda *_, **__: False
        )
        names |= {
            "get_device_capability": lambda *_: CAPABILITY,
            "get_platform": lambda: platform,
            "check_marlin_supported": lambda quant_type=None, group_size=None, has_zp=False, **_: (
                group_size in MARLIN_GROUPS
            ),
            "cast": lambda _, value: value,
            "get_args": list,
            "envs": Off(),
            "REQUANTIZATION_METHODS": [],
            "DEEPGEMM_SCALE_UE8M0": False,
            "VLLM_AVAILABLE": True,
            "AWQConfig": SimpleNamespace(get_min_capability=lambda: 75),
            "AutoAWQConfig": SimpleNamespace(get_min_capability=lambda: 75),
            "os": SimpleNamespace(path=SimpleNamespace(exists=lambda _: False)),
            **dict.fromkeys(("logger", "scalar_types", "Any", "Optional", "Dict", "List"), Anything()),
        }

        def imported(name: str, *_: Any) -> Any:
            return _Module(names)

        return {**names, "__builtins__": {**vars(builtins), "__import__": imported}}

    def cut(self, node: ast.FunctionDef) -> Callable[..., Any]:
        """Return a function of the source, without decorators and annotations."""
        node = copy.deepcopy(node)
        node.decorator_list, node.returns = [], None
        for part in ast.walk(node):
            if isinstance(part, ast.arg):
                part.annotation = None
        exec(
            compile(ast.fix_missing_locations(ast.Module([node], [])), node.name, "exec"),
            self.names_of_module,
        )
        found: Callable[..., Any] = self.names_of_module[node.name]
        return found

    def build(self, name: str) -> type:
        """Return a quantization class with what of it decides."""
        if name not in self.made:
            node = self.classes.get(name)
            if node is None:
                return _Silent
            bases = tuple(
                self.build(base.id)
                for base in node.bases
                if isinstance(base, ast.Name) and base.id in self.classes
            )
            body: dict[str, Any] = {}
            for part in node.body:
                if isinstance(part, ast.FunctionDef) and part.name in DECIDING:
                    marks = {getattr(mark, "id", "") for mark in part.decorator_list}
                    kept = staticmethod if "staticmethod" in marks else classmethod
                    body[part.name] = kept(self.cut(part))
                elif isinstance(part, ast.Assign | ast.AnnAssign) and part.value is not None:
                    target = part.targets[0] if isinstance(part, ast.Assign) else part.target
                    if isinstance(target, ast.Name) and target.id == "TYPE_MAP":
                        body["TYPE_MAP"] = eval(ast.unparse(part.value), {"scalar_types": Anything()})
            self.made[name] = type(name, bases or (_Silent,), body)
        return self.made[name]

    def _registered(self, source: Source) -> dict[str, str]:
        """Return the methods of a release and the names of their classes, in the engine's order."""
        world, module = world_of(source), REGISTRIES[source.engine]
        found = {}
        for name in world.items(world.lookup(module, "QUANTIZATION_METHODS")):
            owner = world.apply(world.lookup(module, "get_quantization_config"), [name], {})
            found[name] = getattr(owner, "name", "") or str(getattr(owner, "path", "")).rpartition(".")[2]
        return found

    def _register(self, source: Source, registered: dict[str, str]) -> None:
        methods = {name: self.build(owner) for name, owner in registered.items()}
        self.names_of_module["QUANTIZATION_METHODS"] = methods
        world = world_of(source)
        retired = world.lookup(REGISTRIES[source.engine], "DEPRECATED_QUANTIZATION_METHODS")
        self.names_of_module["me_quant"] = SimpleNamespace(
            QUANTIZATION_METHODS=list(registered), QuantizationMethods=list(registered),
            get_quantization_config=methods.__getitem__,
            DEPRECATED_QUANTIZATION_METHODS=retired if isinstance(retired, list) else [],
        )  # fmt: skip

    def run(self, given: Mapping[str, Any], requested: str | None) -> str | None:
        """Return the method that the release runs, `REFUSED` where it stops."""
        config = copy.deepcopy(given.get("config"))
        hf_config = SimpleNamespace(
            model_type=given.get("model_type", "llama"), architectures=["X"],
            **({"quantization_config": config} if config else {}),
        )  # fmt: skip
        model = SimpleNamespace(
            quantization=requested, hf_config=hf_config, model_path="x", is_draft_model=False,
            is_draft_quantization_explicit=False, allow_deprecated_quantization=True,
            _find_quant_modelslim_config=lambda: None,
        )  # fmt: skip
        try:
            if self.engine == "vllm":
                assert self.normalize is not None
                model.model_arch_config = SimpleNamespace(quantization_config=self.normalize(None, hf_config))
            else:
                model._parse_quant_hf_config = lambda: self._parsed(model, given)
            self.functions["_verify_quantization"](model)
        except ValueError:
            return REFUSED
        found: str | None = model.quantization
        return found

    def _parsed(self, model: SimpleNamespace, given: Mapping[str, Any]) -> Any:
        config = given.get("config")
        if config is None:
            return None
        inside = self.functions.get("_parse_modelopt_quant_config")
        if inside is not None:
            model._parse_modelopt_quant_config = lambda found: inside(model, found)
        if not given.get("beside"):
            return self.functions["_parse_quant_hf_config"](model)
        return inside(model, copy.deepcopy(config)) if inside else {"quant_method": "modelopt"}


class _Module:
    """Stands in for a module that a function imports: the names that are known, anything else."""

    def __init__(self, names: dict[str, Any]) -> None:
        self._names = names

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._names.get(name, _Module(self._names) if name.islower() else Anything())


class _Silent:
    """A class that overrides nothing."""

    @classmethod
    def override_quantization_method(cls, *_: Any, **__: Any) -> None:
        """Override nothing."""
