"""Stands where vLLM would be installed."""
