"""Quantization of activations: codes carry the labels of the numbers, scales along a labelled axis are cut."""

from __future__ import annotations

from math import prod

from ..context import NodeTrace
from .rule import Rule


def trace_linear(n: NodeTrace) -> None:
    """QuantizeLinear and DequantizeLinear x, scale, zero point: per tensor, or along `axis`."""
    axis = int(n.attr("axis", 1)) % max(1, len(n.shape(0)))
    for x in n.labels(0):
        for i in (1, 2):
            if not n.has(i) or prod(n.shape(i)) == 1:
                continue
            if n.attr("block_size", 0) or not n.is_fixed(i):
                n.wall([x], f"{n.op} in blocks, or with computed scales", i)
            elif axis in x.axes:
                n.cut(i, 0, x, axis)
    n.emit(n.labels(0))


def trace_dynamic(n: NodeTrace) -> None:
    """DynamicQuantizeLinear: the range runs over the whole tensor and always holds 0, so silence does not change it."""
    if n.labels(0):
        n.mask(0)
    n.emit(n.labels(0))


RULES = {
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), Rule(trace_linear)),
    "DynamicQuantizeLinear": Rule(trace_dynamic),
}
MICROSOFT = dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), Rule(trace_linear))
