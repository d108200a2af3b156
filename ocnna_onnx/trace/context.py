"""What a rule sees and may say: one node, the labels that reach it, and what follows for weights and units."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from ..model.constants import Constants
from ..model.graph import AnyArray, Graph, attribute
from ..model.shapes import Shapes
from . import labels as lb
from .labels import IntArray, Labels, Shape
from .types import Choice, Cut, Option, Source, Wall

FLOATS = frozenset(
    {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE}
)


@dataclass
class Record:
    """What the rules have said so far; grows node by node, and is frozen into a Trace at the end."""

    graph: Graph
    shapes: Shapes
    constants: Constants
    labels: dict[str, tuple[Labels, ...]] = field(default_factory=dict)
    sources: list[Source] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    walls: list[Wall] = field(default_factory=list)
    masks: dict[tuple[int, int], int | None] = field(default_factory=dict)
    joins: list[tuple[IntArray, IntArray]] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    units: int = 0

    def fresh(self, count: int) -> IntArray:
        """New unit labels, [count]."""
        self.units += count
        return np.arange(self.units - count + 1, self.units + 1, dtype=np.int64)


@dataclass(frozen=True)
class NodeTrace:
    """One node, seen by its rule."""

    record: Record
    index: int
    node: onnx.NodeProto

    @property
    def op(self) -> str:
        return self.node.op_type

    @property
    def opset(self) -> int:
        return self.record.graph.opset

    def attr(self, name: str, default: Any = None) -> Any:
        return attribute(self.node, name, default)

    def has(self, i: int) -> bool:
        """Whether input i is present."""
        return i < len(self.node.input) and bool(self.node.input[i])

    def shape(self, i: int) -> Shape:
        return self.record.shapes.shape[self.node.input[i]]

    def out_shape(self, k: int = 0) -> Shape:
        return self.record.shapes.shape[self.node.output[k]]

    def is_float(self, i: int) -> bool:
        """Whether input i holds floating-point numbers, of whatever precision."""
        return self.record.shapes.dtype.get(self.node.input[i]) in FLOATS

    def labels(self, i: int) -> tuple[Labels, ...]:
        return self.record.labels.get(self.node.input[i], ()) if self.has(i) else ()

    def is_fixed(self, i: int) -> bool:
        """Whether input i is a constant: its value never changes, so it can be cut."""
        return self.has(i) and self.node.input[i] in self.record.constants.fixed

    def is_static(self, i: int) -> bool:
        """Whether input i is known ahead: a constant, or computed from shapes."""
        return self.has(i) and self.node.input[i] in self.record.constants.ahead

    def value(self, i: int) -> AnyArray | None:
        """The value of a static input at the probe shapes."""
        return self.record.constants.value(self.node.input[i]) if self.has(i) else None

    def ints(self, i: int, name: str = "") -> tuple[int, ...] | None:
        """A list of integers from static input i or, in older opsets, from the attribute `name`."""
        if name and (found := self.attr(name)) is not None:
            return tuple(int(v) for v in np.atleast_1d(found))
        value = self.value(i)
        return None if value is None else tuple(int(v) for v in value.reshape(-1))

    def dynamic(self, name: str, axis: int) -> bool:
        """Whether the size of a tensor's axis follows a symbolic dimension."""
        return axis in self.record.shapes.dynamic.get(name, ())

    # --- what a rule may say ---

    def emit(self, labels: Iterable[Labels | None], k: int = 0) -> None:
        """The label arrays of output k. Raises ValueError where they are of another shape than it is."""
        found = tuple(x for x in labels if x is not None and x.axes)
        if found and k < len(self.node.output) and self.node.output[k]:
            wrong = [x.shape for x in found if x.shape != self.out_shape(k)]
            if wrong:
                raise ValueError(f"labels of shape {wrong[0]} for a tensor of shape {self.out_shape(k)}")
            self.record.labels[self.node.output[k]] = found

    def wall(self, labels: Iterable[Labels], reason: str, i: int = 0) -> None:
        """These units cannot go, because of what this node does to its input i."""
        tensor = self.node.input[i] if self.has(i) else next(filter(None, self.node.output), "")
        for x in labels:
            self.wall_units(x.array, reason, tensor)

    def refuse(self, reason: str) -> None:
        """A wall without units: channels that this node makes and that are not even followed."""
        output = next(filter(None, self.node.output), "")
        self.record.walls.append(Wall(self.index, output, reason, np.zeros(0, np.int64)))

    def wall_units(self, units: IntArray, reason: str, tensor: str) -> None:
        found = np.unique(units)
        found = found[found > 0]
        if len(found):
            self.record.walls.append(Wall(self.index, tensor, reason, found))

    def source(self, axis: int, k: int = 0) -> Labels | None:
        """Fresh units along `axis` of output k; None where there is only one channel, which cannot go."""
        shape = self.out_shape(k)
        if shape[axis] < 2:
            return None
        units = self.record.fresh(shape[axis])
        self.record.sources.append(Source(self.index, self.node.output[k], axis, units))
        return lb.along(units, axis, shape)

    def made_up(self, count: int) -> IntArray:
        """Labels for positions that the graph makes up (zeros of a Pad): they go with the units that they meet."""
        return self.record.fresh(count)

    def cut(self, i: int, axis: int, labels: Labels, along: int) -> None:
        """Constant input i shrinks along `axis` as `labels` do along their axis `along`."""
        self.record.cuts.append(Cut(self.index, i, axis, labels, along))

    def mask(self, i: int, neutral: int | None = None) -> None:
        """This node mixes channels of input i: the oracle silences removed ones in front of it. neutral: the input
        that holds what silence is (a zero point), where it is not 0."""
        self.record.masks[(self.index, i)] = neutral if neutral is not None and self.has(neutral) else None

    def join(self, a: Labels, b: Labels, reason: str, i: int = 0) -> None:
        """At every position the units of a and b go together; where one is fixed the other is walled."""
        left, right = lb.paired(a, b)
        self.join_units(left, right, reason, i)

    def join_units(self, left: IntArray, right: IntArray, reason: str, i: int = 0) -> None:
        both = (left > 0) & (right > 0)
        self.record.joins.append((left[both], right[both]))
        lonely = np.where(left > 0, left, right)[(left > 0) != (right > 0)]
        self.wall_units(lonely, reason, self.node.input[i] if self.has(i) else "")

    def join_along(self, labels: Labels, axes: Sequence[int], reason: str, i: int = 0) -> None:
        """Units that differ only in their position along `axes` go together."""
        full = lb.compact(labels)
        rows = np.moveaxis(full, axes, range(-len(axes), 0)).reshape(-1, int(np.prod([full.shape[a] for a in axes])))
        first = np.broadcast_to(rows[:, :1], rows.shape)
        self.join_units(first.reshape(-1), rows.reshape(-1), reason, i)

    def choose(self, options: Sequence[Option]) -> None:
        self.record.choices.append(Choice(self.index, self.node.output[0], tuple(options)))


def whole_slices(full: IntArray, axes: Sequence[int]) -> tuple[Option, ...]:
    """The ways to keep a grid of units dense: whole slices along one axis. full: one dimension per axis."""
    options = []
    for axis in axes:
        rows = np.moveaxis(full, axis, 0).reshape(full.shape[axis], -1)
        options.append(Option(f"whole slices along axis {axis}", (rows,)))
    return tuple(options)
