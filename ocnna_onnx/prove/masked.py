"""The oracle: the original model in which removed channels are silenced wherever they would be mixed into others.

Built with onnx-graphsurgeon on purpose: the rewrite edits protobufs through our own index, the oracle is made by a
library that shares no code with it.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import numpy_helper
from onnx_graphsurgeon.logger import G_LOGGER

from ..errors import ModelError
from ..model.graph import dense_value
from ..model.light import Light, light
from ..model.twin import fed_type, fp32_twin, has_bfloat16
from ..trace.labels import BoolArray, spread
from ..trace.types import Trace

WHERE_OPSET = 9
MUL_OPSET = 7
ORACLE_IR = 8


def keep_mask(trace: Trace, tensor: str, keep: BoolArray) -> BoolArray | None:
    """bool, broadcastable to the tensor: True where the value stays; None where nothing of it goes."""
    mask = np.ones(1, bool)
    for labels in trace.labels.get(tensor, ()):
        mask = mask & spread(labels, _without_repetition(keep[labels.array]))
    return None if mask.all() else mask


def _without_repetition(mask: BoolArray) -> BoolArray:
    for axis in range(mask.ndim):
        if (mask == mask.take([0], axis=axis)).all():
            mask = mask.take([0], axis=axis)
    return mask


def masked_original(trace: Trace, keep: BoolArray, original: Light) -> Light:
    """The original with `Where(keep, x, 0)` in front of every operator that mixes channels.

    `Where`, because Inf · 0 is NaN; before opset 9, which has no Where, `Mul`. original: the traced model, to share
    weights with. Raises ModelError before opset 7.
    """
    if trace.graph.opset < MUL_OPSET:
        raise ModelError(
            f"the model's opset {trace.graph.opset} is older than {MUL_OPSET}, the oldest that can be proven; "
            "convert it first (onnx.version_converter)"
        )
    copy = light(original).proto  # graphsurgeon shares tensors with what it imports, and renames them
    if has_bfloat16(copy):  # it does not know the type
        copy = fp32_twin(copy)
    outputs = [onnx.ValueInfoProto.FromString(o.SerializeToString()) for o in copy.graph.output]
    _make_dense(copy)
    with G_LOGGER.suppress():  # it prints warnings on stdout, about types that it does not know
        graph = gs.import_onnx(copy)
    nodes = list(graph.nodes)
    for index, i in trace.masks:
        tensor = trace.graph.nodes[index].input[i]
        mask = keep_mask(trace, tensor, keep)
        if mask is None:
            continue
        dtype = fed_type(trace.shapes.dtype[tensor])
        operand = trace.masks[(index, i)]
        name = f"{tensor}//{index}//{i}"
        zero = gs.Constant(f"{name}//neutral", np.zeros(1, dtype))
        neutral = zero if operand is None else nodes[index].inputs[operand]
        nodes[index].inputs[i] = _silence(graph, nodes[index].inputs[i], mask, neutral, dtype, name)
    graph.toposort(recurse_subgraphs=False)
    with G_LOGGER.suppress():
        model: onnx.ModelProto = gs.export_onnx(graph, do_type_check=False)
    del model.graph.output[:]
    model.graph.output.extend(outputs)  # it does not know sequences and maps
    model.ir_version = max(trace.graph.proto.ir_version, ORACLE_IR)
    return Light(model, original.weights)


def _make_dense(model: onnx.ModelProto) -> None:
    """Sparse constants as dense ones: graphsurgeon loses them."""
    for sparse in model.graph.sparse_initializer:
        model.graph.initializer.append(numpy_helper.from_array(dense_value(sparse), sparse.values.name))
    del model.graph.sparse_initializer[:]
    for node in model.graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "sparse_value":
                value = numpy_helper.from_array(dense_value(attribute.sparse_tensor))
                attribute.CopyFrom(onnx.helper.make_attribute("value", value))


def _silence(
    graph: gs.Graph, x: gs.Tensor, mask: BoolArray, neutral: gs.Tensor, dtype: np.dtype[np.generic], name: str
) -> gs.Variable:
    out = gs.Variable(f"{name}//silenced")
    if graph.opset >= WHERE_OPSET:
        inputs = [gs.Constant(f"{name}//keep", mask), x, neutral]
        graph.nodes.append(gs.Node("Where", out.name, inputs=inputs, outputs=[out]))
    else:
        inputs = [x, gs.Constant(f"{name}//keep", mask.astype(dtype))]
        graph.nodes.append(gs.Node("Mul", out.name, inputs=inputs, outputs=[out]))
    return out
