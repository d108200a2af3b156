"""A search that is ready to go: what was collected once, and how a mask becomes a candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..calibrate.readers import Readings
from ..errors import UsageError
from ..levels import axis_channels
from ..opened import Opened
from ..plan.costs import CostModel, cost_model
from ..plan.select import excluded
from ..scoring import scores_together
from ..sensing import readings
from ..trace.labels import BoolArray
from .asked import Asked
from .division import Parts, divided
from .evolve import Rules, Worth
from .fitness import Evaluator, Judge, Task, evaluator_of, judge_of
from .front import Bar
from .genome import Space, space_of
from .seeds import Knowledge, knowledge, seeds
from .workers import Work

WANTED = 0.25
"""A candidate must keep this share of what the original has over a net that does not look at its input: below lies one
of no use to anybody, and the lightest of all is an empty one. Not more, since the repair inside the fitness is a weak
one, and the whole repair that the three get brings back much of what is missing then."""


@dataclass(frozen=True)
class Run:
    """A search that is ready to go. job: with the paired trace and the samples of the search. known: what scores say.
    evaluator: of candidates on these samples."""

    job: Opened
    asked: Asked
    parts: Parts
    known: Knowledge
    seen: Readings | None
    space: Space
    rules: Rules
    costs: CostModel
    evaluator: Evaluator

    @property
    def about(self) -> dict[str, Any]:
        """What the outcome depends on, so that a run that is resumed is known to be the same."""
        settings = self.job.settings
        return {
            **self.asked.to_json(),
            "model": self.job.loaded.sha256,
            "seed": settings.seed,
            "bits": self.space.bits,
            "samples": self.job.samples.digest,
        }

    def shares(self, mask: BoolArray) -> tuple[float, float]:
        """Of the multiply–accumulates and of the parameters that are left."""
        gone = np.zeros(self.space.total, bool)
        whole = self.costs.macs_left(gone), self.costs.params_left(gone)
        gone[self.space.removed(mask)] = True
        left = self.costs.macs_left(gone), self.costs.params_left(gone)
        return left[0] / max(1.0, whole[0]), left[1] / max(1.0, whole[1])

    def task(self, mask: BoolArray, bar: Bar | None) -> Task:
        """The candidate as a worker gets it."""
        macs, params = self.shares(mask)
        cost = {"macs": macs, "params": params}.get(self.asked.objective)
        return Task(self.space.removed(mask), cost, bar)

    def worth(self, work: Work, masks: Sequence[BoolArray] | BoolArray, bar: Bar | None) -> Worth:
        """Of these masks, evaluated by the workers."""
        found = work([self.task(m, bar) for m in masks])
        return Worth(
            np.array([f.error for f in found], np.float64),
            np.array([f.cost for f in found], np.float64),
            np.array([f.stopped for f in found], bool),
        )

    def seeds(self, count: int) -> list[BoolArray]:
        """About so many masks, cut by the scores; none where there are no scores."""
        if not self.known.scores or self.seen is None:
            return []
        kind = "params" if self.asked.objective == "params" else "macs"
        cuts = seeds(self.job, self.known, self.seen, kind, count, self.asked.align, self.asked.min_channels)
        return [~np.isin(self.space.classes, c) for c in cuts]


def prepared(job: Opened, asked: Asked) -> Run:
    """The samples divided; one pass over those of the search for all scores, one for all covariances, one for the
    original's own error. Raises UsageError where everything is excluded."""
    settings = job.settings
    parts = divided(job.samples, settings.seed)
    job = replace(job, samples=parts.search)
    barred = excluded(job.trace, asked.exclude, asked.exclude_op)
    scores = scores_together(job, asked.seed_with) if asked.seed_with else {}
    known = knowledge(job, {n: s for n, s in scores.items() if not isinstance(s, UsageError)}, barred)
    refused = [f"seeds by {n}: {s}" for n, s in scores.items() if isinstance(s, UsageError)]
    trace, groups = known.start.start.trace, known.start.start.groups
    space = space_of(trace, known.start.groups, axis_channels(trace), asked.align, asked.min_channels)
    if not space.bits:
        raise UsageError("nothing is left to search: --exclude and --exclude-op match all that could go")
    job = replace(job, trace=trace, groups=groups)
    job = replace(job, samples=replace(job.samples, notes=(*job.samples.notes, *refused)))
    seen = readings(trace, parts.search, settings).settled() if known.scores or asked.repair != "none" else None
    judge = judge_of(trace, parts.search, settings.runtime, settings.memory)
    rules = Rules(
        population=asked.population,
        mutation=asked.mutation,
        led=asked.led,
        worst=_worst(judge) if asked.worst is None else asked.worst,
    )
    return Run(
        job=job,
        asked=asked,
        parts=parts,
        known=known,
        seen=seen,
        space=space,
        rules=rules,
        costs=cost_model(trace),
        evaluator=evaluator_of(
            trace,
            seen if asked.repair != "none" else None,
            asked.repair,
            judge,
            settings.runtime,
            asked.objective == "latency",
        ),
    )


def _worst(judge: Judge) -> float:
    """The error above which no candidate is wanted."""
    return judge.error + (1 - WANTED) * max(0.0, judge.useless - judge.error)
