"""The engines: their versions, their defaults and, for each, what it runs."""

from aicalib.engines.releases import is_newer, newest_version, release_month
from aicalib.physics.system import ENGINES

__all__ = ["ENGINES", "is_newer", "newest_version", "release_month"]
