"""A plan -> a smaller model: weights cut, attributes and literals edited, everything else as it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx
from onnx import numpy_helper

from ..errors import ProofFailed
from ..model.graph import AnyArray
from ..model.light import without_initializers
from ..trace.kept import Kept
from ..trace.labels import BoolArray, Shape
from ..trace.rules import rule_for
from ..trace.types import Trace
from .chains import can_push_back, is_computed, push_back
from .constants import CutRecord, cut_array, indices, operand_cuts, signature
from .constants import Kept as AxesKept
from .editor import Editor, Surgery
from .freeze import freeze_values


@dataclass(frozen=True)
class Rewritten:
    """The smaller model with the record of every cut and edit, and the shape predicted for every tensor."""

    model: onnx.ModelProto
    cuts: tuple[CutRecord, ...]
    rewrites: tuple[dict[str, Any], ...]
    kept: Kept
    shapes: dict[str, Shape]


def rewrite(trace: Trace, keep: BoolArray) -> Rewritten:
    """Cut the units that do not stay. keep: bool [units + 1] (`Trace.keep_units`). The traced model is not modified.

    Raises ProofFailed where no dense tensor would be left: a rule missed a coupling.
    """
    kept = Kept(trace, keep)
    for tensor in kept.irregular():
        node = trace.graph.names[trace.graph.producer[tensor]]
        raise ProofFailed(f"node '{node}': no dense tensor is left of '{tensor}' (a defect; please report it)", node)
    if keep.all():
        model = trace.original.whole()
        return Rewritten(model, (), (), kept, {**kept.shapes(), **_stored_shapes(model)})
    editor = Editor(kept, without_initializers(trace.graph.proto), dict(trace.graph.initializers))
    cuts = _cut_constants(editor)
    for i in trace.graph.order:
        node = trace.graph.nodes[i]
        rule = rule_for(node)
        if rule is not None and rule.rewrite is not None:
            if all(n in trace.constants.ahead for n in node.output if n):
                continue
            if any(n and n not in trace.shapes.shape for n in (*node.input, *node.output)):
                continue  # such a node was walled
            follows = any(trace.constants.reads_shapes(n) for n in node.input)
            if follows or any(n and kept.changed(n) for n in (*node.input, *node.output)):
                rule.rewrite(Surgery(editor, i))
    freeze_values(editor)
    finished = editor.finish()
    shapes = {**kept.shapes(), **_stored_shapes(finished), **editor.computed_shapes}
    return Rewritten(finished, tuple(cuts), (*trace.unfolded.edits, *editor.rewrites), kept, shapes)


def _stored_shapes(model: onnx.ModelProto) -> dict[str, Shape]:
    """Shapes of initializers and Constant nodes as they are now."""
    found = {t.name: tuple(t.dims) for t in model.graph.initializer}
    for node in model.graph.node:
        for a in node.attribute:
            if node.op_type == "Constant" and a.name == "value":
                found[node.output[0]] = tuple(a.t.dims)
    return found


def _cut_constants(editor: Editor) -> list[CutRecord]:
    """Cut every constant operand, in place where all its readers agree, else one copy per different cut."""
    trace = editor.kept.trace
    graph, constants = trace.graph, trace.constants
    operands = operand_cuts(trace, editor.kept.keep)
    by_root: dict[str, list[tuple[int, int]]] = {}
    for node, i in operands:
        by_root.setdefault(constants.root(graph.nodes[node].input[i]), []).append((node, i))
    records: list[CutRecord] = []

    def leaf(node: int, i: int, name: str, axes: AxesKept, alone: bool) -> str:
        root = constants.root(name)
        stored = _store(editor, root, alone and root == name, cut_array(_value(trace, root), axes))
        records.extend(_records(graph.names[node], i, root, stored, axes))
        return stored

    for root, places in by_root.items():
        direct = [p for p in places if graph.nodes[p[0]].input[p[1]] == root]
        variants = {signature(operands[p]) for p in places}
        in_place = len(variants) == 1 and len(direct) == editor.readers.get(root, 0)
        names: dict[tuple[tuple[int, bytes], ...], str] = {}
        for node, i in places:
            axes = operands[(node, i)]
            key = signature(axes)
            pushed = is_computed(editor, root) and can_push_back(editor, root, axes)
            if key not in names and pushed:
                names[key] = push_back(editor, root, axes, leaf, node, in_place)
            elif key not in names:
                names[key] = _store(editor, root, in_place, cut_array(_value(trace, root), axes))
            editor.nodes[node].input[i] = names[key]
            if not pushed:
                records.extend(_records(graph.names[node], i, root, names[key], axes))
    return records


def _records(node: str, i: int, root: str, stored: str, axes: AxesKept) -> list[CutRecord]:
    return [CutRecord(node, i, root, stored, a, indices(m)) for a, m in axes.items()]


def _value(trace: Trace, name: str) -> AnyArray:
    value = trace.constants.value(name)
    if value is None:
        raise ProofFailed(f"the constant '{name}' cannot be evaluated", name)
    return value


def _store(editor: Editor, root: str, in_place: bool, array: AnyArray) -> str:
    """Put a cut constant where its readers find it; returns the tensor's name."""
    graph = editor.kept.trace.graph
    original = graph.initializers.get(root)
    if original is not None:
        target = root if in_place else editor.fresh_name(f"{root}_pruned")
        editor.put_initializer(target, array, original)
        return target
    node = editor.nodes[graph.producer[root]]
    if in_place and node.op_type == "Constant":
        kept = [a for a in node.attribute if not a.name.startswith(("value", "sparse_value"))]
        del node.attribute[:]
        node.attribute.extend(kept)
        node.attribute.append(onnx.helper.make_attribute("value", numpy_helper.from_array(array)))
        return root
    target = editor.fresh_name(f"{root}_pruned")
    editor.put_initializer(target, array)
    return target
