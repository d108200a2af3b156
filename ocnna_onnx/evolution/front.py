"""Two objectives, both minimised: which candidates nothing beats, the three that are named among them, the
hypervolume."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def non_dominated(error: FloatArray, cost: FloatArray) -> IntArray:
    """Positions of the candidates that no other beats in one objective without losing in the other: cost ascending,
    error strictly descending. Of equals the first; what is not finite never counts. error, cost: float64 [n]."""
    order = np.lexsort((np.arange(len(error)), error, cost))
    order = order[np.isfinite(error[order]) & np.isfinite(cost[order])]
    if not len(order):
        return order
    least = np.minimum.accumulate(error[order])
    better = np.concatenate([[True], error[order][1:] < least[:-1]])
    return np.asarray(order[better])


@dataclass(frozen=True)
class Named:
    """Positions of the three: heavy has the least error, light the least cost, knee lies between. They are distinct
    where three non-dominated candidates exist; of two the knee is the heavy one, one is all three."""

    heavy: int
    knee: int
    light: int

    def distinct(self) -> tuple[int, ...]:
        """Each once, in this order."""
        return tuple(dict.fromkeys((self.heavy, self.knee, self.light)))


def named(error: FloatArray, cost: FloatArray) -> Named:
    """The three of all candidates. error, cost: float64 [n], one at least finite in both."""
    front = non_dominated(error, cost)
    light, heavy = int(front[0]), int(front[-1])
    between = front[1:-1]
    if not len(between):
        return Named(heavy, heavy, light)
    # on a front of three or more both spans are positive: errors and costs are strictly ordered
    distance = (error[between] - error[heavy]) / (error[light] - error[heavy])
    distance = distance + (cost[between] - cost[light]) / (cost[heavy] - cost[light])
    return Named(heavy, int(between[int(np.argmin(distance))]), light)


def hypervolume(error: FloatArray, cost: FloatArray, reference: tuple[float, float] = (1.0, 1.0)) -> float:
    """The area that the candidates dominate up to the reference point (error, cost), in their units."""
    front = non_dominated(error, cost)
    front = front[(error[front] < reference[0]) & (cost[front] < reference[1])]
    width = np.diff(np.append(cost[front], reference[1]))
    return float(((reference[0] - error[front]) * width).sum())


@dataclass(frozen=True)
class Bar:
    """What a candidate must beat to be of any use. error, cost: float64 [n], a front (cost ascending). worst: the error
    above which none is wanted."""

    error: FloatArray
    cost: FloatArray
    worst: float = np.inf

    def limit(self, cost: float) -> float:
        """The error at or above which a candidate of this cost is beaten, or not wanted."""
        cheaper = self.error[self.cost <= cost]
        return float(min(self.worst, cheaper.min(initial=np.inf)))
