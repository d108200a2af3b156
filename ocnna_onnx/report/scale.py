"""A scale that all curves of a model share."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, log10

from ..plan.sensitivities import Sensitivities

DECADES = 6
"""What is so many powers of ten below the largest damage is nothing."""


@dataclass(frozen=True)
class Scale:
    """Logarithmic from `low` (height 0) to `high` (height 1)."""

    low: float
    high: float

    def height(self, damage: float) -> float:
        """0 … 1; what is out of range lies on the border."""
        clipped = min(max(damage, self.low), self.high)
        return log10(clipped / self.low) / log10(self.high / self.low)


def scale_of(found: Sensitivities) -> Scale:
    """From one power of ten to another: the largest damage below infinity, and the smallest, but DECADES at most."""
    known = [d for g in found.groups for _, d in g.cuts if isfinite(d) and d > 0]
    top = _up(max(known, default=1.0))
    bottom = -_up(1 / min(known, default=1e-2))
    return Scale(10.0 ** max(top - DECADES, min(bottom, top - 1)), 10.0**top)


def _up(value: float) -> int:
    """The power of ten that is not below a positive number."""
    exponent = round(log10(value))
    return exponent if 10.0**exponent >= value else exponent + 1
