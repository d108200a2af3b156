"""What a model looks like to the pruner: layers, groups, walls, and how much of it can be reached."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..model import cost
from ..trace.groups import Group, find_groups
from ..trace.types import Trace

SCHEMA = 1


@dataclass(frozen=True)
class LayerInfo:
    """A node that makes channels. reads: groups whose channels it contracts over. params, macs: its own."""

    node: str
    op: str
    channels: int
    group: int
    reads: tuple[int, ...]
    params: int
    macs: int


@dataclass(frozen=True)
class GroupInfo:
    """Layers that share decisions. channels: of each member; units: decisions; removable: those that can go.
    params, macs: of the members and consumers together."""

    id: int
    members: tuple[str, ...]
    consumers: tuple[str, ...]
    channels: int
    units: int
    removable: int
    params: int
    macs: int
    grid: str = ""


@dataclass(frozen=True)
class WallInfo:
    """Where channels cannot go: node, operator, tensor, reason, and how many units it holds."""

    node: str
    op: str
    tensor: str
    reason: str
    units: int
    groups: tuple[int, ...]


@dataclass(frozen=True)
class Inspection:
    """The result of `inspect`. params, macs: of the whole model, for one sample at the probe shape."""

    model: str
    params: int
    macs: int
    layers: tuple[LayerInfo, ...]
    groups: tuple[GroupInfo, ...]
    walls: tuple[WallInfo, ...]

    def to_json(self) -> dict[str, Any]:
        """As `inspect --json` prints it."""
        return {"schema": SCHEMA, **asdict(self)}


def inspection(trace: Trace, name: str) -> Inspection:
    """Describe a trace."""
    groups = find_groups(trace)
    macs = {n: m // trace.shapes.batch for n, m in cost.macs(trace.graph, trace.shapes.shape).items()}
    params = node_parameters(trace)
    of_source = {s: g.id for g in groups for s in g.sources}
    reads: dict[int, list[int]] = {}
    for group in groups:
        for node in group.consumers:
            reads.setdefault(node, []).append(group.id)
    layers = tuple(
        LayerInfo(
            trace.graph.names[s.node],
            trace.graph.nodes[s.node].op_type,
            len(s.units),
            of_source[k],
            tuple(reads.get(s.node, ())),
            params.get(s.node, 0),
            macs.get(s.node, 0),
        )
        for k, s in enumerate(trace.sources)
    )
    return Inspection(
        model=name,
        params=cost.parameters(trace.graph, trace.constants),
        macs=sum(macs.values()),
        layers=layers,
        groups=tuple(_group_info(trace, g, params, macs) for g in groups),
        walls=wall_infos(trace, groups),
    )


def _group_info(trace: Trace, group: Group, params: dict[int, int], macs: dict[int, int]) -> GroupInfo:
    nodes = {trace.sources[s].node for s in group.sources}
    touched = nodes | set(group.consumers)
    grid = next((name for choice, name in trace.chosen if choice.node in nodes), "")
    return GroupInfo(
        id=group.id,
        members=tuple(trace.graph.names[trace.sources[s].node] for s in group.sources),
        consumers=tuple(trace.graph.names[n] for n in group.consumers),
        channels=max(len(trace.sources[s].units) for s in group.sources),
        units=len(group.classes),
        removable=len(group.free),
        params=sum(params.get(n, 0) for n in touched),
        macs=sum(macs.get(n, 0) for n in touched),
        grid=grid,
    )


def wall_infos(trace: Trace, groups: tuple[Group, ...]) -> tuple[WallInfo, ...]:
    """All walls, each once per node, tensor and reason."""
    found: dict[tuple[int, str, str], tuple[set[int], set[int]]] = {}
    group_of = np.full(len(trace.free), -1, np.int64)
    for group in groups:
        group_of[group.classes] = group.id
    for wall in trace.walls:
        units, touched = found.setdefault((wall.node, wall.tensor, wall.reason), (set(), set()))
        units.update(wall.units.tolist())
        touched.update(g for g in group_of[trace.unit_class[wall.units]].tolist() if g >= 0)
    return tuple(
        WallInfo(
            trace.graph.names[node],
            trace.graph.nodes[node].op_type,
            tensor,
            reason,
            len(units),
            tuple(sorted(touched)),
        )
        for (node, tensor, reason), (units, touched) in found.items()
    )


def node_parameters(trace: Trace) -> dict[int, int]:
    """Node -> elements of the weights it uses (a shared one counts at each of its users)."""
    found: dict[int, int] = {}
    for name, users in cost.weights(trace.graph, trace.constants).items():
        size = cost.size_of(trace.graph, trace.constants, name)
        for node in users:
            found[node] = found.get(node, 0) + size
    return found
