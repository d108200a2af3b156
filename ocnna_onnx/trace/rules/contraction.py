"""Convolutions and Gemm: they contract over channels and make fresh ones. Their fused and quantized forms are the same
with other operands."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np

from .. import labels as lb
from ..context import NodeTrace
from ..labels import IntArray, Labels
from ..types import Option
from .joining import CHANNEL, added, channel_labels
from .rule import NodeSurgery, Rule


@dataclass(frozen=True)
class Operands:
    """Which input is what: the weight, the bias, vectors with one value per output channel (scales and zero points,
    cut where they are longer than 1), the zero point of the activation (what silence is), and an activation that is
    added to the result."""

    weight: int = 1
    bias: int | None = 2
    per_output: tuple[int, ...] = ()
    neutral: int | None = None
    addend: int | None = None


QLINEAR = Operands(weight=3, bias=8, per_output=(4, 5), neutral=2)
INTEGER = Operands(weight=1, bias=None, per_output=(3,), neutral=2)
FUSED = Operands(addend=3)
DEFORMED = Operands(bias=3)
QGEMM = Operands(weight=3, bias=6, per_output=(4, 5), neutral=2)


def trace_conv(n: NodeTrace, operands: Operands = Operands()) -> None:
    """Conv X[N, C, …] W[O, C/g, …] b[O] and ConvTranspose W[C, O/g, …]: consumes C, makes O; grouped: a grid."""
    transposed, weight = n.op == "ConvTranspose", operands.weight
    channel = _channel(n, len(n.shape(0)))
    through = channel_labels(n, 0, channel)
    if not all(n.is_fixed(i) for i in (weight, *operands.per_output) if n.has(i)):
        n.wall(through, f"{n.op} with a computed weight", 0)
        for i in (weight, *([] if operands.addend is None else [operands.addend])):
            n.wall(n.labels(i), f"{n.op} with a computed weight", i)
        return
    groups = int(n.attr("group", 1))
    out = n.source(channel)
    bias = operands.bias
    if bias is not None and n.has(bias) and not n.is_fixed(bias) and out is not None:
        n.wall([out], f"{n.op} with a computed bias", bias)
    for _ in through:
        n.mask(0, operands.neutral)
    if out is not None:
        _cut_vectors(n, (*operands.per_output, *([] if bias is None else [bias])), out, channel)
    if groups > 1:
        _grouped(n, through, out, groups, weight, channel)
    else:
        for x in through:
            n.cut(weight, 0 if transposed else 1, x, channel)
        if out is not None:
            n.cut(weight, 1 if transposed else 0, out, channel)
    made = [] if out is None else [out]
    n.emit(made if operands.addend is None else added(n, operands.addend, made))


def _channel(node: NodeTrace | NodeSurgery, rank: int) -> int:
    """onnxruntime's quantized operators have their channels behind the positions where they say so."""
    return rank - 1 if node.attr("channels_last", 0) else CHANNEL


def _cut_vectors(n: NodeTrace, operands: tuple[int, ...], out: Labels, channel: int) -> None:
    for i in operands:
        if n.is_fixed(i) and prod(n.shape(i)) > 1:
            n.cut(i, 0, out, channel)


def _grouped(n: NodeTrace, through: list[Labels], out: Labels | None, groups: int, weight: int, channel: int) -> None:
    """Channels lie as (group, channel of the group) on both sides: whole groups go, or an equal count from each."""
    if out is None:  # groups > 1 means at least two outputs: nothing to do for a malformed node
        n.wall(through, "grouped Conv with a single output channel")
        return
    ins = np.zeros(n.shape(0)[channel], np.int64)
    if len(through) > 1:
        n.wall(through, "a grouped Conv over channels with several independent labels")
    elif through:
        ins = lb.vector(through[0], channel)
    units = lb.vector(out, channel)
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


def _grid(units: IntArray) -> Labels:
    factors = tuple((s,) if s > 1 else () for s in units.shape)
    return Labels(units.reshape([s for s in units.shape if s > 1]), factors)


def rewrite_conv(s: NodeSurgery) -> None:
    """`group` becomes the number of groups that stay."""
    groups = int(s.attr("group", 1))
    if groups == 1:
        return
    channel = _channel(s, len(s.old_shape(s.inputs[0])))
    kept_in = s.kept(s.inputs[0], channel).reshape(groups, -1).any(axis=1)
    kept_out = s.kept(s.outputs[0], channel).reshape(groups, -1).any(axis=1)
    left = int((kept_in & kept_out).sum())
    if left != groups:
        s.set_attr("group", left)


def trace_gemm(n: NodeTrace, operands: Operands = Operands()) -> None:
    """Gemm α·A'B' + β·C with a constant B: consumes A's inner axis, makes B's outer one. C broadcasts to [M, N]."""
    inner, b = 0 if n.attr("transA", 0) else 1, operands.weight
    c = 2 if operands.bias is None else operands.bias
    if n.is_fixed(0) and n.is_fixed(b):
        n.emit(added(n, c, []))
        return
    if not all(n.is_fixed(i) for i in (b, *operands.per_output) if n.has(i)) or n.is_fixed(0):
        for i in (0, b, c):
            n.wall(n.labels(i), f"{n.op} of two computed matrices", i)
        return
    b_in, b_out = (1, 0) if n.attr("transB", 0) else (0, 1)
    rows: list[Labels] = []
    for x in n.labels(0):
        if x.axes == (inner,):
            n.cut(b, b_in, x, inner)
            n.mask(0, operands.neutral)
        elif x.axes == (1 - inner,):
            rows.append(lb.along(lb.vector(x, 1 - inner), 0, n.out_shape()))
        else:
            n.wall([x], f"{n.op} over an axis that is only part of a grid of channels")
    out = n.source(1)
    if out is not None:
        n.cut(b, b_out, out, 1)
        _cut_vectors(n, operands.per_output, out, 1)
    n.emit(added(n, c, [*rows, *([out] if out is not None else [])]))


def trace_deformed(n: NodeTrace) -> None:
    """DeformConv X, W, offset, b, mask: as Conv; offsets and mask are one value per position of the kernel."""
    for i in (2, 4):
        n.wall(n.labels(i), f"{n.op} takes its channels for positions of the kernel", i)
    if int(n.attr("offset_group", 1)) > 1:
        n.wall(n.labels(0), f"{n.op} with several groups of offsets")
    trace_conv(n, DEFORMED)


RULES = {
    **dict.fromkeys(("Conv", "ConvTranspose"), Rule(trace_conv, rewrite_conv, (0, 1), source=True)),
    "DeformConv": Rule(trace_deformed, rewrite_conv, (0, 1, 2, 4), source=True),
    "Gemm": Rule(trace_gemm, None, (0, 1, 2), source=True),
    "QLinearConv": Rule(partial(trace_conv, operands=QLINEAR), rewrite_conv, (0, 3), source=True),
    "ConvInteger": Rule(partial(trace_conv, operands=INTEGER), rewrite_conv, (0, 1), source=True),
}
MICROSOFT = {
    "FusedConv": Rule(partial(trace_conv, operands=FUSED), rewrite_conv, (0, 1, 3), source=True),
    "FusedGemm": Rule(trace_gemm, None, (0, 1, 2), source=True),
    "QLinearConv": Rule(partial(trace_conv, operands=QLINEAR), rewrite_conv, (0, 3), source=True),
    "QGemm": Rule(partial(trace_gemm, operands=QGEMM), None, (0, 3, 6), source=True),
}
