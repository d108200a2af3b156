"""`inspect --why`: what one tensor or node means for pruning."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import onnx

from ..errors import UsageError
from ..model.graph import bodies, is_standard
from ..trace.groups import Group
from ..trace.kept import kept_along
from ..trace.labels import IntArray, Labels, Shape
from ..trace.rules import rule_for
from ..trace.types import Trace

SCHEMA = 1


@dataclass(frozen=True)
class AxisInfo:
    """An axis along which channels lie. channels: positions that carry one; removable: those that can go, of which
    one at least stays; groups: theirs."""

    axis: int
    size: int
    channels: int
    removable: int
    groups: tuple[int, ...]


@dataclass(frozen=True)
class TensorInfo:
    """A tensor with the axes that carry channels. shape: at the probe; None where it is not known."""

    name: str
    shape: Shape | None
    axes: tuple[AxisInfo, ...]


@dataclass(frozen=True)
class CutInfo:
    """Where a constant is cut: input `input` of `node` shrinks along `axis` with the channels of these groups."""

    node: str
    input: int
    tensor: str
    axis: int
    removable: int
    groups: tuple[int, ...]


@dataclass(frozen=True)
class HeldInfo:
    """A wall that holds channels of this place: its node, operator, tensor and reason, and how many units here."""

    node: str
    op: str
    tensor: str
    reason: str
    units: int


@dataclass(frozen=True)
class Why:
    """The answer for one name.

    kind: `node`, `input`, `weight`, `constant`, `tensor`, or `inner` (in the body of an If, Loop or Scan). op, rule:
    the operator of the node (or of the one that makes the tensor), and what our rule for it does. tensors: the tensor
    itself; of a node, what it reads and makes. made_by, read_by: of a tensor. cuts: of a weight or constant where it
    shrinks, of a node which of its operands do.
    """

    name: str
    kind: str
    op: str = ""
    rule: str = ""
    tensors: tuple[TensorInfo, ...] = ()
    reads: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()
    made_by: str = ""
    read_by: tuple[str, ...] = ()
    groups: tuple[int, ...] = ()
    cuts: tuple[CutInfo, ...] = ()
    walls: tuple[HeldInfo, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As `inspect --why NAME --json` prints it."""
        return {"schema": SCHEMA, **asdict(self)}


def answer(trace: Trace, groups: Sequence[Group], name: str) -> Why:
    """What `name` means for pruning. Raises UsageError where no tensor or node is called that."""
    place = _Place(trace, _group_of(trace, groups))
    graph = trace.graph
    if name in graph.names and any(node.name == name for node in graph.nodes):
        return place.node(graph.names.index(name))
    if name in _tensors(trace):
        return place.tensor(name)
    for i, node in enumerate(graph.nodes):
        if name in _inner_names(node):
            return replace(place.node(i), name=name, kind="inner", notes=(_inner_note(graph.names[i], node),))
    raise UsageError(_unknown(trace, name))


@dataclass(frozen=True)
class _Place:
    trace: Trace
    group_of: IntArray
    """Group of each class, or −1."""

    def node(self, index: int) -> Why:
        graph, constants = self.trace.graph, self.trace.constants
        node = graph.nodes[index]
        op, rule = _operator(node)
        reads, makes = (tuple(dict.fromkeys(n for n in names if n)) for names in (node.input, node.output))
        tensors = tuple(self.info(n) for n in dict.fromkeys((*reads, *makes)) if self.trace.labels.get(n) or n in makes)
        notes = []
        if makes and all(n in constants.ahead for n in makes):
            notes.append("its value is known before the model runs: no channels pass through it")
        elif not rule:
            notes.append("there is no rule for this operator: channels that reach it stay")
        elif not any(t.axes for t in tensors):
            notes.append("no channels that could go reach it, and it makes none")
        own = [w for w in self.trace.walls if w.node == index]
        units = self._units(t.name for t in tensors)
        name = graph.names[index]
        if name in _tensors(self.trace) and name not in (*reads, *makes):
            maker = f"node '{graph.names[graph.producer[name]]}'" if name in graph.producer else "the graph"
            notes.append(f"a tensor of {maker} has the same name")
        return Why(
            name=name,
            kind="node",
            op=op,
            rule=rule,
            tensors=tensors,
            reads=reads,
            makes=makes,
            groups=self.groups(units),
            cuts=tuple(self.cut_infos(k for k, cut in enumerate(self.trace.cuts) if cut.node == index)),
            walls=self.held(units, [w.node for w in own]),
            notes=tuple(notes),
        )

    def tensor(self, name: str) -> Why:
        graph, constants = self.trace.graph, self.trace.constants
        info = self.info(name)
        units = self._units([name])
        cuts = tuple(
            self.cut_infos(k for k, c in enumerate(self.trace.cuts) if self._comes_from(c.node, c.input, name))
        )
        fed = any(i.name == name for i in graph.inputs)
        kind = "tensor"
        if fed:
            kind = "input"
        elif name in graph.initializers:
            kind = "weight"
        elif name in constants.ahead:
            kind = "constant"
        maker = graph.producer.get(name)
        readers = list(dict.fromkeys(i for i, _ in graph.consumers.get(name, ())))
        near = [*readers, *([] if maker is None else [maker])]
        groups = self.groups(units) or tuple(sorted({g for c in cuts for g in c.groups}))
        op, rule = ("", "") if maker is None else _operator(graph.nodes[maker])
        return Why(
            name=name,
            kind=kind,
            op=op,
            rule=rule,
            tensors=(info,),
            made_by="" if maker is None else graph.names[maker],
            read_by=tuple(graph.names[i] for i in readers),
            groups=groups,
            cuts=cuts,
            walls=tuple(
                w for w in self.held(units, near) if w.units or (maker is not None and w.node == graph.names[maker])
            ),
            notes=tuple(self._notes(name, kind, info, cuts)),
        )

    def _notes(self, name: str, kind: str, info: TensorInfo, cuts: Sequence[CutInfo]) -> list[str]:
        graph, constants = self.trace.graph, self.trace.constants
        if kind == "input":
            return ["the caller feeds it: it stays as it is"]
        if name in constants.overridden:
            return [f"'{constants.overridden[name]}' is an overridable input (--strict-inputs): it is not cut"]
        notes = []
        if name in graph.overridable:
            notes.append(
                "it is an input of the graph, too, so that a caller may feed another value: "
                + ("its input's shape is cut with it" if cuts else "--strict-inputs would leave it alone")
            )
        if kind in ("weight", "constant"):
            follows = name in constants.live or constants.reads_shapes(name)
            if follows:
                notes.append("it is computed from the shapes of other tensors: it follows them by itself")
            elif not cuts:
                notes.append("nothing that reads it loses channels along it: it stays whole")
            return notes
        if not info.axes:
            maker = graph.names[graph.producer[name]] if name in graph.producer else ""
            known = "" if info.shape is not None else "; its shape is not known"
            notes.append(f"no channels that could go reach it through node '{maker}'{known}")
            return notes
        for x in self.trace.labels[name]:
            classes = self.trace.unit_class[x.units]
            if (self.group_of[classes] < 0).any():
                notes.append("some of its channels the graph makes up (padding, Expand): they go with what they meet")
                break
        if any(a.channels < a.size for a in info.axes):
            notes.append("positions without a channel are fixed: they come from an input or a constant")
        return notes

    def info(self, name: str) -> TensorInfo:
        shape = self.trace.shapes.shape.get(name)
        found: dict[int, list[Labels]] = {}
        for x in self.trace.labels.get(name, ()):
            for axis in x.axes:
                found.setdefault(axis, []).append(x)
        axes = tuple(self._axis(axis, arrays) for axis, arrays in sorted(found.items()))
        return TensorInfo(name, shape, axes)

    def _axis(self, axis: int, arrays: Sequence[Labels]) -> AxisInfo:
        trace = self.trace
        none, walled = np.zeros(len(trace.unit_class), bool), ~trace.free[trace.unit_class]
        none[0] = walled[0] = True
        fixed = np.logical_and.reduce([kept_along(x, axis, none) for x in arrays])
        stays = np.logical_and.reduce([kept_along(x, axis, walled) for x in arrays])
        groups = self.groups(np.unique(np.concatenate([x.units for x in arrays])))
        return AxisInfo(axis, len(stays), int((~fixed).sum()), int((~stays).sum()), groups)

    def groups(self, units: IntArray) -> tuple[int, ...]:
        found = np.unique(self.group_of[self.trace.unit_class[units]])
        return tuple(found[found >= 0].tolist())

    def _units(self, names: Iterable[str]) -> IntArray:
        arrays = [x.units for n in names for x in self.trace.labels.get(n, ())]
        return np.unique(np.concatenate(arrays)) if arrays else np.zeros(0, np.int64)

    def held(self, units: IntArray, nodes: Sequence[int]) -> tuple[HeldInfo, ...]:
        """The walls that hold any of these units, and those at these nodes, which come first."""
        trace = self.trace
        classes = trace.unit_class[units]
        found: dict[tuple[int, str, str], int] = {}
        for wall in trace.walls:
            count = int(np.isin(classes, trace.unit_class[wall.units]).sum())
            if count or wall.node in nodes:
                key = (wall.node, wall.tensor, wall.reason)
                found[key] = max(found.get(key, 0), count)
        names, all_nodes = trace.graph.names, trace.graph.nodes
        near = sorted(found.items(), key=lambda item: item[0][0] not in nodes)
        return tuple(HeldInfo(names[n], all_nodes[n].op_type, t, reason, c) for (n, t, reason), c in near)

    def cut_infos(self, numbers: Iterable[int]) -> Iterable[CutInfo]:
        for k in numbers:
            cut = self.trace.cuts[k]
            axis = self._axis(cut.along, [cut.labels])
            names, node = self.trace.graph.names, self.trace.graph.nodes[cut.node]
            yield CutInfo(names[cut.node], cut.input, node.input[cut.input], cut.axis, axis.removable, axis.groups)

    def _comes_from(self, node: int, i: int, name: str) -> bool:
        """Whether a constant operand is `name`, or is computed from it."""
        graph, constants = self.trace.graph, self.trace.constants
        stack, seen = [graph.nodes[node].input[i]], set()
        while stack:
            tensor = stack.pop()
            if tensor == name:
                return True
            if tensor in seen or tensor in graph.initializers or tensor not in constants.ahead:
                continue
            seen.add(tensor)
            stack.extend(n for n in graph.nodes[graph.producer[tensor]].input if n)
        return False


def _group_of(trace: Trace, groups: Sequence[Group]) -> IntArray:
    found = np.full(len(trace.free), -1, np.int64)
    for group in groups:
        found[group.classes] = group.id
    return found


def _tensors(trace: Trace) -> set[str]:
    graph = trace.graph
    made = {n for node in graph.nodes for n in (*node.input, *node.output) if n}
    return made | set(graph.initializers) | {i.name for i in graph.proto.graph.input}


def _inner_names(node: onnx.NodeProto) -> set[str]:
    found: set[str] = set()
    for body in bodies(node):
        found |= {i.name for i in body.input} | {t.name for t in body.initializer}
        for inner in body.node:
            found |= {inner.name, *inner.output, *_inner_names(inner)}
    return found - {""}


def _inner_note(outer: str, node: onnx.NodeProto) -> str:
    return f"it is in the body of node '{outer}' ({node.op_type}); what follows is about that node"


def _operator(node: onnx.NodeProto) -> tuple[str, str]:
    """A node's operator, and the first paragraph of what our rule for it says; "" where there is none."""
    rule = rule_for(node)
    doc = (rule.trace.__doc__ or node.op_type) if rule is not None else ""
    op = node.op_type if is_standard(node) else f"{node.domain}.{node.op_type}"
    return op, " ".join(doc.split("\n\n")[0].split())


def _unknown(trace: Trace, name: str) -> str:
    graph = trace.graph
    twins = [graph.names[i] for i, node in enumerate(graph.nodes) if node.name == name]
    if twins:
        listed = ", ".join(f"'{t}'" for t in twins[:3])
        return f"{len(twins)} nodes are named '{name}'; ask for them by their first outputs: {listed}"
    inner = {n for node in graph.nodes for n in _inner_names(node)}
    known = sorted(_tensors(trace) | set(graph.names) | inner)
    close = difflib.get_close_matches(name, known, n=3) or [k for k in known if name.lower() in k.lower()][:3]
    hint = f"; did you mean {', '.join(repr(c) for c in close)}?" if close else ""
    return f"no tensor or node '{name}' in this model{hint}"
