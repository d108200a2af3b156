"""From joins, choices and walls to classes: sets of units that go together or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .choosing import best_options, mixed_rows, row_pairs, units_of
from .components import Edge, components
from .context import Record
from .labels import BoolArray, FloatArray, IntArray, Labels
from .pairing import by_score
from .types import Choice, Option, Pairing, Source, Trace, Wall


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
    base = components(size, edges)
    walled = np.zeros(int(base.max(initial=0)) + 1, bool)
    for wall in walls:
        walled[base[wall.units]] = True
    for cluster in _clusters(record, base, size):
        options = best_options(cluster, base, walled)
        for choice, option in zip(cluster, options, strict=True):
            chosen.append((choice, option.name))
            if option.by_count:
                open_grids.append((choice, option))
            else:
                edges.extend(row_pairs(option))
                walls.extend(_fixed_rows(choice, option))
    pairing = Pairing(components(size, edges), tuple(open_grids), tuple(walls))
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
        edges.extend(row_pairs(option))
        walls.extend(_fixed_rows(choice, option))
    unit_class = components(len(pairing.base), edges)
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


def _fixed_rows(choice: Choice, option: Option) -> list[Wall]:
    units = mixed_rows(option)
    reason = f"in a grid with channels that are fixed ({option.name})"
    return [Wall(choice.node, choice.tensor, reason, units)] if len(units) else []


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
        units = units_of([choice])
        edges.extend((c, base + int(u)) for u in np.unique(unit_class[units]))
        edges.extend((c, offset + int(m)) for m in np.unique(member[units]) if m >= 0)
    pairs = np.asarray(edges, np.int64).reshape(-1, 2)
    total = offset + len(record.sources)
    component = components(total, [(pairs[:, 0], pairs[:, 1])])[:base]
    return [[record.choices[c] for c in np.flatnonzero(component == k)] for k in dict.fromkeys(component.tolist())]


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
