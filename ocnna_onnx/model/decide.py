"""What is known before any data runs, whatever the symbolic dimensions are: above all, which way an If goes.

A condition may be computed from the shapes of activations (exporters put an If around every Squeeze). Sizes count only
where inference proves them without a probe, element by element: `N > 1` holds for every probe one happens to take.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..errors import ModelError
from .constants import RANDOM_OPS, SHAPE_READERS
from .graph import AnyArray, Graph, attribute, bodies, constant_node_value, is_standard
from .session import Runtime, open_session, run
from .shapes import SMALL, skeleton

Dims = tuple[int | None, ...]

MOVES = frozenset("Concat Flatten Gather Identity Reshape Slice Squeeze Transpose Unsqueeze".split())
"""Operators that move elements of input 0 (Concat: of all inputs): they may be known one by one."""


@dataclass(frozen=True)
class _Partial:
    """A value of which some elements are known: both arrays have its shape."""

    value: AnyArray
    known: AnyArray


def conditions(graph: Graph) -> dict[int, bool]:
    """Number of a top-level If -> its condition, where that is known."""
    asked = {i: node.input[0] for i, node in enumerate(graph.nodes) if node.op_type == "If" and is_standard(node)}
    if not asked:
        return {}
    evaluation = _Evaluation(graph, proven_shapes(graph))
    evaluation.run(set(asked.values()))
    found = {i: evaluation.values.get(name) for i, name in asked.items()}
    return {i: bool(v.value.reshape(-1)[0]) for i, v in found.items() if v is not None and v.known.all()}


def independent(graph: Graph, names: set[str], sizes: Mapping[str, Dims]) -> set[str]:
    """Those of `names` that are computed from the sizes given alone, not from any that is None."""
    evaluation = _Evaluation(graph, sizes)
    evaluation.run(names)
    return {n for n in names if n in evaluation.values and evaluation.values[n].known.all()}


def proven_shapes(graph: Graph) -> dict[str, Dims]:
    """Sizes that follow from the operators and the declared inputs alone; None for those that do not."""
    found: dict[str, Dims] = {t.name: tuple(t.dims) for t in graph.proto.graph.initializer}
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton(graph, {}, {}), data_prop=True)
    except Exception:  # inference raises plain RuntimeErrors on what it does not know
        return found
    for value in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output):
        kind = value.type.tensor_type
        if value.type.HasField("tensor_type") and kind.HasField("shape"):
            found[value.name] = tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
    return found


@dataclass
class _Evaluation:
    """Values of what conditions are computed from, as far as they are known."""

    graph: Graph
    shapes: Mapping[str, Dims]
    values: dict[str, _Partial] = field(default_factory=dict)

    def run(self, wanted: set[str]) -> None:
        needed, stack = set[int](), list(wanted)
        given = {i.name for i in self.graph.proto.graph.input}  # may be fed, even where there is a default
        while stack:
            name = stack.pop()
            tensor = self.graph.initializers.get(name)
            if tensor is not None and name not in given and int(np.prod(tensor.dims, dtype=np.int64)) <= SMALL:
                self.values[name] = _whole(self.graph.array(name))
            made = self.graph.producer.get(name)
            if made is not None and made not in needed:
                needed.add(made)
                node = self.graph.nodes[made]
                stack.extend(() if node.op_type in SHAPE_READERS else node.input)
        for i in self.graph.order:
            if i in needed:
                self._visit(self.graph.nodes[i])

    def _visit(self, node: onnx.NodeProto) -> None:
        if not is_standard(node) or node.op_type in RANDOM_OPS or any(True for _ in bodies(node)):
            return
        found: _Partial | None
        if node.op_type == "Constant":
            value = constant_node_value(node)
            found = None if value is None or value.size > SMALL else _whole(value)
        elif node.op_type in SHAPE_READERS:
            found = self._reading(node)
        else:
            found = self._computed(node)
        if found is not None and len(node.output) == 1:
            self.values[node.output[0]] = found

    def _reading(self, node: onnx.NodeProto) -> _Partial | None:
        sizes = self.shapes.get(node.input[0])
        if sizes is None:
            return None
        known = np.asarray([s is not None for s in sizes], bool)
        value = np.asarray([s or 0 for s in sizes], np.int64)
        if node.op_type == "Size":
            return _Partial(np.asarray(value.prod(), np.int64), np.asarray(known.all()))
        window = slice(attribute(node, "start", 0), attribute(node, "end"))
        return _Partial(value[window], known[window])

    def _computed(self, node: onnx.NodeProto) -> _Partial | None:
        operands = [self.values.get(n) if n else None for n in node.input]
        if not node.input or any(n and v is None for n, v in zip(node.input, operands, strict=True)):
            return None
        moved = len(operands) if node.op_type == "Concat" else int(node.op_type in MOVES)
        present = [v for v in operands[moved:] if v is not None]
        if not all(v.known.all() for v in present):
            return None
        value = self._execute(node, [None if v is None else v.value for v in operands])
        if value is None or all(v is None or v.known.all() for v in operands):
            return None if value is None else _whole(value)
        masks = [None if v is None else (v.known.astype(np.int64) if k < moved else v.value)
                 for k, v in enumerate(operands)]  # fmt: skip
        known = self._execute(node, masks)
        return None if known is None else _Partial(value, known.astype(bool))

    def _execute(self, node: onnx.NodeProto, operands: list[AnyArray | None]) -> AnyArray | None:
        """One node alone, on these operands."""
        model = onnx.ModelProto(ir_version=max(self.graph.proto.ir_version, 4))
        model.opset_import.extend(self.graph.proto.opset_import)
        model.graph.name = "condition"
        model.graph.node.append(node)
        for name, array in zip(node.input, operands, strict=True):
            if array is not None and name not in {t.name for t in model.graph.initializer}:
                model.graph.initializer.append(numpy_helper.from_array(array, name))
        model.graph.output.append(helper.make_empty_tensor_value_info(node.output[0]))
        try:
            with open_session(model, Runtime(threads=1)) as session:
                return run(session, [node.output[0]], {})[node.output[0]]
        except ModelError:
            return None


def _whole(value: AnyArray) -> _Partial:
    return _Partial(value, np.ones(value.shape, bool))
