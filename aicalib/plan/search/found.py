"""What a search answers: choices in their order, the front, what was refused and what lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from aicalib.engines.launch import Launch
from aicalib.plan.figures import Number
from aicalib.plan.search.accuracy import Accuracy
from aicalib.plan.search.space import STAGES, Sought, Start
from aicalib.prediction import Prediction


class Margin(NamedTuple):
    """Memory of one GPU of a choice.

    Attributes
    ----------
    weights_gib, kv_pool_gib : float
    margin_gib : float
        What the pool has left beside the requests that are in flight; negative where some of them wait.
    max_total_tokens, max_concurrency : int
        Of the instance: tokens of the pool, and whole requests that run at once.
    """

    weights_gib: float
    kv_pool_gib: float
    margin_gib: float
    max_total_tokens: int
    max_concurrency: int


@dataclass(frozen=True)
class Choice:
    """A deployment under its best concurrency.

    Attributes
    ----------
    start : Start
    deployment, workload : mapping
        As `predict --json` prints them.
    figures : mapping of str to Number
        ttft_ms, tpot_ms, e2e_ms, percentiles that bounds ask for ("tpot_ms p99"), total_tok_s_per_gpu and
        output_tok_s_per_gpu (of the GPUs that were given), tok_s_per_user.
    score : Number
        As `aicalib.plan.score` counts it: lower is better.
    ranked_by : float
        What ranks it among the others, lower is better: the score, with a missed level counted as nothing
        (`aicalib.plan.chance`), or its pessimistic end.
    keeps_level : float or None
        Probability that all hard bounds are kept; None without one, or under a profile without intervals.
    origin : str
    replicas, idle_gpus : int
        How often it stands on the GPUs that were given, and how many of these are left over.
    nodes : int
        Nodes, or link domains where these are larger, that one (decode) instance spans.
    cost_per_mtok : Number or None
        Price of a million output tokens; None without a price.
    memory : Margin
    launch : Launch
        With a placeholder in place of a checkpoint that it needs.
    needs : str or None
        The checkpoint without which it does not start.
    tie : bool
        The best of its group is better by less than the interval of their ratio (`aicalib.ties`).
    why : str
        What decides against other formats, from the predicted steps.
    accuracy : tuple of Accuracy
        What others published of the model in these formats; mostly nothing.
    unseen : str or None
        Which of its formats no fitted run had, in words.
    row : int
        Its place in `Found.predictions`.
    """

    start: Start
    deployment: Mapping[str, Any]
    workload: Mapping[str, Any]
    figures: Mapping[str, Number]
    score: Number
    ranked_by: float
    keeps_level: float | None
    origin: str
    replicas: int
    idle_gpus: int
    nodes: int
    cost_per_mtok: Number | None
    memory: Margin
    launch: Launch
    needs: str | None
    tie: bool
    why: str
    accuracy: tuple[Accuracy, ...]
    unseen: str | None
    row: int

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        names = {"ttft_ms", "tpot_ms", "e2e_ms", "output_tok_s_per_gpu"}
        prediction = {
            name: {**number._asdict(), "origin": self.origin} if name in names else number._asdict()
            for name, number in self.figures.items()
        }
        return {
            "deployment": dict(self.deployment),
            "workload": dict(self.workload),
            "prediction": prediction,
            "argv": list(self.launch.argv),
            "env": self.launch.env,
            "files": self.launch.files,
            "launch_notes": list(self.launch.notes),
            "needs_checkpoint": self.needs,
            "replicas": self.replicas,
            "idle_gpus": self.idle_gpus,
            "nodes": self.nodes,
            "cost_per_mtok": None if self.cost_per_mtok is None else self.cost_per_mtok._asdict(),
            "memory": self.memory._asdict(),
            "score": self.score._asdict(),
            "ranked_by": self.ranked_by,
            "keeps_level": self.keeps_level,
            "tie": self.tie,
            "why": self.why,
            "accuracy": [each.as_dict() for each in self.accuracy],
            "unseen": self.unseen,
        }


class Point(NamedTuple):
    """A point of the Pareto front: tokens a second and GPU against tokens a second and user.

    `meets` tells whether it keeps the service level; `needs` is the checkpoint that it needs.
    """

    options: Mapping[str, Any]
    concurrency: int
    output_tok_s_per_gpu: Number
    tok_s_per_user: Number
    ttft_ms: Number
    meets: bool
    needs: str | None
    origin: str
    words: str

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        found = self._asdict()
        return found | {"options": dict(self.options)} | {
            name: each._asdict() for name, each in found.items() if isinstance(each, Number)
        }  # fmt: skip


class Lost(NamedTuple):
    """Kinds of deployments (formats and widths) that lost for one reason: how many, and the nearest of them."""

    reason: str
    number: int
    nearest: str


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes
    ----------
    sought : Sought
    profile, objective : str
    robust : bool
        Ranked by the pessimistic end of intervals.
    evaluated : int
        Configurations that were predicted or found not to fit.
    stages : tuple of (int, int)
        Of each of `STAGES` the configurations that were tried, and that there are.
    at_once, with_checkpoint : tuple of Choice
        Best first: those that start from the published checkpoint, and those that need one of their own.
    calibrated : Choice or None
        The best of the group of `best` whose like was fitted, where that is another one.
    pareto, pareto_with_checkpoint : tuple of Point
        The front of each group, by falling throughput.
    refused : mapping of str to int
        Why an engine, the model or the load has no such configuration -> how many.
    same : mapping of str to str
        Formats that physics does not tell apart from the one that stands for them.
    lost : tuple of Lost
    notes : tuple of str
    predictions : Prediction
        Of the choices, in order.
    """

    sought: Sought
    profile: str
    objective: str
    robust: bool
    evaluated: int
    stages: tuple[tuple[int, int], ...]
    at_once: tuple[Choice, ...]
    with_checkpoint: tuple[Choice, ...]
    calibrated: Choice | None
    pareto: tuple[Point, ...]
    pareto_with_checkpoint: tuple[Point, ...]
    refused: Mapping[str, int]
    same: Mapping[str, str]
    lost: tuple[Lost, ...]
    notes: tuple[str, ...]
    predictions: Prediction

    @property
    def best(self) -> Choice:
        """The best that starts at once, else the best that needs a checkpoint."""
        return (self.at_once or self.with_checkpoint)[0]

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "model": self.sought.model,
            "gpus": self.sought.count,
            "profile": self.profile,
            "objective": self.objective,
            "robust": self.robust,
            "evaluated": self.evaluated,
            "stages": [
                {"varies": name, "evaluated": tried, "configurations": all_}
                for name, (tried, all_) in zip(STAGES, self.stages, strict=True)
            ],
            "best": [each.as_dict() for each in self.at_once],
            "best_with_checkpoint": [each.as_dict() for each in self.with_checkpoint],
            "best_calibrated": self.calibrated and self.calibrated.as_dict(),
            "pareto": [each.as_dict() for each in self.pareto],
            "pareto_with_checkpoint": [each.as_dict() for each in self.pareto_with_checkpoint],
            "refused": dict(self.refused),
            "same": dict(self.same),
            "lost": [each._asdict() for each in self.lost],
            "notes": list(self.notes),
        }
