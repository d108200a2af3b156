"""What lies between two layers and treats every value on its own: normalizations and activations, with their slopes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from ..model.constants import Constants
from ..model.graph import attribute
from .frontier import Frontier
from .rectified import norm

Array = npt.NDArray[np.float32]

MOST = 4
"""Nodes between two layers, at most."""


@dataclass(frozen=True)
class Bend:
    """x -> scale · x + shift per channel, then cut to [low, high]; below `low` it goes on with slope `leak`."""

    scale: Array | None = None
    shift: Array | None = None
    low: float = -np.inf
    high: float = np.inf
    leak: float = 0.0


def bent(x: Array, bends: Sequence[Bend]) -> tuple[Array, Array]:
    """(values, slopes), both [rows, channels]."""
    slope = np.ones_like(x)
    for b in bends:
        if b.scale is not None and b.shift is not None:
            x, slope = x * b.scale + b.shift, slope * b.scale
        if b.low > -np.inf or b.high < np.inf:
            passes = (x > b.low) & (x < b.high)
            slope = slope * np.where(passes, np.float32(1), np.where(x <= b.low, np.float32(b.leak), np.float32(0)))
            over = np.clip(x, b.low, b.high)
            x = over + np.float32(b.leak) * (np.minimum(x, b.low) - b.low) if b.leak else over
    return x, slope


def bends_behind(student: Frontier, constants: Constants, name: str, end: str) -> list[Bend] | None:
    """From the tensor `name` to the tensor `end`, each read by one node only; None where something else is in
    between."""
    graph = student.graph
    found: list[Bend] = []
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
            limits = _limits(constants, node)
            if limits is None:
                return None
            found.append(Bend(low=limits[0], high=limits[1]))
        elif node.op_type == "BatchNormalization" and all(n in student.weights for n in node.input[1:5]):
            found.append(Bend(*norm(student, readers[0][0])))
        elif node.op_type != "Identity":
            return None
        name = node.output[0]
    return found if len(graph.consumers.get(end, ())) == 1 and end not in graph.outputs else None


def _limits(constants: Constants, node: onnx.NodeProto) -> tuple[float, float] | None:
    if len(node.input) == 1:
        return float(attribute(node, "min", -np.inf)), float(attribute(node, "max", np.inf))
    found = [-np.inf, np.inf]
    for k, name in enumerate(node.input[1:3]):
        if name:
            value = constants.value(name) if name in constants.fixed else None
            if value is None or value.size != 1:
                return None
            found[k] = float(value.reshape(-1)[0])
    return found[0], found[1]
