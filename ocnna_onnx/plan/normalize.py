"""What makes the scores of different layers comparable, so that the layers of a group can be averaged."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from ..criteria.magnitude import lamp
from ..errors import UsageError

FloatArray = npt.NDArray[np.float64]


def by_mean(scores: FloatArray) -> FloatArray:
    """Divided by their mean, where that is positive."""
    mean = float(scores.mean()) if scores.size else 0.0
    return scores / mean if mean > 0 else scores


def by_rank(scores: FloatArray) -> FloatArray:
    """Ranks from 0 (lowest) to 1; ties share theirs."""
    from scipy.stats import rankdata

    return np.asarray((rankdata(scores) - 1) / max(1, len(scores) - 1), np.float64)


def check_normalization(name: str) -> None:
    """Raises UsageError."""
    if name not in NORMALIZATIONS:
        raise UsageError(f"unknown normalization '{name}'; choose one of {', '.join(NORMALIZATIONS)}")


NORMALIZATIONS: Mapping[str, Callable[[FloatArray], FloatArray]] = {"mean": by_mean, "rank": by_rank, "lamp": lamp}
