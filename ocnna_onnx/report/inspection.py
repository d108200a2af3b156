"""What a model looks like to the pruner: layers, groups, walls, and how much of it can be reached."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np

from ..model import cost
from ..trace.groups import Group, find_groups
from ..trace.labels import IntArray, Shape
from ..trace.types import Trace
from .savings import Cost, Savings
from .why import Why, answer

SCHEMA = 1


@dataclass(frozen=True)
class LayerInfo:
    """A node that makes channels. reads: groups whose channels it contracts over. params, macs: its own. tensor: what
    it makes; removable: how many of its channels can go."""

    node: str
    op: str
    channels: int
    group: int
    reads: tuple[int, ...]
    params: int
    macs: int
    tensor: str
    removable: int


@dataclass(frozen=True)
class GroupInfo:
    """Layers that share decisions. channels: of each member; units: decisions; removable: those that can go.
    params, macs: of the members and consumers together; half_params, half_macs: what half of `removable` would save."""

    id: int
    members: tuple[str, ...]
    consumers: tuple[str, ...]
    channels: int
    units: int
    removable: int
    params: int
    macs: int
    grid: str
    half_params: int
    half_macs: int


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
class ReasonInfo:
    """All walls of one reason (quoted names left out). walls: positions in `walls`; units: how many they hold;
    params, macs: what stays because of those units."""

    reason: str
    walls: tuple[int, ...]
    units: int
    params: int
    macs: int


@dataclass(frozen=True)
class Inspection:
    """The result of `inspect`. params, macs: of the whole model, for one sample at the probe shapes `inputs`.

    reachable: what goes when every unit that can go goes, but one per tensor; half: when half of every group goes.
    reasons: the walls by reason, the heaviest first. warnings: what to know before pruning.
    """

    model: str
    inputs: dict[str, Shape]
    params: int
    macs: int
    reachable: Cost
    half: Cost
    layers: tuple[LayerInfo, ...]
    groups: tuple[GroupInfo, ...]
    walls: tuple[WallInfo, ...]
    reasons: tuple[ReasonInfo, ...]
    warnings: tuple[str, ...]
    _trace: Trace = field(repr=False, compare=False)
    _groups: tuple[Group, ...] = field(repr=False, compare=False)

    def why(self, name: str) -> Why:
        """What one tensor or node means for pruning. Raises UsageError for a name that the model does not have."""
        return answer(self._trace, self._groups, name)

    def to_json(self) -> dict[str, Any]:
        """As `inspect --json` prints it."""
        public = {f.name: _plain(getattr(self, f.name)) for f in fields(self) if not f.name.startswith("_")}
        for key in ("reachable", "half"):
            public[key]["params_share"] = _share(public[key]["params"], self.params)
            public[key]["macs_share"] = _share(public[key]["macs"], self.macs)
        return {"schema": SCHEMA, **public}


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return [_plain(v) for v in value] if isinstance(value, tuple) else value


def _share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0


def inspection(trace: Trace, name: str) -> Inspection:
    """Describe a trace."""
    groups, savings = find_groups(trace), Savings(trace)
    params = node_parameters(trace)
    walls = wall_infos(trace, groups)
    halves = [g.free[1::2] for g in groups]
    return Inspection(
        model=name,
        inputs=dict(trace.shapes.feeds),
        params=savings.total.params,
        macs=savings.total.macs,
        reachable=savings.saved(savings.spared(np.flatnonzero(trace.free))),
        half=savings.saved(savings.spared(np.concatenate([np.zeros(0, np.int64), *halves]))),
        layers=_layers(trace, groups, params, savings.node_macs),
        groups=tuple(_group_info(trace, g, params, savings, half) for g, half in zip(groups, halves, strict=True)),
        walls=walls,
        reasons=_reasons(trace, walls, savings),
        warnings=_warnings(trace),
        _trace=trace,
        _groups=groups,
    )


def _layers(
    trace: Trace, groups: tuple[Group, ...], params: dict[int, int], macs: dict[int, int]
) -> tuple[LayerInfo, ...]:
    of_source = {s: g.id for g in groups for s in g.sources}
    reads: dict[int, list[int]] = {}
    for group in groups:
        for node in group.consumers:
            reads.setdefault(node, []).append(group.id)
    return tuple(
        LayerInfo(
            trace.graph.names[s.node],
            trace.graph.nodes[s.node].op_type,
            len(s.units),
            of_source[k],
            tuple(reads.get(s.node, ())),
            params.get(s.node, 0),
            macs.get(s.node, 0),
            s.tensor,
            int(trace.free[trace.unit_class[s.units]].sum()),
        )
        for k, s in enumerate(trace.sources)
    )


def _group_info(trace: Trace, group: Group, params: dict[int, int], savings: Savings, half: IntArray) -> GroupInfo:
    nodes = {trace.sources[s].node for s in group.sources}
    touched = nodes | set(group.consumers)
    grid = next((name for choice, name in trace.chosen if choice.node in nodes), "")
    saved = savings.saved(savings.spared(half))
    return GroupInfo(
        id=group.id,
        members=tuple(trace.graph.names[trace.sources[s].node] for s in group.sources),
        consumers=tuple(trace.graph.names[n] for n in group.consumers),
        channels=max(len(trace.sources[s].units) for s in group.sources),
        units=len(group.classes),
        removable=len(group.free),
        params=sum(params.get(n, 0) for n in touched),
        macs=sum(savings.node_macs.get(n, 0) for n in touched),
        grid=grid,
        half_params=saved.params,
        half_macs=saved.macs,
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


def _reasons(trace: Trace, walls: tuple[WallInfo, ...], savings: Savings) -> tuple[ReasonInfo, ...]:
    """Walls by reason. What a reason holds is counted as if its units could go, and all that can go had gone."""
    places: dict[str, list[int]] = {}
    for k, info in enumerate(walls):
        places.setdefault(_kind(info.reason), []).append(k)
    units: dict[str, list[IntArray]] = {}
    for wall in trace.walls:
        units.setdefault(_kind(wall.reason), []).append(wall.units)
    free = np.flatnonzero(trace.free)
    gone = savings.spared(free)
    real = np.zeros(len(trace.free), bool)
    for source in trace.sources:
        real[trace.unit_class[source.units]] = True
    found = []
    for reason, own in places.items():
        held = np.unique(np.concatenate(units[reason]))
        classes = np.unique(trace.unit_class[held])
        more = savings.saved(savings.spared(np.union1d(free, classes[real[classes]])), gone)
        found.append(ReasonInfo(reason, tuple(own), len(held), more.params, more.macs))
    return tuple(sorted(found, key=lambda r: (-r.macs, -r.units)))


def _kind(reason: str) -> str:
    """A reason without the names that it quotes: what one kind of wall has in common."""
    return re.sub(r"'[^']*'", "'…'", reason)


def _warnings(trace: Trace) -> tuple[str, ...]:
    if trace.constants.strict_inputs:
        return ()
    cut = {cost.origin(trace.graph, trace.graph.nodes[c.node].input[c.input]) for c in trace.cuts}
    hit = sorted(cut & trace.graph.overridable)
    if not hit:
        return ()
    return (
        f"{len(hit)} weights are graph inputs too ('{hit[0]}', …), so that a caller may feed others: they are cut "
        "together with the input's shape (--strict-inputs leaves them alone)",
    )


def node_parameters(trace: Trace) -> dict[int, int]:
    """Node -> elements of the weights it uses (a shared one counts at each of its users)."""
    found: dict[int, int] = {}
    for name, users in cost.weights(trace.graph, trace.constants).items():
        size = cost.size_of(trace.graph, trace.constants, name)
        for node in users:
            found[node] = found.get(node, 0) + size
    return found
