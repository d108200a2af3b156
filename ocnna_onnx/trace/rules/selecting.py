"""Operators that take a part of a tensor: Split, Slice, Gather."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import labels as lb
from ..context import NodeTrace
from ..labels import IntArray, Labels
from .rule import NodeSurgery, Rule


def taken(n: NodeTrace, x: Labels, axis: int, indices: IntArray) -> Labels | None:
    """`indices` of an axis; a labelled channel that ends up alone on its axis cannot go. From a grid whole slices along
    the other axes go, so that every index keeps its place (the q, k and v of one projection)."""
    if not len(indices):
        n.wall([x], f"{n.op} leaves an empty tensor")
        return None
    if axis in x.axes and len(indices) == 1 and len(x.axes) > 1:
        n.join_along(x, [axis], f"{n.op} leaves it alone on its axis")
    elif axis in x.axes and len(indices) == 1:
        n.wall_units(np.take(lb.dense(x), indices, axis), f"{n.op} leaves it alone on its axis", n.node.input[0])
    return lb.take(x, axis, indices)


def trace_split(n: NodeTrace) -> None:
    """Consecutive pieces along `axis`."""
    axis = int(n.attr("axis", 0)) % len(n.shape(0))
    start = 0
    for k, name in enumerate(n.node.output):
        size = n.out_shape(k)[axis] if name else 0
        n.emit([taken(n, x, axis, np.arange(start, start + size)) for x in n.labels(0)], k)
        start += size


def rewrite_split(s: NodeSurgery) -> None:
    """Sizes become explicit: an equal split of what is left is seldom what the consumers expect."""
    axis = int(s.attr("axis", 0)) % len(s.old_shape(s.inputs[0]))
    old = [s.old_shape(o)[axis] for o in s.outputs]
    new = [s.new_shape(o)[axis] for o in s.outputs]
    listed = s.opset >= 13 and len(s.inputs) > 1 and bool(s.inputs[1])
    if old == new and not listed:
        return
    if s.opset < 13:
        s.set_attr("split", new)
    else:
        s.set_attr("num_outputs", None)
        s.set_operand(1, new)


def trace_slice(n: NodeTrace) -> None:
    """Ranges along axes; bounds that the graph computes count as they are at the probe shapes."""
    ranges = _ranges(n.ints(1, "starts"), n.ints(2, "ends"), n.ints(3, "axes"), n.ints(4, "steps"), n.shape(0))
    if ranges is None:
        n.wall(n.labels(0), "Slice with bounds that are not known ahead")
        return
    found: list[Labels | None] = []
    for x in n.labels(0):
        current: Labels | None = x
        for axis, (start, end, step) in ranges.items():
            if current is not None:
                current = taken(n, current, axis, np.arange(n.shape(0)[axis])[start:end:step])
        found.append(current)
    n.emit(found)


def _ranges(
    starts: Sequence[int] | None,
    ends: Sequence[int] | None,
    axes: Sequence[int] | None,
    steps: Sequence[int] | None,
    shape: Sequence[int],
) -> dict[int, tuple[int, int | None, int]] | None:
    """axis -> Python slice bounds, from ONNX's (clamped; a backward slice past the front ends at None)."""
    if starts is None or ends is None:
        return None
    found: dict[int, tuple[int, int | None, int]] = {}
    for k, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = (axes[k] if axes is not None else k) % len(shape)
        step, size = steps[k] if steps is not None else 1, shape[axis]
        start, end = (v + size if v < 0 else v for v in (start, end))
        if step > 0:
            found[axis] = (min(max(start, 0), size), min(max(end, 0), size), step)
        else:
            last = min(max(end, -1), size - 1)
            found[axis] = (min(max(start, 0), size - 1), None if last < 0 else last, step)
    return found


def rewrite_slice(s: NodeSurgery) -> None:
    """Bounds along labelled axes; what is no range any more (a strided Slice) becomes a Gather behind the Slice."""
    tensor, shape = s.inputs[0], s.old_shape(s.inputs[0])
    operands = _slice_operands(s)
    ranges = _ranges(*operands, shape)
    if ranges is None:
        return
    axes = list(ranges)
    starts, ends, steps = list(operands[0] or ()), list(operands[1] or ()), list(operands[3] or [1] * len(axes))
    touched = [False] * len(axes)
    gathers: list[tuple[int, IntArray]] = []
    for k, (axis, (start, end, step)) in enumerate(ranges.items()):
        kept = s.kept(tensor, axis)
        if kept.all():
            continue
        places = np.arange(shape[axis])[start:end:step]
        wanted = (np.cumsum(kept) - 1)[places[kept[places]]]
        touched[k] = True
        if len(wanted) and (np.diff(wanted) == 1).all():
            starts[k], ends[k], steps[k] = int(wanted[0]), int(wanted[-1]) + 1, 1
        else:
            starts[k], ends[k], steps[k] = 0, int(kept.sum()), 1
            gathers.append((axis, wanted))
    if s.opset < 10 and any(touched):
        s.set_attr("starts", starts)
        s.set_attr("ends", ends)
    elif s.opset >= 10:
        s.set_operand(1, starts)
        s.set_operand(2, ends)
        if operands[3] is not None:
            s.set_operand(4, steps)
    for axis, wanted in gathers:
        s.then("Gather", wanted, {"axis": axis})


def _slice_operands(
    s: NodeSurgery,
) -> tuple[Sequence[int] | None, Sequence[int] | None, Sequence[int] | None, Sequence[int] | None]:
    def ints(i: int, name: str) -> Sequence[int] | None:
        value = s.attr(name) if s.opset < 10 else s.value(i)
        return None if value is None else [int(v) for v in np.asarray(value).reshape(-1)]

    return ints(1, "starts"), ints(2, "ends"), ints(3, "axes"), ints(4, "steps")


def trace_gather(n: NodeTrace) -> None:
    """Indices along `axis`. A constant index list is a selection of channels; a single index leaves it alone."""
    shape, out = n.shape(0), n.out_shape()
    axis = int(n.attr("axis", 0)) % len(shape)
    indices = n.value(1)
    found: list[Labels | None] = []
    for x in n.labels(0):
        if axis in x.axes:
            if indices is None or not n.is_fixed(1):
                n.wall([x], "Gather with computed indices along a labelled axis")
                continue
            picked = taken(n, x, axis, indices.reshape(-1).astype(np.int64) % shape[axis])
        else:
            picked = taken(n, x, axis, np.zeros(int(np.prod(n.shape(1), dtype=np.int64)), np.int64))
        found.append(None if picked is None else lb.reshape(picked, out))
    n.wall(n.labels(1), "Gather reads it as indices", 1)
    n.emit(found)


def rewrite_gather(s: NodeSurgery) -> None:
    """Indices are renumbered; those of channels that went are left out."""
    axis = int(s.attr("axis", 0)) % len(s.old_shape(s.inputs[0]))
    kept = s.kept(s.inputs[0], axis)
    indices = s.value(1)
    if kept.all() or indices is None:
        return
    renumbered = (np.cumsum(kept) - 1)[indices.astype(np.int64) % len(kept)]
    rank = indices.ndim
    rows = [s.kept(s.outputs[0], axis + d) for d in range(rank)]
    s.set_operand_array(1, np.asarray(renumbered[np.ix_(*rows)] if rank else renumbered, indices.dtype))


RULES = {
    "Split": Rule(trace_split, rewrite_split),
    "Slice": Rule(trace_slice, rewrite_slice),
    "Gather": Rule(trace_gather, rewrite_gather, (0, 1)),
}
