"""A model apart from its weights: sessions are opened many times, and large weights are handed over without a copy of
their bytes in a protobuf, which also has a limit of 2 GB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

if TYPE_CHECKING:
    from .graph import AnyArray

INLINE = 1024
"""Initializers up to this many elements stay in the protobuf: shapes, axes, scales are among them."""

HANDED_OVER = frozenset(
    {
        TensorProto.FLOAT,
        TensorProto.FLOAT16,
        TensorProto.DOUBLE,
        TensorProto.INT8,
        TensorProto.UINT8,
        TensorProto.INT32,
    }
)


@dataclass(frozen=True)
class Light:
    """proto: the model, in which large initializers may have a name, a type and a shape only. weights: their values."""

    proto: onnx.ModelProto
    weights: Mapping[str, AnyArray]

    def whole(self) -> onnx.ModelProto:
        """A copy as one protobuf, with its weights."""
        copy = without_initializers(self.proto)
        for tensor in self.proto.graph.initializer:
            copy.graph.initializer.append(self.filled(tensor))
        return copy

    def filled(self, tensor: onnx.TensorProto) -> onnx.TensorProto:
        """An initializer with its value."""
        if tensor.name not in self.weights:
            return tensor
        found = numpy_helper.from_array(np.ascontiguousarray(self.weights[tensor.name]), tensor.name)
        found.doc_string = tensor.doc_string
        found.metadata_props.extend(tensor.metadata_props)
        return found


def placed(model: Light, values: Mapping[str, AnyArray]) -> Light:
    """The same net with other values of initializers; small ones are written into its proto, which must be free to be
    edited where there are any."""
    for tensor in model.proto.graph.initializer:
        if tensor.name in values and tensor.name not in model.weights:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values[tensor.name]), tensor.name))
    return Light(model.proto, {n: values.get(n, a) for n, a in model.weights.items()})


def light(model: onnx.ModelProto | Light, outputs: Sequence[str] | None = None) -> Light:
    """The model without the bytes of its weights. outputs: the tensors it is to return, instead of its own outputs.

    Everything but the weights is a copy, free to be edited.
    """
    source, weights = (model.proto, dict(model.weights)) if isinstance(model, Light) else (model, {})
    proto = without_initializers(source)
    for tensor in source.graph.initializer:
        if tensor.name in weights or not is_apart(tensor):
            proto.graph.initializer.append(tensor)
        else:
            weights[tensor.name] = numpy_helper.to_array(tensor)
            outline(proto.graph, tensor)
    if outputs is not None:
        known = {o.name: o for o in source.graph.output}
        del proto.graph.output[:]
        proto.graph.output.extend(known.get(n, onnx.ValueInfoProto(name=n)) for n in outputs)
    return Light(proto, weights)


def without_initializers(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of everything else."""
    copy = onnx.ModelProto()
    for target, source, apart in ((copy, model, "graph"), (copy.graph, model.graph, "initializer")):
        for field, value in source.ListFields():
            if field.name == apart:
                continue
            if isinstance(value, str | bytes | int | float):
                setattr(target, field.name, value)
            elif hasattr(value, "CopyFrom"):
                getattr(target, field.name).CopyFrom(value)
            else:
                getattr(target, field.name).extend(value)
    return copy


def is_apart(tensor: onnx.TensorProto) -> bool:
    """Whether an initializer is large, and of a type that can be handed over."""
    return prod(tensor.dims) > INLINE and tensor.data_type in HANDED_OVER


def outline(graph: onnx.GraphProto, tensor: onnx.TensorProto) -> None:
    """Add an initializer's name, type and shape to a graph; its bytes are elsewhere."""
    found = graph.initializer.add()
    found.name, found.data_type = tensor.name, tensor.data_type
    found.dims.extend(tensor.dims)
    found.data_location = TensorProto.EXTERNAL
    found.external_data.add(key="location", value="elsewhere")
