"""Where a layer's weight and bias are stored in the graph, and whether they are its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..calibrate.linear import Linear
from ..model.constants import Constants
from ..model.graph import AnyArray, Graph, attribute, constant_node_value

SOLVED = ("float16", "float32", "float64")
"""Types of weights that are solved for (in float64) and rounded at the end."""


@dataclass(frozen=True)
class Stored:
    """The initializer, or the output of a Constant node, that holds a weight; transposed: with its two axes swapped."""

    name: str
    transposed: bool = False

    def turned(self, value: AnyArray) -> AnyArray:
        """Stored -> as the layer reads it, and back."""
        return np.asarray(value.T) if self.transposed else value


def stored_weight_of(graph: Graph, name: str) -> Stored | str:
    """What to edit so that a layer sees another weight `name`; else why there is no such place."""
    turned = False
    while True:
        if len(graph.consumers.get(name, ())) > 1 or name in graph.outputs:
            return "its weight is shared with other nodes"
        value = graph.array(name) if name in graph.initializers else None
        node = graph.nodes[graph.producer[name]] if name in graph.producer else None
        if value is None and node is not None and node.op_type == "Constant":
            value = constant_node_value(node)
        if value is not None:
            known = value.dtype.name in SOLVED
            return Stored(name, turned) if known else f"its weight is stored as {value.dtype.name}"
        if node is None:
            return "its weight is not stored in the model"
        if node.op_type == "DequantizeLinear":
            return "its weight is quantized"
        if node.op_type == "Transpose" and list(attribute(node, "perm", [1, 0])) == [1, 0]:
            turned = not turned
        elif node.op_type != "Identity":
            return f"its weight is computed ({node.op_type})"
        name = node.input[0]


@dataclass(frozen=True)
class Slot:
    """A stored tensor, one number per output channel: what it holds enters the layer's output `sign` times.

    own: the layer itself adds it. Else it comes in behind the layer, whose output is without it.
    """

    name: str
    sign: float
    own: bool = True

    def bias(self, value: AnyArray) -> AnyArray:
        """What the layer's own output has of it."""
        return np.asarray(self.sign * value.astype(np.float64) if self.own else np.zeros(value.shape))

    def moved(self, value: AnyArray, shift: AnyArray) -> AnyArray:
        """The stored tensor that shifts the output by `shift` (as many numbers, in order)."""
        return np.asarray(value + shift.reshape(value.shape) / self.sign).astype(value.dtype)


def bias_slot(graph: Graph, map_: Linear, constants: Constants | None = None) -> Slot | None:
    """The layer's own bias; the mean of a BatchNormalization, or a constant per channel that is added, where these
    alone read the layer's output. None where there is none, or others read it, too.

    constants: to know how a constant lies that is added (without it only biases and means are found).
    """
    node = graph.nodes[map_.node]
    if map_.bias is not None:
        factor = _beta(graph, map_)
        if factor and _is_free(graph, node.input[map_.bias]):
            return Slot(node.input[map_.bias], factor)
    readers = graph.consumers.get(map_.output, [])
    if len(readers) != 1 or map_.output in graph.outputs:
        return None
    index, place = readers[0]
    reader = graph.nodes[index]
    if reader.op_type == "BatchNormalization" and place == 0 and map_.out_axis == 1:
        plain = _is_free(graph, reader.input[3]) and not attribute(reader, "training_mode", 0)
        return Slot(reader.input[3], -1.0, own=False) if plain else None
    if constants is not None and (reader.op_type == "Add" or (reader.op_type == "Sub" and place == 0)):
        other = reader.input[1 - place]
        if other in constants.fixed and _is_free(graph, other) and _is_per_channel(graph, constants, map_, other):
            return Slot(other, 1.0 if reader.op_type == "Add" else -1.0, own=False)
    return None


def fixed_bias(graph: Graph, constants: Constants, map_: Linear, slot: Slot | None) -> AnyArray | str:
    """What the layer adds to its products and must stay as it is, float64 [outputs] or [1]; a text where that is no
    constant per channel."""
    node = graph.nodes[map_.node]
    if len(node.input) < 3 or not node.input[2] or (slot is not None and slot.own):
        return np.zeros(1)
    value = constants.value(node.input[2]) if node.input[2] in constants.fixed else None
    if value is None or value.dtype.name not in SOLVED or (map_.bias is None and value.size != 1):
        return "its bias is no constant per channel"
    return np.asarray(_beta(graph, map_) * value.astype(np.float64).reshape(-1))


def _beta(graph: Graph, map_: Linear) -> float:
    node = graph.nodes[map_.node]
    return float(attribute(node, "beta", 1.0)) if node.op_type == "Gemm" else 1.0


def _is_free(graph: Graph, name: str) -> bool:
    """Whether a tensor is stored, with a type that is solved for, and read once."""
    if len(graph.consumers.get(name, ())) != 1 or name in graph.outputs:
        return False
    value = graph.array(name) if name in graph.initializers else None
    if value is None and name in graph.producer and graph.nodes[graph.producer[name]].op_type == "Constant":
        value = constant_node_value(graph.nodes[graph.producer[name]])
    return value is not None and value.ndim > 0 and value.dtype.name in SOLVED


def _is_per_channel(graph: Graph, constants: Constants, map_: Linear, name: str) -> bool:
    shape, out = constants.shape.get(name), constants.shape.get(map_.output)
    if shape is None or out is None or len(shape) > len(out):
        return False
    whole = (*[1] * (len(out) - len(shape)), *shape)
    return all(s == (out[a] if a == map_.out_axis else 1) for a, s in enumerate(whole))
