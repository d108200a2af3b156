"""Means and variances that are accumulated batch by batch (Chan, Golub, LeVeque 1979), without losing digits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Of numbers per channel: count, mean [channels], spread [channels] = Σ (x − mean)²."""

    count: int
    mean: FloatArray
    spread: FloatArray

    @property
    def deviation(self) -> FloatArray:
        """Standard deviation (ddof 0), [channels]."""
        return np.asarray(np.sqrt(self.spread / self.count))


def moments(values: FloatArray) -> Moments:
    """Of [n, channels], n ≥ 1."""
    mean = values.mean(axis=0)
    return Moments(len(values), mean, np.asarray(((values - mean) ** 2).sum(axis=0)))


def merged(a: Moments | None, b: Moments) -> Moments:
    """Of both together."""
    if a is None:
        return b
    count, shift = a.count + b.count, b.mean - a.mean
    spread = a.spread + b.spread + shift**2 * (a.count * b.count / count)
    return Moments(count, a.mean + shift * (b.count / count), spread)
