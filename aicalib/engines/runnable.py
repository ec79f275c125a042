"""Whether a deployment can be started as it is, or needs a checkpoint that was quantized beforehand.

It is answered by the rules that `launch` follows, so that the two never disagree.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from aicalib.deployment import Deployment
from aicalib.engines.launch import assemble
from aicalib.engines.request import request_of_deployment
from aicalib.errors import RequestError


class Runnable(NamedTuple):
    """Whether it runs at once; if not, why, and the checkpoint that would make it run."""

    ok: bool
    reason: str | None
    needs_checkpoint: str | None


@lru_cache(maxsize=1024)
def runnable(deployment: Deployment) -> Runnable:
    """Tell whether an engine starts a deployment from the model's published checkpoint."""
    try:
        assemble(request_of_deployment(deployment))
    except RequestError as error:
        return Runnable(False, str(error), getattr(error, "checkpoint", None))
    return Runnable(True, None, None)
