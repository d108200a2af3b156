"""Reductions: over positions labels pass; over channels only sums are exact (what is silenced adds nothing)."""

from __future__ import annotations

import numpy as np

from .. import labels as lb
from ..context import NodeTrace
from ..labels import Labels
from .normalize import over_axes
from .rule import Rule

SUMS = frozenset({"ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare"})
OTHERS = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceLogSum", "ReduceLogSumExp")


def trace_reduce(n: NodeTrace) -> None:
    """Reduce over `axes`; a sum over channels consumes them."""
    axes = _axes(n)
    keepdims = bool(n.attr("keepdims", 1))
    if axes is None:
        n.wall(n.labels(0), f"{n.op} over axes that are not known ahead")
        return
    if not axes:
        n.emit(n.labels(0))
        return
    if n.op in SUMS:
        passed: list[Labels] = []
        for x in n.labels(0):
            inside = [a for a in x.axes if a in axes]
            if inside:  # consumed: whole positions of the reduced axes go everywhere
                n.join_along(x, [a for a in x.axes if a not in axes], n.op)
                n.mask(0)
            else:
                passed.append(x)
    else:
        passed = over_axes(n, axes, n.op)
    n.emit(_reduced(x, axes, keepdims) for x in passed)


def trace_arg(n: NodeTrace) -> None:
    """ArgMax and ArgMin over `axis`: a wall over channels, labels along other axes pass."""
    axis = int(n.attr("axis", 0)) % len(n.shape(0))
    passed = over_axes(n, [axis], n.op)
    n.emit(_reduced(x, [axis], bool(n.attr("keepdims", 1))) for x in passed)


def _axes(n: NodeTrace) -> list[int] | None:
    rank = len(n.shape(0))
    if n.has(1) and n.value(1) is None:
        return None
    found = n.ints(1, "axes") if n.has(1) or n.attr("axes") is not None else None
    if found is None or not len(found):
        return [] if n.attr("noop_with_empty_axes", 0) else list(range(rank))
    return [a % rank for a in found]


def _reduced(x: Labels, axes: list[int], keepdims: bool) -> Labels | None:
    """Labels after the reduction; along reduced axes all labels of a slice were joined, the first stands for all."""
    current: Labels | None = x
    for axis in axes:
        current = None if current is None else lb.take(current, axis, np.zeros(1, np.int64))
    if current is None or keepdims:
        return current
    return Labels(current.array, tuple(f for a, f in enumerate(current.factors) if a not in axes))


RULES = {
    **dict.fromkeys((*SUMS, *OTHERS), Rule(trace_reduce)),
    **dict.fromkeys(("ArgMax", "ArgMin"), Rule(trace_arg)),
}
