"""Speculative decoding: a step drafts some tokens, verifies them all in one pass, and yields those accepted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aicalib.physics.tables import StepTimes

Array = NDArray[np.float64]
Codes = NDArray[np.intp]

METHODS = ("mtp", "eagle")
"""Who drafts: the model's own multi-token-prediction layer, or a draft model."""


def acceptance_length(drafted: Array, acceptance: float) -> Array:
    """Return the mean tokens that a step yields.

    Parameters
    ----------
    drafted : ndarray
        Tokens drafted a step, one after the other.
    acceptance : float
        Probability that one of them is accepted if the one before it was, below 1.

    Notes
    -----
    1 + p + ... + p^k = (1 - p^(k+1)) / (1 - p): the step's own token, and drafted ones up to the first that is refused
    (Leviathan et al., Fast Inference from Transformers via Speculative Decoding, 2023).
    """
    result: Array = (1.0 - acceptance ** (drafted + 1.0)) / (1.0 - acceptance)
    return result


@dataclass(frozen=True)
class Speculation:
    """How n questions speculate; all arrays of shape (n,).

    Attributes
    ----------
    drafted : ndarray
        Tokens drafted a step, one after the other; 0 without speculation.
    accepted : ndarray
        Acceptance length: mean tokens that a step yields, 1 without speculation.
    layers : ndarray
        Layers of the model, each as dear as its MTP layer.
    has_draft_model : ndarray of bool
        A draft model drafts; else the model's own MTP layer does.
    draft : StepTimes or None
        Of the draft models; None where `has_draft_model` is false for all.
    request_s : ndarray
        Further time of the engine for each running request in a step that drafts.
    """

    drafted: Array
    accepted: Array
    layers: Array
    has_draft_model: NDArray[np.bool_]
    draft: StepTimes | None
    request_s: Array

    def take(self, rows: Codes) -> Speculation:
        """Return what some questions ask, in that order."""
        return Speculation(
            self.drafted[rows],
            self.accepted[rows],
            self.layers[rows],
            self.has_draft_model[rows],
            self.draft and self.draft.take(rows),
            self.request_s[rows],
        )

    def decode_s(self, times: StepTimes, batch: Array, context: Array, padded: Array) -> Array:
        """Return the time in seconds of a step that drafts and verifies, shape (n,).

        Parameters
        ----------
        times : StepTimes
            Of the model.
        batch, context, padded : ndarray, shape (n,)
            As for `StepTimes.decode_s`.

        Notes
        -----
        Verifying passes `drafted` + 1 tokens of each request through the model. An MTP layer drafts a token in
        one layer's share of a plain step and the output head; a draft model in its own step.
        """
        verify_s = times.decode_s(batch, context, padded, self.drafted + 1.0)
        head_s = times.head_s(padded)
        token_s = (times.decode_s(batch, context, padded) - head_s) / self.layers + head_s
        if self.draft is not None:
            token_s = np.where(self.has_draft_model, self.draft.decode_s(batch, context, padded), token_s)
        return verify_s + self.drafted * token_s + self.request_s * batch

    def prefill_s(
        self, pass_s: Array, tokens: Array, length: Array, ranks: Array, cached: Array | None
    ) -> Array:
        """Return the time that the drafter takes beside a prefill pass of `pass_s` seconds, shape (n,).

        The prompt passes through the drafter as well, whose cache it fills.
        """
        drafter_s = pass_s / self.layers
        if self.draft is not None:
            own_s = self.draft.prefill_s(tokens, length, ranks, cached)
            drafter_s = np.where(self.has_draft_model, own_s, drafter_s)
        return np.where(self.drafted > 0.0, drafter_s, 0.0)
