"""What each quantization method asks of the GPU and of activations, from the class that an engine registers."""

from __future__ import annotations

from typing import Any

from aicalib.engines.flags import Method
from checks.engines.evaluate import World
from checks.engines.readers import world_of
from checks.engines.sources import Source
from checks.engines.values import Class, Library, Made, Unknown

REGISTRIES = {
    "sglang": "sglang.srt.layers.quantization",
    "vllm": "vllm.model_executor.layers.quantization",
}
"""Module of each engine with `QUANTIZATION_METHODS` and `get_quantization_config`."""


def read_methods(source: Source) -> tuple[dict[str, Method], list[str]]:
    """Return the methods that a release registers on NVIDIA GPUs, and what could not be read."""
    world, module = world_of(source), REGISTRIES[source.engine]
    found: dict[str, Method] = {}
    problems: list[str] = []
    names = world.lookup(module, "QUANTIZATION_METHODS")
    for name in world.items(names):
        owner = world.apply(world.lookup(module, "get_quantization_config"), [name], {})
        if isinstance(owner, Library):
            continue
        if not isinstance(owner, Class):
            problems.append(f"{name}: its class could not be read: {owner}")
            continue
        instance = Made(owner, (), {"use_mxfp8": name == "mxfp8"})
        capability = _answer(world, owner, "get_min_capability", instance)
        dtypes = _answer(world, owner, "get_supported_act_dtypes", instance)
        stated = isinstance(dtypes, list) and all(isinstance(item, Library) for item in dtypes)
        lowest = capability if isinstance(capability, int) else None
        found[name] = Method(
            lowest, tuple(item.path.removeprefix("torch.") for item in dtypes) if stated else ()
        )
    return found, problems


def _answer(world: World, owner: Class, name: str, instance: Made) -> Any:
    """Return what a class or instance method without arguments gives."""
    function = world.member(owner, name)
    if isinstance(function, Unknown):
        return function
    return world.apply(function, [] if function.bound else [instance], {})
