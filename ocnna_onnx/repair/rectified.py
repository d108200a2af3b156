"""Targets for a layer in front of a Relu: where the original is cut off, anything that is cut off as well will do
(Zhang et al. 2015, Accelerating Very Deep Convolutional Networks, §3.2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from ..calibrate.linear import Linear, outputs
from ..data.rows import Rows
from ..model.constants import Constants
from ..model.graph import AnyArray, attribute
from ..trace.labels import IntArray
from .frontier import Frontier

FLAT = 1e-6
"""A BatchNormalization's scale below this has no inverse."""


@dataclass(frozen=True)
class Threshold:
    """The Relu behind a layer cuts off where scale · y + shift + stream < 0, y the layer's own output.

    scale, shift: [channels], of a BatchNormalization in between (1 and 0 where there is none). stream: what is added
    before the Relu, [samples, channels, …]; None: nothing.
    """

    map: Linear
    scale: AnyArray
    shift: AnyArray
    stream: Rows | None

    def relaxed(self, wanted: AnyArray, now: AnyArray, part: slice, at: IntArray | None) -> AnyArray:
        """wanted, but where the Relu cuts that off: what is there now, as far as it is cut off, too. wanted, now:
        [groups, rows, outputs], rows as `calibrate.linear.outputs` makes them of the samples `part`."""
        form = (self.map.groups, 1, -1)
        scale, added = self.scale.reshape(form), self.shift.reshape(form)
        if self.stream is not None:
            added = added + outputs(self.map, np.asarray(self.stream[part], np.float32), at)
        usable = np.abs(scale) > FLAT
        begins = -added / np.where(usable, scale, 1)
        beyond = np.where(scale > 0, np.minimum(now, begins), np.maximum(now, begins))
        return np.asarray(np.where((scale * wanted + added < 0) & usable, beyond, wanted), np.float32)


def threshold(student: Frontier, constants: Constants, map_: Linear) -> Threshold | None:
    """Of the Relu (or Clip from 0 on) that alone reads a Conv's output: directly, or behind a BatchNormalization, an
    Add, or the two in this order. None where there is no such node, or the other summand is not held."""
    graph, name = student.graph, map_.output
    if map_.stored != "conv":
        return None
    name_of_weight = graph.nodes[map_.node].input[map_.weight]
    if name_of_weight not in student.weights:
        return None
    channels = student.weights[name_of_weight].shape[0]
    scale, shift = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    stream: Rows | None = None
    seen: set[str] = set()
    while name not in graph.outputs and len(graph.consumers.get(name, ())) == 1:
        index = graph.consumers[name][0][0]
        node = graph.nodes[index]
        if _cuts_negative(constants, node):
            return Threshold(map_, scale, shift, stream)
        if node.op_type == "BatchNormalization" and not seen:
            found = norm(student, index)
            if found is None:
                return None
            scale, shift = found
        elif node.op_type == "Add" and "Add" not in seen:
            stream = student.held.get(node.input[1] if node.input[0] == name else node.input[0])
            if stream is None or len(stream.shape) < 3 or stream.shape[1] != channels:
                return None
        else:
            return None
        seen.add(node.op_type)
        name = node.output[0]
    return None


def clip_limits(constants: Constants, node: onnx.NodeProto) -> tuple[float, float] | None:
    """(least, most) of a Clip; None where a limit is computed."""
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


def _cuts_negative(constants: Constants, node: onnx.NodeProto) -> bool:
    """Whether a node lets nothing pass that is negative: Relu, or Relu6 as a Clip."""
    if node.op_type == "Clip":
        limits = clip_limits(constants, node)
        return limits is not None and limits[0] == 0
    return node.op_type == "Relu"


def scale_behind(student: Frontier, name: str) -> AnyArray | None:
    """By what a BatchNormalization that alone reads a tensor multiplies each channel."""
    readers = student.graph.consumers.get(name, [])
    if len(readers) != 1 or student.graph.nodes[readers[0][0]].op_type != "BatchNormalization":
        return None
    found = norm(student, readers[0][0])
    return None if found is None else found[0]


def norm(student: Frontier, node: int) -> tuple[AnyArray, AnyArray] | None:
    """(scale, shift) of a BatchNormalization; None where they are computed."""
    proto = student.graph.nodes[node]
    if any(n not in student.weights for n in proto.input[1:5]):
        return None
    gamma, beta, mean, var = (student.weights[n].astype(np.float64) for n in proto.input[1:5])
    scale = gamma / np.sqrt(var + float(attribute(proto, "epsilon", 1e-5)))
    return scale.astype(np.float32), (beta - mean * scale).astype(np.float32)


def predicted(inputs: AnyArray, weight: npt.NDArray[np.float64], bias: npt.NDArray[np.float64]) -> AnyArray:
    """[groups, rows, outputs] in float32. inputs: [groups, rows, features]."""
    return np.asarray(inputs @ weight.astype(np.float32) + bias.astype(np.float32)[:, None])
