"""Weights that the graph computes from other constants (transposed, cast, dequantized, expanded): the cut is pushed
back to where the numbers are stored, so that the file shrinks and keeps its form."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
import onnx

from ..errors import ProofFailed
from ..model.graph import attribute, is_evaluated
from ..trace.labels import BoolArray, Shape
from ..trace.rules.elementwise import NARY, UNARY
from .constants import Kept, length
from .editor import Editor

Leaf = Callable[[int, int, str, Kept, bool], str]
"""(node, input, stored constant, what stays, whether nothing else reads it) -> the name of the cut constant."""

QUANTIZERS = ("DequantizeLinear", "QuantizeLinear")
VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")


def can_push_back(editor: Editor, name: str, axes: Kept) -> bool:
    """Whether the operators that make the computed constant `name` are all known here, back to what is stored."""
    trace = editor.kept.trace
    if not is_computed(editor, name):
        return name in trace.graph.initializers or name in trace.graph.producer
    index = trace.graph.producer[name]
    node = trace.graph.nodes[index]
    demands = _demands(editor, index, axes) if len(node.output) == 1 else None
    if demands is None or any(_is_live(editor, node.input[k]) for k in demands):
        return False
    return all(can_push_back(editor, node.input[k], own) for k, own in demands.items() if _some_goes(own))


def _is_live(editor: Editor, name: str) -> bool:
    """Whether a number is computed from sizes that are not the same in every run."""
    constants = editor.kept.trace.constants
    return constants.reads_shapes(name) and name not in constants.fixed


def _frozen(editor: Editor, index: int, k: int) -> str:
    """A stored copy of an operand that is computed from shapes: it must not follow the cut."""
    name = editor.kept.trace.graph.nodes[index].input[k]
    value = editor.kept.trace.constants.value(name)
    if value is None:
        raise ProofFailed(f"the constant '{name}' cannot be evaluated", name)
    stored = editor.fresh_name(f"{name}_before")
    editor.put_initializer(stored, value)
    editor.note(index, f"input {k}, computed from a shape, keeps its value", None, value.tolist(), stored)
    return stored


def push_back(editor: Editor, name: str, axes: Kept, leaf: Leaf, before: int, in_place: bool) -> str:
    """A tensor with what stays of the computed constant `name`, made by the same operators from smaller constants.

    before: the node that reads it. in_place: nobody else does, so its nodes are edited rather than copied. Only where
    `can_push_back`.
    """
    trace = editor.kept.trace
    index = trace.graph.producer[name]
    node = trace.graph.nodes[index]
    inputs: dict[int, str] = {}
    for k, own in (_demands(editor, index, axes) or {}).items():
        source = node.input[k]
        if not _some_goes(own):
            if trace.constants.reads_shapes(source):
                inputs[k] = _frozen(editor, index, k)
            continue
        alone = in_place and editor.readers.get(source) == 1
        if is_computed(editor, source):
            inputs[k] = push_back(editor, source, own, leaf, before, alone)
        else:
            inputs[k] = leaf(index, k, source, {a: m for a, m in own.items() if not m.all()}, alone)
    edited = editor.nodes[index]
    if not in_place:
        edited = onnx.NodeProto()
        edited.CopyFrom(node)
        edited.output[0] = edited.name = editor.fresh_name(f"{name}_pruned")
        editor.before(before, [edited])
    for k, new in inputs.items():
        edited.input[k] = new
    target = _target_shape(editor, index, axes)
    if target is not None:
        position, literal = target
        old = trace.constants.value(node.input[position])
        stored = editor.fresh_name(f"{node.input[position]}_pruned")
        editor.put_initializer(stored, np.asarray(literal, np.int64))
        edited.input[position] = stored
        editor.note(index, f"input {position}", None if old is None else old.tolist(), literal, stored)
    out = trace.shapes.shape[name]
    editor.computed_shapes[edited.output[0]] = tuple(length(axes[a]) if a in axes else s for a, s in enumerate(out))
    return str(edited.output[0])


def is_computed(editor: Editor, name: str) -> bool:
    """Whether a constant is made by nodes rather than stored (in an initializer or a Constant node)."""
    graph = editor.kept.trace.graph
    made = graph.producer.get(name)
    return made is not None and name not in graph.initializers and graph.nodes[made].op_type != "Constant"


def _some_goes(axes: Kept) -> bool:
    return any(not m.all() for m in axes.values())


def _demands(editor: Editor, index: int, axes: Kept) -> dict[int, Kept] | None:
    """For each operand of a constant's operator what must stay of it, or None where we cannot tell."""
    trace = editor.kept.trace
    node = trace.graph.nodes[index]
    shape = trace.shapes.shape
    if not is_evaluated(node) or any(n and n not in shape for n in (*node.input, *node.output)):
        return None
    op, out = node.op_type, shape[node.output[0]]
    if any(m.ndim > 1 for m in axes.values()) and not _keeps_groups(op, [shape[n] for n in node.input if n], out):
        return None
    if op == "Transpose":
        perm = attribute(node, "perm", range(len(out))[::-1])
        return {0: {int(perm[a]): m for a, m in axes.items()}}
    if op in QUANTIZERS:
        return _quantizer(node, shape[node.input[0]], [shape[n] for n in node.input if n], axes)
    if op in UNARY or op == "Dropout":
        return {0: axes}
    if op in NARY or op == "Expand":
        operands = range(len(node.input)) if op in NARY else (0,)
        return {k: _broadcast(shape[node.input[k]], out, axes) for k in operands if node.input[k]}
    if op == "ConstantOfShape":
        return {}
    if op in VIEWS and not (op == "Reshape" and len(node.input) < 2):
        found = _viewed(shape[node.input[0]], out, axes)
        return None if found is None else {0: found}
    return None


def _keeps_groups(op: str, operands: list[Shape], out: Shape) -> bool:
    """Whether the blocks of a grouped kernel are the same in front of an operator: it works position by position, on
    operands of the whole shape or without the axis that is cut per group."""
    if op in QUANTIZERS:
        return True
    return op in (*UNARY, *NARY, "Dropout") and all(s == out or prod(s) == 1 for s in operands)


def _quantizer(node: onnx.NodeProto, x: Shape, operands: list[Shape], axes: Kept) -> dict[int, Kept] | None:
    """Codes as the result; scale and zero point along the quantized axis, or along all axes where they are one per
    block. Blocks must go whole."""
    block = int(attribute(node, "block_size", 0))
    axis = int(attribute(node, "axis", 1)) % max(1, len(x))
    if any(m.ndim > 1 for a, m in axes.items() if block or a == axis):
        return None
    found = {0: axes}
    if block:
        per_block = dict(axes)
        if axis in axes:
            if x[axis] % block:
                return None
            rows = axes[axis].reshape(-1, block)
            if not np.array_equal(rows.any(axis=1), rows.all(axis=1)):
                return None
            per_block[axis] = np.asarray(rows.all(axis=1), bool)
        return {**found, **dict.fromkeys(range(1, len(operands)), per_block)}
    for k, shape in enumerate(operands[1:], 1):
        if prod(shape) > 1 and axis in axes:
            found[k] = {0: axes[axis]}
    return found


def _broadcast(shape: Shape, out: Shape, axes: Kept) -> Kept:
    missing = len(out) - len(shape)
    return {a - missing: m for a, m in axes.items() if a >= missing and shape[a - missing] != 1}


def _viewed(source: Shape, out: Shape, axes: Kept) -> Kept | None:
    """What stays of a tensor before it was reshaped: None unless that is whole slices along its axes."""
    stays = np.ones(out, bool)
    for a, m in axes.items():
        stays &= m.reshape([-1 if d == a else 1 for d in range(len(out))])
    before = stays.reshape(source)
    found: Kept = {}
    outer = np.ones([1] * len(source), bool)
    for axis in range(len(source)):
        mask: BoolArray = np.asarray(before.any(axis=tuple(d for d in range(len(source)) if d != axis)), bool)
        found[axis] = mask
        outer = outer & mask.reshape([-1 if d == axis else 1 for d in range(len(source))])
    return found if bool((outer == before).all()) else None


def _target_shape(editor: Editor, index: int, axes: Kept) -> tuple[int, list[int]] | None:
    """(operand, new literal) for operators that spell the shape of their result."""
    trace = editor.kept.trace
    node = trace.graph.nodes[index]
    position = {"Reshape": 1, "Expand": 1, "ConstantOfShape": 0}.get(node.op_type)
    if position is None or len(node.input) <= position:
        return None
    out = trace.shapes.shape[node.output[0]]
    return position, [length(axes[a]) if a in axes else size for a, size in enumerate(out)]
