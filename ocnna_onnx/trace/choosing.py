"""Grids of channels have several ways to stay dense: which ones, taken together, leave most to choose from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, log2

import numpy as np

from .components import components
from .labels import BoolArray, FloatArray, IntArray
from .types import Choice, Option

FINE_ENOUGH = 4
"""Channels per group from which on an equal count from every group is weighed by how many ways there are to choose
them; with fewer, a single step would take a third or a half of them."""


@dataclass(frozen=True)
class _Way:
    """One option, as what it does to the classes of a cluster. joined: [classes], the lowest class that each goes
    together with; fixed: classes that cannot go; weight: [classes], what a class that goes stands for."""

    joined: IntArray
    fixed: IntArray
    weight: FloatArray

    @property
    def signature(self) -> bytes:
        """Two views of one grid (before and after a Transpose) have the same ways."""
        return self.joined.tobytes() + self.fixed.tobytes() + self.weight.tobytes()


@dataclass(frozen=True)
class _Grids:
    """Choices that must agree, as they are the same grid. ways: those there are, each with an option per choice."""

    choices: tuple[int, ...]
    ways: tuple[tuple[_Way, tuple[Option, ...]], ...]


def best_options(cluster: Sequence[Choice], base: IntArray, walled: BoolArray) -> tuple[Option, ...]:
    """One option for every choice. From several starts (all first options, all second ones, …), one grid is changed at
    a time while that leaves more to choose from.

    base: int64 [units + 1], classes before any option is taken. walled: bool per class, whether it cannot go anyway.
    """
    ids = np.unique(base[units_of(cluster)])
    if not len(ids):
        return tuple(choice.options[0] for choice in cluster)
    grids = _distinct(cluster, base, ids)
    wholes = _wholes(cluster, base, ids)
    best, found = -1.0, [0] * len(grids)
    for start in range(max(len(g.ways) for g in grids)):
        taken = [min(start, len(g.ways) - 1) for g in grids]
        score, improved = _freedom(grids, taken, wholes, walled[ids]), len(grids) > 1
        while improved:
            improved = False
            for k, grid in enumerate(grids):
                for way in range(len(grid.ways)):
                    trial = [*taken[:k], way, *taken[k + 1 :]]
                    left = _freedom(grids, trial, wholes, walled[ids]) if way != taken[k] else score
                    if left > score:
                        score, taken, improved = left, trial, True
        if score > best:
            best, found = score, taken
    options: dict[int, Option] = {}
    for grid, way in zip(grids, found, strict=True):
        options.update(zip(grid.choices, grid.ways[way][1], strict=True))
    return tuple(options[k] for k in range(len(cluster)))


def units_of(choices: Sequence[Choice]) -> IntArray:
    """The units in these grids, ascending."""
    units = np.unique(np.concatenate([r.reshape(-1) for c in choices for o in c.options for r in o.rows]))
    return units[units > 0]


def mixed_rows(option: Option) -> IntArray:
    """Units that stand in one row with positions that are fixed."""
    found = [rows[(rows == 0).any(axis=1)].reshape(-1) for rows in option.rows]
    units = np.unique(np.concatenate(found))
    return units[units > 0]


def row_pairs(option: Option) -> list[tuple[IntArray, IntArray]]:
    """Units that go together, pair by pair."""
    found = []
    for rows in option.rows:
        first = np.where(rows > 0, rows, 0).max(axis=1, keepdims=True)  # any unit of the row, where the first is 0
        left = np.broadcast_to(first, rows.shape)
        both = (left > 0) & (rows > 0)
        found.append((left[both], rows[both]))
    return found


def _distinct(cluster: Sequence[Choice], base: IntArray, ids: IntArray) -> list[_Grids]:
    """The grids of a cluster, each once however many views of it there are."""
    ways = [[_way(option, base, ids) for option in choice.options] for choice in cluster]
    signs = [[w.signature for w in own] for own in ways]
    same: dict[tuple[bytes, ...], list[int]] = {}
    for k, own in enumerate(signs):
        same.setdefault(tuple(sorted(own)), []).append(k)
    found = []
    for choices in same.values():
        first = choices[0]
        options = [tuple(cluster[k].options[signs[k].index(sign)] for k in choices) for sign in signs[first]]
        found.append(_Grids(tuple(choices), tuple(zip(ways[first], options, strict=True))))
    return found


def _way(option: Option, base: IntArray, ids: IntArray) -> _Way:
    pairs = [(np.searchsorted(ids, base[a]), np.searchsorted(ids, base[b])) for a, b in row_pairs(option)]
    _, first, joined = np.unique(components(len(ids), pairs), return_index=True, return_inverse=True)
    fixed = np.unique(np.searchsorted(ids, base[mixed_rows(option)]))
    weight = np.ones(len(ids))
    if option.by_count and min(len(rows) for rows in option.rows) >= FINE_ENOUGH:
        for rows in option.rows:
            c, g = rows.shape
            touched = np.searchsorted(ids, base[rows[rows > 0]])
            weight[touched] = np.maximum(weight[touched], g * log2(comb(c, c // 2)) / c)
    return _Way(first[joined].astype(np.int64), fixed, weight)


def _wholes(cluster: Sequence[Choice], base: IntArray, ids: IntArray) -> list[IntArray]:
    """The classes of every grid: one that is all there is cannot go."""
    found: dict[bytes, IntArray] = {}
    for choice in cluster:
        for rows in choice.options[0].rows:
            classes = np.unique(np.searchsorted(ids, base[rows[rows > 0]]))
            found[classes.tobytes()] = classes
    return [classes for classes in found.values() if len(classes)]


def _freedom(grids: Sequence[_Grids], taken: Sequence[int], wholes: Sequence[IntArray], walled: BoolArray) -> float:
    """How many classes can go under these options. One that takes a channel from each of g groups stands for the log₂
    of the ways to choose half of c channels g times, spread over the c classes of its grid."""
    ways = [grid.ways[k][0] for grid, k in zip(grids, taken, strict=True)]
    every = np.arange(len(walled))
    moved = [w.joined != every for w in ways]
    classes = components(len(walled), [(every[m], w.joined[m]) for w, m in zip(ways, moved, strict=True)])
    count = int(classes.max(initial=-1)) + 1
    stays = np.zeros(count, bool)
    stays[classes[walled]] = True
    for way in ways:
        stays[classes[way.fixed]] = True
    for whole in wholes:
        own = classes[whole]
        if (own == own[0]).all():
            stays[own[0]] = True
    weight = np.ones(count)
    for way in ways:
        np.maximum.at(weight, classes, way.weight)
    return float(weight[~stays].sum())
