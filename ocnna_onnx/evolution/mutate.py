"""Offspring: bit flips of one parent, uniformly as published, or led by scores."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..trace.labels import BoolArray, IntArray
from .genome import Space

FloatArray = npt.NDArray[np.float64]

NOISE = 0.15
"""How far chance moves a channel in its group's order, as a share of the group: enough to try neighbours."""

LIGHTER, HEAVIER = 0.4, 0.2
"""Share of the children that only drop channels, and that only take some back; the others exchange: what one group
gives, another gets, which is how a front is improved where it is."""


def flipped(mask: BoolArray, probability: float, rng: np.random.Generator) -> BoolArray:
    """Every bit flips with the same probability (DeepPruningES)."""
    return np.asarray(mask ^ (rng.random(len(mask)) < probability))


def led(
    space: Space, mask: BoolArray, probability: float, rank: FloatArray | None, rng: np.random.Generator
) -> BoolArray:
    """A few groups, or many, flip some bits: what scores low is dropped sooner, what scores high is taken back sooner.

    How many groups is drawn log-uniformly, so that fine steps and large ones both happen on a net of any size; in each,
    about `probability` of its bits flip, in steps of its alignment. rank: float64 [bits], the place of every bit in its
    group's order, 0 (first to go) … 1; None: any order.
    """
    child: BoolArray = mask.copy()
    groups = len(space.widths)
    count = int(np.exp(rng.uniform(0.0, np.log(groups + 1))))
    kind = rng.random()
    for g in rng.permutation(groups)[:count].tolist():
        own = np.flatnonzero(space.group == g)
        place = rng.random(len(own)) if rank is None else rank[own] + rng.normal(0.0, NOISE, len(own))
        step = space.step(g)
        flips = step * max(1, round(rng.exponential(probability * space.widths[g]) / step))
        drops = kind < LIGHTER or (kind >= LIGHTER + HEAVIER and rng.random() < 0.5)
        _flip(child, own, place, flips, not drops)
        if count == 1 and kind >= LIGHTER + HEAVIER:  # alone in its group: as many come back as went
            _flip(child, own, rng.permutation(place) if rank is None else place, flips, drops)
    return child


def expected_flips(space: Space, probability: float, led_by_scores: bool) -> float:
    """Bits of a child that differ from its parent's, on average, before it is made legal. Led: of the log-uniform
    number of groups that flip, groups / ln(groups + 1) on average; steps of the alignment add to it."""
    if not led_by_scores:
        return probability * space.bits
    return probability * sum(space.widths) / float(np.log(len(space.widths) + 1))


def _flip(child: BoolArray, own: IntArray, place: FloatArray, flips: int, to: bool) -> None:
    """In place: the bits of `own` that come first in the order become `to`; the best ones first where they return."""
    others = np.flatnonzero(child[own] != to)
    order = others[np.argsort(-place[others] if to else place[others], kind="stable")]
    child[own[order[:flips]]] = to
