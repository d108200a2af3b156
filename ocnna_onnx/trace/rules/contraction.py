"""Operators that contract over channels and make fresh ones: Conv, ConvTranspose, Gemm, MatMul."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .. import labels as lb
from ..context import NodeTrace
from ..labels import IntArray, Labels
from ..types import Option
from .joining import channel_labels, meet_fixed
from .rule import NodeSurgery, Rule

CHANNEL = 1


@dataclass(frozen=True)
class Operands:
    """Which input is what: the weight, the bias, vectors with one value per output channel (scales and zero points,
    cut where they are longer than 1), and the zero point of the activation (what silence is)."""

    weight: int = 1
    bias: int | None = 2
    per_output: tuple[int, ...] = ()
    neutral: int | None = None


FLOAT = Operands()
QLINEAR = Operands(weight=3, bias=8, per_output=(4, 5), neutral=2)
INTEGER = Operands(weight=1, bias=None, per_output=(3,), neutral=2)


def trace_conv(n: NodeTrace, operands: Operands = FLOAT) -> None:
    """Conv X[N, C, …] W[O, C/g, …] b[O] and ConvTranspose W[C, O/g, …]: consumes C, makes O; grouped: a grid."""
    transposed, weight = n.op == "ConvTranspose", operands.weight
    through = channel_labels(n, 0)
    if not all(n.is_fixed(i) for i in (weight, *operands.per_output) if n.has(i)):
        n.wall(through, f"{n.op} with a computed weight", 0)
        n.wall(n.labels(weight), f"{n.op} with a computed weight", weight)
        return
    groups = int(n.attr("group", 1))
    out = n.source(CHANNEL)
    bias = operands.bias
    if bias is not None and n.has(bias) and not n.is_fixed(bias) and out is not None:
        n.wall([out], f"{n.op} with a computed bias", bias)
    for _ in through:
        n.mask(0, operands.neutral)
    if out is not None:
        for i in (*operands.per_output, *([] if bias is None else [bias])):
            if n.is_fixed(i) and int(np.prod(n.shape(i), dtype=np.int64)) > 1:
                n.cut(i, 0, out, CHANNEL)
    if groups > 1:
        _grouped(n, through, out, groups, weight)
        return
    for x in through:
        n.cut(weight, 0 if transposed else 1, x, CHANNEL)
    if out is not None:
        n.cut(weight, 1 if transposed else 0, out, CHANNEL)
        n.emit([out])


def _grouped(n: NodeTrace, through: list[Labels], out: Labels | None, groups: int, weight: int) -> None:
    """Channels lie as (group, channel of the group) on both sides: whole groups go, or an equal count from each."""
    if out is None:  # groups > 1 means at least two outputs: nothing to do for a malformed node
        n.wall(through, "grouped Conv with a single output channel")
        return
    ins = np.zeros(n.shape(0)[CHANNEL], np.int64)
    if len(through) > 1:
        n.wall(through, "a grouped Conv over channels with several independent labels")
    elif through:
        ins = lb.vector(through[0], CHANNEL)
    units = lb.vector(out, CHANNEL)
    grid_in, grid_out = ins.reshape(groups, -1), units.reshape(groups, -1)
    if grid_in.shape[1] == grid_out.shape[1] == 1:  # depthwise
        n.join_units(units, ins, "a depthwise Conv of channels that are fixed")
    else:
        whole = Option("(g c) -> whole groups g", (np.concatenate([grid_in, grid_out], axis=1),))
        columns = Option("(g c) -> an equal count in every group", (grid_in.T.copy(), grid_out.T.copy()), by_count=True)
        n.choose([whole, columns])
    if n.op == "ConvTranspose":
        n.cut(weight, 0, lb.along(ins, 0, ins.shape), 0)
        if grid_out.shape[1] > 1:
            n.cut(weight, 1, _grid(grid_out), 1)
    else:
        n.cut(weight, 0, lb.along(units, 0, units.shape), 0)
        if grid_in.shape[1] > 1:
            n.cut(weight, 1, _grid(grid_in), 1)
    n.emit([out])


def trace_qlinear_conv(n: NodeTrace) -> None:
    """QLinearConv x, s, z, w[O, C/g, …], s, z, s, z, b[O]: as Conv, on codes; silence is the zero point."""
    trace_conv(n, QLINEAR)


def trace_conv_integer(n: NodeTrace) -> None:
    """ConvInteger x, w[O, C/g, …], z, z: as Conv, on codes."""
    trace_conv(n, INTEGER)


def _grid(units: IntArray) -> Labels:
    factors = tuple((s,) if s > 1 else () for s in units.shape)
    return Labels(units.reshape([s for s in units.shape if s > 1]), factors)


def rewrite_conv(s: NodeSurgery) -> None:
    """`group` becomes the number of groups that stay."""
    groups = int(s.attr("group", 1))
    if groups == 1:
        return
    kept_in = s.kept(s.inputs[0], CHANNEL).reshape(groups, -1).any(axis=1)
    kept_out = s.kept(s.outputs[0], CHANNEL).reshape(groups, -1).any(axis=1)
    left = int((kept_in & kept_out).sum())
    if left != groups:
        s.set_attr("group", left)


def trace_gemm(n: NodeTrace) -> None:
    """Gemm α·A'B' + β·C with a constant B: consumes A's inner axis, makes B's outer one. C broadcasts to [M, N]."""
    inner = 0 if n.attr("transA", 0) else 1
    if n.is_fixed(0) and n.is_fixed(1):
        n.emit(_added(n, 2, []))
        return
    if not n.is_fixed(1) or n.is_fixed(0):
        for i in range(len(n.node.input)):
            n.wall(n.labels(i), "Gemm of two computed matrices", i)
        return
    b_in, b_out = (1, 0) if n.attr("transB", 0) else (0, 1)
    rows: list[Labels] = []
    for x in n.labels(0):
        if x.axes == (inner,):
            n.cut(1, b_in, x, inner)
            n.mask(0)
        elif x.axes == (1 - inner,):
            rows.append(lb.along(lb.vector(x, 1 - inner), 0, n.out_shape()))
        else:
            n.wall([x], "Gemm over an axis that is only part of a grid of channels")
    out = n.source(1)
    if out is not None:
        n.cut(1, b_out, out, 1)
    n.emit(_added(n, 2, [*rows, *([out] if out is not None else [])]))


def _added(n: NodeTrace, i: int, made: list[Labels]) -> list[Labels]:
    """The output's labels once operand i is added to it: a constant is cut with them, an activation joins them."""
    reason = f"{n.op} adds an activation that is fixed at these positions"
    if not n.has(i):
        return made
    if n.is_fixed(i):
        shape = n.shape(i)
        missing = len(n.out_shape()) - len(shape)
        for x in made:
            for axis in x.axes:
                if axis >= missing and shape[axis - missing] != 1:
                    n.cut(i, axis - missing, x, axis)
        return made
    theirs = [lb.broadcast(y, n.out_shape()) for y in n.labels(i)]
    for x in made:
        partners = [y for y in theirs if set(y.axes) & set(x.axes)]
        for y in partners:
            n.join(x, y, reason, i)
        if not partners:
            n.wall([x], reason, i)
    n.wall([y for y in theirs if not any(set(y.axes) & set(x.axes) for x in made)], reason, i)
    return made


def trace_matmul(n: NodeTrace) -> None:
    """A[…, M, K] · B[…, K, N]. A constant side is a weight: its K is consumed, its outer axis makes fresh channels.

    Two activations are joined along K; their outer axes pass on (a q·kᵀ map carries one label array per axis).
    """
    a, b = n.shape(0), n.shape(1)
    if n.is_fixed(0) and n.is_fixed(1):
        return
    if n.is_fixed(1) or n.is_fixed(0):
        weight, other = (1, 0) if n.is_fixed(1) else (0, 1)
        if len(n.shape(weight)) < 2 or len(n.shape(other)) < 2:
            n.wall(n.labels(other), "MatMul with a vector", other)
            return
        _weight_matmul(n, weight, other)
        return
    if len(a) < 2 or len(b) < 2:
        for i in (0, 1):
            n.wall(n.labels(i), "MatMul with a vector", i)
        return
    _activation_matmul(n)


def _weight_matmul(n: NodeTrace, weight: int, other: int) -> None:
    """A matrix, or a stack of them whose columns go together; a labelled stack axis is cut with the activation."""
    rank, out, w_rank = len(n.shape(other)), n.out_shape(), len(n.shape(weight))
    right = weight == 1
    inner, outer = (rank - 1, len(out) - 1) if right else (rank - 2, len(out) - 2)
    w_inner, w_outer = (w_rank - 2, w_rank - 1) if right else (w_rank - 1, w_rank - 2)
    passed: list[Labels] = []
    for x in n.labels(other):
        if inner not in x.axes:
            passed.append(_resized(x, inner, out))
            continue
        if x.axes != (inner,):
            _columns_only(n, x, inner, other)
        n.cut(weight, w_inner, x, inner)
        n.mask(other)
    for x in passed:
        for axis in x.axes:
            own = axis - (len(out) - w_rank)
            if 0 <= own < w_rank - 2 and n.shape(weight)[own] != 1:
                n.cut(weight, own, x, axis)
    made = n.source(outer)
    if made is not None:
        n.cut(weight, w_outer, made, outer)
        passed.append(made)
    n.emit(passed)


def _columns_only(n: NodeTrace, x: Labels, inner: int, i: int) -> None:
    """A grid of labels whose one axis is contracted: the same positions of that axis go everywhere."""
    n.join_along(x, [axis for axis in x.axes if axis != inner], f"{n.op} over part of a grid of channels", i)


def _resized(x: Labels, inner: int, shape: tuple[int, ...]) -> Labels:
    """Labels whose contracted axis (along which they do not vary) takes the size of the output's."""
    own = list(x.shape)
    own[inner] = shape[inner + len(shape) - len(own)]
    return lb.broadcast(lb.restretch(x, tuple(own)), shape)


def _activation_matmul(n: NodeTrace) -> None:
    out = n.out_shape()
    sides: list[list[Labels]] = []
    emitted: list[Labels] = []
    for i, inner in ((0, len(n.shape(0)) - 1), (1, len(n.shape(1)) - 2)):
        contracted: list[Labels] = []
        for x in n.labels(i):
            if inner not in x.axes:
                emitted.append(_resized(x, inner, out))
                continue
            if x.axes != (inner,):
                _columns_only(n, x, inner, i)
            contracted.append(x)
            n.mask(i)
        sides.append(contracted)
    reason = "MatMul contracts it with a fixed activation"
    if len(sides[0]) == len(sides[1]) == 1:
        left, right = (lb.vector(x, axis) for x, axis in zip((sides[0][0], sides[1][0]), _inner(n), strict=True))
        n.join_units(left, right, reason)
    else:
        for i in (0, 1):
            n.wall(sides[i], reason, i)
    kept: list[Labels] = []
    for x in emitted:  # batch axes of both sides meet
        partners = [y for y in kept if set(y.axes) & set(x.axes)]
        for y in partners:
            n.join(x, y, reason)
        if not partners:
            kept.append(x)
    _wall_unmatched_batch(n, kept)
    n.emit(kept)


def _wall_unmatched_batch(n: NodeTrace, kept: list[Labels]) -> None:
    out = n.out_shape()
    for i in (0, 1):
        shape = (1,) * (len(out) - len(n.shape(i))) + n.shape(i)
        mine = [lb.broadcast(x, shape) for x in n.labels(i)]
        for x in kept:
            batch = [a for a in x.axes if a < len(out) - 2 and shape[a] != 1]
            if batch and not any(set(batch) & set(y.axes) for y in mine):
                meet_fixed(n, x, batch, "MatMul meets a fixed activation along a labelled batch axis", i)


def _inner(n: NodeTrace) -> tuple[int, int]:
    return len(n.shape(0)) - 1, len(n.shape(1)) - 2


RULES = {
    "Conv": Rule(trace_conv, rewrite_conv, (0, 1), source=True),
    "ConvTranspose": Rule(trace_conv, rewrite_conv, (0, 1), source=True),
    "Gemm": Rule(trace_gemm, None, (0, 1, 2), source=True),
    "MatMul": Rule(trace_matmul, None, (0, 1), source=True),
    "QLinearConv": Rule(trace_qlinear_conv, rewrite_conv, (0, 3), source=True),
    "ConvInteger": Rule(trace_conv_integer, rewrite_conv, (0, 1), source=True),
}
