"""Concrete shapes and types of every tensor at a probe shape: by inference where that suffices, else by running."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..errors import ModelError
from .constants import Constants
from .graph import AnyArray, Graph, dims
from .light import light, outline
from .probes import Shape, input_shapes, other_shapes
from .session import Runtime, open_session, run
from .twin import bfloat16_tensors, fed_type, has_bfloat16

SMALL = 4096
"""Initializers up to this many elements keep their values for inference: shapes, axes, sizes are among them."""

QUICK, ROUNDS = 2, 6
"""Inference and evaluation of shape arithmetic alternate this often before the model is run instead, and where it
cannot be run."""

SEQUENCE_OPS = frozenset(
    "SequenceConstruct SequenceEmpty SequenceInsert SequenceErase SplitToSequence SequenceMap Optional ZipMap".split()
)


PACKED = frozenset((TensorProto.INT4, TensorProto.UINT4, TensorProto.INT2, TensorProto.UINT2, TensorProto.FLOAT4E2M1))
"""Types of which onnxruntime cannot tell the shape."""


@dataclass(frozen=True)
class Shapes:
    """Shapes at the probe.

    shape, dtype: tensor -> shape, and onnx element type. dynamic: tensor -> the axes whose size follows a symbolic
    dimension. feeds: input -> probe shape. batch: how many samples one run at the probe takes.
    second: shapes at another probe, where symbolic dimensions have other sizes; None where there are none.
    """

    shape: Mapping[str, Shape]
    dtype: Mapping[str, int]
    dynamic: Mapping[str, frozenset[int]]
    feeds: Mapping[str, Shape]
    batch: int
    second: Mapping[str, Shape] | None = None


def probe(
    graph: Graph, given: Mapping[str, Shape], runtime: Runtime, values: Mapping[str, AnyArray] | None = None
) -> Shapes:
    """Shapes of all tensors. given: input -> shape for inputs with symbolic dimensions (a value ≤ 0 keeps our guess).
    values: input -> samples for nets that do not run on zeros.

    Raises ShapeNeeded where a symbolic dimension cannot be guessed, UsageError where `given` does not fit, ModelError
    where shapes can only be found by running the model, and it does not run.
    """
    first = input_shapes(graph, given)
    shape, dtype = _all_shapes(graph, first, runtime, values or {})
    dynamic: dict[str, frozenset[int]] = {}
    other: dict[str, Shape] | None = None
    for second in other_shapes(graph, first):
        try:  # a net may accept one size only, or one but for the batch
            other = _all_shapes(graph, second, runtime, values or {})[0]
            break
        except ModelError:
            other = {}
    if other is not None:
        for name, size in shape.items():
            peer = other.get(name, size)
            axes = range(len(size)) if len(peer) != len(size) else (a for a in range(len(size)) if peer[a] != size[a])
            dynamic[name] = frozenset(axes)
    return Shapes(shape, dtype, dynamic, first, _batch(graph, first, shape), other)


def _batch(graph: Graph, feeds: Mapping[str, Shape], shape: Mapping[str, Shape]) -> int:
    """How many samples one run at the probe takes: the symbolic axis 0, or a fixed one that all outputs share."""
    for value in graph.inputs:
        declared = dims(value)
        if (not declared or isinstance(declared[0], str)) and feeds[value.name]:
            return feeds[value.name][0]
    sizes = {feeds[v.name][0] for v in graph.inputs if feeds[v.name]}
    sizes |= {shape[name][0] for name in graph.outputs if shape.get(name)}
    return max(sizes) or 1 if len(sizes) == 1 else 1


def _all_shapes(
    graph: Graph, feeds: Mapping[str, Shape], runtime: Runtime, values: Mapping[str, AnyArray]
) -> tuple[dict[str, Shape], dict[str, int]]:
    shape, dtype = _deduced(graph, feeds, runtime, QUICK)
    if not _missing(graph, shape, dtype):
        return shape, dtype
    try:
        ran_shape, ran_dtype = _executed(graph, feeds, runtime, values)
    except ModelError:
        shape, dtype = _deduced(graph, feeds, runtime, ROUNDS)
        if _missing(graph, shape, dtype):
            raise
        return shape, dtype
    return {**shape, **ran_shape}, {**dtype, **ran_dtype}


def _missing(graph: Graph, shape: Mapping[str, Shape], dtype: Mapping[str, int]) -> list[str]:
    """Tensors without a shape, besides those that are known ahead."""
    lacking = [
        n for node in graph.nodes if node.op_type not in SEQUENCE_OPS for n in node.output if n and n not in shape
    ]
    static = Constants(graph, shape, dtype=dtype) if lacking else None
    return [n for n in lacking if static is not None and n not in static.ahead]


def _deduced(
    graph: Graph, feeds: Mapping[str, Shape], runtime: Runtime, rounds: int
) -> tuple[dict[str, Shape], dict[str, int]]:
    """Shapes by inference. Where it stops at shape arithmetic, the arithmetic is evaluated and inference goes on."""
    known: dict[str, AnyArray] = {}
    shape, dtype = _inferred(graph, feeds, known)
    for _ in range(rounds):
        if not _missing(graph, shape, dtype):
            break
        found = Constants(graph, shape, runtime, None, dtype).computed(SMALL)
        if found.keys() <= known.keys():
            break
        known = found
        shape, dtype = _inferred(graph, feeds, known)
    return _with_constants(graph, shape, dtype, runtime)


def _with_constants(
    graph: Graph, shape: Mapping[str, Shape], dtype: Mapping[str, int], runtime: Runtime
) -> tuple[dict[str, Shape], dict[str, int]]:
    """Where inference does not see through what makes a constant, its value tells."""
    lacking = [o for node in graph.nodes for o in node.output if o in graph.consumers and o not in shape]
    constants = Constants(graph, shape, runtime, None, dtype) if lacking else None
    values = {n: constants.value(n) for n in lacking if constants is not None and n in constants.ahead}
    known = {n: v for n, v in values.items() if v is not None}
    types = {n: helper.np_dtype_to_tensor_dtype(v.dtype) for n, v in known.items()}
    return {**{n: v.shape for n, v in known.items()}, **shape}, {**types, **dtype}


def skeleton(graph: Graph, feeds: Mapping[str, Shape], known: Mapping[str, AnyArray]) -> onnx.ModelProto:
    """The graph with concrete inputs, without the bytes of large weights and without stale value_info; tensors in
    `known` become initializers."""
    model = onnx.ModelProto(ir_version=graph.proto.ir_version)
    model.opset_import.extend(graph.proto.opset_import)
    model.functions.extend(graph.proto.functions)
    model.graph.name = graph.proto.graph.name
    model.graph.node.extend(n for n in graph.nodes if not any(o in known for o in n.output))
    model.graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in known.items())
    for value in graph.proto.graph.input:
        concrete = model.graph.input.add()
        concrete.CopyFrom(value)
        if value.name in feeds:
            concrete.type.tensor_type.shape.ClearField("dim")
            for size in feeds[value.name]:
                concrete.type.tensor_type.shape.dim.add(dim_value=size)
    for value in graph.proto.graph.output:
        out = model.graph.output.add()
        out.name = value.name
        if value.type.HasField("tensor_type"):
            out.type.tensor_type.elem_type = value.type.tensor_type.elem_type
    for tensor in graph.proto.graph.initializer:
        if int(np.prod(tensor.dims, dtype=np.int64)) <= SMALL:
            model.graph.initializer.append(tensor)
        else:
            outline(model.graph, tensor)
    return model


def _inferred(
    graph: Graph, feeds: Mapping[str, Shape], known: Mapping[str, AnyArray]
) -> tuple[dict[str, Shape], dict[str, int]]:
    """What onnx's shape inference finds; nothing where it refuses the model."""
    light = skeleton(graph, feeds, known)
    shape: dict[str, Shape] = {t.name: tuple(t.dims) for t in light.graph.initializer}
    dtype = {t.name: t.data_type for t in light.graph.initializer}
    try:
        inferred = onnx.shape_inference.infer_shapes(light, data_prop=True)
    except Exception:  # inference raises plain RuntimeErrors on what it does not know; running decides
        return shape, dtype
    for value in (*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input):
        kind = value.type.tensor_type
        if value.type.HasField("tensor_type") and kind.HasField("shape"):
            if all(d.HasField("dim_value") for d in kind.shape.dim):
                shape[value.name] = tuple(d.dim_value for d in kind.shape.dim)
                dtype[value.name] = kind.elem_type
    return shape, dtype


def _executed(
    graph: Graph, feeds: Mapping[str, Shape], runtime: Runtime, values: Mapping[str, AnyArray]
) -> tuple[dict[str, Shape], dict[str, int]]:
    """Shapes of every tensor by running the model once (on `values`; on zeros where there are none of that size), with
    a Shape node on every tensor."""
    names = [n for node in graph.nodes if node.op_type not in SEQUENCE_OPS for n in node.output if n]
    dtype = _types(graph, names, runtime)
    names = [n for n in names if n in dtype and dtype[n] not in PACKED]
    if not names:
        return {}, dtype
    model = light(graph.model, [])
    for name in names:
        model.proto.graph.node.append(helper.make_node("Shape", [name], [_probe_name(name)]))
        model.proto.graph.output.append(helper.make_tensor_value_info(_probe_name(name), TensorProto.INT64, None))
    feed = {
        v.name: _probe_value(values.get(v.name), feeds[v.name], fed_type(v.type.tensor_type.elem_type))
        for v in graph.inputs
    }
    with open_session(model, runtime) as session:
        try:
            found = run(session, [_probe_name(n) for n in names], feed)
        except ModelError as error:
            text = "zeros" if not values else "the first sample"
            sizes = ", ".join(f"{n} [{','.join(map(str, s))}]" for n, s in feeds.items())
            raise ModelError(
                f"shapes can only be found by running the model once, and on {text} at {sizes} it fails: {error}; "
                "give it inputs that it runs on: --data samples.npz, and --input-shapes where the sizes are wrong"
            ) from error
    return {n: tuple(int(s) for s in found[_probe_name(n)]) for n in names}, dtype


def _probe_value(samples: AnyArray | None, shape: Shape, dtype: np.dtype[np.generic]) -> AnyArray:
    """An input at the probe shape: the first samples (repeated where there are too few), else zeros."""
    if samples is None or samples.shape[1:] != shape[1:] or samples.ndim != len(shape) or not samples.size:
        return np.zeros(shape, dtype)
    return samples[np.arange(shape[0]) % len(samples)] if shape else samples


def _types(graph: Graph, names: list[str], runtime: Runtime) -> dict[str, int]:
    with open_session(light(graph.model, names), runtime) as session:
        found = {o.name: onnx_type(o.type) for o in session.get_outputs() if o.type.startswith("tensor(")}
    if has_bfloat16(graph.proto):  # the session was the twin's
        halved = bfloat16_tensors(skeleton(graph, {}, {}))
        found.update({n: TensorProto.BFLOAT16 for n in found if n in halved})
    return found


def onnx_type(text: str) -> int:
    """onnxruntime's spelling of a type, as 'tensor(float16)', to the onnx element type."""
    inner = text[len("tensor(") : -1]
    return int(TensorProto.DataType.Value({"float": "FLOAT"}.get(inner, inner.upper())))


def _probe_name(tensor: str) -> str:
    return f"{tensor}//shape"
