"""What the serving model reads of the engines behind a batch of questions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from aicalib.physics.system import ENGINES, Coefficients, Settings, System
from aicalib.physics.tables import PoolTimes, StepTables, StepTimes
from aicalib.serving.load import Load
from aicalib.serving.speculation import Speculation
from aicalib.serving.stages import Stages, stages_of

if TYPE_CHECKING:
    from aicalib.serving.disaggregated import Pools

Array = NDArray[np.float64]
Codes = NDArray[np.intp]
Yes = NDArray[np.bool_]


def captured_batch(batch: Array, graph_max_batch: Array) -> Array:
    """Return the rows that a decode step is padded to: the next captured size, the batch itself above all.

    SGLang captures 1, 2, 4, 8, 12, 16, then every eighth size to 256, every sixteenth to 512 and every
    thirty-second above, and always the largest; vLLM's list differs little.
    """
    spacing = np.select([batch <= 2, batch <= 16, batch <= 256, batch <= 512], [1.0, 4.0, 8.0, 16.0], 32.0)
    captured = np.minimum(np.ceil(batch / spacing) * spacing, graph_max_batch)
    return np.where(batch <= graph_max_batch, captured, batch)


HELD_BACK = 1.0
"""Share of the steps for which TensorRT-LLM holds prompts back (`batch_wait_timeout_iters`) that a prompt waits: they
are counted from the arrival of the first."""


@dataclass(frozen=True)
class Server:
    """The engines of n questions.

    Attributes
    ----------
    times : StepTimes
        How long a step takes.
    settings : Settings
        All filled in.
    dp : ndarray, shape (n,)
        Attention-data-parallel ranks.
    prefill_first : ndarray of bool, shape (n,)
        The engine prefills before it decodes, so that requests of equal lengths stay in one wave for ever.
    host_s, host_token_s, steps_ahead : float
        Time of the host per request and per input token in seconds; decode steps
        that are launched already when the scheduler looks.
    wave_token_s : ndarray, shape (n,)
        Time by which an input token of the first wave delays the prompts behind it.
    poll_wait : ndarray, shape (n,)
        Share of a poll interval that a request waits.
    on_trtllm : ndarray of bool, shape (n,)
        TensorRT-LLM: it takes prompts into a step as a whole, and admits a request only when there is a place for all
        of its answer.
    cold_s : ndarray, shape (n,)
        Added to the first wave of a server that was started for the run.
    mixed : ndarray of bool, shape (n,), or None
        A step takes chunks of prompts and running requests together; None where no engine does.
    stages : Stages or None
        Pipeline; None where no deployment has more than one stage.
    speculation : Speculation or None
        None where no question has any.
    pools : Pools or None
        Instances that prefill for the others; None where every instance does both.
    """

    times: StepTimes
    settings: Settings
    dp: Array
    prefill_first: Yes
    host_s: float
    host_token_s: float
    wave_token_s: Array
    poll_wait: Array
    steps_ahead: float
    cold_s: Array
    on_trtllm: Yes
    mixed: Yes | None = None
    stages: Stages | None = None
    speculation: Speculation | None = None
    pools: Pools | None = None

    def take(self, rows: Codes) -> Server:
        """Return the engines of some questions, in that order."""
        return Server(
            times=self.times.take(rows),
            settings=self.settings.take(rows),
            dp=self.dp[rows],
            prefill_first=self.prefill_first[rows],
            host_s=self.host_s,
            host_token_s=self.host_token_s,
            wave_token_s=self.wave_token_s[rows],
            poll_wait=self.poll_wait[rows],
            steps_ahead=self.steps_ahead,
            cold_s=self.cold_s[rows],
            on_trtllm=self.on_trtllm[rows],
            mixed=None if self.mixed is None else self.mixed[rows],
            stages=self.stages and self.stages.take(rows),
            speculation=self.speculation and self.speculation.take(rows),
            pools=self.pools and self.pools.take(rows),
        )

    @property
    def accepted(self) -> Array | float:
        """Mean tokens that a decode step yields for each request."""
        return 1.0 if self.speculation is None else self.speculation.accepted

    @property
    def rows(self) -> Array | float:
        """Tokens of each running request that pass through the model in a decode step."""
        return 1.0 if self.speculation is None else self.speculation.drafted + 1.0

    def capacity(self, tokens: Array, max_total_tokens: Array) -> Array:
        """Return the most requests that run at a time if each holds `tokens` tokens, at least one, shape (n,)."""
        return np.maximum(np.floor(np.minimum(self.settings.max_running, max_total_tokens / tokens)), 1.0)

    def host_per_request_s(self, load: Load) -> Array:
        """Return the time of the host for each request in seconds, shape (n,)."""
        return self.host_s + self.host_token_s * load.isl

    def handed_over_s(self, load: Load) -> Array:
        """Return how long the mean prompt of the first wave waits for others beside prefill, in seconds, shape (n,).

        All are sent at once, and the host reads them one by one. Where lengths are equal every wave is such a
        one, and runs show no more than prefill.
        """
        others = np.where(load.lockstep, 0.0, load.concurrency - 1.0)
        result: Array = self.wave_token_s * load.isl * others / 2.0
        return result

    def decode_s(self, running: Array, context: Array) -> Array:
        """Return the time in seconds of a decode step of `running` requests, `accepted` tokens each, shape (n,)."""
        batch = running if self.stages is None else self.stages.batch(running)
        padded = captured_batch(batch, self.settings.graph_max_batch)
        if self.speculation is None:
            step_s = self.times.decode_s(batch, context, padded)
        else:
            step_s = self.speculation.decode_s(self.times, batch, context, padded)
        return step_s if self.stages is None else self.stages.round_s(step_s, running, batch * self.rows)

    def chunk(self, running: Array) -> Array:
        """Return the most prompt tokens of a step, shape (n,): what running requests leave where steps are mixed."""
        whole = self.settings.chunk_tokens
        if self.mixed is None:
            return whole
        return np.where(self.mixed, np.maximum(whole - self._decoding(running), 0.1 * whole), whole)

    def packed(self, tokens: Array, new: Array) -> Array:
        """Return how many of a step's tokens are taken, shape (n,): as a whole prompts leave some.

        Parameters
        ----------
        tokens : ndarray, shape (n,)
            Most prompt tokens of a step.
        new : ndarray, shape (n,)
            Tokens to prefill of one prompt; one that is longer than a step is cut into chunks.
        """
        if not self.on_trtllm.any():
            return tokens
        whole = np.floor(tokens / new) * new
        return np.where(self.on_trtllm & (whole > 0.0), whole, tokens)

    def held(self, load: Load) -> Array:
        """Return the tokens that a request at any point of its answer holds of the pool, shape (n,)."""
        return np.where(self.on_trtllm, load.isl + load.osl, load.context)

    def _decoding(self, running: Array) -> Array:
        """Return the rows of running requests in a mixed step, shape (n,)."""
        return (running if self.stages is None else self.stages.batch(running)) * self.rows

    def prefill_s(self, tokens: Array, load: Load, ranks: Array, running: Array) -> Array:
        """Return the time in seconds from the start of a prefill step to its last token, shape (n,).

        Parameters
        ----------
        tokens : ndarray, shape (n,)
            Prompt tokens in the step, over all attention ranks.
        load : Load
        ranks : ndarray, shape (n,)
            Attention ranks that have a prompt to prefill.
        running : ndarray, shape (n,)
            Requests that decode in the same step, where steps are mixed.
        """
        new, cached = load.new, load.cached
        if self.mixed is None:
            time_s = self.times.prefill_s(tokens, new, ranks, cached)
        else:
            batch = self._decoding(running)
            time_s = self.times.mixed_s(tokens, new, ranks, cached, batch, load.context)
            if not self.mixed.all():
                time_s = np.where(self.mixed, time_s, self.times.prefill_s(tokens, new, ranks, cached))
        if self.speculation is not None:
            time_s = time_s + self.speculation.prefill_s(time_s, tokens, new, ranks, cached)
        return time_s if self.stages is None else time_s + self.stages.hand_over_s(tokens)

    def stage_s(self, time_s: Array) -> Array:
        """Return the time after which the next chunk can begin, of a prefill step of `time_s` seconds."""
        return time_s if self.stages is None else time_s * self.stages.longest


def server_of(
    tables: StepTables,
    system: System,
    c: Coefficients,
    at: Codes,
    settings: Settings,
    mixed_chunk: Yes | None = None,
    speculation: Speculation | None = None,
    pools: Pools | None = None,
    pool_times: PoolTimes | None = None,
) -> Server:
    """Return the engines of n questions.

    Parameters
    ----------
    tables, system, c
        Of d deployments.
    at : ndarray of int, shape (n,)
        Which deployment each question is about.
    settings : Settings
        Of the n questions.
    mixed_chunk : ndarray of bool, shape (n,), optional
        SGLang's switch that lets running requests decode in the steps of prefill chunks.
    speculation : Speculation, optional
    pools : Pools, optional
    pool_times : PoolTimes, optional
        What reading the whole pool adds to steps, where an engine does.
    """
    sglang, on_trtllm = system.engine[at] == ENGINES.index("sglang"), system.on_trtllm[at]
    mixed = ~sglang if mixed_chunk is None else ~sglang | mixed_chunk
    return Server(
        times=StepTimes(tables, at, settings.graph_max_batch, pool_times),
        settings=settings,
        dp=system.dp[at],
        prefill_first=~mixed,
        host_s=c.host_s,
        host_token_s=c.host_token_s,
        wave_token_s=c.wave_token_s[at],
        poll_wait=np.where(on_trtllm, HELD_BACK, c.poll_wait),
        steps_ahead=c.steps_ahead,
        cold_s=c.cold_s[at],
        on_trtllm=on_trtllm,
        mixed=mixed if mixed.any() else None,
        stages=stages_of(system, at),
        speculation=speculation,
        pools=pools,
    )
