"""What a comparison on a few samples allows to be said of all: upper 90 % bounds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

Z = 1.2816
"""One-sided 90 % of a normal distribution."""


def share_bound(count: int, samples: int) -> float:
    """Upper 90 % bound of a share of which `count` of `samples` were seen (Clopper and Pearson 1934): 0 of 100 allow
    2.3 %."""
    from scipy.stats import beta

    return 1.0 if count >= samples else float(beta.ppf(0.9, count + 1, samples - count))


def paired_bound(worse: int, better: int, samples: int) -> float:
    """Upper 90 % bound of (worse − better) / samples of paired outcomes, half a sample added to either side (Agresti
    and Min 2005): nothing seen is not nothing."""
    n, b, c = samples + 1.0, worse + 0.5, better + 0.5
    difference = (b - c) / n
    return float(difference + Z * np.sqrt(max(0.0, (b + c) / n - difference**2) / n))


def mean_bound(values: FloatArray) -> float:
    """Upper 90 % bound of a mean, by its standard error. values: [samples]."""
    if len(values) < 2:
        return float(values.mean())
    return float(values.mean() + Z * values.std(ddof=1) / np.sqrt(len(values)))
