"""Reading interior tensors: which ones tell about a group, and running a model with them as outputs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from onnx import TensorProto, helper

from ..errors import ModelError
from ..model.graph import AnyArray, first_output
from ..model.light import Light, light
from ..model.session import Runtime, open_session, run
from ..model.shapes import PACKED
from ..trace.groups import Group
from ..trace.kept import Kept
from ..trace.labels import Shape
from ..trace.types import Trace

TAP_BYTES = 1 << 30
"""Tapped tensors of one model held at a time."""

SHAPE_SUFFIX = "//shape"


def run_taps(
    model: Light, names: Sequence[str], feed: Mapping[str, AnyArray], runtime: Runtime, optimize: bool = False
) -> dict[str, AnyArray]:
    """Run once, reading these tensors. Unless `optimize`, every node runs as written."""
    with open_session(light(model, names), runtime, optimize) as session:
        return run(session, names, feed)


def group_taps(trace: Trace, groups: Sequence[Group]) -> dict[str, list[int]]:
    """Tensor -> the groups whose silencing it shows, in topological order: outputs of members and consumers, and
    all graph outputs."""
    wanted: dict[str, list[int]] = {}
    for group in groups:
        for s in group.sources:
            wanted.setdefault(trace.sources[s].tensor, [])
        for node in group.consumers:
            wanted.setdefault(first_output(trace.graph.nodes[node]), []).append(group.id)
    for name in trace.graph.outputs:
        shaped = name in trace.shapes.shape  # not a sequence or a map
        if shaped and name in trace.graph.producer and name not in trace.constants.ahead:
            wanted.setdefault(name, [])
    place = {i: k for k, i in enumerate(trace.graph.order)}
    return {name: wanted[name] for name in sorted(wanted, key=lambda n: place[trace.graph.producer[n]])}


def chunks(trace: Trace, names: Sequence[str]) -> Iterator[list[str]]:
    """Names in pieces of at most TAP_BYTES."""
    chunk: list[str] = []
    size = 0
    for name in names:
        own = 4 * int(np.prod(trace.shapes.shape.get(name, (1,)), dtype=np.int64))
        if chunk and size + own > TAP_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(name)
        size += own
    if chunk:
        yield chunk


def wrong_shape(
    kept: Kept, original: Light, pruned: Light, feed: Mapping[str, AnyArray], runtime: Runtime
) -> tuple[str, Shape, Shape] | None:
    """The first tensor whose shape in the pruned model is not that of the original without what went: (name, that,
    actual). Both are run: sizes may depend on data (NonMaxSuppression), and inference may err."""
    made = {o for node in pruned.proto.graph.node for o in node.output if o}
    graph, ahead = kept.trace.graph, kept.trace.constants.ahead
    names = [n for n in kept.shapes() if n in made and n in graph.producer and n not in ahead]
    names = [n for n in names if kept.trace.shapes.dtype.get(n) not in PACKED]
    before, after = (_shapes(model, names, feed, runtime) for model in (original, pruned))
    for name in names:
        expected = list(before[name])
        for axis, stays in kept.changed_axes(name).items():
            expected[axis] = int(stays.sum())
        if tuple(expected) != after[name]:
            return name, tuple(expected), after[name]
    return None


def _shapes(model: Light, names: Sequence[str], feed: Mapping[str, AnyArray], runtime: Runtime) -> dict[str, Shape]:
    probed = light(model, [])
    for name in names:
        probed.proto.graph.node.append(helper.make_node("Shape", [name], [name + SHAPE_SUFFIX]))
        probed.proto.graph.output.append(helper.make_tensor_value_info(name + SHAPE_SUFFIX, TensorProto.INT64, None))
    with open_session(probed, runtime) as session:
        found = run(session, [n + SHAPE_SUFFIX for n in names], feed)
    return {n: tuple(int(s) for s in found[n + SHAPE_SUFFIX]) for n in names}


def failing_node(model: Light, feed: Mapping[str, AnyArray], runtime: Runtime) -> str:
    """The name (or first output) of the node at which onnxruntime refuses the model; '' where it does not say."""
    copy = light(model)
    names = {}
    for k, node in enumerate(copy.proto.graph.node):
        names[f"at-{k}-"] = node.name or next(filter(None, node.output), "")
        node.name = f"at-{k}-"
    try:
        with open_session(copy, runtime) as session:
            run(session, [o.name for o in model.proto.graph.output], feed)
    except ModelError as error:
        return next((names[m] for m in re.findall(r"at-\d+-", str(error.__cause__ or error))), "")
    return ""
