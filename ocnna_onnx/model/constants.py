"""Tensors whose value is known before any data runs: initializers, constants, and what is computed from them or from
the shapes of other tensors. They are evaluated by onnxruntime, operator by operator, not by an interpreter of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..errors import ModelError
from .graph import AnyArray, Graph, bodies, constant_node_value, is_evaluated
from .light import Light, light
from .session import Runtime, open_session, run
from .twin import bfloat16_tensors, fp32_twin, has_bfloat16

Shape = tuple[int, ...]

SHAPE_READERS = frozenset({"Shape", "Size"})
RANDOM_OPS = frozenset("RandomUniform RandomNormal RandomUniformLike RandomNormalLike Multinomial Bernoulli".split())


@dataclass(frozen=True)
class Constants:
    """Values known ahead.

    shape: tensor shapes, for the shape arithmetic in the graph. second: shapes at another probe (None: there are no
    symbolic dimensions); what differs between the two is live, what does not is fixed like any constant. dtype: onnx
    element types, for CastLike, which reads no more of its second operand. strict_inputs: initializers that the caller
    may override are no constants.
    """

    graph: Graph
    shape: Mapping[str, Shape]
    runtime: Runtime = Runtime()
    second: Mapping[str, Shape] | None = None
    dtype: Mapping[str, int] = field(default_factory=dict)
    strict_inputs: bool = False
    _cache: dict[str, AnyArray] = field(default_factory=dict)

    @cached_property
    def ahead(self) -> frozenset[str]:
        """All tensors whose value is known ahead."""
        return frozenset(self._static)

    @cached_property
    def fixed(self) -> frozenset[str]:
        """Those of `ahead` that are the same whatever the symbolic dimensions are: they can be cut as weights are."""
        return frozenset(n for n, reads_shapes in self._static.items() if not reads_shapes) | self._steady

    @cached_property
    def live(self) -> frozenset[str]:
        """Those of `ahead` that follow the symbolic dimensions."""
        return self.ahead - self.fixed

    def reads_shapes(self, name: str) -> bool:
        """Whether a tensor known ahead is computed from the shapes of other tensors, so that it follows a cut."""
        return self._static.get(name, False)

    @cached_property
    def _steady(self) -> frozenset[str]:
        """Tensors on the frontier that are computed from shapes and are the same at both probes."""
        names = [n for n in self._frontier if self._static[n]]
        if self.second is None or not names:
            return frozenset(names)
        if not self.second:
            return frozenset()
        other = Constants(self.graph, self.second, self.runtime, None, self.dtype, self.strict_inputs)
        pairs = ((n, self.value(n), other.value(n)) for n in names)
        return frozenset(n for n, a, b in pairs if a is not None and b is not None and np.array_equal(a, b))

    @cached_property
    def _static(self) -> dict[str, bool]:
        """Name -> whether a Shape or Size is among its ancestors, for every tensor known ahead."""
        stored = self.graph.initializers.keys() - (self.graph.overridable if self.strict_inputs else frozenset())
        static: dict[str, bool] = dict.fromkeys(stored, False)
        for i in self.graph.order:
            node = self.graph.nodes[i]
            names = [n for n in node.input if n]
            if not is_evaluated(node) or node.op_type in RANDOM_OPS or any(True for _ in bodies(node)):
                continue
            if node.op_type in SHAPE_READERS:
                known = node.input[0] in self.shape
                fixed = node.input[0] in static and not static[node.input[0]]
                if known:
                    static[node.output[0]] = not fixed
            elif node.op_type == "CastLike" and names[0] in static and names[1] in self.dtype:
                static[node.output[0]] = static[names[0]]
            elif node.op_type == "Constant":
                if constant_node_value(node) is not None:
                    static[node.output[0]] = False
            elif all(n in static for n in names) and names:
                static.update({n: any(static[x] for x in names) for n in node.output if n})
        return static

    @cached_property
    def overridden(self) -> dict[str, str]:
        """Tensors that would be constants, but for an initializer that the caller may override -> its name."""
        if not self.strict_inputs:
            return {}
        found = {n: n for n in self.graph.overridable}
        for i in self.graph.order:
            node = self.graph.nodes[i]
            origin = next((found[n] for n in node.input if n in found), "")
            if origin and all(n in found or n in self._static for n in node.input if n):
                found.update(dict.fromkeys(filter(None, node.output), origin))
        return found

    def with_defaults(self) -> Constants:
        """The same with every initializer at its default value."""
        return replace(self, strict_inputs=False, _cache={}) if self.strict_inputs else self

    def value(self, name: str) -> AnyArray | None:
        """The value of a tensor known ahead (at these shapes), else None."""
        if name not in self._static:
            return None
        if name in self._cache:
            return self._cache[name]
        tensor = self.graph.initializers.get(name)
        if tensor is not None:
            self._cache[name] = self.graph.array(name)
        else:
            node = self.graph.nodes[self.graph.producer[name]]
            direct = constant_node_value(node) if node.op_type == "Constant" else self._reading(node)
            if direct is not None:
                self._cache[name] = direct
            else:
                self._evaluate([name, *self._beside(name)])
        return self._cache.get(name)

    def computed(self, largest: int) -> dict[str, AnyArray]:
        """Values of computed tensors that a node reads whose own value is not known ahead, up to `largest` elements."""
        wanted = [n for n in self._frontier if prod(self.shape.get(n, ())) <= largest]
        self._evaluate(wanted)
        values = {n: self.value(n) for n in wanted}
        return {n: v for n, v in values.items() if v is not None and v.size <= largest}

    def root(self, name: str) -> str:
        """The initializer or Constant output that `name` is an unchanged copy of, through Identity nodes."""
        while name in self.graph.producer and name not in self.graph.initializers:
            node = self.graph.nodes[self.graph.producer[name]]
            if node.op_type != "Identity":
                break
            name = node.input[0]
        return name

    def _reading(self, node: onnx.NodeProto) -> AnyArray | None:
        if node.op_type not in SHAPE_READERS:
            return None
        shape = self.shape[node.input[0]]
        if node.op_type == "Size":
            return np.asarray(int(np.prod(shape, dtype=np.int64)), np.int64)
        start, end = (next((a.i for a in node.attribute if a.name == k), d) for k, d in (("start", 0), ("end", None)))
        return np.asarray(shape[start:end], np.int64)

    def _beside(self, name: str) -> list[str]:
        """What is worth evaluating in the same run: weights beside weights, shape arithmetic beside its like."""
        return [n for n in self._frontier if n != name and self._static[n] == self._static[name]]

    def _evaluate(self, wanted: Sequence[str]) -> None:
        """Run the part of the graph that makes these tensors; where it does not run, the first of them alone."""
        missing = [n for n in wanted if n not in self._cache]
        for targets in (missing, missing[:1]):
            try:
                if targets:
                    self._run(targets)
                return
            except ModelError:
                continue

    @cached_property
    def _frontier(self) -> tuple[str, ...]:
        """Computed static tensors that a node which is not static reads."""
        found: dict[str, None] = {}
        for node in self.graph.nodes:
            if any(n in self._static for n in node.output):
                continue
            for name in node.input:
                made = self.graph.producer.get(name)
                if name in self._static and made is not None and name not in self.graph.initializers:
                    found[name] = None
        return tuple(found)

    def _runnable(self, node: onnx.NodeProto) -> onnx.NodeProto:
        """The node without a need for activations: CastLike as Cast to the type that is known."""
        if node.op_type != "CastLike" or node.input[1] not in self.dtype:
            return node
        return helper.make_node("Cast", [node.input[0]], node.output, to=self.dtype[node.input[1]])

    def _run(self, targets: list[str]) -> None:
        needed: set[str] = set()
        stack = list(targets)
        model = onnx.ModelProto(ir_version=self.graph.proto.ir_version)
        model.opset_import.extend(self.graph.proto.opset_import)
        chosen: set[int] = set()
        while stack:
            name = stack.pop()
            if name in needed or not name:
                continue
            needed.add(name)
            if name in self.graph.initializers:
                model.graph.initializer.append(self.graph.initializers[name])
                continue
            index = self.graph.producer[name]
            node = self.graph.nodes[index]
            reading = self._reading(node)
            if reading is not None:
                model.graph.initializer.append(numpy_helper.from_array(reading, name))
            else:
                chosen.add(index)
                stack.extend(self._runnable(node).input)
        model.graph.name = "constants"
        model.graph.node.extend(self._runnable(self.graph.nodes[i]) for i in self.graph.order if i in chosen)
        model.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in targets)
        weights = {n: self.graph.weights[n] for n in needed & self.graph.weights.keys()}
        halved: frozenset[str] = frozenset()
        if has_bfloat16(model):
            halved, model = bfloat16_tensors(model), fp32_twin(model, rounding=True)
        with open_session(light(Light(model, weights)), Runtime(threads=self.runtime.threads), twin=False) as session:
            found = run(session, targets, {})
        kind = helper.tensor_dtype_to_np_dtype(onnx.TensorProto.BFLOAT16)
        self._cache.update({n: v.astype(kind) if n in halved else v for n, v in found.items()})
