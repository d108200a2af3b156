"""bfloat16: onnxruntime's CPU provider has no Conv, Gemm or Add of it, so such models run as their fp32 twins.

A twin computes with the same numbers (every bfloat16 is a float32) and rounds nothing on the way. Only sessions see it:
graphs, traces and files keep their types.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .graph import AnyArray

BFLOAT16, FLOAT = int(TensorProto.BFLOAT16), int(TensorProto.FLOAT)

TYPE_ATTRIBUTES = frozenset(
    "to dtype output_dtype output_datatype precision stash_type softmax_precision quant_output_type".split()
)
"""Integer attributes that hold an element type."""


def has_bfloat16(model: onnx.ModelProto) -> bool:
    """Whether a tensor of the model is stored, declared or made as bfloat16."""
    return any(t.data_type == BFLOAT16 for t in _tensors(model)) or any(
        t.elem_type == BFLOAT16 for t in _declared(model)
    ) or any(_makes(a) for n in _nodes(model) for a in n.attribute)  # fmt: skip


def fp32_twin(model: onnx.ModelProto, rounding: bool = False, of: int = BFLOAT16) -> onnx.ModelProto:
    """A copy that computes in float32 wherever the model does in bfloat16, or in another type `of`. rounding: a Cast to
    bfloat16 still rounds (constants must keep their values; activations would differ by chance)."""
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    for tensor in _tensors(twin):
        if tensor.data_type == of:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for kind in _declared(twin):
        if kind.elem_type == of:
            kind.elem_type = FLOAT
    casts = [n for n in twin.graph.node if n.op_type == "Cast" and any(_makes(a, of) for a in n.attribute)]
    for node in _nodes(twin):
        for attribute in node.attribute:
            if _makes(attribute, of):
                attribute.i = FLOAT
    if rounding and casts:
        _round(twin, {n.output[0] for n in casts})
    return twin


def fed_type(element: int) -> np.dtype[np.generic]:
    """The numpy type that a session takes at an input of this onnx element type."""
    return np.dtype(np.float32) if element == BFLOAT16 else np.dtype(helper.tensor_dtype_to_np_dtype(element))


def as_fed(array: AnyArray) -> AnyArray:
    """The array as a session takes it."""
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def bfloat16_tensors(model: onnx.ModelProto) -> frozenset[str]:
    """Tensors of the main graph that are bfloat16, as far as inference can tell."""
    found = {t.name for t in model.graph.initializer if t.data_type == BFLOAT16}
    try:
        inferred = onnx.shape_inference.infer_shapes(model)
    except Exception:  # inference raises plain RuntimeErrors on what it does not know
        inferred = model
    values = (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output)
    return frozenset(found | {v.name for v in values if v.type.tensor_type.elem_type == BFLOAT16})


def _round(model: onnx.ModelProto, rounded: set[str]) -> None:
    """Behind each of these Casts the number goes to bfloat16 and back."""
    nodes = []
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type == "Cast" and node.output[0] in rounded:
            name = node.output[0]
            node.output[0] = f"{name}//exact"
            nodes.append(helper.make_node("Cast", [node.output[0]], [f"{name}//rounded"], to=BFLOAT16))
            nodes.append(helper.make_node("Cast", [f"{name}//rounded"], [name], to=FLOAT))
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _makes(attribute: onnx.AttributeProto, of: int = BFLOAT16) -> bool:
    return attribute.i == of and attribute.name in TYPE_ATTRIBUTES and not attribute.ref_attr_name


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        yield from _inner(node)


def _inner(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from _graphs(body)


def _all_graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    yield from _graphs(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _inner(node)


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node, in bodies and functions too."""
    for graph in _all_graphs(model):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def _tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every stored tensor."""
    for graph in _all_graphs(model):
        yield from graph.initializer
        yield from (s.values for s in graph.sparse_initializer)
    attributes = [a for node in _nodes(model) for a in node.attribute]
    for attribute in (*attributes, *(a for f in model.functions for a in f.attribute_proto)):
        if attribute.HasField("t"):
            yield attribute.t
        if attribute.HasField("sparse_tensor"):
            yield attribute.sparse_tensor.values
        yield from attribute.tensors


def _declared(model: onnx.ModelProto) -> Iterator[onnx.TypeProto.Tensor]:
    """Every declared tensor type."""
    types: list[onnx.TypeProto] = []
    for graph in _all_graphs(model):
        types.extend(v.type for v in (*graph.input, *graph.output, *graph.value_info))
    for function in model.functions:
        types.extend(v.type for v in function.value_info)
    types.extend(a.tp for n in _nodes(model) for a in n.attribute if a.HasField("tp"))
    while types:
        kind = types.pop()
        if kind.HasField("tensor_type"):
            yield kind.tensor_type
        elif kind.HasField("sequence_type"):
            types.append(kind.sequence_type.elem_type)
        elif kind.HasField("optional_type"):
            types.append(kind.optional_type.elem_type)
        elif kind.HasField("map_type"):
            types.append(kind.map_type.value_type)
