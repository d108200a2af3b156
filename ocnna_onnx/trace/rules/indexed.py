"""Operators that count along an axis, or pick and put values by index: labels along other axes pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from .. import labels as lb
from ..context import NodeTrace
from ..labels import Labels
from .joining import join_operands, meet_fixed
from .normalize import over_axes
from .rule import Rule
from .selecting import taken


def outside(n: NodeTrace, labels: Iterable[Labels], axes: Sequence[int], reason: str, i: int = 0) -> list[Labels]:
    """Labels that vary along other axes than these; those that vary along these only are walled, grids keep whole
    slices."""
    passed: list[Labels] = []
    for x in labels:
        inside = [a for a in x.axes if a in axes]
        if inside:
            meet_fixed(n, x, inside, reason, i)
        if len(inside) < len(x.axes):
            passed.append(x)
    return passed


def _axis(n: NodeTrace, i: int, default: int) -> int | None:
    """The axis that attribute or operand i names; None where it is computed."""
    rank = len(n.shape(0))
    if i < 0 or not n.has(i):
        return int(n.attr("axis", default)) % rank
    found = n.ints(i)
    return None if not found else found[0] % rank


def trace_cumsum(n: NodeTrace) -> None:
    """Running sums: silenced channels add nothing to those that stay."""
    axis = _axis(n, 1, 0)
    if axis is None:
        n.wall(n.labels(0), f"{n.op} along an axis that is not known ahead")
        return
    if any(axis in x.axes for x in n.labels(0)):
        n.mask(0)
    n.emit(n.labels(0))


def trace_along(n: NodeTrace) -> None:
    """CumProd, DFT and TopK run along one axis."""
    operand, default = {"DFT": (2, 1 if n.opset < 20 else -2), "CumProd": (1, 0)}.get(n.op, (-1, -1))
    axis = _axis(n, operand, default)
    if axis is None:
        n.wall(n.labels(0), f"{n.op} along an axis that is not known ahead")
        return
    axes = [axis, len(n.shape(0)) - 1] if n.op == "DFT" else [axis]  # the last one holds real and imaginary parts
    others = [a for a in range(len(n.shape(0))) if a not in axes]
    passed = [_only(x, others) for x in over_axes(n, axes, n.op)]
    for k, name in enumerate(n.node.output):
        if name:
            n.emit([lb.restretch(x, n.out_shape(k)) for x in passed], k)


def trace_square(n: NodeTrace) -> None:
    """Det and Trilu: matrices along the last two axes."""
    rank = len(n.shape(0))
    passed = outside(n, n.labels(0), [rank - 2, rank - 1], f"{n.op} of matrices of channels")
    n.emit(lb.placed(_only(x, range(rank - 2)), range(len(n.out_shape())), n.out_shape()) for x in passed)


def trace_reverse(n: NodeTrace) -> None:
    """ReverseSequence: each row of the batch is turned round up to its own length."""
    time, batch = int(n.attr("time_axis", 0)), int(n.attr("batch_axis", 1))
    passed = outside(n, n.labels(0), [time], f"{n.op} along a labelled axis")
    for x in passed:
        if batch in x.axes and n.is_fixed(1):
            n.cut(1, 0, x, batch)
        elif batch in x.axes:
            meet_fixed(n, x, [batch], f"{n.op} with computed lengths along a labelled axis", 1)
    n.emit(passed)


def trace_compress(n: NodeTrace) -> None:
    """The positions of an axis at which a constant condition holds."""
    condition, named = n.value(1), n.attr("axis")
    axis = int(named or 0) % len(n.shape(0))
    if named is None or condition is None or not n.is_fixed(1) or len(condition) != n.shape(0)[axis]:
        n.wall(n.labels(0), "Compress of all values, or by a condition that is computed or too short")
        return
    for x in n.labels(0):
        if axis in x.axes:
            n.cut(1, 0, x, axis)
    n.emit(taken(n, x, axis, np.flatnonzero(condition)) for x in n.labels(0))


def trace_elements(n: NodeTrace) -> None:
    """GatherElements and ScatterElements: along `axis` indices say where; along the others positions coincide."""
    axis, out = int(n.attr("axis", 0)) % len(n.shape(0)), n.out_shape()
    operands = [i for i in range(len(n.node.input)) if n.has(i)]
    others = [a for a in range(len(out)) if a != axis]
    uneven = [a for a in others if len({n.shape(i)[a] for i in operands}) > 1]
    own = []
    for i in operands:
        passed = outside(n, n.labels(i), [axis], f"{n.op} along a labelled axis", i)
        passed = outside(n, passed, uneven, f"{n.op} at some positions of a labelled axis only", i)
        own.append((i, [lb.restretch(_only(x, others), out) for x in passed]))
    n.emit(join_operands(n, own, f"{n.op} with an operand that is fixed at these positions"))


def _only(x: Labels, axes: Sequence[int]) -> Labels:
    """The labels at the first position of every other axis."""
    for a in set(x.axes) - set(axes):
        x = lb.take(x, a, np.zeros(1, np.int64)) or x
    return x


def trace_gather_nd(n: NodeTrace) -> None:
    """GatherND: leading axes are indexed, the others come behind the indices' own."""
    shape, indices, batch = n.shape(0), n.shape(1), int(n.attr("batch_dims", 0))
    first = batch + indices[-1]
    source = [*[None] * (len(indices) - 1), *range(first, len(shape))]
    passed = outside(n, n.labels(0), range(first), "GatherND along a labelled axis")
    n.emit(lb.placed(_only(x, range(first, len(shape))), source, n.out_shape()) for x in passed)


def trace_scatter_nd(n: NodeTrace) -> None:
    """ScatterND: leading axes are indexed; along the others data and updates coincide."""
    shape, behind = n.shape(0), len(n.shape(0)) - n.shape(1)[-1]
    reason = "ScatterND along a labelled axis"
    trailing = range(len(shape) - behind, len(shape))
    data = outside(n, n.labels(0), range(len(shape) - behind), reason)
    rank = len(n.shape(2))
    updates = outside(n, n.labels(2), range(rank - behind), reason, 2)
    source = [*[None] * (len(shape) - behind), *range(rank - behind, rank)]
    operands = [
        (0, [lb.restretch(_only(x, trailing), shape) for x in data]),
        (2, [lb.placed(_only(x, range(rank - behind, rank)), source, shape) for x in updates]),
    ]
    n.emit(join_operands(n, operands, "ScatterND with an operand that is fixed at these positions"))


RULES = {
    "CumSum": Rule(trace_cumsum),
    **dict.fromkeys(("CumProd", "DFT", "TopK"), Rule(trace_along)),
    **dict.fromkeys(("Det", "Trilu"), Rule(trace_square)),
    "ReverseSequence": Rule(trace_reverse),
    "Compress": Rule(trace_compress),
    **dict.fromkeys(("GatherElements", "ScatterElements", "Scatter"), Rule(trace_elements, inputs=None)),
    "GatherND": Rule(trace_gather_nd),
    "ScatterND": Rule(trace_scatter_nd, inputs=(0, 2)),
}
MICROSOFT = {"Trilu": RULES["Trilu"], "GatherND": RULES["GatherND"]}
