"""From joins, choices and walls to classes: sets of units that go together or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .context import Record
from .labels import BoolArray, IntArray
from .types import Choice, Option, Wall


@dataclass(frozen=True)
class Coupling:
    """unit_class: int64 [units + 1]; free: bool per class; chosen: (grid, name of the option that was taken)."""

    unit_class: IntArray
    free: BoolArray
    walls: tuple[Wall, ...]
    chosen: tuple[tuple[Choice, str], ...]


def couple(record: Record) -> Coupling:
    """Union of all joins; each grid takes the option that leaves most classes free."""
    size = record.units + 1
    edges = [(a, b) for a, b in record.joins if len(a)]
    walls = list(record.walls)
    chosen: list[tuple[Choice, str]] = []
    for cluster in _clusters(record, _classes(size, edges), size):
        best, name = _best(cluster, edges, walls, size)
        edges.extend(best)
        for choice, option in zip(cluster, name, strict=True):
            chosen.append((choice, option.name))
            walls.extend(_fixed_rows(choice, option))
    unit_class = _classes(size, edges)
    walls.extend(_whole_tensors(record, unit_class))
    free = np.ones(int(unit_class.max(initial=0)) + 1, bool)
    free[unit_class[0]] = False
    for wall in walls:
        free[unit_class[wall.units]] = False
    real = np.zeros(len(free), bool)
    for source in record.sources:
        real[unit_class[source.units]] = True
    free &= real  # made-up channels never go alone
    return Coupling(unit_class, free, tuple(w for w in walls if real[unit_class[w.units]].any()), tuple(chosen))


def _classes(size: int, edges: Sequence[tuple[IntArray, IntArray]]) -> IntArray:
    """Connected components of the units; unit 0 ("fixed") is alone."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    left = np.concatenate([a for a, _ in edges]) if edges else np.zeros(0, np.int64)
    right = np.concatenate([b for _, b in edges]) if edges else np.zeros(0, np.int64)
    matrix = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(size, size))
    return np.asarray(connected_components(matrix, directed=False)[1], np.int64)


def _edges(option: Option) -> list[tuple[IntArray, IntArray]]:
    found = []
    for rows in option.rows:
        left = np.broadcast_to(rows[:, :1], rows.shape)
        both = (left > 0) & (rows > 0)
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
        units = np.unique(np.concatenate([r.reshape(-1) for o in choice.options for r in o.rows]))
        units = units[units > 0]
        edges.extend((c, base + int(u)) for u in np.unique(unit_class[units]))
        edges.extend((c, offset + int(m)) for m in np.unique(member[units]) if m >= 0)
    pairs = np.asarray(edges, np.int64).reshape(-1, 2)
    total = offset + len(record.sources)
    component = _classes(total, [(pairs[:, 0], pairs[:, 1])])[:base]
    return [[record.choices[c] for c in np.flatnonzero(component == k)] for k in dict.fromkeys(component.tolist())]


def _best(
    cluster: list[Choice], edges: list[tuple[IntArray, IntArray]], walls: list[Wall], size: int
) -> tuple[list[tuple[IntArray, IntArray]], tuple[Option, ...]]:
    """Try the options position by position (all first options, all second options, …) and keep the best."""
    units = np.unique(np.concatenate([r.reshape(-1) for c in cluster for o in c.options for r in o.rows]))
    units = units[units > 0]
    best: tuple[int, list[tuple[IntArray, IntArray]], tuple[Option, ...]] | None = None
    for k in range(max(len(c.options) for c in cluster)):
        options = tuple(c.options[min(k, len(c.options) - 1)] for c in cluster)
        extra = [e for o in options for e in _edges(o)]
        classes = _classes(size, [*edges, *extra])
        fixed = {
            int(x)
            for w in (*walls, *(f for c, o in zip(cluster, options, strict=True) for f in _fixed_rows(c, o)))
            for x in np.unique(classes[w.units])
        }
        left = set(np.unique(classes[units]).tolist()) - fixed
        if best is None or len(left) > best[0]:
            best = (len(left), extra, options)
    assert best is not None
    return best[1], best[2]


def _whole_tensors(record: Record, unit_class: IntArray) -> list[Wall]:
    """A class that covers a whole axis of some tensor cannot go: nothing would be left of it."""
    found: list[Wall] = []
    walled: set[int] = set()
    for name, arrays in record.labels.items():
        for x in arrays:
            classes = unit_class[x.array]
            first = int(classes.flat[0])
            if first not in walled and x.array.flat[0] > 0 and (classes == first).all():
                walled.add(first)
                reason = "its channels only go all together, which would leave nothing"
                found.append(Wall(record.graph.producer[name], name, reason, x.units))
    return found
