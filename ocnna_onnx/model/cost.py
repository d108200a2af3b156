"""Parameters and multiply–accumulates, counted as in published tables (see `docs/formats.md`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from onnx import TensorProto

from .constants import Constants
from .einsum import read_equation
from .graph import Graph, attribute, first_output

Shape = tuple[int, ...]

WEIGHT_TYPES = frozenset(
    {
        TensorProto.FLOAT,
        TensorProto.FLOAT16,
        TensorProto.BFLOAT16,
        TensorProto.DOUBLE,
        TensorProto.INT8,
        TensorProto.UINT8,
        TensorProto.INT16,
        TensorProto.UINT16,
        TensorProto.INT4,
        TensorProto.UINT4,
        TensorProto.FLOAT8E4M3FN,
        TensorProto.FLOAT8E4M3FNUZ,
        TensorProto.FLOAT8E5M2,
        TensorProto.FLOAT8E5M2FNUZ,
        TensorProto.FLOAT4E2M1,
    }
)
CONV_WEIGHT = {"Conv": 1, "FusedConv": 1, "DeformConv": 1, "ConvInteger": 1, "QLinearConv": 3}
RECURRENT = ("LSTM", "GRU", "RNN")
MATMUL = frozenset(
    "MatMul MatMulInteger QLinearMatMul FusedMatMul TransposeMatMul MatMulIntegerToFloat DynamicQuantizeMatMul".split()
)
GEMM = ("Gemm", "FusedGemm", "QGemm")
NO_WEIGHTS = (
    "Resize Upsample Clip Pad Pow Slice Tile Expand Reshape ConstantOfShape Range Gather Dropout OneHot TopK "
    "NonMaxSuppression Mod Equal Less Greater Where Shape Cast QuantizeLinear"
).split()
STEERING: dict[str, tuple[int, ...]] = {  # operators some of whose constant operands steer the graph -> the others
    **dict.fromkeys(NO_WEIGHTS, ()),
    "BatchNormalization": (1, 2),
    "DequantizeLinear": (0,),
    "QLinearConv": (3, 8),
    "QLinearMatMul": (0, 3),
    "MatMulInteger": (0, 1),
    "MatMulIntegerToFloat": (0, 1, 6),
    "DynamicQuantizeMatMul": (0, 1, 4),
    "QGemm": (3, 6),
    **dict.fromkeys(("QLinearAdd", "QLinearMul"), (0, 3)),
    "QLinearWhere": (1, 4),
}
CARRIERS = frozenset("Identity Transpose Cast Reshape Unsqueeze Squeeze Flatten DequantizeLinear".split())
WEIGHTED = frozenset("Conv ConvTranspose Gemm MatMul BatchNormalization InstanceNormalization PRelu".split())


def macs(graph: Graph, shape: Mapping[str, Shape]) -> dict[int, int]:
    """Node number -> multiply–accumulates of one run at these shapes (convolutions, matrix products, LSTM and kin)."""
    found: dict[int, int] = {}
    for i in range(len(graph.nodes)):
        count = node_macs(graph, i, shape)
        if count:
            found[i] = count
    return found


def node_macs(graph: Graph, index: int, shape: Mapping[str, Shape]) -> int:
    """Multiply–accumulates of one node; 0 for other operators, and where a shape is missing."""
    node = graph.nodes[index]
    op = node.op_type
    made = first_output(node)
    if not made or any(n and n not in shape for n in (*node.input, made)):
        return 0
    out = prod(shape[made])
    if op in CONV_WEIGHT:
        return out * prod(shape[node.input[CONV_WEIGHT[op]]][1:])
    if op == "ConvTranspose":
        return prod(shape[node.input[0]]) * prod(shape[node.input[1]][1:])
    if op in GEMM or op in MATMUL:
        a = shape[node.input[0]]
        return out * (a[-2] if attribute(node, "transA", 0) else a[-1])
    if op in RECURRENT:
        steps = prod(shape[node.input[0]][:2])
        return steps * (prod(shape[node.input[1]]) + prod(shape[node.input[2]]))
    if op == "Einsum" and len(node.input) > 1:
        return _einsum_macs(str(attribute(node, "equation", "")), [shape[name] for name in node.input])
    return 0


def _einsum_macs(equation: str, shapes: Sequence[Shape]) -> int:
    """The product of all letters' sizes."""
    parsed = read_equation(equation, [len(s) for s in shapes])
    sizes: dict[str, int] = {}
    for term, own in zip(parsed[0] if parsed else (), shapes, strict=False):
        for letter, size in zip(term, own, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    return prod(sizes.values()) if sizes else 0


def weights(graph: Graph, constants: Constants) -> dict[str, frozenset[int]]:
    """Weight tensors (initializers and Constant outputs) -> the nodes that use them as weights."""
    constants = constants.with_defaults()
    users: dict[str, set[int]] = {}
    for i, node in enumerate(graph.nodes):
        if all(n in constants.fixed for n in node.output if n):
            continue
        steering = STEERING.get(node.op_type)
        for k, name in enumerate(node.input):
            if name not in constants.fixed or (steering is not None and k not in steering):
                continue
            stored = origin(graph, name)
            tensor_type, size = _type_and_size(graph, constants, stored)
            if tensor_type in WEIGHT_TYPES and (size > 1 or node.op_type in WEIGHTED):
                users.setdefault(stored, set()).add(i)
    return {name: frozenset(nodes) for name, nodes in users.items()}


def parameters(graph: Graph, constants: Constants, live: frozenset[str] = frozenset()) -> int:
    """Elements of all weights; a shared one counts once, BatchNormalization's running statistics do not. live: tensors
    that are known to follow the symbolic dimensions, so that they are no weights."""
    return sum(_type_and_size(graph, constants, name)[1] for name in weights(graph, constants) if name not in live)


def size_of(graph: Graph, constants: Constants, name: str) -> int:
    """Elements of a constant tensor."""
    return _type_and_size(graph, constants, name)[1]


def origin(graph: Graph, name: str) -> str:
    """The initializer or Constant behind a weight that is cast, transposed, reshaped or dequantized on its way."""
    while name not in graph.initializers and name in graph.producer:
        node = graph.nodes[graph.producer[name]]
        if node.op_type not in CARRIERS:
            break
        name = node.input[0]
    return name


def _type_and_size(graph: Graph, constants: Constants, name: str) -> tuple[int, int]:
    tensor = graph.initializers.get(name)
    if tensor is not None:
        return tensor.data_type, prod(tensor.dims)
    node = graph.nodes[graph.producer[name]]
    stored = next((a.t for a in node.attribute if a.name == "value"), None)
    if node.op_type == "Constant" and stored is not None:
        return stored.data_type, prod(stored.dims)
    value = constants.value(name)
    return (TensorProto.FLOAT if value is not None and value.dtype.kind in "fV" else 0), (
        0 if value is None else value.size
    )
