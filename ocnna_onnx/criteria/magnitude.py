"""Weight norms per filter (Li et al. 2017), with a following BatchNormalization folded in."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx

from ..model.graph import AnyArray, attribute
from ..trace.types import Source, Trace

FloatArray = npt.NDArray[np.float64]

QUANTIZED: dict[tuple[str, int], tuple[int | None, int | None]] = {
    **dict.fromkeys((("QLinearConv", 3), ("QLinearMatMul", 3), ("QGemm", 3)), (4, 5)),
    ("QLinearMatMul", 0): (1, 2),
    **dict.fromkeys((("ConvInteger", 1), ("MatMulInteger", 1)), (None, 3)),
    ("MatMulInteger", 0): (None, 2),
    ("MatMulIntegerToFloat", 0): (2, 4),
    ("MatMulIntegerToFloat", 1): (3, 5),
    ("DynamicQuantizeMatMul", 1): (2, 3),
}
"""(operator, its operand that holds the weight's codes) -> the operands that hold their scale and zero point."""


def filters(trace: Trace, source: Source) -> FloatArray:
    """The weights that make each channel of a source: float64 [channels, weights per channel]."""
    node = trace.graph.nodes[source.node]
    channels = len(source.units)
    if node.op_type == "ConvTranspose":  # [C, O/g, …]: each group's inputs make its own outputs
        weight = _value(trace, node.input[1])
        groups = int(attribute(node, "group", 1))
        grouped = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
        matrix = grouped.transpose(0, 2, 1, 3).reshape(channels, -1)
    else:
        i, axis = _weight(trace, source)
        matrix = np.moveaxis(_value(trace, node.input[i]), axis, 0).reshape(channels, -1)
        scale, zero = (_per_filter(trace, node, k, channels) for k in QUANTIZED.get((node.op_type, i), (None, None)))
        if zero is not None:
            matrix = matrix - zero
        if scale is not None:
            matrix = matrix * scale
    return np.asarray(np.asarray(matrix, np.float64) * _batch_norm_scale(trace, source)[:, None])


def _weight(trace: Trace, source: Source) -> tuple[int, int]:
    """(operand, axis) of the weight that makes the channels of a source: what is cut along with them."""
    units = np.sort(source.units)
    return min(
        (cut.input, cut.axis)
        for cut in trace.cuts
        if cut.node == source.node and np.array_equal(np.unique(cut.labels.array), units)
    )


def _per_filter(trace: Trace, node: onnx.NodeProto, i: int | None, channels: int) -> FloatArray | None:
    """A scale or zero point, [channels or 1, 1]; None where there is none."""
    if i is None or i >= len(node.input) or not node.input[i]:
        return None
    value = np.asarray(_value(trace, node.input[i]), np.float64)
    return value.reshape(-1, 1) if value.size in (1, channels) else None


def l1(trace: Trace, source: Source) -> FloatArray:
    """‖W_c‖₁, [channels]."""
    return np.asarray(np.abs(filters(trace, source)).sum(axis=1))


def l2(trace: Trace, source: Source) -> FloatArray:
    """‖W_c‖₂, [channels]."""
    return np.asarray(np.sqrt((filters(trace, source) ** 2).sum(axis=1)))


def lamp(norms: FloatArray) -> FloatArray:
    """w_c² / Σ_{j: w_j² ≥ w_c²} w_j² of the numbers of one layer, [channels] (Lee 2021, equation 5): the largest
    gets 1, and layers become comparable. All zero where all are zero."""
    squares = np.asarray(norms, np.float64) ** 2
    order = np.argsort(squares, kind="stable")
    ascending = squares[order]
    tail = ascending[::-1].cumsum()[::-1]  # of everything from here upwards
    first = np.searchsorted(ascending, ascending, side="left")  # equal ones count for each other
    total = np.empty_like(tail)
    total[order] = tail[first]
    return np.asarray(np.divide(squares, total, out=np.zeros_like(squares), where=total > 0))


def _batch_norm_scale(trace: Trace, source: Source) -> FloatArray:
    """γ/σ of a BatchNormalization that is the only reader of the source, else ones."""
    readers = trace.graph.consumers.get(source.tensor, [])
    if len(readers) == 1 and readers[0][1] == 0 and source.axis == 1 and source.tensor not in trace.graph.outputs:
        node = trace.graph.nodes[readers[0][0]]
        if node.op_type == "BatchNormalization" and all(n in trace.constants.fixed for n in node.input[1:5]):
            gamma, variance = (_value(trace, node.input[i]).astype(np.float64) for i in (1, 4))
            return np.asarray(gamma / np.sqrt(variance + float(attribute(node, "epsilon", 1e-5))))
    return np.ones(len(source.units))


def _value(trace: Trace, name: str) -> AnyArray:
    value = trace.constants.value(name)
    assert value is not None, name
    return value
