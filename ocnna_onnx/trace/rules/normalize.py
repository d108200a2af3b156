"""Normalisations: exact per channel, a wall (or whole groups) where the statistic runs over channels."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from .. import labels as lb
from ..context import NodeTrace
from ..labels import Labels
from .rule import NodeSurgery, Rule, scale_result

CHANNEL = 1


def trace_batch_norm(n: NodeTrace) -> None:
    """Per channel: its four vectors are cut. In training mode the statistics run over all other axes, and what else it
    gives out has one number per channel."""
    training = n.attr("training_mode", 0) or any(n.node.output[1:])
    others = [a for a in range(len(n.shape(0))) if a != CHANNEL]
    passed = over_axes(n, others, "BatchNormalization in training mode") if training else n.labels(0)
    _per_channel(n, passed, (1, 2, 3, 4))
    n.emit(passed)
    for k, output in enumerate(n.node.output):
        if k and output:
            n.wall([x for x in passed if x.axes != (CHANNEL,)], f"{n.op} gives out statistics")
            vectors = (lb.vector(x, CHANNEL) for x in passed if x.axes == (CHANNEL,))
            n.emit([lb.along(v, 0, n.out_shape(k)) for v in vectors], k)


def _per_channel(n: NodeTrace, labels: Sequence[Labels], operands: Sequence[int]) -> None:
    """Vectors of length C that follow the channels of input 0."""
    for x in labels:
        if CHANNEL not in x.axes:
            continue
        for i in operands:
            if n.is_fixed(i):
                n.cut(i, 0, x, CHANNEL)
            elif n.has(i):
                n.wall([x], f"{n.op} with computed parameters", i)


def over_axes(n: NodeTrace, axes: Sequence[int], what: str, labels: Sequence[Labels] | None = None) -> list[Labels]:
    """Labels (those of input 0) that may pass where a statistic runs over `axes`: those along other axes. A grid that
    varies along both keeps only whole slices (its units along `axes` go together); what varies along `axes` alone is
    walled."""
    passed: list[Labels] = []
    for x in n.labels(0) if labels is None else labels:
        inside = [a for a in x.axes if a in axes]
        if inside and len(inside) == len(x.axes):
            n.wall([x], f"{what} over channels changes the values of those that stay")
            continue
        if inside:
            n.join_along(x, inside, f"{what} over channels")
        passed.append(x)
    return passed


def trace_instance_norm(n: NodeTrace) -> None:
    """Statistics over the positions of each channel. After a Reshape to groups: whole groups are exact."""
    passed = over_axes(n, range(2, len(n.shape(0))), n.op)
    _per_channel(n, passed, (1, 2))
    n.emit(passed)


def trace_group_norm(n: NodeTrace) -> None:
    """Statistics over the channels of each group: whole groups are exact, `num_groups` shrinks with them."""
    groups = int(n.attr("num_groups", 1))
    shape = n.shape(0)
    passed: list[Labels] = []
    for x in n.labels(0):
        if x.axes != (CHANNEL,):
            n.wall([x], f"{n.op} mixes positions along a labelled axis")
            continue
        if groups == 1:
            n.wall([x], f"{n.op} over all channels changes the values of those that stay")
            continue
        if groups < shape[CHANNEL]:
            grid = lb.plain(lb.vector(x, CHANNEL).reshape(groups, -1))
            n.join_along(grid, [1], f"{n.op} over the channels of a group")
        for i in (1, 2):
            if not n.is_fixed(i):
                n.wall([x], f"{n.op} with computed parameters", i)
            elif n.shape(i)[0] == shape[CHANNEL]:
                n.cut(i, 0, x, CHANNEL)
            else:
                n.cut(i, 0, lb.plain(lb.vector(x, CHANNEL).reshape(groups, -1)), 0)
        passed.append(x)
    n.emit(passed)


def rewrite_group_norm(s: NodeSurgery) -> None:
    """`num_groups` becomes the number of groups that stay."""
    groups = int(s.attr("num_groups", 1))
    left = int(s.kept(s.inputs[0], CHANNEL).reshape(groups, -1).any(axis=1).sum())
    if left != groups:
        s.set_attr("num_groups", left)


def trace_trailing(n: NodeTrace) -> None:
    """LayerNormalization, Softmax and kin: the statistic runs over the axes from `axis` on (or over `axis` alone)."""
    rank = len(n.shape(0))
    single = n.op != "LayerNormalization" and int(n.attr("opset", n.opset)) >= 13
    default = -1 if single or n.op == "LayerNormalization" else 1
    axis = int(n.attr("axis", default)) % rank
    axes = [axis] if single else list(range(axis, rank))
    if any(o in n.record.graph.consumers or o in n.record.graph.outputs for o in n.node.output[1:] if o):
        n.wall(n.labels(0), f"{n.op} whose statistics are read")
    n.emit(over_axes(n, axes, n.op))


def trace_rms(n: NodeTrace) -> None:
    """γ·x / √(mean of x² + ε) over the axes from `axis` on: silenced channels add nothing to the sum of squares."""
    rank = len(n.shape(0))
    axis = int(n.attr("axis", -1)) % rank
    missing = rank - len(n.shape(1))
    if any(o in n.record.graph.consumers or o in n.record.graph.outputs for o in n.node.output[1:] if o):
        n.wall(n.labels(0), f"{n.op} whose statistics are read")
    for x in n.labels(0):
        inside = [a for a in x.axes if a >= axis]
        if inside:
            n.mask(0)
            n.join_along(x, [a for a in x.axes if a < axis], n.op)
        scaled = [a for a in x.axes if a >= missing and n.shape(1)[a - missing] != 1]
        if scaled and not n.is_fixed(1):
            n.wall([x], f"{n.op} with computed parameters", 1)
        for a in scaled:
            n.cut(1, a - missing, x, a)
    n.emit(n.labels(0))


def rewrite_rms(s: NodeSurgery) -> None:
    """With n of C channels left, ε becomes ε·C/n and the result grows by √(C/n): the mean is over n, not C."""
    shape, left = s.old_shape(s.inputs[0]), s.new_shape(s.inputs[0])
    axis = int(s.attr("axis", -1)) % len(shape)
    more = prod(shape[axis:]) / max(prod(left[axis:]), 1)
    if more != 1:
        s.set_attr("epsilon", float(np.float32(s.attr("epsilon", 1e-5) * more)))
        scale_result(s, more**0.5)


def trace_lrn(n: NodeTrace) -> None:
    """Windows over neighbouring channels."""
    n.emit(over_axes(n, [CHANNEL], n.op))


def trace_lp_norm(n: NodeTrace) -> None:
    """x / ‖x‖ₚ along one axis: silenced channels add nothing to the norm, so slicing is exact."""
    axis = int(n.attr("axis", -1)) % len(n.shape(0))
    for x in n.labels(0):
        if axis in x.axes:
            n.mask(0)
            n.join_along(x, [a for a in x.axes if a != axis], n.op)
    n.emit(n.labels(0))


def trace_mean_variance(n: NodeTrace) -> None:
    """MeanVarianceNormalization over `axes`."""
    rank = len(n.shape(0))
    n.emit(over_axes(n, [int(a) % rank for a in np.atleast_1d(n.attr("axes", [0, 2, 3]))], n.op))


RULES = {
    "BatchNormalization": Rule(trace_batch_norm),
    "InstanceNormalization": Rule(trace_instance_norm),
    "GroupNormalization": Rule(trace_group_norm, rewrite_group_norm),
    "LRN": Rule(trace_lrn),
    "LpNormalization": Rule(trace_lp_norm),
    "MeanVarianceNormalization": Rule(trace_mean_variance),
    **dict.fromkeys(("RMSNormalization", "SimplifiedLayerNormalization"), Rule(trace_rms, rewrite_rms)),
    **dict.fromkeys(("LayerNormalization", "Softmax", "LogSoftmax", "Hardmax"), Rule(trace_trailing)),
}
MICROSOFT = {"QLinearSoftmax": Rule(trace_trailing)}
