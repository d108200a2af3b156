"""Where a layer's bias lives in the graph."""

from __future__ import annotations

from dataclasses import dataclass

from ..calibrate.linear import Linear
from ..model.graph import Graph


@dataclass(frozen=True)
class Slot:
    """An initializer that holds sign · bias, one number per output channel."""

    name: str
    sign: float


def bias_slot(graph: Graph, map_: Linear) -> Slot | None:
    """The layer's own bias, or the mean of a BatchNormalization that alone reads it; None where there is none that is
    read by nobody else."""
    node = graph.nodes[map_.node]
    if map_.bias is not None and node.input[map_.bias] in graph.initializers:
        name = node.input[map_.bias]
        return Slot(name, 1.0) if len(graph.consumers[name]) == 1 else None
    readers = graph.consumers.get(map_.output, [])
    if len(readers) == 1 and map_.output not in graph.outputs and map_.out_axis == 1:
        reader = graph.nodes[readers[0][0]]
        if reader.op_type == "BatchNormalization" and reader.input[3] in graph.initializers:
            mean = reader.input[3]
            return Slot(mean, -1.0) if len(graph.consumers[mean]) == 1 else None
    return None
