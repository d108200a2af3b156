"""New values for weights of a model, everything else byte by byte as it was."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..model.graph import AnyArray
from ..model.light import without_initializers


def with_values(model: onnx.ModelProto, values: Mapping[str, AnyArray]) -> onnx.ModelProto:
    """A copy of the model in which these initializers (or outputs of Constant nodes) have other values, of the same
    shapes and types."""
    copy = without_initializers(model)
    for tensor in model.graph.initializer:
        new = copy.graph.initializer.add()
        if tensor.name in values:
            new.CopyFrom(_tensor(values[tensor.name], tensor))
        else:
            new.CopyFrom(tensor)
    for node in copy.graph.node:
        if node.op_type == "Constant" and node.output[0] in values:
            array = values[node.output[0]]
            for attribute in node.attribute:
                if attribute.name == "value":
                    attribute.t.CopyFrom(_tensor(array, attribute.t))
                elif attribute.name == "value_floats":
                    attribute.CopyFrom(helper.make_attribute("value_floats", array.tolist()))
                elif attribute.name == "sparse_value":
                    attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(array)))
    return copy


def _tensor(value: AnyArray, like: onnx.TensorProto) -> onnx.TensorProto:
    found = numpy_helper.from_array(np.ascontiguousarray(value), like.name)
    found.doc_string = like.doc_string
    found.metadata_props.extend(like.metadata_props)
    return found
