"""What scores know before the search begins: the order of every group's channels, and nets cut by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx

from ..budgeting import meet
from ..calibrate.readers import Readings
from ..criteria.scores import Scores
from ..opened import Opened
from ..plan.align import Alignment
from ..plan.decide import Decided, Ordered, ordered
from ..plan.select import class_scores
from ..plan.targets import parse_targets
from ..repair.job import Repaired
from ..rewrite.rewrite import rewrite
from ..sensing import damages
from ..trace.labels import IntArray
from ..wishes import Wishes

FloatArray = npt.NDArray[np.float64]

ROUGH = (0.3, 0.8)
"""Shares of a group at which its damage is measured: what a prune measures, at half as many cuts and on few samples.
The search refines what comes of it."""

ROUGH_SAMPLES = 32

LIGHTEST = 0.1
"""The smallest budget of a seed, as a share of the original's cost."""


@dataclass(frozen=True)
class Knowledge:
    """start: the trace, with channels of grouped Convs paired by the first score, and its groups, less what is barred.
    scores: criterion -> float64 [classes]."""

    start: Ordered
    scores: Mapping[str, FloatArray]

    def order(self, criterion: str) -> Ordered:
        """In which order channels go by this criterion."""
        return replace(self.start, score=self.scores[criterion])


def knowledge(job: Opened, found: Mapping[str, Scores], barred: IntArray) -> Knowledge:
    """found: criterion -> scores of the layers; none where nothing is to be known. barred: units that stay."""
    values = {name: scores.by_source(job.trace) for name, scores in found.items()}
    if not values:
        start = ordered(job.trace, job.groups, {}, barred=barred)
        return Knowledge(start, {})
    start = ordered(job.trace, job.groups, next(iter(values.values())), barred=barred)
    trace = start.start.trace
    return Knowledge(start, {n: class_scores(trace.unit_class, trace.sources, v) for n, v in values.items()})


def seeds(
    job: Opened, known: Knowledge, seen: Readings, kind: str, count: int, align: Alignment, min_channels: int
) -> list[IntArray]:
    """What goes (classes) in about `count` nets: each criterion shares out budgets from mild to deep by what cuts of
    the groups do to the outputs, as `prune` does. kind: of the budgets, `macs` or `params`."""
    found: list[IntArray] = []
    few = job.samples.take(np.arange(min(ROUGH_SAMPLES, job.samples.count)))
    quiet = replace(job, settings=replace(job.settings, progress=lambda stage, done, total: None))
    rungs = max(1, count // max(1, len(known.scores)))
    shares = np.linspace(0.95, LIGHTEST, rungs + 1)[1:] if rungs > 1 else np.array([0.5])
    for k, criterion in enumerate(known.scores):
        job.settings.progress("seeds", k, len(known.scores))
        order = known.order(criterion)
        cuts = damages(order.start.trace, order.groups, order.score, seen, few, quiet.settings, cuts=ROUGH)
        for share in shares:
            targets = parse_targets(f"{kind}={100 * share:.3f}%")
            wishes = Wishes(targets, align=align, min_channels=min_channels, mended=True)
            found.append(meet(quiet, order, cuts, wishes, _unrepaired, job.samples).decided.classes)
    job.settings.progress("seeds", len(known.scores), len(known.scores))
    return found


def _unrepaired(decided: Decided) -> tuple[onnx.ModelProto, Repaired]:
    return rewrite(decided.trace, decided.trace.keep_units(decided.classes)).model, Repaired()


__all__ = ["Knowledge", "knowledge", "seeds"]
