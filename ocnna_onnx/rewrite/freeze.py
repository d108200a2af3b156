"""Numbers that the graph computes from a shape: sizes follow a cut, values (a division by √channels) must not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper

from ..model.constants import SHAPE_READERS
from ..model.decide import independent, proven_shapes
from ..model.graph import AnyArray, attribute, is_standard
from .constants import operand_cuts
from .editor import Editor

SHAPE_OPERANDS = {
    **dict.fromkeys(("Reshape", "Expand", "Pad", "Tile", "Split", "Upsample"), (1,)),
    "Slice": (1, 2, 3, 4),
    "Resize": (2, 3),
}
"""Operands that say how large a tensor is to be: they are meant to follow a cut."""


def freeze_values(editor: Editor) -> None:
    """Operands computed from shapes that are values keep what they were before the cut; what they owe to symbolic
    dimensions stays live."""
    places = list(_values_from_shapes(editor))
    if not places:
        return
    trace = editor.kept.trace
    cut = operand_cuts(trace, editor.kept.keep)
    sizes, proven = {n: _kept_sizes(editor, n) for n in trace.shapes.shape}, proven_shapes(trace.graph)
    for i, k, name in places:
        before, after = trace.constants.value(name), editor.adapted.value(name)
        if before is None or after is None:
            continue
        if (i, k) in cut or (before.shape != after.shape and not _is_joined(trace.graph.nodes[i], before, after)):
            continue  # cut, or made to the shape of a tensor (zeros like it) and meant to follow
        if np.array_equal(before, after) and independent(trace.graph, {name}, sizes):
            continue  # else they are equal at the probe only
        literal = before.dtype.name != "bfloat16"  # which would be rounded, unlike what the fp32 twin computes
        if literal and name in trace.constants.fixed and independent(trace.graph, {name}, proven):
            frozen = editor.fresh_name(f"{name}_before")
            editor.put_initializer(frozen, before)
        else:
            nodes: list[onnx.NodeProto] = []
            frozen = _clone(editor, name, nodes, {})
            editor.before(i, nodes)
        editor.nodes[i].input[k] = frozen
        editor.note(i, f"input {k}, computed from a shape, keeps its value", after.tolist(), before.tolist())


def _values_from_shapes(editor: Editor) -> Iterator[tuple[int, int, str]]:
    """(node, input, tensor) of operands that are computed from shapes and are no sizes."""
    trace = editor.kept.trace
    for i in trace.graph.order:
        node = trace.graph.nodes[i]
        if all(o in trace.constants.ahead for o in node.output if o):
            continue
        for k, name in enumerate(node.input):
            shape_like = is_standard(node) and k in SHAPE_OPERANDS.get(node.op_type, ())
            if not shape_like and trace.constants.reads_shapes(name) and editor.nodes[i].input[k] == name:
                yield i, k, name


def _is_joined(node: onnx.NodeProto, before: AnyArray, after: AnyArray) -> bool:
    """Whether a Concat puts these values beside others: there they meet nothing that could shrink with them."""
    if node.op_type != "Concat":
        return False
    axis = int(attribute(node, "axis", 1))
    return bool(before.shape[axis] != after.shape[axis])


def _kept_sizes(editor: Editor, tensor: str) -> tuple[int | None, ...]:
    """A tensor's shape; None for axes that are cut."""
    cut = editor.kept.changed_axes(tensor) if editor.kept.changed(tensor) else {}
    return tuple(None if axis in cut else size for axis, size in enumerate(editor.kept.trace.shapes.shape[tensor]))


def _clone(editor: Editor, name: str, nodes: list[onnx.NodeProto], done: dict[str, str]) -> str:
    """A copy of the arithmetic that makes `name`, in which cut axes count with their size before the cut."""
    trace = editor.kept.trace
    if name in done or not trace.constants.reads_shapes(name):
        return done.get(name, name)
    node = trace.graph.nodes[trace.graph.producer[name]]
    if node.op_type in SHAPE_READERS:
        done[name] = _reading(editor, node, nodes)
        return done[name]
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for k, source in enumerate(node.input):
        copy.input[k] = _clone(editor, source, nodes, done)
    for k, output in enumerate(node.output):
        done[output] = copy.output[k] = editor.fresh_name(f"{output}_before") if output else ""
    copy.name = done[name]
    nodes.append(copy)
    return done[name]


def _reading(editor: Editor, node: onnx.NodeProto, nodes: list[onnx.NodeProto]) -> str:
    """Shape or Size of a tensor as it was before the cut: literal along cut axes, live along the others."""
    tensor = node.input[0]
    if not editor.kept.changed(tensor):
        return str(node.output[0])
    old, new = editor.kept.trace.shapes.shape[tensor], editor.kept.shape(tensor)
    base = editor.fresh_name(f"{node.output[0]}_before")
    mask, sizes, live = (editor.fresh_name(f"{base}_{part}") for part in ("cut", "sizes", "live"))
    bounds = {a.name: a.i for a in node.attribute} if node.op_type == "Shape" else {}
    window = slice(bounds.get("start", 0), bounds.get("end"))
    editor.put_initializer(mask, np.asarray([a != b for a, b in zip(old, new, strict=True)][window]))
    editor.put_initializer(sizes, np.asarray(old[window], np.int64))
    whole = base if node.op_type == "Shape" else editor.fresh_name(f"{base}_shape")
    nodes.append(helper.make_node("Shape", [tensor], [live], name=live, **bounds))
    nodes.append(helper.make_node("Where", [mask, sizes, live], [whole], name=whole))
    if node.op_type == "Size":
        nodes.append(helper.make_node("ReduceProd", [whole], [base], name=base, keepdims=0))
    return base
