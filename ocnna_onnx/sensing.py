"""How much each group matters: for a few cuts, its readers are refitted in closed form, the net runs on held-out
samples, and its outputs are compared with the original's (METHODS.md §5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from .calibrate.readers import Readings, covariances, readers
from .calibrate.stream import batch_size
from .data.samples import Samples
from .measuring import watch
from .model.light import Light, light, placed
from .plan.allocate import Curve, curve_of
from .plan.sensitivities import Cuts, order_of
from .repair.refit import all_refitted
from .report.fidelity import squared_error
from .settings import Settings
from .trace.groups import Group
from .trace.types import Trace

FloatArray = npt.NDArray[np.float64]

CUTS = (0.125, 0.3, 0.55, 0.8)
"""Shares of a group's classes at which its damage is measured."""


def readings(trace: Trace, samples: Samples, settings: Settings) -> Readings:
    """One pass over the samples."""
    found = readers(trace)
    taps, gathered = covariances(found, samples.count, settings.seed)
    watch(trace, taps, samples, settings)
    return Readings(found, gathered)


def damages(
    trace: Trace,
    groups: Sequence[Group],
    score: FloatArray,
    seen: Readings,
    held_out: Samples,
    settings: Settings,
    distance: Callable[[Light], float] | None = None,
    cuts: Sequence[float] = CUTS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Cuts]:
    """What each cut of every group does. score: per class; the lowest go first. cuts: shares of a group's classes.
    distance: how far a net's outputs are from where they should be; by default from the traced net's own."""
    runtime = settings.runtime
    if distance is None:
        batch = batch_size(trace.shapes, held_out)
        distance = squared_error(trace.graph.model, held_out, batch, runtime, settings.memory)
    base = light(trace.graph.model)
    start = distance(base)
    found: list[Cuts] = []
    for number, group in enumerate(groups):
        progress(number, len(groups))
        order = order_of(group, score)
        if not len(order):
            found.append(())
            continue
        at = sorted({max(1, round(c * len(group.classes))) for c in cuts})
        at = [n for n in at if n < len(order)] or [max(1, len(order) - 1)]
        damage = []
        for n in at:
            gone = ~trace.keep_units(order[:n])
            changed = all_refitted(trace.graph, seen.readers, seen.covariances, gone)
            inline = any(name not in base.weights for name in changed)
            damage.append(max(0.0, distance(placed(light(base) if inline else base, changed)) - start))
        found.append(tuple(zip(at, damage, strict=True)))
    progress(len(groups), len(groups))
    return found


def curve(group: Group, score: FloatArray, cuts: Cuts, step: int) -> Curve:
    """The curve of a group through what was measured of it. step: how many classes go at once."""
    order = order_of(group, score)
    if not len(order):
        return Curve(order, np.zeros(1), len(group.classes), step)
    at, damage = [n for n, _ in cuts], [d for _, d in cuts]
    return curve_of(order, len(group.classes), at, damage, _shape(score, order), step)


def _shape(score: FloatArray, order: npt.NDArray[np.int64]) -> FloatArray:
    """How damage grows with the number of classes: as the scores do, but at least as the square of their number."""
    share = (np.arange(len(order) + 1) / max(1, len(order))) ** 2
    values = np.concatenate([[0.0], score[order]])
    top = float(values.max())
    grown = np.maximum.accumulate(values / top) if top > 0 else share
    return np.asarray(0.5 * share + 0.5 * grown)
