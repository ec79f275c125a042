"""Each engine's own rule for its KV pool, with the constants of that rule: plain arrays that broadcast."""


def release(minor: int, patch: int = 0) -> float:
    """Return the number of version 0.`minor`.`patch`, as `aicalib.engines.defaults.version_number` gives it."""
    return minor * 1e6 + patch * 1e3
