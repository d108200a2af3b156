"""Operators that make a tensor larger: Concat, Pad, Expand, Tile. What they make up can go with what it meets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from .. import labels as lb
from ..context import NodeTrace
from ..labels import IntArray, Labels
from .joining import join_operands
from .rule import NodeSurgery, Rule
from .selecting import taken


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


RULES = {
    "Concat": Rule(trace_concat, inputs=None),
    "Pad": Rule(trace_pad, rewrite_pad),
    "Expand": Rule(trace_expand, rewrite_expand, source=True),
    "Tile": Rule(trace_tile),
}
MICROSOFT = {"QLinearConcat": Rule(partial(trace_concat, quantized=True), inputs=None)}
