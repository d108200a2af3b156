"""What a set of decisions would save, by arithmetic on labels and shapes: nothing is rewritten, nothing runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from ..model import cost
from ..plan.select import spare_emptied
from ..trace.kept import Kept, kept_along
from ..trace.labels import BoolArray, IntArray, Shape
from ..trace.types import Cut, Trace


@dataclass(frozen=True)
class Cost:
    """Parameters, and multiply–accumulates for one sample."""

    params: int
    macs: int


@dataclass(frozen=True)
class _Index:
    """Which of several sets hold a class: (class, set number) pairs, sorted by class."""

    classes: IntArray
    numbers: IntArray

    def hit(self, classes: IntArray) -> list[int]:
        """The sets with any of these classes, ascending."""
        first, last = (np.searchsorted(self.classes, classes, side=side) for side in ("left", "right"))
        found = [self.numbers[a:b] for a, b in zip(first, last, strict=True)]
        return np.unique(np.concatenate(found)).tolist() if found else []


def _index(sets: Sequence[IntArray]) -> _Index:
    classes = np.concatenate([np.zeros(0, np.int64), *sets])
    numbers = np.repeat(np.arange(len(sets)), [len(s) for s in sets])
    order = np.argsort(classes, kind="stable")
    return _Index(classes[order], numbers[order])


@dataclass(frozen=True)
class Savings:
    """The costs of one traced model, ready to be asked what goes when classes (decisions) go."""

    trace: Trace

    @cached_property
    def total(self) -> Cost:
        """Of the whole model."""
        return Cost(cost.parameters(self.trace.graph, self.trace.constants), sum(self.node_macs.values()))

    @cached_property
    def node_macs(self) -> dict[int, int]:
        """Node -> its multiply–accumulates for one sample."""
        found = cost.macs(self.trace.graph, self.trace.shapes.shape)
        return {node: count // self.trace.shapes.batch for node, count in found.items()}

    def spared(self, classes: IntArray) -> IntArray:
        """As many of these classes as can go together: where a tensor would lose everything, one stays."""
        together, index = self._together
        touched = [together[k] for k in index.hit(classes)]
        return spare_emptied(np.unique(classes), touched, np.zeros(len(self.trace.free)))

    def saved(self, removed: IntArray, before: IntArray | None = None) -> Cost:
        """What the model costs less when `removed` go (where `before` have gone already)."""
        base = np.zeros(0, np.int64) if before is None else before
        old, new = (self.trace.keep_units(classes) for classes in (base, removed))
        nodes, names = self._touched(np.setxor1d(removed, base))
        macs = sum(self._macs(i, old) - self._macs(i, new) for i in nodes)
        params = sum(self._params(n, old) - self._params(n, new) for n in names)
        return Cost(params, macs // self.trace.shapes.batch)

    @cached_property
    def _together(self) -> tuple[list[IntArray], _Index]:
        """Sets of classes of which one must stay."""
        sets = list(self.trace.axis_classes().values())
        return sets, _index(sets)

    @cached_property
    def _cuts(self) -> dict[tuple[int, int], list[Cut]]:
        """(node, input) -> the cuts of that constant operand."""
        found: dict[tuple[int, int], list[Cut]] = {}
        for cut in self.trace.cuts:
            found.setdefault((cut.node, cut.input), []).append(cut)
        return found

    @cached_property
    def _readers(self) -> dict[str, list[tuple[int, int]]]:
        """Weight -> the (node, input) places that read it."""
        graph = self.trace.graph
        users = cost.weights(graph, self.trace.constants)
        found: dict[str, list[tuple[int, int]]] = {}
        for name, nodes in users.items():
            places = ((node, k) for node in nodes for k, n in enumerate(graph.nodes[node].input) if n)
            found[name] = [(i, k) for i, k in places if cost.origin(graph, graph.nodes[i].input[k]) == name]
        return found

    @cached_property
    def _items(self) -> tuple[list[int | str], _Index]:
        """Nodes with multiply–accumulates, and weights."""
        graph, labels = self.trace.graph, self.trace.labels
        arrays: dict[int | str, list[IntArray]] = {}
        for i in self.node_macs:
            node = graph.nodes[i]
            held = [x.array for name in (*node.input, *node.output) for x in labels.get(name, ())]
            cuts = [c.labels.array for k in range(len(node.input)) for c in self._cuts.get((i, k), ())]
            arrays[i] = held + cuts
        for name, places in self._readers.items():
            arrays[name] = [c.labels.array for place in places for c in self._cuts.get(place, ())]
        return list(arrays), _index([self._classes(found) for found in arrays.values()])

    def _classes(self, arrays: Sequence[IntArray]) -> IntArray:
        found = [self.trace.unit_class[np.unique(units)] for units in arrays]
        return np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)

    def _touched(self, classes: IntArray) -> tuple[list[int], list[str]]:
        items, index = self._items
        found = [items[k] for k in index.hit(classes)]
        return [x for x in found if isinstance(x, int)], [x for x in found if isinstance(x, str)]

    def _macs(self, index: int, keep: BoolArray) -> int:
        kept, node = Kept(self.trace, keep), self.trace.graph.nodes[index]
        known = self.trace.shapes.shape
        shape = {n: kept.shape(n) for n in (*node.input, *node.output) if n in known}
        for k, name in enumerate(node.input):
            if (index, k) in self._cuts:
                shape[name] = self._operand((index, k), keep)[0]
        return cost.node_macs(self.trace.graph, index, shape)

    def _params(self, name: str, keep: BoolArray) -> int:
        """Elements of a weight: one copy for each different cut of it."""
        size = cost.size_of(self.trace.graph, self.trace.constants, name)
        variants: dict[tuple[tuple[int, bytes], ...], int] = {}
        for place in self._readers[name]:
            shape, signature = self._operand(place, keep)
            whole = prod(self.trace.shapes.shape[self.trace.graph.nodes[place[0]].input[place[1]]])
            left = size * prod(shape) // max(1, whole)
            counts = left > 1 or self.trace.graph.nodes[place[0]].op_type in cost.WEIGHTED
            variants[signature] = left if counts else 0
        return sum(variants.values())

    def _operand(self, place: tuple[int, int], keep: BoolArray) -> tuple[Shape, tuple[tuple[int, bytes], ...]]:
        """A constant operand's shape after the cut, and what distinguishes the cut from others."""
        shape = list(self.trace.shapes.shape[self.trace.graph.nodes[place[0]].input[place[1]]])
        axes: dict[int, BoolArray] = {}
        for cut in self._cuts.get(place, ()):
            stays = kept_along(cut.labels, cut.along, keep)
            axes[cut.axis] = axes[cut.axis] & stays if cut.axis in axes else stays
        for axis, stays in axes.items():
            shape[axis] = int(stays.sum())
        return tuple(shape), tuple((a, m.tobytes()) for a, m in sorted(axes.items()) if not m.all())
