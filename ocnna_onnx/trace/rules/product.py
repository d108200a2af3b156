"""Matrix products of every spelling: MatMul, its quantized forms, and those with transposed factors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

from .. import labels as lb
from ..context import NodeTrace
from ..labels import Labels, Shape
from .joining import added, meet_fixed
from .rule import Rule


@dataclass(frozen=True)
class Form:
    """Which input is what, of the left factor and of the right one: the matrix, the zero point (what silence is), and
    scales and zero points that may hold one value per row (left) or column (right) of the result; what is added."""

    matrix: tuple[int, int] = (0, 1)
    neutral: tuple[int | None, int | None] = (None, None)
    scales: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    bias: int | None = None


QLINEAR = Form((0, 3), (2, 5), ((1, 2, 6, 7), (4, 5)))
INTEGER = Form((0, 1), (2, 3), ((2,), (3,)))
TO_FLOAT = Form((0, 1), (4, 5), ((2, 4), (3, 5)), 6)
DYNAMIC = Form((0, 1), (None, 3), ((), (2, 3)), 4)


@dataclass(frozen=True)
class Factor:
    """One factor as […, rows, columns]: its shape and labels in that order. flipped: whether it is stored the other
    way round."""

    i: int
    shape: Shape
    labels: tuple[Labels, ...]
    flipped: bool
    neutral: int | None
    scales: tuple[int, ...]

    def stored(self, axis: int) -> int:
        """The tensor's own axis."""
        rank = len(self.shape)
        return 2 * rank - 3 - axis if self.flipped and axis >= rank - 2 else axis


def trace_product(n: NodeTrace, form: Form = Form()) -> None:
    """A[…, M, K] · B[…, K, N]. A constant side is a weight: its K is consumed, its outer axis makes fresh channels.

    Two activations are joined along K; their outer axes pass on (a q·kᵀ map carries one label array per axis).
    """
    constant = [n.is_fixed(i) for i in form.matrix]
    reason = _not_followed(n, form)
    if all(constant) or reason:
        for i in (*form.matrix, *([] if form.bias is None else [form.bias])):
            n.wall(n.labels(i), reason or f"{n.op} of two constants", i)
        return
    left, right = (_factor(n, form, k) for k in (0, 1))
    if any(constant):
        made = _weighed(n, right, left) if constant[1] else _weighed(n, left, right)
    else:
        made = _contracted(n, left, right)
    for x in made:
        _cut_scales(n, left, x, columns=False)
        _cut_scales(n, right, x, columns=True)
    n.emit(made if form.bias is None else added(n, form.bias, made))


def _not_followed(n: NodeTrace, form: Form) -> str:
    if any(len(n.shape(i)) < 2 for i in form.matrix):
        return f"{n.op} with a vector"
    if any(n.attr(name, 0) for name in ("transBatchA", "transBatchB")):
        return f"{n.op} that transposes a batch axis"
    return ""


def _factor(n: NodeTrace, form: Form, k: int) -> Factor:
    i = form.matrix[k]
    shape, labels = n.shape(i), n.labels(i)
    flipped = bool(n.attr(("transA", "transB")[k], 0))
    if flipped:
        order = (*range(len(shape) - 2), len(shape) - 1, len(shape) - 2)
        shape, labels = tuple(shape[a] for a in order), tuple(lb.transpose(x, order) for x in labels)
    return Factor(i, shape, labels, flipped, form.neutral[k], form.scales[k])


def _weighed(n: NodeTrace, weight: Factor, other: Factor) -> list[Labels]:
    """A matrix, or a stack of them whose columns go together; a labelled stack axis is cut with the activation."""
    rank, out, w_rank = len(other.shape), n.out_shape(), len(weight.shape)
    right = weight.i > other.i
    inner, outer = (rank - 1, len(out) - 1) if right else (rank - 2, len(out) - 2)
    w_inner, w_outer = (w_rank - 2, w_rank - 1) if right else (w_rank - 1, w_rank - 2)
    passed: list[Labels] = []
    for x in other.labels:
        if inner not in x.axes:
            passed.append(_resized(x, inner, out))
            continue
        _silence(n, other, x, inner)
        n.cut(weight.i, weight.stored(w_inner), x, inner)
    for x in passed:
        for axis in x.axes:
            own = axis - (len(out) - w_rank)
            if 0 <= own < w_rank - 2 and weight.shape[own] != 1:
                n.cut(weight.i, own, x, axis)
    made = n.source(outer)
    if made is not None:
        n.cut(weight.i, weight.stored(w_outer), made, outer)
        passed.append(made)
    return passed


def _silence(n: NodeTrace, factor: Factor, x: Labels, inner: int) -> None:
    """The oracle silences what is contracted; a grid of labels goes by the same positions of that axis everywhere."""
    if x.axes != (inner,):
        n.join_along(x, [a for a in x.axes if a != inner], f"{n.op} over part of a grid of channels", factor.i)
    if factor.neutral is not None and n.has(factor.neutral) and prod(n.shape(factor.neutral)) > 1:
        n.wall([x], f"{n.op} with a zero point per row or column", factor.i)
    n.mask(factor.i, factor.neutral)


def _resized(x: Labels, inner: int, shape: Shape) -> Labels:
    """Labels whose contracted axis (along which they do not vary) takes the size of the output's."""
    own = list(x.shape)
    own[inner] = shape[inner + len(shape) - len(own)]
    return lb.broadcast(lb.restretch(x, tuple(own)), shape)


def _contracted(n: NodeTrace, left: Factor, right: Factor) -> list[Labels]:
    out = n.out_shape()
    inner = (len(left.shape) - 1, len(right.shape) - 2)
    sides: list[list[Labels]] = []
    emitted: list[Labels] = []
    for factor, axis in zip((left, right), inner, strict=True):
        sides.append([x for x in factor.labels if axis in x.axes])
        emitted.extend(_resized(x, axis, out) for x in factor.labels if axis not in x.axes)
        for x in sides[-1]:
            _silence(n, factor, x, axis)
    reason = f"{n.op} contracts it with a fixed activation"
    if len(sides[0]) == len(sides[1]) == 1:
        a, b = (lb.vector(x, axis) for x, axis in zip((sides[0][0], sides[1][0]), inner, strict=True))
        n.join_units(a, b, reason)
    else:
        for factor, side in zip((left, right), sides, strict=True):
            n.wall(side, reason, factor.i)
    kept: list[Labels] = []
    for x in emitted:  # batch axes of both sides meet
        partners = [y for y in kept if set(y.axes) & set(x.axes)]
        for y in partners:
            n.join(x, y, reason)
        if not partners:
            kept.append(x)
    for factor in (left, right):
        _wall_unmatched_batch(n, factor, kept)
    return kept


def _wall_unmatched_batch(n: NodeTrace, factor: Factor, kept: Sequence[Labels]) -> None:
    out = n.out_shape()
    shape = (1,) * (len(out) - len(factor.shape)) + factor.shape
    mine = [lb.broadcast(x, shape) for x in factor.labels]
    for x in kept:
        batch = [a for a in x.axes if a < len(out) - 2 and shape[a] != 1]
        if batch and not any(set(batch) & set(y.axes) for y in mine):
            meet_fixed(n, x, batch, f"{n.op} meets a fixed activation along a labelled batch axis", factor.i)


def _cut_scales(n: NodeTrace, factor: Factor, x: Labels, columns: bool) -> None:
    """Scales with one value per row or column of the result (in a vector, or along its own axes) go with it."""
    rank = len(x.shape)
    for i in factor.scales:
        if not n.has(i) or prod(n.shape(i)) == 1:
            continue
        shape = n.shape(i)
        places = (
            {rank - 1 if columns else rank - 2: 0} if len(shape) == 1 else {a: a - rank + len(shape) for a in x.axes}
        )
        for axis in set(x.axes) & places.keys():
            own = places[axis]
            if own < 0 or shape[own] == 1:
                continue
            if n.is_fixed(i):
                n.cut(i, own, x, axis)
            else:
                n.wall([x], f"{n.op} with computed scales", i)


RULES = {
    "MatMul": Rule(trace_product, None, (0, 1), source=True),
    "MatMulInteger": Rule(partial(trace_product, form=INTEGER), None, INTEGER.matrix, source=True),
    "QLinearMatMul": Rule(partial(trace_product, form=QLINEAR), None, QLINEAR.matrix, source=True),
}
MICROSOFT = {
    **dict.fromkeys(("FusedMatMul", "TransposeMatMul"), Rule(trace_product, None, (0, 1), source=True)),
    "MatMulIntegerToFloat": Rule(partial(trace_product, form=TO_FLOAT), None, (0, 1, 6), source=True),
    "DynamicQuantizeMatMul": Rule(partial(trace_product, form=DYNAMIC), None, (0, 1, 4), source=True),
}
