"""From joins, choices and walls to classes: sets of units that go together or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import comb, log2

import numpy as np

from .context import Record
from .labels import BoolArray, FloatArray, IntArray, Labels
from .pairing import by_score
from .types import Choice, Option, Pairing, Source, Trace, Wall

FINE_ENOUGH = 4
"""Channels per group from which on an equal count from every group is weighed by how many ways there are to choose
them; with fewer, a single step would take a third or a half of them."""

Edge = tuple[IntArray, IntArray]
"""Two arrays of units of equal length that go together pair by pair."""


@dataclass(frozen=True)
class Coupling:
    """unit_class: int64 [units + 1]; free: bool per class; chosen: (grid, name of the option that was taken)."""

    unit_class: IntArray
    free: BoolArray
    walls: tuple[Wall, ...]
    chosen: tuple[tuple[Choice, str], ...]
    pairing: Pairing


def couple(record: Record) -> Coupling:
    """Union of all joins; each grid takes the option that leaves most classes free."""
    size = record.units + 1
    edges = [(a, b) for a, b in record.joins if len(a)]
    walls = list(record.walls)
    chosen: list[tuple[Choice, str]] = []
    open_grids: list[tuple[Choice, Option]] = []
    joined = list(edges)
    for cluster in _clusters(record, _classes(size, edges), size):
        options = _best(cluster, edges, walls, size)
        edges.extend(e for option in options for e in _edges(option))
        for choice, option in zip(cluster, options, strict=True):
            chosen.append((choice, option.name))
            if option.by_count:
                open_grids.append((choice, option))
            else:
                joined.extend(_edges(option))
                walls.extend(_fixed_rows(choice, option))
    pairing = Pairing(_classes(size, joined), tuple(open_grids), tuple(walls))
    found = _settle(record.labels, record.graph.producer, record.sources, pairing, np.zeros(size))
    return Coupling(*found, tuple(chosen), pairing)


def pair(trace: Trace, score: FloatArray) -> Trace:
    """The same trace with the channels of grouped Convs paired by score: the r-th lowest of every group go together.

    score: float [units + 1], equal for units of one class of `trace.pairing.base`; inf for what is to stay.
    """
    if not trace.pairing.grids:
        return trace
    unit_class, free, walls = _settle(trace.labels, trace.graph.producer, trace.sources, trace.pairing, score)
    return replace(trace, unit_class=unit_class, free=free, walls=walls)


def _settle(
    labels: Mapping[str, tuple[Labels, ...]],
    producer: Mapping[str, int],
    sources: Sequence[Source],
    pairing: Pairing,
    score: FloatArray,
) -> tuple[IntArray, BoolArray, tuple[Wall, ...]]:
    """(class of each unit, whether each class is free, walls), with open grids paired by score."""
    walls = list(pairing.walls)
    _, first = np.unique(pairing.base, return_index=True)
    edges: list[Edge] = [(np.arange(len(pairing.base)), first[pairing.base])]
    for choice, option in by_score(pairing, score):
        edges.extend(_edges(option))
        walls.extend(_fixed_rows(choice, option))
    unit_class = _classes(len(pairing.base), edges)
    walls.extend(_whole_tensors(labels, producer, unit_class))
    free = np.ones(int(unit_class.max(initial=0)) + 1, bool)
    free[unit_class[0]] = False
    for wall in walls:
        free[unit_class[wall.units]] = False
    real = np.zeros(len(free), bool)
    for source in sources:
        real[unit_class[source.units]] = True
    free &= real  # made-up channels never go alone
    return unit_class, free, tuple(w for w in walls if not len(w.units) or real[unit_class[w.units]].any())


def _classes(size: int, edges: Sequence[Edge]) -> IntArray:
    """Connected components of the units; unit 0 ("fixed") is alone."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    left = np.concatenate([a for a, _ in edges]) if edges else np.zeros(0, np.int64)
    right = np.concatenate([b for _, b in edges]) if edges else np.zeros(0, np.int64)
    matrix = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(size, size))
    return np.asarray(connected_components(matrix, directed=False)[1], np.int64)


def _edges(option: Option) -> list[Edge]:
    found = []
    for rows in option.rows:
        first = np.where(rows > 0, rows, 0).max(axis=1, keepdims=True)  # any unit of the row, where the first is 0
        left = np.broadcast_to(first, rows.shape)
        both = (left > 0) & (rows > 0)
        found.append((left[both], rows[both]))
    return found


def _fixed_rows(choice: Choice, option: Option) -> list[Wall]:
    found = []
    for rows in option.rows:
        mixed = (rows == 0).any(axis=1) & (rows > 0).any(axis=1)
        units = rows[mixed]
        if units.size and (units > 0).any():
            reason = f"in a grid with channels that are fixed ({option.name})"
            found.append(Wall(choice.node, choice.tensor, reason, np.unique(units[units > 0])))
    return found


def _units(choices: Sequence[Choice]) -> IntArray:
    """The units in these grids, ascending."""
    units = np.unique(np.concatenate([r.reshape(-1) for c in choices for o in c.options for r in o.rows]))
    return units[units > 0]


def _clusters(record: Record, unit_class: IntArray, size: int) -> list[list[Choice]]:
    """Grids that touch the same layers or the same classes are decided together, so that they agree."""
    if not record.choices:
        return []
    member = np.full(size, -1, np.int64)
    for k, source in enumerate(record.sources):
        member[source.units] = k
    edges: list[tuple[int, int]] = []
    base = len(record.choices)
    offset = base + int(unit_class.max(initial=0)) + 1
    for c, choice in enumerate(record.choices):
        units = _units([choice])
        edges.extend((c, base + int(u)) for u in np.unique(unit_class[units]))
        edges.extend((c, offset + int(m)) for m in np.unique(member[units]) if m >= 0)
    pairs = np.asarray(edges, np.int64).reshape(-1, 2)
    total = offset + len(record.sources)
    component = _classes(total, [(pairs[:, 0], pairs[:, 1])])[:base]
    return [[record.choices[c] for c in np.flatnonzero(component == k)] for k in dict.fromkeys(component.tolist())]


def _best(cluster: list[Choice], edges: list[Edge], walls: list[Wall], size: int) -> tuple[Option, ...]:
    """From several starts (all first options, all second ones, …), change one choice at a time while that leaves more
    to choose from. Two views of one grid (before and after a Transpose) are one choice."""
    distinct: dict[tuple[bytes, ...], list[int]] = {}
    for k, choice in enumerate(cluster):
        distinct.setdefault(tuple(sorted(map(_signature, choice.options))), []).append(k)
    units = _units(cluster)

    def settle(options: list[Option], same: list[int], wanted: bytes) -> list[Option]:
        return [
            next(o for o in cluster[k].options if _signature(o) == wanted) if k in same else option
            for k, option in enumerate(options)
        ]

    best, found = -1.0, [c.options[0] for c in cluster]
    for start in range(max(len(c.options) for c in cluster)):
        options = found
        for same in distinct.values():
            first = cluster[same[0]].options
            options = settle(options, same, _signature(first[min(start, len(first) - 1)]))
        score, improved = _freedom(cluster, options, edges, walls, units, size), len(distinct) > 1
        while improved:
            improved = False
            for same in distinct.values():
                for wanted in map(_signature, cluster[same[0]].options):
                    trial = settle(options, same, wanted)
                    left = _freedom(cluster, trial, edges, walls, units, size)
                    if left > score:
                        score, options, improved = left, trial, True
        if score > best:
            best, found = score, options
    return tuple(found)


def _signature(option: Option) -> bytes:
    """What an option joins, however its rows are arranged: two views of one grid have the same options."""
    rows = [tuple(sorted(row)) for matrix in option.rows for row in matrix.tolist()]
    return repr(sorted(rows)).encode()


def _freedom(
    cluster: list[Choice], options: list[Option], edges: list[Edge], walls: list[Wall], units: IntArray, size: int
) -> float:
    """How many classes of these units can go under these options. One that takes a channel from each of g groups stands
    for the log₂ of the ways to choose half of c channels g times, spread over the c classes of its grid."""
    classes = _classes(size, [*edges, *(e for o in options for e in _edges(o))])
    fixed = np.zeros(int(classes.max()) + 1, bool)
    for wall in (*walls, *(w for c, o in zip(cluster, options, strict=True) for w in _fixed_rows(c, o))):
        fixed[classes[wall.units]] = True
    for choice in cluster:  # a class that is all there is cannot go either
        for matrix in choice.options[0].rows:
            present = np.unique(classes[matrix[matrix > 0]])
            if len(present) == 1:
                fixed[present] = True
    weight = np.ones(len(fixed))
    for option in options:
        if option.by_count and min(len(rows) for rows in option.rows) >= FINE_ENOUGH:
            for rows in option.rows:
                c, g = rows.shape
                touched = classes[rows]
                weight[touched] = np.maximum(weight[touched], g * log2(comb(c, c // 2)) / c)
    found = np.unique(classes[units])
    return float(weight[found[~fixed[found]]].sum())


def _whole_tensors(
    labels: Mapping[str, tuple[Labels, ...]], producer: Mapping[str, int], unit_class: IntArray
) -> list[Wall]:
    """A class that covers a whole axis of some tensor cannot go: nothing would be left of it."""
    found: list[Wall] = []
    walled: set[int] = set()
    for name, arrays in labels.items():
        for x in arrays:
            classes = unit_class[x.array]
            first = int(classes.flat[0])
            if first not in walled and x.array.flat[0] > 0 and (classes == first).all():
                walled.add(first)
                reason = "its channels only go all together, which would leave nothing"
                found.append(Wall(producer[name], name, reason, x.units))
    return found
