"""A proof for one consumer alone, where the inputs at hand cannot tell: its channels are dead, or nearly, all over.

Numbers of our own take the place of what arrives at the consumer: the original gets them as they are, and with the
removed channels silenced; the pruned model gets those of the kept channels. The last two must agree, and differ from
the first.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..model.graph import AnyArray
from ..model.session import Runtime
from ..trace.kept import Kept
from .compare import relative_error
from .taps import run_taps


def local_error(
    kept: Kept, pruned: onnx.ModelProto, node: int, i: int, feed: Mapping[str, AnyArray], runtime: Runtime, scale: float
) -> tuple[float, float, float]:
    """(relative error of the pruned against the silenced consumer, what silencing changes, what the kept channels
    change): of one node, for one input.

    scale: of the numbers put in, for consumers whose weights are tiny.
    """
    graph = kept.trace.graph
    tensor, output = graph.nodes[node].input[i], graph.nodes[node].output[0]
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kept.trace.shapes.dtype[tensor]))
    stays = [kept.along(tensor, axis) for axis in range(len(kept.trace.shapes.shape[tensor]))]
    labelled = {axis for x in kept.trace.labels[tensor] for axis in x.axes}
    shape = [len(s) if axis in labelled else 1 for axis, s in enumerate(stays)]
    operand = kept.trace.masks[(node, i)]
    silence = None if operand is None else graph.nodes[node].input[operand]  # a zero point, possibly computed
    neutral: AnyArray | None = np.zeros(1, dtype)
    if silence is not None:
        neutral = kept.trace.constants.value(silence)
    if neutral is None and silence is not None:
        neutral = run_taps(graph.proto, [silence], feed, runtime)[silence]
    assert neutral is not None
    rng = np.random.default_rng(0)
    if dtype.kind in "iu":
        noise = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    else:
        noise = (rng.uniform(1, 10, shape) * scale).astype(dtype)
    mask = np.ones([1] * len(shape), bool)
    for axis in labelled:
        mask = mask & stays[axis].reshape([-1 if a == axis else 1 for a in range(len(shape))])
    few = noise[np.ix_(*(np.flatnonzero(s) if a in labelled else [0] for a, s in enumerate(stays)))]

    def outcome(model: onnx.ModelProto, values: AnyArray) -> AnyArray:
        return run_taps(_injected(model, output, i, values, graph.opset), [output], feed, runtime)[output]

    plain, silenced = outcome(graph.proto, noise), outcome(graph.proto, np.where(mask, noise, neutral).astype(dtype))
    small = outcome(pruned, few)
    error = relative_error(small, silenced[np.ix_(*kept.indices(output))], (1, -1))
    nothing = outcome(graph.proto, np.broadcast_to(neutral, noise.shape))
    return error, relative_error(silenced, plain, (1,)), relative_error(nothing, silenced, (1,))


def _injected(model: onnx.ModelProto, output: str, i: int, values: AnyArray, opset: int) -> onnx.ModelProto:
    """The model with `values`, broadcast to its shape, in place of what arrives at input i of the node of `output`."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    place, node = next((k, n) for k, n in enumerate(copy.graph.node) if output in n.output)
    x, base = node.input[i], f"{output}//{i}//injected"
    if opset >= 9:
        constants = {f"{base}//never": np.zeros(1, bool), f"{base}//values": values}
        nodes = [helper.make_node("Where", [f"{base}//never", x, f"{base}//values"], [base])]
    else:
        constants = {f"{base}//zero": np.zeros(1, values.dtype), f"{base}//values": values}
        nodes = [
            helper.make_node("Mul", [x, f"{base}//zero"], [f"{base}//nothing"]),
            helper.make_node("Add", [f"{base}//nothing", f"{base}//values"], [base]),
        ]
    node.input[i] = base
    for name, array in constants.items():
        copy.graph.initializer.append(numpy_helper.from_array(array, name))
        if copy.ir_version < 4:
            copy.graph.input.append(
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            )
    for k, extra in enumerate(nodes):
        copy.graph.node.insert(place + k, extra)
    return copy
