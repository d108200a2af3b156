"""Which positions of a map are looked at, where all of them would be more than statistics need."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

WORK = 1.5e10
"""Multiplications that the Gram matrix of one layer may cost."""

PER_FEATURE = 8
"""Rows per feature that there should be at least: fewer make a covariance of noise."""


ENOUGH, PLENTY = 512, 1 << 16
"""Rows per feature, and rows, beyond which more change nothing that counts."""


def positions_per_image(images: int, positions: int, features: int, work: float = WORK) -> int | None:
    """How many positions of each image to look at; None for all. Neighbouring patches say much the same, so that more
    rows than WORK pays for add little."""
    paid = max(work / features**2, PER_FEATURE * features)
    rows = min(paid, max(ENOUGH * features, PLENTY))
    wanted = max(1, int(np.ceil(rows / max(1, images))))
    return None if wanted >= positions else wanted


def positions_of(first: int, images: int, positions: int, each: int, seed: int) -> IntArray:
    """[images, each] flat positions for images number `first` on: a seeded order of all positions is dealt out image
    by image, so that every position is seen as often as any other."""
    order = np.random.default_rng([seed, positions]).permutation(positions)
    start = np.arange(first, first + images)[:, None] * each
    return np.asarray(order[(start + np.arange(each)) % positions], np.int64)
