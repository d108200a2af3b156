"""A model in terms that suit a converter: one batch size, what is known ahead as weights, explicit pads, float32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..errors import ModelError
from ..model.constants import SHAPE_READERS, Constants
from ..model.graph import AnyArray, Graph, attribute
from ..model.light import Light
from ..model.probes import Shape
from ..model.session import Runtime
from ..model.shapes import Shapes, probe
from ..model.twin import fp32_twin

QUANTIZED = frozenset(
    "QuantizeLinear DequantizeLinear DynamicQuantizeLinear ConvInteger MatMulInteger QLinearConv QLinearMatMul".split()
)
MOVES = frozenset(("Transpose", "Identity"))
"""What may stand between a weight and the operator that reads it, and is left to the converter, so that the weight can
be trained."""

TAKES_COMPUTED = frozenset("MatMul Gemm Add Sub Mul".split())
WINDOWS = frozenset("Conv ConvTranspose MaxPool AveragePool LpPool".split())


@dataclass(frozen=True)
class Plain:
    """model: float32, for feeds of these shapes alone; node k is called `n{k}`. names: what the nodes are called in the
    file. shapes: of every tensor. own: weights that may be trained: the file stores them (as initializers or Constant
    nodes), and no other weight is computed from them."""

    model: onnx.ModelProto
    names: tuple[str, ...]
    shapes: Mapping[str, Shape]
    own: frozenset[str]


def plain(model: Light, feeds: Mapping[str, Shape], runtime: Runtime, values: Mapping[str, AnyArray]) -> Plain:
    """The model for feeds of these shapes. values: samples, for nets that do not run on zeros. Raises ModelError for a
    quantized model."""
    graph = Graph(model.proto, model.weights)
    for name, node in zip(graph.names, graph.nodes, strict=True):
        if node.op_type in QUANTIZED or node.op_type.startswith(("QLinear", "QGemm")):
            raise ModelError(
                f"node '{name}' ({node.op_type}): the weights are quantized, and a gradient cannot move them; distil "
                "the float model, and quantize what comes out"
            )
    shapes = probe(graph, feeds, runtime, values)
    constants = Constants(graph, shapes.shape, runtime, None, shapes.dtype)
    computed = _computed(graph, constants)
    made = onnx.ModelProto(ir_version=model.proto.ir_version)
    made.opset_import.extend(model.proto.opset_import)
    made.graph.name = model.proto.graph.name or "graph"
    names: list[str] = []
    read: set[str] = set(graph.outputs)
    used: set[str] = set()  # by what is computed ahead: were they moved, it would stay behind
    for i in graph.order:
        node = graph.nodes[i]
        outputs = [n for n in node.output if n]
        if all(n in constants.ahead and n not in computed for n in outputs):
            if node.op_type not in ("Identity", *SHAPE_READERS):
                used.update(constants.root(n) for n in node.input)
            continue
        copy = made.graph.node.add()
        copy.CopyFrom(node)
        copy.name = f"n{len(names)}"
        for k, name in enumerate(node.input):
            copy.input[k] = constants.root(name) if name in constants.ahead else name
        while copy.input and not copy.input[-1]:
            del copy.input[-1]
        if node.op_type in WINDOWS:
            _explicit_pads(copy, shapes)
        names.append(graph.names[i])
        read.update(copy.input)
    known = {n for n in read if n in constants.ahead and n not in computed}
    for name in sorted(known):
        value = constants.value(name)
        if value is None:
            raise ModelError(f"the constant '{name}' cannot be evaluated")
        made.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    for value in graph.inputs:
        made.graph.input.append(_declared(value.name, value.type.tensor_type.elem_type, feeds[value.name]))
    for name in graph.outputs:
        kind = shapes.dtype.get(name, TensorProto.FLOAT)
        made.graph.output.append(_declared(name, kind, shapes.shape.get(name)))
    for kind in (TensorProto.BFLOAT16, TensorProto.FLOAT16):
        made = fp32_twin(made, of=int(kind))
    return Plain(made, tuple(names), shapes.shape, _stored(graph) - used)


def _stored(graph: Graph) -> frozenset[str]:
    """What can be written back: initializers, and outputs of Constant nodes that hold tensors."""
    held = ("value", "value_floats", "sparse_value")
    nodes = (n for n in graph.nodes if n.op_type == "Constant" and any(a.name in held for a in n.attribute))
    return frozenset((*graph.initializers, *(n.output[0] for n in nodes)))


def _computed(graph: Graph, constants: Constants) -> frozenset[str]:
    """Tensors that are moved weights, and stay computed: all that reads them can take a tensor that is no weight."""
    found: set[str] = set()
    for i in graph.order:
        node = graph.nodes[i]
        if node.op_type != "Transpose" or constants.root(node.input[0]) not in graph.initializers:
            continue
        readers = graph.consumers.get(node.output[0], ())
        if readers and all(k >= 0 and graph.nodes[r].op_type in TAKES_COMPUTED for r, k in readers):
            if constants.value(node.output[0]) is not None and node.output[0] not in graph.outputs:
                found.add(node.output[0])
    return frozenset(found)


def _declared(name: str, kind: int, shape: Shape | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _explicit_pads(node: onnx.NodeProto, shapes: Shapes) -> None:
    """`auto_pad` as `pads`, at the sizes at hand (ONNX's formula of SAME: as many outputs as strides fit)."""
    mode = attribute(node, "auto_pad", "NOTSET")
    kept = [a for a in node.attribute if a.name not in ("auto_pad", "output_shape")]
    if mode == "NOTSET" and attribute(node, "output_shape") is None:
        return
    size, out = (shapes.shape[n][2:] for n in (node.input[0], node.output[0]))
    kernel = attribute(node, "kernel_shape", None) or shapes.shape[node.input[1]][2:]
    strides = attribute(node, "strides", None) or [1] * len(size)
    dilations = attribute(node, "dilations", None) or [1] * len(size)
    extra = attribute(node, "output_padding", None) or [0] * len(size)
    begin, end = [], []
    for k in range(len(size)):
        reach = (kernel[k] - 1) * dilations[k] + 1
        if node.op_type == "ConvTranspose":
            total = max(0, strides[k] * (size[k] - 1) + extra[k] + reach - out[k])
        else:
            total = 0 if mode == "VALID" else max(0, (out[k] - 1) * strides[k] + reach - size[k])
        small, large = total // 2, total - total // 2
        upper = mode != "SAME_LOWER"
        begin.append(small if upper else large)
        end.append(large if upper else small)
    del node.attribute[:]
    node.attribute.extend(a for a in kept if a.name != "pads")
    node.attribute.append(helper.make_attribute("pads", [*begin, *end]))
