"""Operators that lay the same values out another way: labels move exactly as the values do."""

from __future__ import annotations

import numpy as np

from .. import labels as lb
from ..context import NodeTrace
from .rule import NodeSurgery, Rule


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
    "DepthToSpace": Rule(trace_depth_to_space),
    "SpaceToDepth": Rule(trace_space_to_depth),
}
