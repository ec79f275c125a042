"""Accelerators: datasheet figures by name, or from a user's file."""

from aicalib.hardware.accelerator import Accelerator
from aicalib.hardware.catalogue import get_accelerator, list_accelerators
from aicalib.hardware.file import as_file, as_toml

__all__ = ["Accelerator", "as_file", "as_toml", "get_accelerator", "list_accelerators"]
