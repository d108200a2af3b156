"""Weight norms per filter (Li et al. 2017), with a following BatchNormalization folded in."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..model.graph import AnyArray, attribute
from ..trace.types import Source, Trace

FloatArray = npt.NDArray[np.float64]


def filters(trace: Trace, source: Source) -> FloatArray:
    """The weights that make each channel of a source: float64 [channels, weights per channel]."""
    node = trace.graph.nodes[source.node]
    channels = len(source.units)
    if node.op_type == "ConvTranspose":  # [C, O/g, …]: each group's inputs make its own outputs
        weight = _value(trace, node.input[1])
        groups = int(attribute(node, "group", 1))
        grouped = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
        matrix = grouped.transpose(0, 2, 1, 3).reshape(channels, -1)
    elif node.op_type == "Gemm":
        weight = _value(trace, node.input[1])
        matrix = weight if attribute(node, "transB", 0) else weight.T
    elif node.op_type == "MatMul":
        right = node.input[1] in trace.constants.fixed
        weight = _value(trace, node.input[1 if right else 0])
        matrix = np.moveaxis(weight, -1 if right else -2, 0).reshape(channels, -1)
    elif node.op_type == "QLinearConv":  # codes, scaled as the layer scales them
        codes, zero = _value(trace, node.input[3]), np.asarray(_value(trace, node.input[5]), np.float64)
        scale = np.asarray(_value(trace, node.input[4]), np.float64)
        matrix = (codes.reshape(channels, -1) - zero.reshape(-1, 1)) * scale.reshape(-1, 1)
    else:
        matrix = _value(trace, node.input[1]).reshape(channels, -1)
    return np.asarray(np.asarray(matrix, np.float64) * _batch_norm_scale(trace, source)[:, None])


def l1(trace: Trace, source: Source) -> FloatArray:
    """‖W_c‖₁, [channels]."""
    return np.asarray(np.abs(filters(trace, source)).sum(axis=1))


def l2(trace: Trace, source: Source) -> FloatArray:
    """‖W_c‖₂, [channels]."""
    return np.asarray(np.sqrt((filters(trace, source) ** 2).sum(axis=1)))


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
