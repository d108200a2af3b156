"""How far two tensors are apart, so that a small part of a tensor cannot hide behind a large one."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from onnx import TensorProto

from ..model.graph import AnyArray

FLOOR = 0.05
"""A slice is measured against its own largest value, but against no less than this share of the whole tensor's:
below it fp32 rounding of the large values would show."""

FINE_FLOOR = 1e-5
FINE_LIMIT = 1e-2
"""Slices far below FLOOR are compared too (a score beside boxes in pixels), but only a gross difference counts there,
and only where it is well above the rounding noise of the oracle itself."""

TINY = 1e-30

TOLERANCE: dict[int, float] = {
    TensorProto.FLOAT: 1e-4,
    TensorProto.DOUBLE: 1e-4,
    TensorProto.FLOAT16: 1e-2,
    TensorProto.BFLOAT16: 1e-4,  # run as fp32 twins
}

QUANTIZED = 2e-2
"""For codes, and behind a quantizer: rounding of the sums in front of it may turn a code by one."""

QUANTIZERS = (
    "QuantizeLinear DynamicQuantizeLinear QLinearConv QLinearMatMul ConvInteger MatMulInteger QGemm QLinearAdd "
    "QLinearMul QLinearSigmoid QLinearLeakyRelu QLinearSoftmax QLinearConcat QLinearWhere QLinearAveragePool "
    "QLinearGlobalAveragePool DynamicQuantizeMatMul MatMulIntegerToFloat"
).split()


FLIPS = 0.02
FLIPS_CAP = 0.2
"""Behind a quantizer a sum that lands on the other side of a rounding tie turns one code, and with it one footprint of
a kernel: that share of the elements of each slice may differ by so much. A wrong cut moves nearly all of a slice."""


def without_flips(a: AnyArray, b: AnyArray, axes: Iterable[int]) -> float:
    """relative_error of two finite tensors of one shape, but for the FLIPS of each slice that differ most."""
    a, b = (np.atleast_1d(x).astype(np.float64) for x in (a, b))
    worst, whole = 0.0, float(np.abs(b).max(initial=0.0))
    for axis in {axis % a.ndim for axis in axes}:
        rows = np.moveaxis(np.abs(a - b), axis, 0).reshape(a.shape[axis], -1)
        sizes = np.abs(np.moveaxis(b, axis, 0)).reshape(a.shape[axis], -1).max(axis=1)
        last = rows.shape[1] - 1 - int(FLIPS * rows.shape[1])
        found = np.partition(rows, last, axis=1)[:, last]
        worst = max(worst, float((found / np.maximum(sizes, max(FLOOR * whole, TINY))).max()))
    return worst


def relative_error(a: AnyArray, b: AnyArray, axes: Iterable[int], floor: float = FLOOR) -> float:
    """max |a − b| / max |b|, over the tensor and for every index of each axis in `axes`; inf where a is not finite."""
    if a.shape != b.shape:
        return float("inf")
    if not a.size:
        return 0.0
    a, b = np.atleast_1d(a), np.atleast_1d(b)  # numpy makes scalars of results without axes
    wide = np.float64 if a.dtype == np.float64 else np.float32  # close numbers subtract exactly in fp32 too
    with np.errstate(over="ignore", invalid="ignore"):
        difference, size = np.subtract(a, b, dtype=wide), np.abs(b, dtype=wide)
    if not np.isfinite(difference).all():
        if not np.isfinite(a.astype(wide)).all():
            return float("inf")
        difference = np.subtract(a, b, dtype=np.float64)  # both are finite: the difference is beyond fp32
    np.abs(difference, out=difference)
    whole = float(size.max())
    worst = float(difference.max()) / max(whole, TINY)
    for axis in {axis % a.ndim for axis in axes if a.ndim}:
        others = tuple(d for d in range(a.ndim) if d != axis)
        scale = np.maximum(size.max(axis=others).astype(np.float64), max(floor * whole, TINY))
        worst = max(worst, float((difference.max(axis=others) / scale).max()))
    return worst
