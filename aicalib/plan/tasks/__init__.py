"""Autotuner tasks: read, screened by prediction, made smaller, and started."""
