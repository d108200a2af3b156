"""Calls of the model's own functions and branches that are always taken, laid out as nodes of the main graph, so that
channels can be followed through them. What is read here is a copy: the caller's model stays as it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx
from onnx import TensorProto, helper, inliner

from ..errors import ModelError
from .decide import conditions
from .graph import AnyArray, Graph, attribute, bodies, captured
from .light import Light, light
from .session import Runtime, first_line, open_session

STRICT_INITIALIZERS_IR = 4


@dataclass(frozen=True)
class Unfolded:
    """model: the one to work on; the caller's own where there was nothing to lay out. edits: what was laid out, as
    entries of the report's `rewrites`. refusals: operator (`domain.name`) or If -> why it could not be."""

    model: Light
    edits: tuple[dict[str, Any], ...] = ()
    refusals: Mapping[str, str] = field(default_factory=dict)

    def refusal(self, node: onnx.NodeProto) -> str:
        """Why this node was left as it is, where it might have been laid out."""
        return self.refusals.get(_kind(node), "")


def unfold(given: Light, runtime: Runtime) -> Unfolded:
    """Lay out local functions and Ifs whose condition is known. Where onnxruntime does not open the result, or the
    inliner fails, those of that kind stay as they are."""
    if not given.proto.functions and not any(n.op_type == "If" for n in given.proto.graph.node):
        return Unfolded(given)
    model, weights = (apart := light(given)).proto, apart.weights
    work, edits, refusals = model, list[dict[str, Any]](), dict[str, str]()
    if model.functions and _calls_functions(model.graph.node, {_kind(f) for f in model.functions}):
        refusals.update(_unsuitable(model))
        calls = {_kind(f) for f in model.functions}
        try:
            work = _with_functions_inlined(model, set(refusals))
            _check(Light(work, weights), runtime)
        except Exception as error:  # the inliner raises plain RuntimeErrors
            work = model
            refusals = {kind: f"its function cannot be inlined: {first_line(error)}" for kind in calls}
        edits += [
            {"node": name, "what": f"call of {_kind(node)}", "before": "call", "after": "inlined"}
            for name, node in zip(Graph(model).names, model.graph.node, strict=True)
            if _kind(node) in calls - refusals.keys()
        ]
    try:
        flat, taken = _with_branches_taken(work, weights)
        if taken:
            _check(Light(flat, weights), runtime)
        work, edits = flat, edits + taken
    except ModelError as error:
        refusals[".If"] = f"the branch that is taken cannot be laid out: {first_line(error)}"
    return Unfolded(Light(work, weights) if edits else given, tuple(edits), refusals)


def _check(model: Light, runtime: Runtime) -> None:
    with open_session(model, runtime):
        pass


def _kind(item: onnx.NodeProto | onnx.FunctionProto) -> str:
    return f"{item.domain}.{item.op_type if isinstance(item, onnx.NodeProto) else item.name}"


# --- functions ---


def _with_functions_inlined(model: onnx.ModelProto, but: set[str]) -> onnx.ModelProto:
    """All calls inlined, but those of the functions `but`. The weights do not pass through the inliner, which cannot
    serialize 2 GB."""
    light = onnx.ModelProto()
    light.CopyFrom(model)
    for tensor in light.graph.initializer:
        stub = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        stub.data_location = TensorProto.EXTERNAL
        stub.external_data.add(key="location", value="none")
        tensor.CopyFrom(stub)
    _spell_defaults(light)
    suitable = [onnx.FunctionProto.FromString(f.SerializeToString()) for f in light.functions if _kind(f) not in but]
    del light.functions[:]  # one that is written for another opset would stop the inliner
    light.functions.extend(suitable)
    inlined: onnx.ModelProto = inliner.inline_local_functions(light)
    inlined.functions.extend(f for f in model.functions if _kind(f) in but)
    stored = {t.name: t for t in model.graph.initializer}
    for tensor in inlined.graph.initializer:
        tensor.CopyFrom(stored[tensor.name])
    known = {o.domain for o in inlined.opset_import}
    for function in model.functions:
        for entry in function.opset_import:
            if entry.domain not in known:
                known.add(entry.domain)
                inlined.opset_import.append(entry)
    return inlined


def _calls_functions(nodes: Iterable[onnx.NodeProto], functions: set[str]) -> bool:
    """Whether a function is called, in bodies too."""
    return any(_kind(n) in functions or any(_calls_functions(b.node, functions) for b in bodies(n)) for n in nodes)


def _spell_defaults(model: onnx.ModelProto) -> None:
    """Attributes that a call leaves to the function's default, written at the call: the inliner forgets them."""
    defaults = {_kind(f): f.attribute_proto for f in model.functions}
    stack = [*model.graph.node, *(n for f in model.functions for n in f.node)]
    while stack:
        node = stack.pop()
        given = {a.name for a in node.attribute}
        node.attribute.extend(a for a in defaults.get(_kind(node), ()) if a.name not in given)
        stack.extend(n for body in bodies(node) for n in body.node)


def _unsuitable(model: onnx.ModelProto) -> dict[str, str]:
    """Functions that stay functions -> why."""
    ours = {o.domain: o.version for o in model.opset_import}
    found: dict[str, str] = {}
    for f in model.functions:
        if f.domain in ("", "ai.onnx") and onnx.defs.has(f.name):
            found[_kind(f)] = "its function has the name of a standard operator, which onnxruntime runs instead"
        for o in f.opset_import:
            if ours.get(o.domain, o.version) != o.version:
                found[_kind(f)] = f"its function is written for opset {o.version}, the model for {ours[o.domain]}"
    return found


# --- branches ---


def _with_branches_taken(
    model: onnx.ModelProto, weights: Mapping[str, AnyArray]
) -> tuple[onnx.ModelProto, list[dict[str, Any]]]:
    """Every If whose condition is known replaced by the nodes of its branch, again and again: a branch may hold more
    of them, and shapes behind one are known only then."""
    edits: list[dict[str, Any]] = []
    while True:
        graph = Graph(model, weights)
        known = conditions(graph)
        if not known:
            return model, edits
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        sides = {i: attribute(model.graph.node[i], _side(known[i])) for i in known}
        taken = _Names.staying(model.graph, sides)
        nodes: list[onnx.NodeProto] = []
        for i, node in enumerate(copy.graph.node):
            if i not in known:
                nodes.append(node)
                continue
            nodes.extend(_branch(copy, node, sides[i], taken))
            edits.append(
                {"node": graph.names[i], "what": f"If, always {_side(known[i])}", "before": "If", "after": "inlined"}
            )
        laid_out = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
        del copy.graph.node[:]
        copy.graph.node.extend(laid_out)
        _drop_unread(copy, model)
        model = copy


def _side(condition: bool) -> str:
    return "then_branch" if condition else "else_branch"


@dataclass(frozen=True)
class _Names:
    """Names that are in use: of tensors, and of nodes."""

    tensors: set[str]
    nodes: set[str]

    @staticmethod
    def staying(graph: onnx.GraphProto, sides: Mapping[int, onnx.GraphProto]) -> _Names:
        """Those that are in use when these branches are gone: of the main graph, and of bodies that stay bodies."""
        names = _Names(set(), set())
        names.add(graph, sides)
        for branch in sides.values():
            for node in branch.node:
                for body in bodies(node):
                    names.add(body, {})
        return names

    def add(self, graph: onnx.GraphProto, skip: Mapping[int, onnx.GraphProto]) -> None:
        self.tensors.update(v.name for v in (*graph.input, *graph.initializer))
        self.tensors.update(t.values.name for t in graph.sparse_initializer)
        for i, node in enumerate(graph.node):
            self.tensors.update(node.output)
            self.nodes.add(node.name)
            for body in bodies(node) if i not in skip else ():
                self.add(body, {})


def _free(name: str, taken: set[str]) -> str:
    """`name`, or where somebody else has it a numbered one; taken from now on."""
    candidate, k = name, 1
    while candidate in taken:
        k += 1
        candidate = f"{name}_{k}"
    taken.add(candidate)
    return candidate


def _branch(model: onnx.ModelProto, node: onnx.NodeProto, body: onnx.GraphProto, taken: _Names) -> list[onnx.NodeProto]:
    """The nodes of a branch under names that are free in the main graph; its stored tensors go there."""
    made = {o for n in body.node for o in n.output if o}
    new: dict[str, str] = {}
    copied: list[tuple[str, str]] = []
    for inner, outer in zip(body.output, node.output, strict=True):
        if outer and inner.name in made and inner.name not in new:
            new[inner.name] = outer
        elif outer:  # given twice, stored in the branch, or captured from outside
            copied.append((inner.name, outer))
    stored = [t.name for t in body.initializer] + [t.values.name for t in body.sparse_initializer]
    for name in dict.fromkeys((*(o for n in body.node for o in n.output if o), *stored)):
        if name not in new:
            new[name] = _free(name, taken.tensors)
    nodes = []
    for tensor in body.initializer:
        if model.ir_version < STRICT_INITIALIZERS_IR:  # an initializer would have to be an input of the model
            nodes.append(helper.make_node("Constant", [], [new[tensor.name]], value=tensor))
            continue
        added = model.graph.initializer.add()
        added.CopyFrom(tensor)
        added.name = new[tensor.name]
    for sparse in body.sparse_initializer:
        moved = model.graph.sparse_initializer.add()
        moved.CopyFrom(sparse)
        moved.values.name = new[sparse.values.name]
    for n in body.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(n)
        copy.name = _free(n.name, taken.nodes) if n.name else ""
        _rename(copy, new)
        nodes.append(copy)
    for name, outer in copied:
        nodes.append(helper.make_node("Identity", [new.get(name, name)], [outer]))
    for value in body.value_info:
        if value.name in new and new[value.name] not in node.output:
            info = model.graph.value_info.add()
            info.CopyFrom(value)
            info.name = new[value.name]
    return nodes


def _rename(node: onnx.NodeProto, new: Mapping[str, str]) -> None:
    """Tensors of a node by their new names, also where its bodies read them."""
    for k, name in enumerate(node.input):
        node.input[k] = new.get(name, name)
    for k, name in enumerate(node.output):
        node.output[k] = new.get(name, name)
    for body in bodies(node):
        own = {i.name for i in body.input} | {t.name for t in body.initializer}
        own |= {o for n in body.node for o in n.output}
        outer = {old: name for old, name in new.items() if old not in own}
        for n in body.node:
            _rename(n, outer)
        for value in body.output:
            value.name = outer.get(value.name, value.name)


def _drop_unread(model: onnx.ModelProto, before: onnx.ModelProto) -> None:
    """Remove what only conditions and branches not taken have read."""
    once = _read(before)
    while True:
        read = _read(model)
        unread = once - read
        gone = [n for n in model.graph.node if any(n.output) and all(o in unread for o in n.output if o)]
        for node in gone:
            model.graph.node.remove(node)
        if not gone:
            break
    inputs = {i.name for i in model.graph.input}
    for stored in (model.graph.initializer, model.graph.value_info):
        for k in range(len(stored) - 1, -1, -1):
            if stored[k].name in unread - inputs:
                del stored[k]


def _read(model: onnx.ModelProto) -> set[str]:
    names = {name for node in model.graph.node for name in (*node.input, *captured(node))}
    return names | {o.name for o in model.graph.output}
