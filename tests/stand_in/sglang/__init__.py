"""Stands where SGLang would be installed."""
