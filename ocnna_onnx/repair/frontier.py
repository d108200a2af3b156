"""A net that is run piece by piece, with what lies between the pieces held for all samples: layer after layer can be
repaired without running everything in front of it again."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
import onnx
from onnx import helper

from ..data.samples import Samples
from ..model.graph import AnyArray, Graph, captured
from ..model.light import Light, outline
from ..model.session import Runtime, open_session, run

SPILL = 8
"""A tensor of all samples may take this share of the memory; larger ones lie in a temporary file."""


@dataclass
class Frontier:
    """Tensors of all samples (axis 0), as far as the net has been run. weights are read when a piece runs: whoever
    edits them before that is heard.

    held: tensor -> [samples, …]. done: nodes that need not run again. memory: bytes.
    """

    graph: Graph
    weights: dict[str, AnyArray]
    samples: int
    batch: int
    runtime: Runtime
    memory: int
    fixed: dict[str, AnyArray] = field(default_factory=dict)
    held: dict[str, AnyArray] = field(default_factory=dict)
    done: set[int] = field(default_factory=set)

    def reach(self, wanted: Sequence[str]) -> None:
        """Run what is needed so that these tensors are held. Raises ValueError where one has no axis of samples."""
        missing = [t for t in wanted if t not in self.held]
        nodes = self._behind(missing)
        if nodes:
            self._run(nodes, missing)
        for name in wanted:
            if name not in self.held:
                raise ValueError(f"'{name}' has no axis of samples")

    def release(self, keep: Iterable[str] = ()) -> None:
        """Forget tensors that no node will ask for."""
        kept = set(keep) | set(self.graph.outputs)
        for name in list(self.held):
            readers = {n for n, _ in self.graph.consumers.get(name, ())}
            if name not in kept and readers <= self.done:
                del self.held[name]

    def _behind(self, names: Sequence[str]) -> list[int]:
        """Nodes between what is held and these tensors, in order."""
        found: set[int] = set()
        stack = list(names)
        while stack:
            name = stack.pop()
            node = self.graph.producer.get(name)
            if name in self.held or node is None or node in found:
                continue
            found.add(node)
            proto = self.graph.nodes[node]
            stack.extend(n for n in (*proto.input, *captured(proto)) if n)
        return [i for i in self.graph.order if i in found]

    def _run(self, nodes: Sequence[int], wanted: Sequence[str]) -> None:
        chosen = set(nodes)
        made = [o for i in nodes for o in self.graph.nodes[i].output if o]
        later = [o for o in made if o in self.graph.outputs or self._asked(o, chosen)]
        outputs = list(dict.fromkeys([*wanted, *later]))
        with open_session(self._piece(nodes, outputs), self.runtime, optimize=True, shared=True) as session:
            fed = [i.name for i in session.get_inputs() if i.name in self.held]
            store: dict[str, AnyArray] = {}
            known: list[str] | None = None
            for start in range(0, self.samples, self.batch):
                stop = min(start + self.batch, self.samples)
                index = np.minimum(np.arange(start, start + self.batch), stop - 1)
                found = run(session, outputs, {n: self.held[n][index] for n in fed} | self._given(session))
                if known is None:
                    known = [n for n in outputs if _is_sampled(found[n], self.batch)]
                    store = {n: self._room(found[n]) for n in known}
                for name in known:
                    store[name][start:stop] = found[name][: stop - start]
        self.held.update(store)
        for i in reversed(nodes):
            if all(self._settled(o, store) for o in self.graph.nodes[i].output if o):
                self.done.add(i)

    def _asked(self, name: str, chosen: set[int]) -> bool:
        return any(n not in chosen and n not in self.done for n, _ in self.graph.consumers.get(name, ()))

    def _settled(self, name: str, store: dict[str, AnyArray]) -> bool:
        """Whether nobody will need a tensor computed again."""
        if name in store:
            return True
        readers = {n for n, _ in self.graph.consumers.get(name, ())}
        return readers <= self.done and name not in self.graph.outputs

    def _given(self, session: object) -> dict[str, AnyArray]:
        names = {i.name for i in session.get_inputs()}  # type: ignore[attr-defined]
        return {n: a for n, a in self.fixed.items() if n in names}

    def _room(self, like: AnyArray) -> AnyArray:
        shape = (self.samples, *like.shape[1:])
        if prod(shape) * like.dtype.itemsize * SPILL < self.memory:
            return np.empty(shape, like.dtype)
        with tempfile.TemporaryFile() as file:  # its space is given back with the array
            return np.memmap(file, like.dtype, "w+", shape=shape)

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
        for name in sorted(read - made):
            array = self.held.get(name, self.fixed.get(name))
            if array is not None:
                kind = helper.np_dtype_to_tensor_dtype(array.dtype)
                rows = self.batch if name in self.held else array.shape[0]
                proto.graph.input.append(helper.make_tensor_value_info(name, kind, (rows, *array.shape[1:])))
            elif name in self.weights:
                outline(proto.graph, self.graph.initializers[name])
            elif name in self.graph.initializers:
                proto.graph.initializer.append(self.graph.initializers[name])
        proto.graph.output.extend(onnx.ValueInfoProto(name=n) for n in outputs)
        return Light(proto, {n: self.weights[n] for n in read if n in self.weights})


def _is_sampled(array: AnyArray, batch: int) -> bool:
    return array.dtype.kind == "f" and array.ndim > 0 and array.shape[0] == batch


def frontier(model: Light, samples: Samples, batch: int, runtime: Runtime, memory: int) -> Frontier:
    """At the inputs of a model."""
    graph = Graph(model.proto, model.weights)
    index = np.arange(samples.count)
    held = {name: np.asarray(rows[index]) for name, rows in samples.arrays.items()}
    weights = {name: graph.array(name) for name in graph.initializers}
    floats = {name: a for name, a in weights.items() if a.dtype.kind == "f" and a.ndim > 0}
    return Frontier(graph, floats, samples.count, batch, runtime, memory, dict(samples.fixed), held)
