"""Three disjoint sets of samples: what a search goes by, what the three nets are chosen by, what the figures are of."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..data.samples import IntArray, Samples, chosen

FEWEST = 16
"""Samples that can be divided at all."""


@dataclass(frozen=True)
class Parts:
    """total: samples that were divided. search: evaluates candidates, and is what the original was calibrated on.
    selection: chooses from the front. whole: both, for the final repair, with what the figures are measured on as
    `evaluation`."""

    total: int
    search: Samples
    selection: Samples
    whole: Samples


def divided(samples: Samples, seed: int) -> Parts:
    """Two thirds and one third where the samples have others to judge by; else a half, a quarter and a quarter. Drawn
    by the seed, evenly over the classes where there are labels; those that evaluate in random order, so that the first
    of them stand for all."""
    rng = np.random.default_rng(seed)
    everyone = np.arange(samples.count)
    if samples.evaluation is not None:
        search = chosen(samples.count, samples.labels, samples.count * 2 // 3, seed)
        mixed = samples.take(rng.permutation(search))
        return Parts(samples.count, mixed, samples.take(np.setdiff1d(everyone, search)), samples)
    search = chosen(samples.count, samples.labels, samples.count // 2, seed)
    rest = np.setdiff1d(everyone, search)
    labels = None if samples.labels is None else samples.labels[rest]
    selection: IntArray = rest[chosen(len(rest), labels, len(rest) // 2, seed)]
    final = np.setdiff1d(rest, selection)
    both = samples.take(np.union1d(search, selection))
    mixed, last = samples.take(rng.permutation(search)), samples.take(final)
    return Parts(samples.count, mixed, samples.take(selection), replace(both, evaluation=last))
