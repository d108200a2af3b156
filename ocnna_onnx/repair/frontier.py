"""A net that is run piece by piece, with what lies between the pieces held for all samples: layer after layer can be
repaired without running everything in front of it again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..data.rows import Rows
from ..data.samples import Samples
from ..model.graph import AnyArray, Graph, captured, constant_node_value
from ..model.light import INLINE, Light
from ..model.session import Runtime, open_session, run
from .shelf import Shelf

SHARE = 4
"""Tensors of all samples may take this share of the memory together; others lie in temporary files."""

SAME = 1e-3
"""Rows of one tensor that differ by less of its largest value are taken for the same sample's."""


@dataclass(frozen=True)
class Step:
    """What will be asked for at once: tensors; nodes: the layers whose weights change then."""

    tensors: tuple[str, ...]
    nodes: tuple[int, ...] = ()


@dataclass
class Frontier:
    """Tensors of all samples, as far as the net has been run. weights: initializers and values of Constant nodes; they
    are read when a piece runs: whoever edits them before that is heard.

    samples: how many. batch: samples per run. held: tensor -> rows along axis 0 of one run after the other: [samples,
    …], or, where axis 0 does not count samples, [runs · n, …]. rows: tensor -> n, the rows of one run. steps: what will
    be asked for, in order, `at` the one at hand: tensors are held while that needs them. memory: bytes.
    """

    graph: Graph
    weights: dict[str, AnyArray]
    samples: int
    batch: int
    runtime: Runtime
    memory: int
    fixed: dict[str, AnyArray] = field(default_factory=dict)
    held: dict[str, Rows] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    steps: Sequence[Step] = ()
    at: int = 0

    def __post_init__(self) -> None:
        self._inputs = dict(self.held)
        self._fed = self._descendants(v.name for v in self.graph.inputs)

    @property
    def runs(self) -> int:
        """How many batches all samples make."""
        return -(-self.samples // self.batch)

    def reach(self, wanted: Sequence[str]) -> None:
        """Run what is needed so that these tensors are held. Raises ModelError where that does not run, ValueError
        where one is no array of the same shape for every batch."""
        missing = [t for t in wanted if t not in self.held]
        nodes = self._behind(missing)
        if nodes:
            self._run(nodes, missing)
        for name in wanted:
            if name not in self.held:
                raise ValueError(f"'{name}' cannot be held for all samples")

    def done(self) -> None:
        """The step at hand is over: forget what depends on its layer, and what no later step needs."""
        nodes = self.steps[self.at].nodes
        self.at += 1
        stale = self._descendants(o for i in nodes for o in self.graph.nodes[i].output)
        for name in stale & self.held.keys():
            del self.held[name]
        needed = self._needed(self.held.keys())
        self.held = {n: rows for n, rows in self.held.items() if n in needed or n in self._inputs}

    def again(self, output: str, runs: Iterable[int]) -> Iterator[tuple[int, AnyArray]]:
        """(run, value) of a tensor with the weights as they are now, from what is held in front of it."""
        nodes = self._behind([output], anew=True)
        with open_session(self._piece(nodes, [output]), self.runtime, optimize=True, shared=True) as session:
            names = {i.name for i in session.get_inputs()}
            for number in runs:
                yield number, run(session, [output], self._feed(names, number))[output]

    def is_late(self, name: str, rows: AnyArray, one_of: int) -> AnyArray:
        """bool per row number of a held tensor: whether it is of every `one_of`-th sample (or run, where rows are no
        samples)."""
        if self._is_sampled(name):
            return np.asarray(rows % one_of == one_of - 1)
        number = rows // self.rows[name]
        late = number % one_of == one_of - 1
        return np.asarray(late | ((number == self.runs - 1) & (1 < self.runs < one_of)))

    def _is_sampled(self, name: str) -> bool:
        return len(self.held[name]) == self.samples and self.rows[name] == self.batch

    def _descendants(self, names: Iterable[str]) -> set[str]:
        found, stack = set(), list(names)
        while stack:
            name = stack.pop()
            if name and name not in found:
                found.add(name)
                stack.extend(o for i, _ in self.graph.consumers.get(name, ()) for o in self.graph.nodes[i].output)
        return found

    def _behind(self, names: Sequence[str], anew: bool = False) -> list[int]:
        """Nodes between what is held and these tensors, in order. anew: though these tensors may be held."""
        found: set[int] = set()
        stack = [(name, anew) for name in names]
        while stack:
            name, again = stack.pop()
            node = self.graph.producer.get(name)
            if (name in self.held and not again) or name in self.weights or node is None or node in found:
                continue
            found.add(node)
            proto = self.graph.nodes[node]
            stack.extend((n, False) for n in (*proto.input, *captured(proto)) if n)
        return [i for i in self.graph.order if i in found]

    def _needed(self, at_hand: Iterable[str]) -> set[str]:
        """Which of the tensors at hand later steps start from. What depends on a layer that is still to change is no
        start."""
        later = self.steps[self.at :]
        edited = (o for s in later for i in s.nodes for o in self.graph.nodes[i].output)
        starts = set(at_hand) - self._descendants(edited)
        found: set[str] = set()
        seen: set[str] = set()
        stack = [t for s in later for t in s.tensors]
        while stack:
            name = stack.pop()
            if name in seen:
                continue
            seen.add(name)
            if name in starts:
                found.add(name)
            elif name in self.graph.producer:
                node = self.graph.nodes[self.graph.producer[name]]
                stack.extend(n for n in (*node.input, *captured(node)) if n)
        return found

    def _run(self, nodes: Sequence[int], wanted: Sequence[str]) -> None:
        made = [o for i in nodes for o in self.graph.nodes[i].output if o in self._fed]
        needed = self._needed([*self.held, *made])
        outputs = list(dict.fromkeys([*wanted, *(o for o in made if o in needed)]))
        rooms: dict[str, _Room | None] = {}
        with open_session(self._piece(nodes, outputs), self.runtime, optimize=True, shared=True) as session:
            names = {i.name for i in session.get_inputs()}
            for number in range(self.runs):
                found = run(session, outputs, self._feed(names, number))
                for name in outputs:
                    if number == 0:
                        rooms[name] = self._room(found[name])
                    room = rooms[name]
                    if room is not None and not room.put(number, found[name]):
                        rooms[name] = None
        for name, room in rooms.items():
            if room is not None:
                self.rows[name] = room.rows
                self.held[name] = room.closed(self.samples, self.batch)

    def _feed(self, names: set[str], number: int) -> dict[str, AnyArray]:
        """What a session reads in one run. The last one repeats the last sample to fill up."""
        feed = {n: a for n, a in self.fixed.items() if n in names}
        for name in names & self.held.keys():
            n = self.rows[name]
            last = len(self.held[name]) - 1
            feed[name] = np.asarray(self.held[name][np.minimum(np.arange(number * n, (number + 1) * n), last)])
        return feed

    def _room(self, like: object) -> _Room | None:
        """Room for a tensor of all samples; None where it is no array with rows."""
        if not isinstance(like, np.ndarray) or like.ndim == 0 or not like.size or like.dtype.kind not in "fiub":
            return None
        used = sum(a.nbytes for a in self.held.values() if isinstance(a, np.ndarray))
        used -= sum(a.nbytes for a in self._inputs.values() if isinstance(a, np.ndarray))
        shape = (self.runs * like.shape[0], *like.shape[1:])
        if used + self.runs * like.nbytes <= self.memory // SHARE:
            return _Room(like.shape, np.empty(shape, like.dtype))
        return _Room(like.shape, Shelf(shape, like.dtype))

    def _piece(self, nodes: Sequence[int], outputs: Sequence[str]) -> Light:
        """A model of these nodes: what is held goes in, `outputs` come out."""
        source = self.graph.proto
        proto = onnx.ModelProto(ir_version=max(source.ir_version, 4))
        proto.opset_import.extend(source.opset_import)
        proto.functions.extend(source.functions)
        proto.graph.name = "piece"
        proto.graph.node.extend(self.graph.nodes[i] for i in nodes)
        read = {n for i in nodes for n in (*self.graph.nodes[i].input, *captured(self.graph.nodes[i])) if n}
        made = {o for i in nodes for o in self.graph.nodes[i].output}
        apart = {n for n in read - made if n in self.weights and n not in self.held and self.weights[n].size > INLINE}
        for name in sorted(read - made):
            array: Rows | None = self.held.get(name, self.fixed.get(name))
            if array is not None:
                kind = helper.np_dtype_to_tensor_dtype(array.dtype)
                shape = (self.rows[name], *array.shape[1:]) if name in self.held else array.shape
                proto.graph.input.append(helper.make_tensor_value_info(name, kind, shape))
            elif name in self.weights:
                if name in apart:
                    _outline(proto.graph, name, self.weights[name])
                else:  # onnxruntime wants to see scales and sizes when it infers shapes
                    proto.graph.initializer.append(numpy_helper.from_array(self.weights[name], name))
            elif name in self.graph.initializers:
                proto.graph.initializer.append(self.graph.initializers[name])
        sparse = [t for t in source.graph.sparse_initializer if t.values.name in read]
        proto.graph.sparse_initializer.extend(sparse)
        proto.graph.output.extend(onnx.ValueInfoProto(name=n) for n in outputs)
        return Light(proto, {n: self.weights[n] for n in sorted(apart)})


@dataclass
class _Room:
    """A tensor as it comes, run after run. like: its shape in one run."""

    like: tuple[int, ...]
    store: AnyArray | Shelf
    filled: bool = True

    @property
    def rows(self) -> int:
        """Rows of one run."""
        return self.like[0]

    def put(self, number: int, value: AnyArray) -> bool:
        """False where it is not of the same shape in every run."""
        if not isinstance(value, np.ndarray) or value.shape != self.like:
            return False
        start = number * self.rows
        if isinstance(self.store, Shelf):
            self.store.write(start, value)
        else:
            self.store[start : start + self.rows] = value
        return True

    def closed(self, samples: int, batch: int) -> Rows:
        """The rows without those of samples that were repeated to fill the last run, where rows are samples."""
        extra = len(self.store) - samples
        if self.rows != batch or extra <= 0:
            return self.store
        last = np.asarray(self.store[slice(samples - 1, len(self.store))]).astype(np.float64)
        limit = SAME * max(float(np.abs(np.nan_to_num(last)).max()), 1e-30)
        if not (np.abs(np.nan_to_num(last[1:] - last[:1])) <= limit).all():
            return self.store  # the axis counts something else, and happens to be as long
        if isinstance(self.store, Shelf):
            self.store.first(samples)
            return self.store
        return self.store[:samples]


def _outline(graph: onnx.GraphProto, name: str, value: AnyArray) -> None:
    """An initializer whose bytes are handed over apart."""
    found = graph.initializer.add()
    found.name, found.data_type = name, helper.np_dtype_to_tensor_dtype(value.dtype)
    found.dims.extend(value.shape)
    found.data_location = onnx.TensorProto.EXTERNAL
    found.external_data.add(key="location", value="elsewhere")


def frontier(
    model: Light, samples: Samples, batch: int, runtime: Runtime, memory: int, steps: Sequence[Step] = ()
) -> Frontier:
    """At the inputs of a model."""
    graph = Graph(model.proto, model.weights)
    held: dict[str, Rows] = dict(samples.arrays)
    weights = stored_floats(graph)
    rows = dict.fromkeys(held, batch)
    return Frontier(graph, weights, samples.count, batch, runtime, memory, dict(samples.fixed), held, rows, steps)


def stored_floats(graph: Graph) -> dict[str, AnyArray]:
    """Values of initializers and Constant nodes that may be weights: fp16, fp32 or fp64, with an axis."""
    found: Mapping[str, AnyArray | None] = {
        **{name: graph.array(name) for name in graph.initializers},
        **{n.output[0]: constant_node_value(n) for n in graph.nodes if n.op_type == "Constant"},
    }
    return {name: a for name, a in found.items() if a is not None and a.dtype.kind == "f" and a.ndim > 0}
