"""How many channels each group gives up: the least total damage for a budget (METHODS.md §5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..trace.labels import BoolArray, IntArray

FloatArray = npt.NDArray[np.float64]

STEPS = 32
"""Steps from nothing to everything of a group, where the alignment does not ask for larger ones."""


@dataclass(frozen=True)
class Curve:
    """What it costs the net's output when a group loses its first n classes.

    order: free classes, first to go first. damage: float64 [len(order) + 1], damage[n] of the first n; monotone.
    units: classes of the whole group. step: how many go at once.
    """

    order: IntArray
    damage: FloatArray
    units: int
    step: int = 1


def curve_of(
    order: IntArray, units: int, at: Sequence[int], measured: Sequence[float], predicted: FloatArray, step: int = 1
) -> Curve:
    """A curve through measured points. at: numbers of classes, ascending, measured: their damages. predicted: float64
    [len(order) + 1], an estimate whose shape is followed in between; monotone, 0 first."""
    points = np.concatenate([[0], np.asarray(at, np.int64)])
    values = np.maximum.accumulate(np.concatenate([[0.0], np.asarray(measured, np.float64)]))
    ticks = predicted + 1e-9 * predicted[-1] * np.arange(len(predicted)) + 1e-30 * np.arange(len(predicted))
    damage = np.interp(ticks, ticks[points], values)
    beyond = ticks > ticks[points[-1]]
    if beyond.any():  # nobody measured there: as steep as the estimate, and steeper
        slope = values[-1] / max(ticks[points[-1]], 1e-30)
        damage[beyond] = values[-1] + 2 * slope * (ticks[beyond] - ticks[points[-1]])
    return Curve(order, damage, units, step)


def allocate(
    curves: Sequence[Curve],
    most: Sequence[int],
    cost: Callable[[BoolArray], float],
    classes: int,
    budget: float,
) -> list[int]:
    """Numbers of classes that go, one per curve, so that cost ≤ budget; as near as it comes where that is out of reach.

    most: how many each may lose. cost(gone): of a net without these classes (bool [classes]). Greedy: of all curves,
    the stretch with the least damage per cost goes next (several steps, maybe: a curve need not be convex), with costs
    as they are by then; of the last one only what the budget asks for.
    """
    taken = [0] * len(curves)
    gone = np.zeros(classes, bool)
    now = cost(gone)
    while now > budget:
        best: tuple[float, int, int] | None = None  # (damage per cost, curve, classes gone then)
        for k, curve in enumerate(curves):
            if taken[k] >= most[k]:
                continue
            found = _stretch(curve, taken[k], most[k], gone, cost, now, budget)
            if found is not None and (best is None or found[0] < best[0]):
                best = (found[0], k, found[1])
        if best is None:
            break
        _, k, count = best
        gone[curves[k].order[taken[k] : count]] = True
        taken[k] = count
        now = cost(gone)
    if now <= budget:
        _give_back(curves, taken, gone, cost, budget)
    return taken


def _give_back(
    curves: Sequence[Curve], taken: list[int], gone: BoolArray, cost: Callable[[BoolArray], float], budget: float
) -> None:
    """In place, what the budget has room for: a last stretch of a large group may have gone beyond it. The step that
    spares most damage comes back first."""
    while True:
        best: tuple[float, int, int] | None = None
        for k, curve in enumerate(curves):
            if not taken[k]:
                continue
            count = (taken[k] - 1) // curve.step * curve.step
            spared = float(curve.damage[taken[k]] - curve.damage[count])
            if spared <= (best[0] if best is not None else 0.0):
                continue
            probe = gone.copy()
            probe[curve.order[count : taken[k]]] = False
            if cost(probe) <= budget:
                best = (spared, k, count)
        if best is None:
            return
        _, k, count = best
        gone[curves[k].order[count : taken[k]]] = False
        taken[k] = count


def _stretch(
    curve: Curve,
    taken: int,
    most: int,
    gone: BoolArray,
    cost: Callable[[BoolArray], float],
    now: float,
    budget: float,
) -> tuple[float, int] | None:
    """(damage per cost, classes gone at its end) of the best stretch that starts here; it ends where the budget is met,
    though it may be worth what the whole of it is: a part does no more damage."""
    ends = list(range(taken + curve.step - (taken % curve.step), most + 1, curve.step))
    if not ends:
        return None
    # cost is linear in what one group loses, all else equal: one probe tells the price of a class
    probe = gone.copy()
    probe[curve.order[taken : ends[0]]] = True
    price = (now - cost(probe)) / (ends[0] - taken)
    if price <= 0:
        return None
    ratios = (curve.damage[ends] - curve.damage[taken]) / (price * (np.array(ends) - taken))
    k = int(np.argmin(ratios))
    enough = int(np.searchsorted(ends, taken + (now - budget) / price - 1e-9))
    return float(ratios[k]), ends[min(k, enough)]
