"""Operators that work position by position: operands with labels join, constants are cut with them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from .. import labels as lb
from ..context import NodeTrace
from .joining import join_operands
from .rule import Rule

UNARY = (
    "Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Cast CastLike Ceil Celu Cos Cosh Elu Erf Exp Floor Gelu "
    "HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink "
    "Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu"
).split()
NARY = (
    "Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Clip Div Equal Greater GreaterOrEqual Less "
    "LessOrEqual Max Mean Min Mod Mul Or PRelu Pow Sub Sum Where Xor"
).split()


def trace_unary(n: NodeTrace) -> None:
    """f(x) at every position: labels pass."""
    n.emit(n.labels(0))


def trace_dropout(n: NodeTrace) -> None:
    """Inference: the identity. In training mode, or where the mask is used, a wall."""
    training = n.value(2) if n.has(2) else None
    used = len(n.node.output) > 1 and n.node.output[1] and n.node.output[1] in n.record.graph.consumers
    if used or (n.has(2) and (training is None or bool(training.any()))):
        n.wall(n.labels(0), "Dropout whose mask is used, or in training mode")
        return
    n.emit(n.labels(0))
    n.emit(n.labels(0), 1)


def trace_nary(n: NodeTrace, operands: Sequence[int] | None = None) -> None:
    """Broadcast as numpy does. At each position all labelled operands go together. operands: inputs that are not
    scales (all)."""
    out = n.out_shape()
    if n.opset < 7 and n.attr("axis") is not None:
        for i in range(len(n.node.input)):
            n.wall(n.labels(i), f"{n.op} with the axis attribute of opset 6", i)
        return
    reason = f"{n.op} with an activation that is fixed at these positions"
    wanted = [i for i in (range(len(n.node.input)) if operands is None else operands) if n.has(i)]
    n.emit(join_operands(n, [(i, [lb.broadcast(x, out) for x in n.labels(i)]) for i in wanted], reason))


RULES = {
    **dict.fromkeys(UNARY, Rule(trace_unary)),
    "CastLike": Rule(trace_unary, inputs=(0, 1)),  # of the second operand only the type is read
    **dict.fromkeys(NARY, Rule(trace_nary, inputs=None)),
    "Dropout": Rule(trace_dropout),
}
MICROSOFT = {
    **dict.fromkeys(("Gelu", "QuickGelu", "QLinearSigmoid", "QLinearLeakyRelu"), Rule(trace_unary)),
    **dict.fromkeys(("BiasGelu", "FastGelu"), Rule(trace_nary, inputs=None)),
    **dict.fromkeys(("QLinearAdd", "QLinearMul"), Rule(partial(trace_nary, operands=(0, 3)), inputs=(0, 3))),
    "QLinearWhere": Rule(partial(trace_nary, operands=(0, 1, 4)), inputs=(0, 1, 4)),
}
