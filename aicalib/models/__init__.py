"""Model architectures: from a catalogue name, a Hugging Face id, or any `config.json`."""

from aicalib.models.architecture import Architecture
from aicalib.models.catalogue import ListedArchitecture, get_architecture, list_architectures, relatives
from aicalib.models.config import architecture_from_config, load_config
from aicalib.models.parameters import Parameters, kv_elements_per_token, parameters
from aicalib.models.stack import ArchitectureArrays, stack

__all__ = [
    "Architecture",
    "ArchitectureArrays",
    "ListedArchitecture",
    "Parameters",
    "architecture_from_config",
    "get_architecture",
    "kv_elements_per_token",
    "list_architectures",
    "load_config",
    "parameters",
    "relatives",
    "stack",
]
