"""What lies between two layers and treats every channel on its own: normalizations and activations with their slopes,
and depthwise convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import numpy.typing as npt

from ..calibrate.linear import linear
from ..model.constants import Constants
from ..model.graph import attribute
from ..model.shapes import Shapes
from .frontier import Frontier
from .rectified import clip_limits, norm
from .windows import Windows

Array = npt.NDArray[np.float32]

MOST = 6
"""Nodes between two layers, at most."""


@dataclass(frozen=True)
class Bend:
    """x -> scale · x + shift per channel, then cut to [low, high]; below `low` it goes on with slope `leak`."""

    scale: Array | None = None
    shift: Array | None = None
    low: float = -np.inf
    high: float = np.inf
    leak: float = 0.0

    def bent(self, x: Array) -> tuple[Array, Array]:
        """(values, slopes), both [rows, channels]."""
        slope = np.ones_like(x)
        if self.scale is not None and self.shift is not None:
            x, slope = x * self.scale + self.shift, slope * self.scale
        if self.low > -np.inf or self.high < np.inf:
            passes = (x > self.low) & (x < self.high)
            below = np.where(x <= self.low, np.float32(self.leak), np.float32(0))
            slope = slope * np.where(passes, np.float32(1), below)
            over = np.clip(x, self.low, self.high)
            x = over + np.float32(self.leak) * (np.minimum(x, self.low) - self.low) if self.leak else over
        return x, slope


@dataclass(frozen=True)
class Depthwise:
    """A convolution of every channel by itself. kernel: [taps, channels]; shift: [channels]; windows: of one sample."""

    kernel: Array
    shift: Array
    windows: Windows

    def forth(self, x: Array) -> Array:
        """Without the shift: [samples · sizes, channels] -> [samples · out, channels]."""
        return self._of(x, self.windows.sizes).weighed(x, self.kernel)

    def back(self, e: Array) -> Array:
        """The adjoint."""
        return self._of(e, self.windows.out).spread(e, self.kernel)

    def _of(self, rows: Array, sizes: Sequence[int]) -> Windows:
        return replace(self.windows, samples=len(rows) // prod(sizes))


Between = Sequence[Bend | Depthwise]
Slopes = Sequence[Array]


def through(x: Array, between: Between) -> tuple[Array, Slopes]:
    """Values behind all of it, and the slopes on the way (of a Depthwise: its kernel)."""
    slopes: list[Array] = []
    for step in between:
        if isinstance(step, Bend):
            x, slope = step.bent(x)
            slopes.append(slope)
        else:
            x = step.forth(x) + step.shift
            slopes.append(step.kernel)
    return x, slopes


def ahead(d: Array, between: Between, slopes: Slopes) -> Array:
    """What a small change in front of it becomes behind it."""
    for step, slope in zip(between, slopes, strict=True):
        d = step.forth(d) if isinstance(step, Depthwise) else np.asarray(d * slope)
    return d


def behind(e: Array, between: Between, slopes: Slopes) -> Array:
    """The adjoint of `ahead`."""
    for step, slope in zip(reversed(between), reversed(slopes), strict=True):
        e = step.back(e) if isinstance(step, Depthwise) else np.asarray(e * slope)
    return e


def gain(between: Between, slopes: Slopes) -> Array:
    """Roughly the mean square of what a change of each channel is multiplied by, [channels]."""
    found = np.ones(1, np.float32)
    for step, slope in zip(between, slopes, strict=True):
        square = (slope**2).sum(axis=0) if isinstance(step, Depthwise) else (slope**2).mean(axis=0)
        found = np.asarray(found * square)
    return found


def bends_behind(
    student: Frontier, shapes: Shapes, constants: Constants, name: str, end: str, sizes: tuple[int, ...]
) -> tuple[Between, tuple[int, ...]] | None:
    """From the tensor `name`, of these spatial sizes, to the tensor `end`, each read by one node only, and the sizes
    there; None where something else is in between."""
    graph = student.graph
    found: list[Bend | Depthwise] = []
    while name != end:
        readers = graph.consumers.get(name, [])
        if len(readers) != 1 or name in graph.outputs or readers[0][1] != 0 or len(found) == MOST:
            return None
        node = graph.nodes[readers[0][0]]
        if node.op_type == "Relu":
            found.append(Bend(low=0.0))
        elif node.op_type == "LeakyRelu":
            found.append(Bend(low=0.0, leak=float(attribute(node, "alpha", 0.01))))
        elif node.op_type == "Clip":
            limits = clip_limits(constants, node)
            if limits is None:
                return None
            found.append(Bend(low=limits[0], high=limits[1]))
        elif node.op_type == "BatchNormalization":
            normalized = norm(student, readers[0][0])
            if normalized is None:
                return None
            found.append(Bend(*normalized))
        elif node.op_type == "Conv":
            depthwise = _depthwise(student, shapes, constants, readers[0][0], sizes)
            if depthwise is None:
                return None
            found.append(depthwise)
            sizes = depthwise.windows.out
        elif node.op_type != "Identity":
            return None
        name = node.output[0]
    return (found, sizes) if len(graph.consumers.get(end, ())) == 1 and end not in graph.outputs else None


def _depthwise(
    student: Frontier, shapes: Shapes, constants: Constants, index: int, sizes: tuple[int, ...]
) -> Depthwise | None:
    map_ = linear(student.graph, shapes, constants, index)
    node = student.graph.nodes[index]
    weight = student.weights.get(node.input[1])
    if map_ is None or weight is None or weight.shape[1] != 1 or weight.shape[0] != map_.groups:
        return None
    shift = np.zeros(len(weight), np.float32)
    if len(node.input) > 2 and node.input[2]:
        if node.input[2] not in student.weights:
            return None
        shift = student.weights[node.input[2]].astype(np.float32)
    shape = (1, len(weight), *sizes)
    kernel = np.ascontiguousarray(weight.reshape(len(weight), -1).T, np.float32)
    return Depthwise(kernel, shift, Windows.of(map_, shape))
