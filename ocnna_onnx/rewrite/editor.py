"""The model under the knife: a copy whose nodes, initializers and constants are edited by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..model.constants import Constants
from ..model.graph import AnyArray, attribute
from ..trace.kept import Kept
from ..trace.labels import BoolArray, IntArray, Shape

STRICT_INITIALIZERS_IR = 4
"""Before this IR version every initializer must also be a graph input."""


@dataclass
class Editor:
    """A copy of the traced model. Original node numbers stay valid while it is edited."""

    kept: Kept
    model: onnx.ModelProto
    initializers: dict[str, onnx.TensorProto]
    """Those of the traced model, until they are replaced; `model` gets what is left of them in the end."""
    rewrites: list[dict[str, Any]] = field(default_factory=list)
    computed_shapes: dict[str, Shape] = field(default_factory=dict)
    """Constants that are still computed in the graph, from smaller ones -> their shape now."""
    _added: dict[int, tuple[list[onnx.NodeProto], list[onnx.NodeProto]]] = field(default_factory=dict)

    @cached_property
    def nodes(self) -> list[onnx.NodeProto]:
        return list(self.model.graph.node)

    @cached_property
    def taken(self) -> set[str]:
        """Every tensor name in use."""
        graph = self.model.graph
        names = self.initializers.keys() | {i.name for i in graph.input}
        return names | {name for node in graph.node for name in (*node.input, *node.output)}

    @cached_property
    def readers(self) -> dict[str, int]:
        """Tensor -> how often it is read, as the original stands (graph outputs and captures count)."""
        graph = self.kept.trace.graph
        counts = {name: len(places) for name, places in graph.consumers.items()}
        for name in graph.outputs:
            counts[name] = counts.get(name, 0) + 1
        return counts

    @cached_property
    def adapted(self) -> Constants:
        """Constants as they will be once every tensor has its new shape."""
        trace = self.kept.trace
        shapes, strict = self.kept.shapes(), trace.constants.strict_inputs
        return Constants(trace.graph, shapes, trace.constants.runtime, None, trace.shapes.dtype, strict)

    def fresh_name(self, base: str) -> str:
        """A tensor name that is not in use."""
        name, k = base, 1
        while name in self.taken:
            k += 1
            name = f"{base}_{k}"
        self.taken.add(name)
        return name

    def put_initializer(self, name: str, array: AnyArray, like: onnx.TensorProto | None = None) -> None:
        """Add an initializer, or replace the one of that name in place."""
        tensor = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        if like is not None:
            tensor.doc_string = like.doc_string
            tensor.metadata_props.extend(like.metadata_props)
        if name not in self.initializers and self.model.ir_version < STRICT_INITIALIZERS_IR:
            self.model.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, array.shape))
        self.initializers[name] = tensor
        if name in self.inputs:
            sizes = self.inputs[name].type.tensor_type.shape
            del sizes.dim[:]
            for size in array.shape:
                sizes.dim.add(dim_value=size)

    @cached_property
    def inputs(self) -> dict[str, onnx.ValueInfoProto]:
        """Graph inputs; weights are among them in old files."""
        return {i.name: i for i in self.model.graph.input}

    def before(self, index: int, nodes: Sequence[onnx.NodeProto]) -> None:
        """Put nodes in front of an original one."""
        self._added.setdefault(index, ([], []))[0].extend(nodes)

    def behind(self, index: int, node: onnx.NodeProto) -> None:
        """Put a node behind an original one: it takes over the name of its first output."""
        self._added.setdefault(index, ([], []))[1].append(node)

    def note(self, index: int, what: str, before: Any, after: Any, new_tensor: str = "") -> None:
        """Record an edit for the report. new_tensor: the constant that holds the new value, where there is one."""
        name = self.kept.trace.graph.names[index]
        entry = {"node": name, "what": what, "before": before, "after": after}
        self.rewrites.append({**entry, "new_tensor": new_tensor} if new_tensor else entry)

    def finish(self) -> onnx.ModelProto:
        """The edited model: added nodes in place, what nobody reads any more removed, recorded shapes renewed."""
        if self._added:
            ordered: list[onnx.NodeProto] = []
            for i, node in enumerate(self.nodes):
                front, back = self._added.get(i, ([], []))
                ordered.extend((*front, node, *back))
            copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in ordered]
            del self.model.graph.node[:]
            self.model.graph.node.extend(copies)
        _remove_dead(self.model, self.initializers, self.kept)
        original = self.kept.trace.graph
        for name, tensor in self.initializers.items():
            untouched = tensor is original.initializers.get(name)
            self.model.graph.initializer.append(original.model.filled(tensor) if untouched else tensor)
        self.initializers.clear()
        _renew_value_info(self.model, self.kept)
        _renew_annotations(self.model, self.kept)
        return self.model


@dataclass(frozen=True)
class Surgery:
    """One node of the editor, as a rule's `rewrite` sees it (`trace.rules.rule.NodeSurgery`)."""

    editor: Editor
    index: int

    @property
    def node(self) -> onnx.NodeProto:
        return self.editor.nodes[self.index]

    @property
    def _original(self) -> onnx.NodeProto:
        return self.editor.kept.trace.graph.nodes[self.index]

    @property
    def op(self) -> str:
        return self._original.op_type

    @property
    def opset(self) -> int:
        return self.editor.kept.trace.graph.opset

    @property
    def inputs(self) -> Sequence[str]:
        return tuple(self._original.input)

    @property
    def outputs(self) -> Sequence[str]:
        return tuple(self._original.output)

    def attr(self, name: str, default: Any = None) -> Any:
        return attribute(self._original, name, default)

    def set_attr(self, name: str, value: Any) -> None:
        before = self.attr(name)
        if before is None and value is None:
            return
        left = [a for a in self.node.attribute if a.name != name]
        docs = {a.name: a.doc_string for a in self.node.attribute}
        del self.node.attribute[:]
        self.node.attribute.extend(left)
        if value is not None:
            self.node.attribute.append(helper.make_attribute(name, value, doc_string=docs.get(name) or None))
        self.editor.note(self.index, name, _plain(before), _plain(value))

    def kept(self, tensor: str, axis: int) -> BoolArray:
        return self.editor.kept.along(tensor, axis)

    def dtype(self, tensor: str) -> np.dtype[Any]:
        return np.dtype(helper.tensor_dtype_to_np_dtype(self.editor.kept.trace.shapes.dtype[tensor]))

    def old_shape(self, tensor: str) -> Shape:
        return self.editor.kept.trace.shapes.shape[tensor]

    def new_shape(self, tensor: str) -> Shape:
        return self.editor.kept.shape(tensor)

    def value(self, i: int) -> AnyArray | None:
        if i >= len(self.inputs) or not self.inputs[i]:
            return None
        return self.editor.kept.trace.constants.value(self.inputs[i])

    def set_operand(self, i: int, new: Sequence[int]) -> None:
        old = self.value(i)
        name = self.inputs[i] if i < len(self.inputs) else ""
        constants = self.editor.kept.trace.constants
        if name and constants.reads_shapes(name):
            adapted = self.editor.adapted.value(name)
            adapted = old if adapted is None else adapted  # it cannot be evaluated: the proof tells
            wanted = np.asarray(new, np.int64)
            same_length = adapted is not None and adapted.size == len(wanted)
            differs = (
                adapted.reshape(-1) != wanted if adapted is not None and same_length else np.ones(len(wanted), bool)
            )
            if not differs.any():
                return
            if name in constants.live:
                self._override(i, wanted, np.asarray(differs, bool))
                return
        elif old is not None and old.reshape(-1).tolist() == list(new):
            return
        dtype = old.dtype if old is not None else np.dtype(np.int64)
        shape = old.shape if old is not None else (len(new),)
        self.set_operand_array(i, np.asarray(new, dtype).reshape(shape))

    def set_operand_array(self, i: int, new: AnyArray) -> None:
        old = self.value(i)
        base = self.inputs[i] if i < len(self.inputs) and self.inputs[i] else f"{self.outputs[0]}_operand{i}"
        alone = base in self.editor.initializers and self.editor.readers.get(base) == 1
        name = base if alone else self.editor.fresh_name(f"{base}_pruned")
        self.editor.put_initializer(name, new, self.editor.initializers.get(base))
        while len(self.node.input) <= i:
            self.node.input.append("")
        self.node.input[i] = name
        self.editor.note(self.index, f"input {i}", None if old is None else old.tolist(), new.tolist(), name)

    def _override(self, i: int, new: IntArray, touched: BoolArray) -> None:
        """Replace single elements of an operand that the graph computes; the others stay live."""
        old = self.value(i)
        assert old is not None
        base = self.editor.fresh_name(f"{self.outputs[0]}_operand{i}")
        shape, dtype = old.shape, old.dtype
        literal, mask = self.editor.fresh_name(f"{base}_sizes"), self.editor.fresh_name(f"{base}_fixed")
        self.editor.put_initializer(literal, np.where(touched, new, 0).astype(dtype).reshape(shape))
        if self.opset >= 9:
            self.editor.put_initializer(mask, touched.reshape(shape))
            nodes = [helper.make_node("Where", [mask, literal, self.inputs[i]], [base], name=base)]
        else:
            self.editor.put_initializer(mask, (~touched).astype(dtype).reshape(shape))
            live = self.editor.fresh_name(f"{base}_live")
            nodes = [
                helper.make_node("Mul", [self.inputs[i], mask], [live], name=live),
                helper.make_node("Add", [live, literal], [base], name=base),
            ]
        self.editor.before(self.index, nodes)
        self.node.input[i] = base
        self.editor.note(self.index, f"input {i}, elements overridden", old.tolist(), new.tolist())

    def then(
        self, op: str, operand: AnyArray | None = None, attributes: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        output = self.outputs[0]
        inner = self.editor.fresh_name(f"{output}_before_{op.lower()}")
        stored = "" if operand is None else self.editor.fresh_name(f"{output}_{op.lower()}_operand")
        if operand is not None:
            self.editor.put_initializer(stored, operand)
        pending = list(self.editor._added.get(self.index, ([], []))[1])
        last = pending[-1] if pending else self.node
        last.output[0] = inner
        if not self.node.name:
            self.node.name = output  # what the node is called in every report
        inputs = [inner, stored] if stored else [inner]
        self.editor.behind(self.index, helper.make_node(op, inputs, [output], name=inner, **attributes))
        self.editor.note(self.index, f"{op} behind it", None, None if operand is None else operand.tolist(), stored)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else list(value) if isinstance(value, tuple) else value


def _remove_dead(model: onnx.ModelProto, initializers: dict[str, onnx.TensorProto], kept: Kept) -> None:
    """Drop constants, and nodes that only computed constants, that the original read and nobody reads any more."""
    from ..model.graph import captured

    original = kept.trace.graph.consumers
    static = kept.trace.constants.ahead
    outputs = {o.name for o in model.graph.output}
    while True:
        read = {name for node in model.graph.node for name in (*node.input, *captured(node))} | outputs
        dead = [
            node
            for node in model.graph.node
            if all(o not in read and (o in original) and o in static for o in node.output if o)
        ]
        if not dead:
            break
        gone_nodes = {id(node) for node in dead}
        stay = [onnx.NodeProto.FromString(n.SerializeToString()) for n in model.graph.node if id(n) not in gone_nodes]
        del model.graph.node[:]
        model.graph.node.extend(stay)
    gone = {name for name in initializers if name not in read and name in original}
    for name in gone:
        del initializers[name]
    for k in range(len(model.graph.input) - 1, -1, -1):
        if model.graph.input[k].name in gone:
            del model.graph.input[k]


def _renew_value_info(model: onnx.ModelProto, kept: Kept) -> None:
    """Recorded shapes of interior tensors follow the cut; records of tensors that are gone go too."""
    graph = kept.trace.graph
    weights = {t.name: t for t in model.graph.initializer}
    made = {o for node in model.graph.node for o in node.output} | weights.keys()
    once = graph.producer.keys() | graph.initializers.keys()
    for value in list(model.graph.value_info):
        if value.name in once and value.name not in made:
            model.graph.value_info.remove(value)
        elif value.name in weights:
            if [d.dim_value for d in value.type.tensor_type.shape.dim] != list(weights[value.name].dims):
                value.type.CopyFrom(
                    helper.make_tensor_type_proto(weights[value.name].data_type, weights[value.name].dims)
                )
        elif value.name in kept.trace.labels and kept.changed(value.name):
            sizes = value.type.tensor_type.shape.dim
            for axis, dim in enumerate(sizes):
                stays = kept.along(value.name, axis)
                if not stays.all():
                    dim.dim_value = int(stays.sum())


def _renew_annotations(model: onnx.ModelProto, kept: Kept) -> None:
    """Quantization annotations stay where their scale is one number; of what was cut, scales per channel go."""
    stored = {t.name: tuple(t.dims) for t in model.graph.initializer}
    original = kept.trace.graph
    for note in list(model.graph.quantization_annotation):
        name = note.tensor_name
        before = original.initializers.get(name)
        gone = before is not None and name not in stored
        cut = kept.changed(name) if before is None else stored.get(name) != tuple(before.dims)
        vectors = any(np.prod(stored.get(e.value, ()), dtype=np.int64) > 1 for e in note.quant_parameter_tensor_names)
        if gone or (cut and vectors):
            model.graph.quantization_annotation.remove(note)
