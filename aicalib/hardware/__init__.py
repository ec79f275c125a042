"""Accelerators: datasheet figures by name."""

from aicalib.hardware.catalogue import Accelerator, get_accelerator, list_accelerators

__all__ = ["Accelerator", "get_accelerator", "list_accelerators"]
