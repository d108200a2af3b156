"""The walk: every node in topological order meets its rule; then units are coupled, and the record is frozen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from ..errors import ModelError
from ..model.constants import Constants
from ..model.graph import Graph, captured, is_standard
from ..model.session import Runtime
from ..model.shapes import Shape, probe
from .context import NodeTrace, Record
from .coupling import couple
from .labels import Labels, dense
from .rules import RULES
from .types import Choice, Option, Trace

WEIGHT_OPERAND = {"Conv": (1, (0, 1)), "ConvTranspose": (1, (1, 0)), "Gemm": (1, None), "MatMul": (None, None)}


def trace(model: onnx.ModelProto, input_shapes: dict[str, Shape] | None = None, runtime: Runtime = Runtime()) -> Trace:
    """Find which channels belong together and where the walls are.

    input_shapes: input -> probe shape, for symbolic dimensions that cannot be guessed.
    Raises ShapeNeeded, UsageError (shapes that do not fit), ModelError (onnxruntime cannot run the model).
    """
    graph = Graph(model)
    shapes = probe(graph, input_shapes or {}, runtime)
    constants = Constants(graph, shapes.shape, runtime)
    record = Record(graph, shapes, constants)
    for i in graph.order:
        _visit(record, i)
    for name in graph.outputs:
        units = [x.array.reshape(-1) for x in record.labels.get(name, ())]
        if units:
            NodeTrace(record, graph.producer[name], graph.nodes[graph.producer[name]]).wall_units(
                np.concatenate(units), "it is an output of the model", name
            )
    _tie_shared_weights(record)
    _keep_grids_dense(record)
    coupling = couple(record)
    return Trace(
        graph=graph,
        shapes=shapes,
        constants=constants,
        labels=record.labels,
        sources=tuple(record.sources),
        cuts=tuple(record.cuts),
        walls=coupling.walls,
        masks=tuple(record.masks),
        chosen=coupling.chosen,
        unit_class=coupling.unit_class,
        free=coupling.free,
    )


def _visit(record: Record, index: int) -> None:
    node = record.graph.nodes[index]
    outputs = [o for o in node.output if o]
    if all(o in record.constants.fixed or o in record.constants.live for o in outputs):
        return
    n = NodeTrace(record, index, node)
    outer = [name for name in captured(node) if name in record.labels]
    for name in outer:
        for x in record.labels[name]:
            n.wall_units(x.array, f"the body of {node.op_type} reads it", name)
    labelled = any(name in record.labels for name in node.input if name)
    rule = RULES.get(node.op_type) if is_standard(node) else None
    if rule is None or outer:
        if labelled:
            kind = node.op_type if is_standard(node) else f"{node.domain}.{node.op_type}"
            _wall_all(n, f"no rule for the operator {kind}")
        return
    if not labelled and not rule.source:
        return
    unknown = [name for name in (*node.input, *outputs) if name and name not in record.shapes.shape]
    if unknown:
        _wall_all(n, f"the shape of '{unknown[0]}' is not known")
        return
    rule.trace(n)


def _wall_all(n: NodeTrace, reason: str) -> None:
    for i in range(len(n.node.input)):
        n.wall(n.labels(i), reason, i)


def _tie_shared_weights(record: Record) -> None:
    """A matrix or kernel that several nodes read (a head shared by pyramid levels) is cut once: its readers agree
    along every axis. Vectors are copied per reader instead: exporters share equal biases by coincidence."""
    cuts: dict[tuple[str, int], list[tuple[int, Labels, int]]] = {}
    readers: dict[str, set[int]] = {}
    for node in record.graph.nodes:
        for name in node.input:
            if name in record.constants.fixed and len(record.shapes.shape.get(name, ())) >= 2:
                readers.setdefault(record.constants.root(name), set())
    for i, node in enumerate(record.graph.nodes):
        rule = RULES.get(node.op_type)
        if rule is None or not rule.source:
            continue
        for name in node.input:
            if name and name in record.constants.fixed and record.constants.root(name) in readers:
                readers[record.constants.root(name)].add(i)
    shared = {name for name, nodes in readers.items() if len(nodes) > 1}
    if not shared:
        return
    for cut in record.cuts:
        name = record.constants.root(record.graph.nodes[cut.node].input[cut.input])
        if name in shared:
            cuts.setdefault((name, cut.axis), []).append((cut.node, cut.labels, cut.along))
    for (name, axis), found in cuts.items():
        first = found[0]
        n = NodeTrace(record, first[0], record.graph.nodes[first[0]])
        silent = readers[name] - {node for node, _, _ in found}
        for node, labels, _along in found:
            if silent:
                n.wall_units(labels.array, f"'{name}' is shared with a node whose axis {axis} is fixed", name)
            elif labels.array.size == first[1].array.size:
                n.join_units(first[1].array.reshape(-1), labels.array.reshape(-1), "a shared weight")
            else:
                n.wall_units(labels.array, f"'{name}' is shared by nodes that use it differently", name)


def _keep_grids_dense(record: Record) -> None:
    """Where labels vary along two axes of one tensor, what goes must be whole slices along one of them."""
    seen: set[tuple[bytes, tuple[int, ...]]] = set()
    for name, arrays in record.labels.items():
        for x in arrays:
            if len(x.axes) < 2:
                continue
            full = dense(x)
            key = (full.tobytes(), full.shape)
            if key in seen:
                continue
            seen.add(key)
            record.choices.append(Choice(record.graph.producer[name], name, _slices(full, x.axes)))


def _slices(full: np.ndarray[tuple[int, ...], np.dtype[np.int64]], axes: Sequence[int]) -> tuple[Option, ...]:
    options = []
    for axis in axes:
        rows = np.moveaxis(full, axis, 0).reshape(full.shape[axis], -1)
        options.append(Option(f"whole slices along axis {axis}", (rows,)))
    return tuple(options)


__all__ = ["ModelError", "trace"]
