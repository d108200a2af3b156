"""Operators that work on the positions of each channel: pooling and resizing."""

from __future__ import annotations

from .. import labels as lb
from ..context import NodeTrace
from ..labels import Labels
from .joining import CHANNEL, channel_labels
from .rule import NodeSurgery, Rule

POOLS = ["AveragePool", "MaxPool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"]


def trace_pool(n: NodeTrace) -> None:
    """Pooling over the axes behind the channel axis (in front of it, in some quantized forms): channels pass."""
    if len(n.node.output) > 1 and n.node.output[1]:
        n.wall(n.labels(0), f"{n.op} with indices: they count positions over all channels")
        return
    last = n.op == "NhwcMaxPool" or n.attr("channels_last", 0)
    channel = len(n.shape(0)) - 1 if last else CHANNEL
    n.emit(lb.restretch(x, n.out_shape()) for x in channel_labels(n, 0, channel))


def trace_resize(n: NodeTrace) -> None:
    """Resize and Upsample along axes that carry no labels."""
    before, after = n.shape(0), n.out_shape()
    if any(n.has(i) and not n.is_static(i) for i in range(1, len(n.node.input))):
        n.wall(n.labels(0), f"{n.op} to a size that is not known ahead")
        return
    good: list[Labels] = []
    for x in n.labels(0):
        if all(before[a] == after[a] for a in x.axes):
            good.append(x)
        else:
            n.wall([x], f"{n.op} interpolates between channels")
    n.emit(lb.restretch(x, after) for x in good)


def rewrite_resize(s: NodeSurgery) -> None:
    """The `sizes` operand spells every axis, channels too."""
    if len(s.inputs) > 3 and s.inputs[3]:
        old, new = s.old_shape(s.outputs[0]), s.new_shape(s.outputs[0])
        axes = s.attr("axes", range(len(old)))
        value = s.value(3)
        if value is not None:
            sizes = value.reshape(-1).tolist()
            s.set_operand(3, [new[a] if old[a] != new[a] else sizes[k] for k, a in enumerate(axes)])


def trace_sampled(n: NodeTrace) -> None:
    """GridSample, RoiAlign and kin: every channel is read at the same places."""
    n.emit(lb.restretch(x, n.out_shape()) for x in channel_labels(n, 0))


def trace_col2im(n: NodeTrace) -> None:
    """n (c b) l -> n c h w: the b positions of a block belong to one channel."""
    out, (batch, rows, columns) = n.out_shape(), n.shape(0)
    found: list[Labels] = []
    for x in channel_labels(n, 0):
        wide = lb.reshape(x, (batch, out[CHANNEL], rows // out[CHANNEL], columns))
        n.join_along(wide, [a for a in wide.axes if a != CHANNEL], "Col2Im makes positions of channels")
        if out[CHANNEL] > 1:
            found.append(lb.along(lb.vector(wide, CHANNEL), CHANNEL, out))
    n.emit(found)


def trace_crop(n: NodeTrace) -> None:
    """CenterCropPad along axes that carry no labels."""
    before, after = n.shape(0), n.out_shape()
    good = [x for x in n.labels(0) if all(before[a] == after[a] for a in x.axes)]
    n.wall([x for x in n.labels(0) if x not in good], f"{n.op} crops or pads channels")
    n.emit(lb.restretch(x, after) for x in good)


def rewrite_crop(s: NodeSurgery) -> None:
    """The `shape` operand may spell the channels."""
    old, new = s.old_shape(s.outputs[0]), s.new_shape(s.outputs[0])
    axes = s.attr("axes", range(len(old)))
    value = s.value(1)
    if value is not None:
        sizes = value.reshape(-1).tolist()
        s.set_operand(1, [new[a] if old[a] != new[a] else sizes[k] for k, a in enumerate(axes)])


RULES = {
    **dict.fromkeys(POOLS, Rule(trace_pool)),
    "Resize": Rule(trace_resize, rewrite_resize),
    "Upsample": Rule(trace_resize),
    **dict.fromkeys(("GridSample", "RoiAlign", "MaxRoiPool"), Rule(trace_sampled)),
    "Col2Im": Rule(trace_col2im),
    "CenterCropPad": Rule(trace_crop, rewrite_crop),
}
MICROSOFT = {
    **dict.fromkeys(("QLinearAveragePool", "QLinearGlobalAveragePool", "NhwcMaxPool"), Rule(trace_pool)),
    **dict.fromkeys(("GridSample", "CropAndResize"), Rule(trace_sampled)),
}
