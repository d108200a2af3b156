"""The last layer of a residual branch: its output only goes into a sum, perhaps through what scales and shifts each
channel. It can then mend the whole stream (METHODS.md §6)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..calibrate.linear import Linear
from ..model.constants import Constants
from ..model.graph import AnyArray, Graph, attribute

HOPS = 3


@dataclass(frozen=True)
class Residual:
    """total: the sum. other: what is added to the layer's branch. between: nodes from the layer to the sum."""

    total: str
    other: str
    between: tuple[int, ...]


def residual(graph: Graph, constants: Constants, map_: Linear) -> Residual | None:
    """None where the output goes elsewhere, or the other summand depends on it."""
    name, between = map_.output, []
    for _ in range(HOPS + 1):
        readers = graph.consumers.get(name, [])
        if len(readers) != 1 or name in graph.outputs or readers[0][1] < 0:
            return None
        index, place = readers[0]
        reader = graph.nodes[index]
        if _is_affine(graph, constants, map_, index, place):
            between.append(index)
            name = reader.output[0]
            continue
        if reader.op_type != "Add":
            return None
        other = reader.input[1 - place]
        shapes = constants.shape
        fits = other in graph.producer and other not in constants.ahead and other != name
        if not fits or shapes.get(other) != shapes.get(map_.output) or map_.node in ancestors(graph, other):
            return None
        return Residual(reader.output[0], other, tuple(between))
    return None


def _is_affine(graph: Graph, constants: Constants, map_: Linear, index: int, place: int) -> bool:
    """Whether a node scales and shifts each channel of its operand `place` by constants."""
    node = graph.nodes[index]
    if node.op_type == "BatchNormalization":
        known = all(n in constants.fixed for n in node.input[1:5])
        return place == 0 and map_.out_axis == 1 and known and not attribute(node, "training_mode", 0)
    if node.op_type not in ("Add", "Mul"):
        return False
    other = node.input[1 - place]
    shape, out = constants.shape.get(other), constants.shape.get(map_.output)
    if other not in constants.fixed or shape is None or out is None or len(shape) > len(out):
        return False
    whole = (*[1] * (len(out) - len(shape)), *shape)
    return all(s in (1, out[a]) if a == map_.out_axis else s == 1 for a, s in enumerate(whole))


def affine(graph: Graph, constants: Constants, now: dict[str, AnyArray], found: Residual, size: int) -> AnyArray:
    """[2, size]: scale and shift from the layer's output to the sum. now: values that repairs have changed."""
    scale, shift = np.ones(size), np.zeros(size)
    for index in found.between:
        node = graph.nodes[index]
        if node.op_type == "BatchNormalization":
            gamma, beta, mean, var = (_value(constants, now, n) for n in node.input[1:5])
            factor = gamma / np.sqrt(var + float(attribute(node, "epsilon", 1e-5)))
            scale, shift = scale * factor, (shift - mean) * factor + beta
            continue
        other = next(n for n in node.input if n in constants.fixed)
        value = _value(constants, now, other)
        scale, shift = (scale, shift + value) if node.op_type == "Add" else (scale * value, shift * value)
    return np.stack([scale, shift])


def _value(constants: Constants, now: dict[str, AnyArray], name: str) -> AnyArray:
    value = now[name] if name in now else constants.value(name)
    assert value is not None
    return np.asarray(value, np.float64).reshape(-1)


def ancestors(graph: Graph, name: str) -> set[int]:
    """Nodes that a tensor is computed by."""
    found: set[int] = set()
    stack = [name]
    while stack:
        node = graph.producer.get(stack.pop())
        if node is not None and node not in found:
            found.add(node)
            stack.extend(n for n in graph.nodes[node].input if n)
    return found
