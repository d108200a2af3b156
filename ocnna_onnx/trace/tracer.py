"""The walk: every node in topological order meets its rule; then units are coupled, and the record is frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto

from ..model.constants import SHAPE_READERS, Constants
from ..model.graph import AnyArray, Graph, bodies, captured
from ..model.light import Light
from ..model.probes import Shape
from ..model.session import Runtime
from ..model.shapes import probe
from ..model.unfold import Unfolded, unfold
from .context import NodeTrace, Record, whole_slices
from .coupling import couple
from .labels import compact
from .rules import reason_without_rule, rule_for
from .shared import tie_shared_weights
from .types import Choice, Trace

DEFECT = "a defect of ocnna-onnx"
FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})


def trace(
    model: onnx.ModelProto | Light,
    input_shapes: Mapping[str, Shape] | None = None,
    runtime: Runtime = Runtime(),
    values: Mapping[str, AnyArray] | None = None,
    strict_inputs: bool = False,
) -> Trace:
    """Find which channels belong together and where the walls are.

    input_shapes: input -> probe shape, for symbolic dimensions that cannot be guessed. values: input -> samples to
    probe with, where shapes are found by running the model. strict_inputs: initializers that the caller may override
    are not cut.
    Raises ShapeNeeded, UsageError (shapes that do not fit), ModelError (onnxruntime cannot run the model).
    """
    given = model if isinstance(model, Light) else Light(model, {})
    unfolded = unfold(given, runtime)
    graph = Graph(unfolded.model.proto, unfolded.model.weights)
    shapes = probe(graph, input_shapes or {}, runtime, values or {})
    constants = Constants(graph, shapes.shape, runtime, shapes.second, shapes.dtype, strict_inputs)
    record = Record(graph, shapes, constants)
    for i in graph.order:
        _visit(record, i, unfolded)
    if strict_inputs:
        _name_overridden(record)
    for name in graph.outputs:
        units = [x.array.reshape(-1) for x in record.labels.get(name, ())]
        if units:
            NodeTrace(record, graph.producer[name], graph.nodes[graph.producer[name]]).wall_units(
                np.concatenate(units), "it is an output of the model", name
            )
    _wall_shapes_that_leave(record)
    tie_shared_weights(record)
    _keep_grids_dense(record)
    coupling = couple(record)
    return Trace(
        original=given,
        unfolded=unfolded,
        graph=graph,
        shapes=shapes,
        constants=constants,
        labels=record.labels,
        sources=tuple(record.sources),
        cuts=tuple(record.cuts),
        walls=coupling.walls,
        masks=record.masks,
        chosen=coupling.chosen,
        unit_class=coupling.unit_class,
        free=coupling.free,
        pairing=coupling.pairing,
    )


def _visit(record: Record, index: int, unfolded: Unfolded) -> None:
    node = record.graph.nodes[index]
    outputs = [o for o in node.output if o]
    if all(o in record.constants.ahead for o in outputs):
        return
    n = NodeTrace(record, index, node)
    hidden = _layers_inside(node)
    if hidden:
        why = unfolded.refusal(node)
        text = f"the body of {node.op_type} is not entered: {hidden} layers in it stay as they are"
        n.refuse(f"{text} ({why})" if why else text)
    elif unfolded.refusal(node):
        n.refuse(f"{node.op_type} is not entered: {unfolded.refusal(node)}")
    outer = [name for name in captured(node) if name in record.labels]
    for name in outer:
        for x in record.labels[name]:
            n.wall_units(x.array, f"the body of {node.op_type} reads it", name)
    labelled = any(name in record.labels for name in node.input if name)
    rule = rule_for(node)
    if rule is None or outer:
        if labelled:
            why = unfolded.refusal(node)
            _wall_all(n, reason_without_rule(node) + (f": {why}" if why else ""))
        elif _has_weights(n):
            n.refuse(reason_without_rule(node))
        return
    if not labelled and not rule.source:
        return
    if _is_steered_by_caller(record, node):
        _wall_all(n, f"{node.op_type} with operands that the caller may override")
        return
    unknown = [name for name in (*node.input, *outputs) if name and name not in record.shapes.shape]
    if unknown:
        sparse = any(t.values.name == unknown[0] for t in record.graph.proto.graph.sparse_initializer)
        reason = f"'{unknown[0]}' is stored sparse" if sparse else f"the shape of '{unknown[0]}' is not known"
        _wall_all(n, reason)
        if rule.source:
            n.refuse(reason)
        return
    if rule.inputs is not None:
        for i in set(range(len(node.input))) - set(rule.inputs):
            n.wall(n.labels(i), f"{node.op_type} reads it as operand {i}", i)
    try:
        rule.trace(n)
    except Exception as error:  # one net in a million must not fail for the sake of one node: it becomes a wall
        for name in outputs:
            record.labels.pop(name, None)
        record.cuts[:] = [cut for cut in record.cuts if cut.node != index]
        kind = f"{type(error).__name__}: {error}"
        _wall_all(n, f"{DEFECT} in the rule for {node.op_type} ({kind}); please report it")
        for source in record.sources:
            if source.node == index:
                n.wall_units(source.units, f"{DEFECT} in the rule for {node.op_type}", source.tensor)


def _is_steered_by_caller(record: Record, node: onnx.NodeProto) -> bool:
    """Whether an operand that the caller may override says where values go: integers (shapes, axes, indices), and what
    is computed from such; scales of Resize."""
    origins, dtype = record.constants.overridden, record.shapes.dtype
    found = [name for name in node.input if name in origins]
    kinds = {dtype.get(n, 0) for name in found for n in (name, origins[name])}
    return bool(found) and (not kinds <= FLOATS or node.op_type in ("Resize", "Upsample"))


def _has_weights(n: NodeTrace) -> bool:
    """Whether a constant matrix or kernel is among the operands: a layer, perhaps, that we cannot read."""
    return any(
        n.is_fixed(i) and len(n.record.shapes.shape.get(n.node.input[i], ())) > 1 for i in range(len(n.node.input))
    )


def _name_overridden(record: Record) -> None:
    """Walls of nodes with an operand that the caller may override name that operand; so do layers that make no
    channels because of it, and shapes that such nodes compute with."""
    origins = record.constants.overridden
    reasons: dict[int, str] = {}
    for i, node in enumerate(record.graph.nodes):
        origin = next((origins[name] for name in node.input if name in origins), "")
        if origin:
            reasons[i] = f"'{origin}' is an overridable input (--strict-inputs)"
    for k, wall in enumerate(record.walls):
        if wall.node in reasons and DEFECT not in wall.reason:
            record.walls[k] = replace(wall, reason=reasons[wall.node])
    for i, reason in reasons.items():
        node = record.graph.nodes[i]
        read = [name for name in node.input if record.constants.reads_shapes(name)]
        _wall_shapes_behind(record, read, reason)
        rule, made = rule_for(node), all(o in origins for o in node.output if o)
        if rule is not None and rule.source and not made:
            NodeTrace(record, i, record.graph.nodes[i]).refuse(reason)


def _layers_inside(node: onnx.NodeProto) -> int:
    """Convolutions and matrix products in the bodies of If, Loop and Scan."""
    inner = [n for body in bodies(node) for n in body.node]
    return sum(_is_layer(n) for n in inner) + sum(_layers_inside(n) for n in inner)


def _is_layer(node: onnx.NodeProto) -> bool:
    rule = rule_for(node)
    return rule is not None and rule.source and node.op_type != "Expand"


def _wall_all(n: NodeTrace, reason: str) -> None:
    for i in range(len(n.node.input)):
        n.wall(n.labels(i), reason, i)


def _wall_shapes_that_leave(record: Record) -> None:
    """Tensors whose shape is what an output of the model, or a body, is computed from keep it."""
    graph = record.graph
    places = {name: f"part of the model's output '{name}'" for name in graph.outputs}
    for node in graph.nodes:
        places.update(dict.fromkeys(captured(node), f"read by the body of {node.op_type}"))
    for name, what in places.items():
        if record.constants.reads_shapes(name):
            _wall_shapes_behind(record, [name], f"its shape is {what}")


def _wall_shapes_behind(record: Record, names: list[str], reason: str) -> None:
    """Tensors whose shape these values are computed from keep it."""
    graph, constants = record.graph, record.constants
    stack, seen = list(names), set(names)
    while stack:
        index = graph.producer[stack.pop()]
        node = graph.nodes[index]
        n = NodeTrace(record, index, node)
        if node.op_type in SHAPE_READERS:
            n.wall(n.labels(0), reason)
        else:
            stack.extend(x for x in node.input if constants.reads_shapes(x) and x not in seen)
            seen.update(node.input)


def _keep_grids_dense(record: Record) -> None:
    """Where labels vary along two axes of one tensor, what goes must be whole slices along one of them."""
    seen: set[tuple[bytes, tuple[int, ...]]] = set()
    for name, arrays in record.labels.items():
        for x in arrays:
            if len(x.axes) < 2:
                continue
            full = compact(x)
            key = (full.tobytes(), full.shape)
            if key in seen:
                continue
            seen.add(key)
            record.choices.append(Choice(record.graph.producer[name], name, whole_slices(full, x.axes)))
