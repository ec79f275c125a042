"""Pipeline stages: requests and chunks follow each other through groups of layers on different GPUs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aicalib.physics.kernels.comm import HAND_OVER_S
from aicalib.physics.links import HIDDEN_BYTES
from aicalib.physics.system import System

Array = NDArray[np.float64]
Codes = NDArray[np.intp]


class Stages(NamedTuple):
    """The pipeline of n questions, shape (n,) each.

    `number` are the stages, `longest` the share of the layers in the longest of them; `token_s` and `latency_s` what
    handing the hidden state of a token, and any number of them, from one stage to the next takes: the mean over the
    hops inside a node and those from node to node.
    """

    number: Array
    longest: Array
    token_s: Array
    latency_s: Array

    def take(self, rows: Codes) -> Stages:
        """Return the pipelines of some questions, in that order."""
        return Stages(*(values[rows] for values in self))

    def batch(self, running: Array) -> Array:
        """Return the requests of one of the parts that the running requests split into, shape (n,)."""
        return np.maximum(running / self.number, np.minimum(running, 1.0))

    def hand_over_s(self, rows: Array) -> Array:
        """Return the time that `rows` tokens take from stage to stage, over the whole pipeline."""
        return (self.number - 1.0) * (self.latency_s + rows * self.token_s)

    def round_s(self, pass_s: Array, running: Array, rows: Array) -> Array:
        """Return the time in seconds until every part had its step, shape (n,).

        Parameters
        ----------
        pass_s : ndarray
            A step of one part through all layers.
        running : ndarray
            Requests of all parts.
        rows : ndarray
            Tokens of one part.

        Notes
        -----
        A part's next step begins once it is through; where all stages are busy, the longest sets the pace.
        """
        busy = np.minimum(running, self.number)
        return pass_s * np.maximum(busy * self.longest, 1.0) + self.hand_over_s(rows)


def stages_of(system: System, at: Codes) -> Stages | None:
    """Return the pipelines of n questions, None where none has more than one stage.

    Parameters
    ----------
    system : System
        d deployments.
    at : ndarray of int, shape (n,)
        Which deployment each question is about.
    """
    if not (system.pp > 1.0).any():
        return None
    layers = system.arch.num_layers
    hidden_bytes = HIDDEN_BYTES * system.arch.hidden_size
    hops = np.maximum(system.pp - 1.0, 1.0)
    over = np.minimum(system.nodes - 1.0, hops) / hops
    inside, between = (hidden_bytes / rate for rate in (system.link_bytes_s, system.network_bytes_s))
    # Where no hop goes over the network its rate is not known, and the product with it not a number.
    token_s = np.where(over > 0.0, (1.0 - over) * inside + over * between, inside)
    return Stages(
        number=system.pp,
        longest=np.ceil(layers / system.pp) / layers,
        token_s=np.where(system.pp > 1.0, token_s, 0.0),
        latency_s=np.full(system.pp.shape, HAND_OVER_S),
    ).take(at)
