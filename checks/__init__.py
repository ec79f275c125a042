"""Checks against the outside world that `make test` does not need."""
