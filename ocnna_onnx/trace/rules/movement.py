"""Operators that move values without changing them: labels move exactly as the values do."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from .. import labels as lb
from ..context import NodeTrace
from ..labels import IntArray, Labels
from .joining import join_operands
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


def trace_transpose(n: NodeTrace) -> None:
    """Axes in a new order."""
    perm = [int(p) for p in n.attr("perm", range(len(n.shape(0)))[::-1])]
    n.emit(lb.transpose(x, perm) for x in n.labels(0))


def trace_reshape(n: NodeTrace) -> None:
    """Reshape, Flatten, Squeeze, Unsqueeze: the same values in the same order under another shape."""
    if 0 in (*n.shape(0), *n.out_shape()):
        n.wall(n.labels(0), f"{n.op} of an empty tensor")
        return
    if n.has(1) and not n.is_static(1):
        n.wall(n.labels(0), f"{n.op} to a shape that is not known ahead")
        return
    n.emit(lb.reshape(x, n.out_shape()) for x in n.labels(0))


def rewrite_reshape(s: NodeSurgery) -> None:
    """Literal sizes in the target shape; 0 (copy) and −1 (infer) stay where they still say the right thing."""
    source, old, new = s.new_shape(s.inputs[0]), s.old_shape(s.outputs[0]), s.new_shape(s.outputs[0])
    attribute = s.attr("shape")
    value = np.asarray(attribute) if attribute is not None else s.value(1)
    if value is None:
        return
    copies = not s.attr("allowzero", 0)
    literal = [int(v) for v in value.reshape(-1)]
    wanted = list(literal)
    for axis, size in enumerate(literal):
        copied = size == 0 and copies and axis < len(source) and source[axis] == new[axis]
        if size != -1 and not copied and old[axis] != new[axis]:
            wanted[axis] = new[axis]
    if attribute is None:
        s.set_operand(1, wanted)
    elif wanted != literal:
        s.set_attr("shape", wanted)


def trace_concat(n: NodeTrace, quantized: bool = False) -> None:
    """Along `axis` label vectors follow one another; along other axes the operands join. quantized: the result's scale
    and zero point come first, and each operand has its own."""
    out = n.out_shape()
    axis = int(n.attr("axis", 1)) % len(out)
    inputs = range(2, len(n.node.input), 3) if quantized else range(len(n.node.input))
    for i in set(range(len(n.node.input))) - set(inputs):
        n.wall(n.labels(i), f"{n.op} reads it as operand {i}", i)
    across = [(i, [lb.restretch(x, out) for x in n.labels(i) if axis not in x.axes]) for i in inputs]
    kept = join_operands(n, across, "Concat with an activation that is fixed at these positions")
    if any(axis in x.axes for i in inputs for x in n.labels(i)):
        parts = [_part(n, i, axis) for i in inputs]
        kept.append(lb.along(np.concatenate(parts), axis, out))
    n.emit(kept)


def _part(n: NodeTrace, i: int, axis: int) -> IntArray:
    """The labels that operand i brings along the axis of concatenation."""
    own = [x for x in n.labels(i) if axis in x.axes]
    size = n.shape(i)[axis]
    if n.is_fixed(i) and size > 1:
        made = n.made_up(size)
        n.cut(i, axis, lb.along(made, axis, n.shape(i)), axis)
        return made
    if len(own) > 1:
        n.wall(own, "Concat of channels with several independent labels", i)
        return np.zeros(size, np.int64)
    if not own:
        return np.zeros(size, np.int64)
    n.join_along(own[0], [a for a in own[0].axes if a != axis], "Concat of part of a grid of channels", i)
    return lb.vector(own[0], axis)


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


def trace_pad(n: NodeTrace) -> None:
    """Constant padding along a labelled axis makes up channels of its own (option-A shortcuts); others are a wall."""
    pads = _pads(n.ints(1, "pads") or n.attr("paddings"), n.ints(3), len(n.shape(0)))
    mode = n.attr("mode", "constant")
    if pads is None:
        n.wall(n.labels(0), "Pad by amounts that are not known ahead")
        return
    found: list[Labels | None] = []
    for x in n.labels(0):
        current: Labels | None = x
        for axis, (before, after) in pads.items():
            if current is None or (before, after) == (0, 0):
                continue
            if axis not in current.axes:
                size = current.shape[axis] + before + after
                current = lb.restretch(current, (*current.shape[:axis], size, *current.shape[axis + 1 :]))
            elif mode != "constant" or current.axes != (axis,):
                n.wall([current], f"Pad ({mode}) along a labelled axis")
                current = None
            else:
                current = _padded(n, current, axis, before, after)
        found.append(current)
    n.emit(found)


def _padded(n: NodeTrace, x: Labels, axis: int, before: int, after: int) -> Labels | None:
    cropped = lb.vector(x, axis)[max(-before, 0) : x.shape[axis] - max(-after, 0)]
    vector = np.concatenate([n.made_up(max(before, 0)), cropped, n.made_up(max(after, 0))])
    if len(vector) == 1:
        n.wall_units(vector, "Pad leaves it alone on its axis", n.node.input[0])
        return None
    return lb.along(vector, axis, (*x.shape[:axis], len(vector), *x.shape[axis + 1 :]))


def _pads(pads: Sequence[int] | None, axes: Sequence[int] | None, rank: int) -> dict[int, tuple[int, int]] | None:
    """axis -> (before, after)."""
    if pads is None:
        return None
    names = [a % rank for a in axes] if axes is not None else list(range(rank))
    half = len(pads) // 2
    return {axis: (int(pads[k]), int(pads[half + k])) for k, axis in enumerate(names)}


def rewrite_pad(s: NodeSurgery) -> None:
    """Each side shrinks by the made-up channels that went with their partners."""
    name = "pads" if s.attr("pads") is not None else "paddings"
    stored = s.attr(name)
    value = np.asarray(stored) if stored is not None else s.value(1)
    if value is None:
        return
    axes = s.value(3) if len(s.inputs) > 3 and s.inputs[3] else None
    rank = len(s.old_shape(s.inputs[0]))
    names = [int(a) % rank for a in axes.reshape(-1)] if axes is not None else list(range(rank))
    old = [int(v) for v in value.reshape(-1)]
    new = list(old)
    half = len(old) // 2
    for k, axis in enumerate(names):
        into, out = s.kept(s.inputs[0], axis), s.kept(s.outputs[0], axis)
        before, after = old[k], old[half + k]
        new[k] = int(out[:before].sum()) if before > 0 else -int(into[: max(-before, 0)].sum())
        new[half + k] = (
            int(out[len(out) - after :].sum()) if after > 0 else -int(into[len(into) - max(-after, 0) :].sum())
        )
    if stored is None:
        s.set_operand(1, new)
    elif new != old:
        s.set_attr(name, new)


def trace_expand(n: NodeTrace) -> None:
    """Broadcast to a shape. An axis that Expand stretches to a fixed size can shrink with what it meets."""
    out, shape = n.out_shape(), n.shape(0)
    missing = len(out) - len(shape)
    if not n.is_static(1):
        n.wall(n.labels(0), "Expand to a shape that is not known ahead")
        return
    found = [lb.broadcast(x, out) for x in n.labels(0)]
    for axis, size in enumerate(out):
        stretched = size > 1 and (axis < missing or shape[axis - missing] == 1)
        if stretched and axis > 0 and not n.dynamic(n.node.output[0], axis):
            found.append(lb.along(n.made_up(size), axis, out))
    n.emit(found)


def rewrite_expand(s: NodeSurgery) -> None:
    """The literal sizes of axes that shrank."""
    value = s.value(1)
    old, new = s.old_shape(s.outputs[0]), s.new_shape(s.outputs[0])
    if value is None:
        return
    literal = [int(v) for v in value.reshape(-1)]
    offset = len(old) - len(literal)
    s.set_operand(
        1, [new[offset + k] if v != 1 and old[offset + k] != new[offset + k] else v for k, v in enumerate(literal)]
    )


def trace_tile(n: NodeTrace) -> None:
    """Repeats: one unit at several places."""
    repeats = n.ints(1)
    if repeats is None:
        n.wall(n.labels(0), "Tile by amounts that are not known ahead")
        return
    found: list[Labels | None] = []
    for x in n.labels(0):
        current: Labels | None = x
        for axis, times in enumerate(repeats):
            if current is not None and times != 1:
                current = taken(n, current, axis, np.tile(np.arange(n.shape(0)[axis]), times))
        found.append(current)
    n.emit(found)


def trace_depth_to_space(n: NodeTrace) -> None:
    """DCR: n (b1 b2 c) h w -> n c (h b1) (w b2); CRD: n (c b1 b2) h w -> the same. b² inputs go with each output."""
    block = int(n.attr("blocksize", 1))
    batch, channels, height, width = n.shape(0)
    depth = channels // (block * block)
    crd = n.attr("mode", "DCR") == "CRD"
    found = []
    for x in n.labels(0):
        inner = (depth, block, block) if crd else (block, block, depth)
        wide = lb.reshape(x, (batch, *inner, height, width))
        moved = lb.transpose(wide, (0, 1, 4, 2, 5, 3) if crd else (0, 3, 4, 1, 5, 2))
        out = lb.reshape(moved, n.out_shape())
        n.join_along(out, [a for a in out.axes if a != 1], "DepthToSpace makes positions of channels")
        found.append(out)
    n.emit(found)


def trace_space_to_depth(n: NodeTrace) -> None:
    """n c (h b1) (w b2) -> n (b1 b2 c) h w: each channel appears b² times."""
    block = int(n.attr("blocksize", 1))
    batch, channels, height, width = n.shape(0)
    found = []
    for x in n.labels(0):
        wide = lb.reshape(x, (batch, channels, height // block, block, width // block, block))
        found.append(lb.reshape(lb.transpose(wide, (0, 3, 5, 1, 2, 4)), n.out_shape()))
    n.emit(found)


RULES = {
    "Transpose": Rule(trace_transpose),
    "Reshape": Rule(trace_reshape, rewrite_reshape),
    **dict.fromkeys(("Flatten", "Squeeze", "Unsqueeze"), Rule(trace_reshape)),
    "Concat": Rule(trace_concat, inputs=None),
    "Split": Rule(trace_split, rewrite_split),
    "Slice": Rule(trace_slice, rewrite_slice),
    "Gather": Rule(trace_gather, rewrite_gather, (0, 1)),
    "Pad": Rule(trace_pad, rewrite_pad),
    "Expand": Rule(trace_expand, rewrite_expand, source=True),
    "Tile": Rule(trace_tile),
    "DepthToSpace": Rule(trace_depth_to_space),
    "SpaceToDepth": Rule(trace_space_to_depth),
}
MICROSOFT = {"QLinearConcat": Rule(partial(trace_concat, quantized=True), inputs=None)}
