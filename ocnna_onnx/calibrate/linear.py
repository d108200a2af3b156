"""Conv, ConvTranspose, Gemm and MatMul with a constant weight as one thing: outputs = features · matrix + bias.

Features are what one output position sees: for a Conv the patch under its kernel, in the order of the weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

from ..model.constants import Constants
from ..model.graph import AnyArray, Graph, attribute
from ..model.shapes import Shapes

IntArray = npt.NDArray[np.int64]

FLOATS = {1, 10, 11, 16}  # fp32, fp16, fp64, bf16


@dataclass(frozen=True)
class Linear:
    """A node as a linear map.

    node: its number. tensor: what it reads, `axis` its channels. weight: operand of the weight. bias: of the bias, or
    None. kernel, strides, dilations, groups: of a Conv; empty and 1 for products. pads: begin and end per axis, or None
    where they follow the size (`auto_pad`). stored: how the weight lies: `conv` [O, C/g, …], `io` [C, O], `oi` [O, C],
    `transposed` [C, O/g, …]. alpha: Gemm's factor.
    """

    node: int
    tensor: str
    axis: int
    output: str
    out_axis: int
    weight: int
    bias: int | None
    stored: str
    groups: int = 1
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[tuple[int, int], ...] | None = ()
    upper: bool = True
    alpha: float = 1.0

    @property
    def taps(self) -> int:
        """Positions of the kernel: features per input channel."""
        return prod(self.kernel)


def linear(graph: Graph, shapes: Shapes, constants: Constants, index: int) -> Linear | None:
    """The node as a linear map of its input's channels; None where it is none, or its weight is no constant."""
    node = graph.nodes[index]
    op, inputs = node.op_type, node.input
    if node.domain not in ("", "ai.onnx", "com.microsoft") or len(inputs) < 2:
        return None
    if any(shapes.dtype.get(t) not in FLOATS for t in (*inputs[:2], node.output[0])):
        return None
    bias = 2 if len(inputs) > 2 and inputs[2] and inputs[2] in constants.fixed else None
    right, left = inputs[1] in constants.fixed, inputs[0] in constants.fixed
    output, rank = node.output[0], len(shapes.shape[inputs[0]])
    if op in ("Conv", "ConvTranspose") and right and not left:
        spatial = rank - 2
        kernel = tuple(shapes.shape[inputs[1]][2:])
        strides = tuple(attribute(node, "strides", [1] * spatial))
        dilations = tuple(attribute(node, "dilations", [1] * spatial))
        flat = list(attribute(node, "pads", [0] * (2 * spatial)))
        auto = attribute(node, "auto_pad", b"NOTSET")
        auto = auto.decode() if isinstance(auto, bytes) else str(auto)
        pads: tuple[tuple[int, int], ...] | None = tuple(zip(flat[:spatial], flat[spatial:], strict=True))
        if auto == "VALID":
            pads = tuple((0, 0) for _ in kernel)
        elif auto.startswith("SAME"):
            pads = None
        groups = int(attribute(node, "group", 1))
        form = "conv" if op == "Conv" else "transposed"
        upper = auto != "SAME_LOWER"
        return Linear(index, inputs[0], 1, output, 1, 1, bias, form, groups, kernel, strides, dilations, pads, upper)
    if op == "Gemm" and right and not left and not attribute(node, "transA", 0):
        form = "oi" if attribute(node, "transB", 0) else "io"
        vector = bias if bias is not None and _per_output(shapes, inputs[2], shapes.shape[output][1]) else None
        return Linear(index, inputs[0], 1, output, 1, 1, vector, form, alpha=float(attribute(node, "alpha", 1.0)))
    if op == "MatMul" and right and not left and len(shapes.shape[inputs[1]]) == 2 and rank >= 2:
        return Linear(index, inputs[0], rank - 1, output, rank - 1, 1, None, "io")
    if op == "MatMul" and left and not right and len(shapes.shape[inputs[0]]) == 2:
        rank = len(shapes.shape[inputs[1]])
        return Linear(index, inputs[1], rank - 2, output, rank - 2, 0, None, "oi") if rank >= 2 else None
    return None


def _per_output(shapes: Shapes, name: str, outputs: int) -> bool:
    shape = shapes.shape[name]
    return prod(shape) == outputs and (not shape or shape[-1] == outputs)


def matrix(map_: Linear, weight: AnyArray) -> AnyArray:
    """The weight as float64 [groups, features, outputs]: features are (channel of the group, tap). A `transposed` one
    has its taps among the outputs, [groups, channels, (output, tap)]."""
    w = np.asarray(weight, np.float64) * map_.alpha
    g = map_.groups
    if map_.stored == "conv":
        return np.asarray(w.reshape(g, w.shape[0] // g, -1).transpose(0, 2, 1))
    if map_.stored == "transposed":
        return np.asarray(w.reshape(g, w.shape[0] // g, -1))
    return np.asarray((w if map_.stored == "io" else w.T)[None])


def stored_weight(map_: Linear, found: AnyArray, like: AnyArray) -> AnyArray:
    """The inverse of `matrix`: [groups, features, outputs] as the weight lies, in the shape and type of `like`."""
    if map_.stored == "conv":
        lying = found.transpose(0, 2, 1)
    elif map_.stored == "oi":
        lying = found[0].T
    else:
        lying = found
    return np.ascontiguousarray((lying / map_.alpha).reshape(like.shape), like.dtype)


def out_positions(map_: Linear, shape: Sequence[int]) -> tuple[int, ...]:
    """Sizes of the axes over which outputs are computed, for an input of `shape` (its first axis counts images)."""
    if map_.stored != "conv":
        return tuple(s for a, s in enumerate(shape) if a not in (0, map_.axis))
    return tuple(
        (size + sum(pad) - (k - 1) * d - 1) // s + 1
        for size, pad, k, s, d in zip(
            shape[2:], padding(map_, shape), map_.kernel, map_.strides, map_.dilations, strict=True
        )
    )


def padding(map_: Linear, shape: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """(begin, end) per spatial axis of a Conv's input."""
    if map_.pads is not None:
        return map_.pads
    found = []
    for size, k, s, d in zip(shape[2:], map_.kernel, map_.strides, map_.dilations, strict=True):
        total = max(0, (-(-size // s) - 1) * s + (k - 1) * d + 1 - size)
        found.append((total // 2, total - total // 2) if map_.upper else (total - total // 2, total // 2))
    return tuple(found)


def features(map_: Linear, x: AnyArray, at: IntArray | None = None) -> AnyArray:
    """What output positions see: float [groups, rows, features], rows = images · positions.

    x: the input as it is in the graph, axis 0 counting images. at: int [images, P], flat output positions to look at;
    None for all.
    """
    if map_.stored != "conv":
        return _split(_channels(x, map_.axis, at), map_)
    n, channels = x.shape[:2]
    pads = padding(map_, x.shape)
    if any(p for pad in pads for p in pad):
        x = np.pad(x, ((0, 0), (0, 0), *pads))
    if map_.taps == 1 and all(s == 1 for s in map_.strides):
        return _split(_channels(x, 1, at), map_)
    if at is None:
        reach = [(k - 1) * d + 1 for k, d in zip(map_.kernel, map_.dilations, strict=True)]
        windows = np.lib.stride_tricks.sliding_window_view(x, reach, axis=tuple(range(2, x.ndim)))
        spatial = len(reach)
        steps = (slice(None), slice(None), *(slice(None, None, s) for s in map_.strides))
        windows = windows[steps + tuple(slice(None, None, d) for d in map_.dilations)]
        order = (0, *range(2, 2 + spatial), 1, *range(2 + spatial, 2 + 2 * spatial))
        rows = np.ascontiguousarray(windows.transpose(order)).reshape(-1, channels * map_.taps)
        return _split(rows, map_)
    sizes = tuple(
        (s - (k - 1) * d - 1) // step + 1
        for s, k, d, step in zip(x.shape[2:], map_.kernel, map_.dilations, map_.strides, strict=True)
    )
    index = np.zeros((n, at.shape[1], 1), np.int64)
    where = np.unravel_index(at, sizes)
    tap = np.unravel_index(np.arange(map_.taps), map_.kernel)
    for axis, size in enumerate(x.shape[2:]):
        own = where[axis][..., None] * map_.strides[axis] + tap[axis] * map_.dilations[axis]
        index = index * size + own
    flat = x.reshape(n, channels, -1)
    taken = np.take_along_axis(flat, index.reshape(n, 1, -1), axis=2).reshape(n, channels, at.shape[1], map_.taps)
    return _split(np.ascontiguousarray(taken.transpose(0, 2, 1, 3)).reshape(n * at.shape[1], -1), map_)


def outputs(map_: Linear, y: AnyArray, at: IntArray | None = None) -> AnyArray:
    """The node's output at the same positions, [groups, rows, outputs]. Not for `transposed`."""
    return _split(_channels(y, map_.out_axis, at), map_)


def _channels(x: AnyArray, axis: int, at: IntArray | None) -> AnyArray:
    """[images · positions, channels]."""
    moved = np.moveaxis(x, axis, 1).reshape(x.shape[0], x.shape[axis], -1)
    if at is not None:
        moved = np.take_along_axis(moved, at[:, None, :], axis=2)
    return np.ascontiguousarray(moved.transpose(0, 2, 1)).reshape(-1, x.shape[axis])


def _split(rows: AnyArray, map_: Linear) -> AnyArray:
    """[rows, groups · k] -> [groups, rows, k]."""
    if map_.groups == 1:
        return rows[None]
    return np.ascontiguousarray(rows.reshape(len(rows), map_.groups, -1).transpose(1, 0, 2))
