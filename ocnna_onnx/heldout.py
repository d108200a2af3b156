"""Which samples judge a drop, and are used for nothing else."""

from __future__ import annotations

import numpy as np

from .data.samples import IntArray, Samples, chosen
from .report.bound import paired_bound

HELD_OUT = 2
"""One sample of so many judges a `drop`, and is used for nothing else: with fewer the bound is all doubt."""

DROP_SAMPLES = 1024
"""Samples that a `drop` takes where nobody said how many."""


def judging(samples: Samples) -> Samples:
    """The samples that judge a drop: one of HELD_OUT, drawn at random, evenly over the classes where there are
    labels."""
    held = _held(samples)
    return samples.take(held if len(held) else np.arange(samples.count))


def fitting(samples: Samples) -> Samples:
    """The others."""
    index = np.arange(samples.count)
    rest = np.setdiff1d(index, _held(samples))
    return samples.take(rest if len(rest) else index)


def _held(samples: Samples) -> IntArray:
    """Not every so manieth: data may come in turns."""
    return chosen(samples.count, samples.labels, samples.count // HELD_OUT, HELD_OUT)


def can_show(drop: float, samples: int) -> bool:
    """Whether so many samples could show that a drop holds, if the half of them that judges saw no change at all."""
    return paired_bound(0, 0, max(1, samples // HELD_OUT)) <= drop
