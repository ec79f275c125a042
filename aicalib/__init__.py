"""aicalib: predict LLM serving from an analytical model, and calibrate it to real benchmark runs."""

from __future__ import annotations

__version__ = "0.1.0"
