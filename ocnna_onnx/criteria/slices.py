"""Slices of weights that go with a class of units: which operand of which node, as numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from ..model.graph import attribute
from ..trace import labels as lb
from ..trace.labels import IntArray
from ..trace.types import Cut, Trace
from .magnitude import QUANTIZED

FloatArray = npt.NDArray[np.float64]

KERNELS: Mapping[str, int] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "DeformConv", "FusedConv", "ConvInteger"), 1),
    "QLinearConv": 3,
}
"""Convolution -> its operand that is the weight."""

MATRICES: Mapping[str, tuple[int, int]] = {
    **dict.fromkeys(
        "MatMul FusedMatMul TransposeMatMul MatMulInteger MatMulIntegerToFloat DynamicQuantizeMatMul Gemm "
        "FusedGemm".split(),
        (0, 1),
    ),
    **dict.fromkeys(("QLinearMatMul", "QGemm"), (0, 3)),
}
"""Matrix product -> its operands that are the two factors."""


@dataclass(frozen=True)
class Slices:
    """A cut of a weight. energy: Σ w² of each slice; classes: the class of `trace.pairing.base` that it goes with, both
    [slices]. made: whether the node makes these channels itself. kernel: whether it is a weight (not the γ of a
    normalisation)."""

    energy: FloatArray
    classes: IntArray
    made: bool
    kernel: bool


def is_weight(trace: Trace, cut: Cut) -> bool:
    """Whether a cut operand is the weight of a layer: a kernel, a factor, or what another operator contracts with
    (Einsum, recurrent layers), but no bias, scale or statistics."""
    node = trace.graph.nodes[cut.node]
    if node.op_type in KERNELS:
        return cut.input == KERNELS[node.op_type]
    if node.op_type in MATRICES:
        return cut.input in MATRICES[node.op_type]
    contracts = node.op_type == "Einsum" or any(i == cut.node for i, _ in trace.masks)
    return contracts and len(trace.shapes.shape.get(node.input[cut.input], ())) > 1


def is_scale(trace: Trace, cut: Cut) -> bool:
    """Whether a cut operand is the γ of a normalisation."""
    return trace.graph.nodes[cut.node].op_type.endswith("Normalization") and cut.input == 1


def weight_value(trace: Trace, node: onnx.NodeProto, i: int) -> FloatArray:
    """The numbers of a weight, float64; codes of quantized operators are (code − zero point) · scale."""
    value = np.asarray(trace.constants.value(node.input[i]), np.float64)
    if (node.op_type, i) not in QUANTIZED:
        return value
    axis = 0 if node.op_type in KERNELS else (-2 if i == 0 else -1)
    if node.op_type == "QGemm" and attribute(node, "transB", 0):
        axis = 0
    shape = [1] * value.ndim
    shape[axis] = -1
    scale, zero = (_vector(trace, node, k, value.shape[axis]) for k in QUANTIZED[node.op_type, i])
    value = value if zero is None else value - zero.reshape(shape)
    return value if scale is None else np.asarray(value * scale.reshape(shape))


def _vector(trace: Trace, node: onnx.NodeProto, i: int | None, channels: int) -> FloatArray | None:
    if i is None or i >= len(node.input) or not node.input[i]:
        return None
    value = trace.constants.value(node.input[i])
    return np.asarray(value, np.float64) if value is not None and value.size in (1, channels) else None


def slices(trace: Trace, wanted: IntArray) -> Iterator[Slices]:
    """Every slice of a weight, or of a γ, that goes with one of the classes `wanted` (of `trace.pairing.base`)."""
    made: dict[int, IntArray] = {}
    for s in trace.sources:
        made[s.node] = np.union1d(made.get(s.node, np.zeros(0, np.int64)), s.units)
    for cut in trace.cuts:
        kernel = is_weight(trace, cut)
        if not kernel and not is_scale(trace, cut):
            continue
        if not np.isin(trace.pairing.base[cut.labels.units], wanted).any():
            continue
        node = trace.graph.nodes[cut.node]
        squares = np.moveaxis(weight_value(trace, node, cut.input), cut.axis, 0) ** 2
        units = lb.dense(cut.labels)
        own = np.isin(cut.labels.units, made.get(cut.node, ())).any()
        grid = np.moveaxis(units, cut.along, 0).reshape(units.shape[cut.along], -1)
        energy = squares.reshape(len(grid), -1)
        if grid.shape[1] == int(attribute(node, "group", 1)) > 1 and node.op_type in KERNELS:
            energy = energy.reshape(*grid.shape, -1).sum(axis=2)  # the filters of a group lie next to each other
        else:
            energy = np.repeat(energy.sum(axis=1, keepdims=True) / grid.shape[1], grid.shape[1], axis=1)
        yield Slices(energy.reshape(-1), trace.pairing.base[grid].reshape(-1), bool(own), kernel)
