"""Groups: layers whose channels are coupled, with what they free when they go."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .labels import IntArray
from .types import Trace, Wall


@dataclass(frozen=True)
class Group:
    """Layers that share decisions.

    sources: positions in `trace.sources`. classes: the decisions, in the order of the first layer's channels; `free`
    those of them that can go. consumers: nodes that contract over the group's channels. walls: why others stay.
    """

    id: int
    sources: tuple[int, ...]
    classes: IntArray
    free: IntArray
    consumers: tuple[int, ...]
    walls: tuple[Wall, ...]


def find_groups(trace: Trace) -> tuple[Group, ...]:
    """The groups of a trace, in topological order of their first layer."""
    order = np.full(len(trace.free), np.iinfo(np.int64).max)
    owner: dict[int, int] = {}  # class -> first source that has it
    parent = list(range(len(trace.sources)))

    def find(k: int) -> int:
        while parent[k] != k:
            parent[k] = parent[parent[k]]
            k = parent[k]
        return k

    for k, source in enumerate(trace.sources):
        np.minimum.at(order, trace.unit_class[source.units], source.units)
        for c in np.unique(trace.unit_class[source.units]).tolist():
            a, b = find(owner.setdefault(c, k)), find(k)
            parent[max(a, b)] = min(a, b)
    members: dict[int, list[int]] = {}
    for k in range(len(trace.sources)):
        members.setdefault(find(k), []).append(k)
    group_of = np.full(len(trace.free), -1, np.int64)
    for g, sources in enumerate(members.values()):
        for k in sources:
            group_of[trace.unit_class[trace.sources[k].units]] = g
    consumers = _consumers(trace, group_of)
    walls: dict[int, list[Wall]] = {}
    for wall in trace.walls:
        for g in np.unique(group_of[trace.unit_class[wall.units]]).tolist():
            walls.setdefault(g, []).append(wall)
    found = []
    for g, sources in enumerate(members.values()):
        classes = np.flatnonzero(group_of == g)
        classes = classes[np.argsort(order[classes], kind="stable")]
        free = classes[trace.free[classes]]
        found.append(Group(g, tuple(sources), classes, free, tuple(consumers.get(g, {})), tuple(walls.get(g, ()))))
    return tuple(found)


def _consumers(trace: Trace, group_of: IntArray) -> dict[int, dict[int, None]]:
    found: dict[int, dict[int, None]] = {}
    for node, i in trace.masks:
        for labels in trace.labels.get(trace.graph.nodes[node].input[i], ()):
            for g in np.unique(group_of[trace.unit_class[labels.units]]).tolist():
                if g >= 0:
                    found.setdefault(g, {})[node] = None
    return found
