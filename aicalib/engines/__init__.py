"""The engines: their versions, their defaults and, for each, what it runs."""

from aicalib.engines.releases import ENGINES, newest_version, release_month

__all__ = ["ENGINES", "newest_version", "release_month"]
