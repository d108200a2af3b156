"""Where a layer is read: at its own output, or behind the BatchNormalization and activation that follow it; and what
integer codes of quantized models stand for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from ..model.graph import AnyArray, attribute
from ..trace import labels as lb
from ..trace.types import Source, Trace

LINEAR = frozenset(
    "BatchNormalization InstanceNormalization GroupNormalization Identity Cast Dropout Neg QuantizeLinear "
    "DequantizeLinear Add Sum Sub Mul Div".split()
)
"""Operators that a reading passes on its way to the activation; products only with a constant."""

NONLINEAR = frozenset(
    "Abs Celu Clip Elu Erf Exp Gelu HardSigmoid HardSwish LeakyRelu Log Max Min Mish Pow PRelu Relu Selu Shrink "
    "Sigmoid Softplus Softsign Sqrt Swish Tanh ThresholdedRelu QuickGelu BiasGelu FastGelu QLinearSigmoid "
    "QLinearLeakyRelu QLinearMul".split()
)
"""Operators that an activation consists of."""

MOST = 12
"""Nodes that an activation is spelled with at most (Gelu by tanh has nine)."""

CODES: dict[str, tuple[int, int]] = {
    "QuantizeLinear": (1, 2),
    **dict.fromkeys(("QLinearConv", "QLinearMatMul", "QLinearAdd", "QLinearMul"), (6, 7)),
    "QGemm": (7, 8),
    **dict.fromkeys(("QLinearSigmoid", "QLinearLeakyRelu", "QLinearAveragePool", "QLinearGlobalAveragePool"), (3, 4)),
    "QLinearConcat": (0, 1),
}
"""Operator -> the operands that hold the scale and the zero point of the codes that it gives out."""


def after_activation(trace: Trace, source: Source) -> str:
    """The tensor behind the BatchNormalization, constant arithmetic and activation that follow a layer.

    An activation is one node, or several that lead from one tensor to one tensor (x · Sigmoid(x), Gelu spelled with
    Erf). Stops where the tensor has other readers (a residual sum, two branches), is an output of the model, or where
    channels would change places: every channel of the tensor lies at the layer's own index along the layer's own axis.
    The layer's own output where nothing follows.
    """
    tensor = source.tensor
    while True:
        found = _passed(trace, tensor)
        if found is None or not same_channels(trace, source, found[0]):
            return tensor
        tensor, curved = found
        if curved:
            return tensor


def with_zeros(trace: Trace, source: Source) -> str | None:
    """The first tensor in topological order that an activation which gives zeros makes of a layer's output: through
    BatchNormalization, constant arithmetic and residual sums, also where tensors have other readers. None where there
    is none. The zeros of a quantized layer whose codes start at zero are those of the Relu that was folded into it."""
    seen = {source.tensor}
    started = False
    for i in trace.graph.order:
        node = trace.graph.nodes[i]
        started = started or i == source.node
        if not started or not node.output or (i != source.node and not seen & set(node.input)):
            continue
        output = node.output[0]
        if output != source.tensor and not same_channels(trace, source, output):
            continue
        if gives_zeros(trace, node) and (i == source.node or node.input[0] in seen or node.op_type == "Max"):
            return str(output)
        if node.op_type in LINEAR and (node.op_type not in ("Mul", "Div") or len(_computed(trace, node)) == 1):
            seen.add(output)
    return None


def gives_zeros(trace: Trace, node: onnx.NodeProto) -> bool:
    """Whether a node turns a range of numbers into zeros."""
    op = str(attribute(node, "activation", "")) if node.op_type.startswith("Fused") else node.op_type
    if op == "Clip":
        least = attribute(node, "min") if len(node.input) < 2 else _scalar(trace, node, 1)
        if node.op_type != "Clip":
            least = next(iter(attribute(node, "activation_params", [])), None)
        return least == 0
    if op == "Max":
        fixed = [trace.constants.value(n) for n in node.input if n in trace.constants.fixed]
        return any(v is not None and not v.any() for v in fixed)
    if op in CODES:
        zero = trace.constants.value(node.input[CODES[op][1]]) if len(node.input) > CODES[op][1] else None
        return zero is not None and zero.dtype.kind in "iu" and bool((zero == np.iinfo(zero.dtype).min).all())
    return op in ("Relu", "HardSigmoid", "HardSwish", "ThresholdedRelu", "Shrink")


def same_channels(trace: Trace, source: Source, tensor: str) -> bool:
    """Whether a tensor has the layer's channels in their order along the layer's axis."""
    found, shape = trace.labels.get(tensor, ()), trace.shapes.shape
    if len(found) != 1 or len(shape.get(tensor, ())) != len(shape[source.tensor]) or found[0].axes != (source.axis,):
        return False
    classes, units = trace.pairing.base, lb.vector(found[0], source.axis)
    return len(units) == len(source.units) and bool(np.array_equal(classes[units], classes[source.units]))


def decoder(trace: Trace, tensor: str) -> Callable[[AnyArray], AnyArray]:
    """What makes numbers of a tensor as onnxruntime gives it: (code − zero point) · scale where it holds codes of a
    quantized operator with constant parameters, else the tensor itself. Between that operator and the tensor there may
    be others that move codes only (their first operand is followed)."""
    index = trace.graph.producer.get(tensor)
    node = None if index is None else trace.graph.nodes[index]
    while node is not None and node.op_type not in CODES and node.input:
        if trace.shapes.dtype.get(node.input[0]) != trace.shapes.dtype.get(tensor):
            break
        index = trace.graph.producer.get(node.input[0])
        node = None if index is None else trace.graph.nodes[index]
    if node is None or node.op_type not in CODES:
        return lambda y: y
    rank = len(trace.shapes.shape[tensor])
    values = [trace.constants.value(node.input[i]) if i < len(node.input) else None for i in CODES[node.op_type]]
    scale, zero = (_along(v, int(attribute(node, "axis", 1)), rank) for v in values)

    def decode(codes: AnyArray) -> AnyArray:
        if codes.dtype.kind not in "iu":
            return codes
        return np.asarray((codes.astype(np.float32) - zero) * scale, np.float32)

    return decode if values[0] is not None else lambda y: y


def _along(value: AnyArray | None, axis: int, rank: int) -> AnyArray:
    """A scale or zero point in a shape that broadcasts: one number, or one per position of an axis."""
    if value is None:
        return np.zeros((), np.float32)
    shape = [1] * rank
    shape[axis % rank] = -1
    return np.asarray(value, np.float32).reshape(shape if value.size > 1 else ())


def _passed(trace: Trace, tensor: str) -> tuple[str, bool] | None:
    """The next tensor that everything which reads `tensor` leads to, by elementwise operators alone, and whether one
    of them is not linear. None where there is none."""
    graph = trace.graph
    inside, open_ = {tensor}, {tensor}
    absorbed: set[int] = set()
    curved = False
    while len(absorbed) < MOST:
        if open_ & set(graph.outputs):
            return None
        waiting = {i for t in open_ for i, _ in graph.consumers.get(t, ())} - absorbed
        ready = [i for i in waiting if _computed(trace, graph.nodes[i]) <= inside]
        if not ready:
            return None
        i = min(ready)
        node = graph.nodes[i]
        if node.op_type not in LINEAR | NONLINEAR or any(o for o in node.output[1:]):
            return None
        curved |= node.op_type in NONLINEAR or (
            node.op_type in ("Mul", "Div") and sum(x in inside for x in node.input) > 1
        )
        absorbed.add(i)
        inside.add(node.output[0])
        open_.add(node.output[0])
        open_ = {t for t in open_ if t == node.output[0] or {k for k, _ in graph.consumers.get(t, ())} - absorbed}
        if len(open_) == 1:
            return open_.pop(), curved
    return None


def _computed(trace: Trace, node: onnx.NodeProto) -> set[str]:
    """Inputs that are not known ahead."""
    return {n for n in node.input if n and n not in trace.constants.ahead}


def _scalar(trace: Trace, node: onnx.NodeProto, i: int) -> float | None:
    value = trace.constants.value(node.input[i]) if i < len(node.input) and node.input[i] else None
    return float(value.reshape(-1)[0]) if value is not None and value.size == 1 else None
