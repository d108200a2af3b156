"""The criteria by name. A new one is a function and a line here; every one is higher = keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..model.graph import AnyArray
from ..trace.types import Source, Trace
from .magnitude import l1, l2
from .ocnna import pca_norms, variation

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class WeightCriterion:
    """Scores a source from the model alone: [channels]."""

    score: Callable[[Trace, Source], FloatArray]


@dataclass(frozen=True)
class OutputCriterion:
    """Scores a source from its outputs. per_image: maps [n, C, H, W] -> [n, C]; finish: all images' [n, C] -> [C]."""

    per_image: Callable[[AnyArray], FloatArray]
    finish: Callable[[FloatArray], FloatArray]


@dataclass(frozen=True)
class RandomCriterion:
    """Seeded: a control."""

    def score(self, channels: int, rng: np.random.Generator) -> FloatArray:
        """Uniform in (0, 1], [channels]."""
        return 1.0 - rng.random(channels)


CRITERIA: dict[str, WeightCriterion | OutputCriterion | RandomCriterion] = {
    "ocnna": OutputCriterion(pca_norms, variation),
    "l1": WeightCriterion(l1),
    "l2": WeightCriterion(l2),
    "random": RandomCriterion(),
}
