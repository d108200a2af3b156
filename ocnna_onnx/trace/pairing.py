"""Grids of which only counts matter: channels of different groups are paired by score, the lowest with the lowest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .labels import FloatArray, IntArray
from .types import Choice, Option, Pairing

Partition = tuple[tuple[int, ...], ...]
"""Channels in groups, as classes."""


def by_score(pairing: Pairing, score: FloatArray) -> list[tuple[Choice, Option]]:
    """The open grids with every column in ascending order of score, what cannot go last.

    score: float [units + 1], equal within a class of `pairing.base`. Grids that cut the same channels into different
    groups stay in the order of their indices, in which they agree most often.
    """
    key = np.asarray(score, np.float64)[np.unique(pairing.base, return_index=True)[1]]  # per class
    key[pairing.base[0]] = np.inf
    for wall in pairing.walls:
        key[pairing.base[wall.units]] = np.inf
    found = []
    for (choice, option), agrees in zip(pairing.grids, _agree(pairing), strict=True):
        if agrees:
            option = replace(option, rows=tuple(_sorted(rows, pairing.base, key) for rows in option.rows))
        found.append((choice, option))
    return found


def _sorted(rows: IntArray, base: IntArray, key: FloatArray) -> IntArray:
    """Each column in the order of its classes' keys; equal keys in the order of the classes."""
    classes = base[rows]
    order = np.lexsort((classes, key[classes]), axis=0)
    return np.take_along_axis(rows, order, axis=0)


def _agree(pairing: Pairing) -> list[bool]:
    """Whether a grid cuts its channels into the same groups as all grids that it shares channels with, and no channel
    lies in two of its groups. This depends on structure alone, so that a plan is replayed as it was made."""
    partitions = [[_partition(rows, pairing.base) for rows in option.rows] for _, option in pairing.grids]
    owner: dict[int, Partition] = {}
    clashing: set[Partition] = set()
    for part in (part for parts in partitions for part in parts):
        for c in (c for column in part for c in column):
            if owner.setdefault(c, part) != part:
                clashing |= {part, owner[c]}
    clashing |= {part for parts in partitions for part in parts if sum(map(len, part)) > len(frozenset().union(*part))}
    return [clashing.isdisjoint(parts) for parts in partitions]


def _partition(rows: IntArray, base: IntArray) -> Partition:
    """The columns, each as the sorted classes of its units."""
    return tuple(sorted(tuple(sorted(base[column[column > 0]].tolist())) for column in rows.T))
