"""A thin, read-only index over a ModelProto: nodes in order, who makes and who reads each tensor, what is constant.

Why not onnx-graphsurgeon here: importing and exporting through it loses the model's metadata, doc strings, domain and
the nodes' metadata, and copies every weight. It builds the oracle's graph instead (`prove.masked`), where none of
that matters and where a code path of its own is welcome.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from ..errors import ModelError
from .light import Light

AnyArray = npt.NDArray[Any]

QUANTIZED_WEIGHTS = ("DequantizeLinear", "QuantizeLinear")


@dataclass(frozen=True)
class Graph:
    """The top-level graph of a model. Nodes are numbered as in `proto.graph.node`.

    weights: values of initializers that the proto has without their bytes (external data).
    """

    proto: onnx.ModelProto
    weights: Mapping[str, AnyArray] = field(default_factory=dict)

    @property
    def model(self) -> Light:
        """What a session is opened on."""
        return Light(self.proto, self.weights)

    def array(self, name: str) -> AnyArray:
        """The value of an initializer."""
        return self.weights[name] if name in self.weights else numpy_helper.to_array(self.initializers[name])

    @cached_property
    def nodes(self) -> tuple[onnx.NodeProto, ...]:
        return tuple(self.proto.graph.node)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """What each node is called in every file: its name, or its first output where that is missing or not unique."""
        counts = Counter(n.name for n in self.nodes)
        return tuple(n.name if n.name and counts[n.name] == 1 else next(filter(None, n.output), "") for n in self.nodes)

    @cached_property
    def opset(self) -> int:
        """Version of the default operator set."""
        return next((o.version for o in self.proto.opset_import if o.domain in ("", "ai.onnx")), 1)

    @cached_property
    def initializers(self) -> dict[str, onnx.TensorProto]:
        return {t.name: t for t in self.proto.graph.initializer}

    @cached_property
    def inputs(self) -> tuple[onnx.ValueInfoProto, ...]:
        """The graph inputs that a user feeds: not those that an initializer gives a default to."""
        weights = self.initializers.keys() | {t.values.name for t in self.proto.graph.sparse_initializer}
        return tuple(i for i in self.proto.graph.input if i.name not in weights)

    @cached_property
    def overridable(self) -> frozenset[str]:
        """Initializers that are graph inputs too: from IR version 4 on the caller may feed another value."""
        if self.proto.ir_version < 4:
            return frozenset()
        return frozenset(i.name for i in self.proto.graph.input) & self.initializers.keys()

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        return tuple(o.name for o in self.proto.graph.output)

    @cached_property
    def producer(self) -> dict[str, int]:
        """Tensor name -> number of the node that makes it."""
        return {name: i for i, node in enumerate(self.nodes) for name in node.output if name}

    @cached_property
    def consumers(self) -> dict[str, list[tuple[int, int]]]:
        """Tensor name -> (node, input index) of each top-level reader; index −1 where a subgraph captures it."""
        readers: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for i, node in enumerate(self.nodes):
            for k, name in enumerate(node.input):
                if name:
                    readers[name].append((i, k))
            for name in captured(node):
                readers[name].append((i, -1))
        return dict(readers)

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Node numbers in topological order; a file that is sorted already keeps its order. ModelError on a cycle."""
        ready = set(self.initializers) | {i.name for i in self.proto.graph.input} | {""}
        ready |= {t.values.name for t in self.proto.graph.sparse_initializer}
        made = self.producer
        waiting = {
            i: {n for n in (*node.input, *captured(node)) if n not in ready and n in made}
            for i, node in enumerate(self.nodes)
        }
        order: list[int] = []
        pending = list(range(len(self.nodes)))
        done: set[str] = set()
        while pending:
            later = []
            for i in pending:
                if waiting[i] <= done:
                    order.append(i)
                    done.update(self.nodes[i].output)
                else:
                    later.append(i)
            if len(later) == len(pending):
                raise ModelError(f"the graph has a cycle through node '{self.names[later[0]]}'")
            pending = later
        return tuple(order)


def captured(node: onnx.NodeProto) -> tuple[str, ...]:
    """Names of outer tensors that the node's subgraphs (If, Loop, Scan bodies) read."""
    found: dict[str, None] = {}
    for body in bodies(node):
        inner = {i.name for i in body.input} | {t.name for t in body.initializer}
        inner |= {name for n in body.node for name in n.output}
        for n in body.node:
            found.update(dict.fromkeys(x for x in (*n.input, *captured(n)) if x and x not in inner))
        found.update(dict.fromkeys(o.name for o in body.output if o.name and o.name not in inner))
    return tuple(found)


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The subgraphs in a node's attributes."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """An attribute's value, or `default`. Strings come as str."""
    for a in node.attribute:
        if a.name == name:
            value = onnx.helper.get_attribute_value(a)
            return value.decode() if isinstance(value, bytes) else value
    return default


def constant_node_value(node: onnx.NodeProto) -> AnyArray | None:
    """The value of a Constant node in any of its spellings; None for strings."""
    for a in node.attribute:
        if a.name == "value":
            return numpy_helper.to_array(a.t)
        if a.name in ("value_float", "value_floats"):
            return np.asarray(onnx.helper.get_attribute_value(a), np.float32)
        if a.name in ("value_int", "value_ints"):
            return np.asarray(onnx.helper.get_attribute_value(a), np.int64)
        if a.name == "sparse_value":
            return dense_value(a.sparse_tensor)
    return None


def dense_value(sparse: onnx.SparseTensorProto) -> AnyArray:
    """The values of a sparse tensor in place, zeros elsewhere."""
    values, places = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    if places.ndim == 1:
        dense.reshape(-1)[places] = values
    else:
        dense[tuple(places.T)] = values
    return dense


def first_output(node: onnx.NodeProto) -> str:
    """The first output that is not left out."""
    return next(filter(None, node.output), "")


def is_standard(node: onnx.NodeProto) -> bool:
    """Whether the node's operator belongs to the ONNX standard."""
    return node.domain in ("", "ai.onnx")


def is_evaluated(node: onnx.NodeProto) -> bool:
    """Whether what a node makes of constants is a constant to us: standard operators, and onnxruntime's own spelling
    of quantized weights."""
    return is_standard(node) or (node.domain == "com.microsoft" and node.op_type in QUANTIZED_WEIGHTS)


def dims(value: onnx.ValueInfoProto) -> tuple[int | str, ...] | None:
    """Declared shape of a graph input or output: ints, names of symbolic dimensions ('' without a name), or None."""
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
        return None
    return tuple(
        d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else (d.dim_param or "") for d in kind.shape.dim
    )
