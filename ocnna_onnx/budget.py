"""Down to a budget of MACs, in levels: cut a part of the way, repair, and look again (METHODS.md §5). Scores and
sensitivities of the whole net say ever less of it the more is gone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from .calibrate.stream import batch_size, workers
from .criteria.obs import channel_costs
from .criteria.request import Subject
from .data.samples import Samples, probe_shapes, probe_values
from .opened import Opened
from .plan.allocate import allocate
from .plan.costs import cost_model
from .plan.decide import NOTHING, Decided, decide
from .plan.select import Cut, class_scores, spare_emptied
from .repair.repair import repair, with_values
from .report.fidelity import squared_error
from .rewrite.rewrite import rewrite
from .scoring import prunable
from .sensing import Readings, curves, readings
from .settings import Settings
from .trace.coupling import pair
from .trace.groups import find_groups
from .trace.labels import BoolArray, IntArray
from .trace.tracer import trace as trace_model
from .trace.types import Trace

FloatArray = npt.NDArray[np.float64]

Score = Callable[[Trace, Readings, Samples, Settings], Mapping[int, FloatArray]]
"""(trace, what its readers see, samples, settings) -> number of a source -> scores of its channels; lowest go first."""

LEVEL = 0.5
"""Share of the MACs that one level leaves at least. On the way to half of ResNet-20, two levels brought the squared
error of the logits from 0.110 to 0.109 only, at five times the cost of one: levels are for deep cuts."""

HELD_OUT = 8
"""One sample of so many is what sensitivities are measured on."""

MOST_HELD_OUT = 64


def by_obs(trace: Trace, seen: Readings, samples: Samples, settings: Settings) -> dict[int, FloatArray]:
    """The criterion `obs`, from covariances at hand."""
    sources = prunable(trace)
    subject = Subject(trace, sources, samples.count, settings.seed, workers(settings.runtime))
    return dict(zip(sources, channel_costs(subject, seen.readers, seen.covariances), strict=True))


def cut_to(
    opened: Opened,
    budget: float,
    score: Score = by_obs,
    level: float = LEVEL,
    normalize: str = "mean",
    barred: IntArray = NOTHING,
    step: int = 1,
) -> Decided:
    """What goes so that `budget` of the MACs (a share) stay, with the least damage to the outputs; as near as it comes.

    barred: units that stay. step: how many channels of a group go at once. The classes are those of the trace that
    comes back with them (channels of grouped Convs paired as they go).
    """
    trace, samples, settings = opened.trace, opened.samples, opened.settings
    held_out = samples.take(np.arange(HELD_OUT - 1, samples.count, HELD_OUT)[:MOST_HELD_OUT])
    batch = batch_size(trace.shapes, held_out)
    distance = squared_error(trace.graph.model, held_out, batch, settings.runtime, settings.memory)
    whole = cost_model(trace).macs_left(np.zeros(len(trace.free), bool))
    keep = np.ones(len(trace.unit_class), bool)
    now, origin = trace, np.arange(len(trace.unit_class))
    for target in levels(budget, level):
        seen = readings(now, samples, settings)
        scores = score(now, seen, samples, settings)
        stays = np.flatnonzero(np.isin(origin, barred) & (origin > 0))
        decided = decide(now, find_groups(now), scores, Cut(0.0), normalize, stays)
        values = class_scores(decided.trace.unit_class, decided.trace.sources, scores, normalize)
        groups = [replace(g, free=np.setdiff1d(g.free, decided.trace.unit_class[stays])) for g in decided.groups]
        found = curves(decided.trace, groups, values, seen, held_out, settings, distance, step)
        most = [max(0, min(len(c.order), c.units - 1)) for c in found]
        model = cost_model(decided.trace)
        taken = allocate(found, most, model.macs_left, len(decided.trace.free), target * whole)
        going = np.concatenate([NOTHING, *(c.order[:n] for c, n in zip(found, taken, strict=True))])
        going = spare_emptied(np.sort(going), decided.trace.axis_classes().values(), values)
        gone = origin[~decided.trace.keep_units(going)]
        # units without a layer (what a Pad adds) have no origin: they follow those that they are joined with
        keep &= ~np.isin(trace.pairing.base, trace.pairing.base[gone[gone > 0]])
        if target > budget:
            now, origin = _smaller(trace, keep, samples, settings)
    return _decided(trace, keep)


def levels(budget: float, level: float) -> list[float]:
    """Shares of MACs on the way to `budget`, in equal ratios of at least `level`."""
    count = max(1, int(np.ceil(np.log(max(budget, 1e-3)) / np.log(level) - 1e-9)))
    return [*(budget ** (k / count) for k in range(1, count)), budget]


def _smaller(trace: Trace, keep: BoolArray, samples: Samples, settings: Settings) -> tuple[Trace, IntArray]:
    """The pruned and repaired net, traced, and the original's unit of each of its units."""
    rewritten = rewrite(trace, keep)
    values = repair(trace, rewritten, samples, settings.runtime, settings.memory).values
    given = probe_shapes(samples, settings.input_shapes)
    model = with_values(rewritten.model, values)
    found = trace_model(model, given, settings.runtime, probe_values(samples), settings.strict_inputs)
    origin = np.zeros(len(found.unit_class), np.int64)
    before = {s.tensor: s.units for s in trace.sources}
    for source in found.sources:
        units = before[source.tensor]
        origin[source.units] = units[keep[units]]
    return found, origin


def _decided(trace: Trace, keep: BoolArray) -> Decided:
    """Classes, with channels of grouped Convs paired by what goes."""
    paired = pair(trace, np.where(keep, 1.0, 0.0))
    gone = np.unique(paired.unit_class[~keep])
    return Decided(paired, find_groups(paired), gone)


__all__: Sequence[str] = ["by_obs", "cut_to", "levels"]
