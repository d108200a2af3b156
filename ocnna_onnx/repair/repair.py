"""Least squares from the original's layers to the pruned net's, in topological order (METHODS.md §6): each layer is
fitted on what reaches it now, after all repairs in front of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import prod

import numpy as np
import numpy.typing as npt
import onnx
from threadpoolctl import threadpool_limits

from ..calibrate.linear import Linear, features, linear, matrix, out_positions, outputs, stored_weight
from ..calibrate.sampling import positions_of, positions_per_image
from ..calibrate.stream import batch_size, workers
from ..data.samples import Samples
from ..model.constants import Constants
from ..model.graph import AnyArray, Graph
from ..model.light import light
from ..model.session import Runtime
from ..model.shapes import Shapes
from ..rewrite.rewrite import Rewritten
from ..trace.types import Trace
from .frontier import Frontier, frontier
from .rectified import Threshold, norm, predicted, threshold
from .slots import bias_slot
from .solve import Fit, Pairs, fit, pilot

FloatArray = npt.NDArray[np.float64]

Target = Callable[[slice], AnyArray]
"""What a layer's outputs should be, of a slice of samples: [samples, …]."""

HELD_OUT = 8
"""One sample of so many chooses the shrinkage, and says whether a layer's repair helps."""

WORK = 2e11
ROWS = 1 << 13
"""Rows of features at once."""


@dataclass
class Repaired:
    """values: initializer of the pruned model -> its new value. layers: node -> (error before, after), relative, on
    held-out samples. notes: what was left alone, and why."""

    values: dict[str, AnyArray] = field(default_factory=dict)
    layers: dict[str, tuple[float, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def repair(
    trace: Trace,
    rewritten: Rewritten,
    samples: Samples,
    runtime: Runtime,
    memory: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Repaired:
    """New weights for the pruned model. samples: the original's outputs on them are the targets."""
    small = light(rewritten.model)
    pruned_graph = Graph(small.proto, small.weights)
    shapes = Shapes(rewritten.shapes, trace.shapes.dtype, trace.shapes.dynamic, trace.shapes.feeds, trace.shapes.batch)
    constants = Constants(pruned_graph, rewritten.shapes, runtime, None, trace.shapes.dtype)
    batch = batch_size(trace.shapes, samples)
    teacher = frontier(trace.graph.model, samples, batch, runtime, memory)
    student = frontier(small, samples, batch, runtime, memory)
    found = Repaired()
    order = [i for i in pruned_graph.order if _is_layer(pruned_graph, shapes, constants, i)]
    touched = _touched(trace, rewritten, pruned_graph)
    for k, node in enumerate(order):
        progress(k, len(order))
        if node in touched:
            _repair_layer(trace, rewritten, student, teacher, node, shapes, constants, found)
    progress(len(order), len(order))
    return found


def _is_layer(graph: Graph, shapes: Shapes, constants: Constants, node: int) -> bool:
    map_ = linear(graph, shapes, constants, node)
    return (
        map_ is not None and map_.stored != "transposed" and graph.nodes[node].input[map_.weight] in graph.initializers
    )


def _touched(trace: Trace, rewritten: Rewritten, graph: Graph) -> set[int]:
    """Nodes of the pruned graph whose kept outputs differ from the original's."""
    found: set[int] = set()
    changed: set[str] = set()
    for i in graph.order:
        node = graph.nodes[i]
        inner = any(n in changed or (n in trace.labels and rewritten.kept.changed(n)) for n in node.input if n)
        contracted = (trace.graph.producer.get(node.output[0], -1), 0) in trace.masks or inner
        if inner and contracted:
            found.add(i)
            changed.update(o for o in node.output if o)
    return found


def _repair_layer(
    trace: Trace,
    rewritten: Rewritten,
    student: Frontier,
    teacher: Frontier,
    node: int,
    shapes: Shapes,
    constants: Constants,
    found: Repaired,
) -> None:
    graph = student.graph
    map_ = linear(graph, shapes, constants, node)
    assert map_ is not None
    name = graph.names[node]
    weight_name = graph.nodes[node].input[map_.weight]
    if len(graph.consumers[weight_name]) > 1:
        found.notes.append(f"node '{name}' shares its weight with others: left as it is")
        return
    slot = bias_slot(graph, map_)
    target = _target(trace, rewritten, student, teacher, node, map_)
    student.reach([map_.tensor])
    student.release()
    x = student.held[map_.tensor]
    value = student.weights[weight_name]
    weight = matrix(map_, value)
    old_bias = np.zeros((map_.groups, weight.shape[2]))
    if slot is not None:
        old_bias = (slot.sign * student.weights[slot.name].astype(np.float64)).reshape(map_.groups, -1)
    seen, held_out = _pairs(map_, x, target, weight.shape[1], slot is not None, student.runtime)
    with threadpool_limits(1, "blas"):
        result = fit(seen, held_out if held_out.rows else seen, weight, old_bias)
    _note(found, name, result, held_out)
    result = _rectified(map_, x, target, weight, old_bias, slot is not None, student, result)
    new = stored_weight(map_, result.weight, value)
    if not np.isfinite(new).all():
        return
    student.weights[weight_name] = found.values[weight_name] = new
    if slot is not None:
        old = student.weights[slot.name]
        bias = (slot.sign * result.bias).reshape(old.shape).astype(old.dtype)
        student.weights[slot.name] = found.values[slot.name] = bias


def _rectified(
    map_: Linear,
    x: AnyArray,
    target: Target,
    weight: FloatArray,
    bias: FloatArray,
    intercept: bool,
    student: Frontier,
    first: Fit,
) -> Fit:
    """In front of a Relu once more, with targets that ask for nothing where it cuts off: one round takes most of what
    there is to gain."""
    begins = threshold(student, map_)
    if begins is None or first.ridge is None:
        return first
    seen, held_out = _pairs(map_, x, target, weight.shape[1], intercept, student.runtime, (begins, first))
    with threadpool_limits(1, "blas"):
        second = fit(seen, held_out if held_out.rows else seen, weight, bias)
    return second if second.ridge is not None else first


def _pairs(
    map_: Linear,
    x: AnyArray,
    target: Target,
    width: int,
    intercept: bool,
    runtime: Runtime,
    relax: tuple[Threshold, Fit] | None = None,
) -> tuple[Pairs, Pairs]:
    """Moments of most samples, and of those that are held out. relax: see `rectified`, and the fit so far."""
    places = prod(out_positions(map_, x.shape))
    each = positions_per_image(len(x), places, width, WORK)
    step = max(1, ROWS // (places if each is None else each))

    def rows(start: int) -> tuple[AnyArray, AnyArray, npt.NDArray[np.bool_]]:
        part = slice(start, min(start + step, len(x)))
        at = None if each is None else positions_of(start, part.stop - start, places, each, 0)
        y = target(part)
        inputs = features(map_, np.asarray(x[part], np.float32), at)
        late = np.arange(part.start, part.stop) % HELD_OUT == HELD_OUT - 1
        wanted = outputs(map_, y, at)
        if relax is not None:
            begins, so_far = relax
            wanted = begins.relaxed(wanted, predicted(inputs, so_far.weight, so_far.bias), part, at)
        return inputs, wanted, np.repeat(late, inputs.shape[1] // len(y))

    first_x, first_y, _ = rows(0)
    empty = pilot(first_x, first_y, intercept)

    def moments(start: int) -> tuple[Pairs, Pairs]:
        inputs, wanted, late = rows(start)
        both = [empty.of(inputs[:, m], wanted[:, m]) if m.any() else empty for m in (~late, late)]
        return both[0], both[1]

    seen, held_out = empty, empty
    # products of a few thousand rows: one BLAS thread each, and chunks side by side
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(workers(runtime)) as pool:
        for a, b in pool.map(moments, range(0, len(x), step)):
            seen, held_out = seen.plus(a), held_out.plus(b)
    return seen, held_out


def _note(found: Repaired, name: str, result: Fit, held_out: Pairs) -> None:
    my = held_out.y / held_out.rows
    energy = float((held_out.yy / held_out.rows - my**2).sum())
    found.layers[name] = (result.before / max(energy, 1e-30), result.after / max(energy, 1e-30))


def _target(
    trace: Trace, rewritten: Rewritten, student: Frontier, teacher: Frontier, node: int, map_: Linear
) -> Target:
    """The original's output on the kept filters; for the last layer of a residual branch what is missing in the sum."""
    kept = rewritten.kept
    graph = student.graph
    total = _residual(graph, map_)
    if total is not None:
        name, other, between = total
        behind = _ancestors(graph, other)
        if map_.node not in behind and name in trace.graph.producer:
            teacher.reach([name])
            student.reach([other])
            teacher.release([name])
            student.release([other, map_.tensor])
            whole, stream = teacher.held[name], student.held[other]
            if between is None:
                return lambda part: kept.slice(name, np.asarray(whole[part], np.float32)) - stream[part]
            scale, shift = norm(student, between)
            usable = np.abs(scale) > 1e-6
            teacher.reach([map_.output])
            plain = teacher.held[map_.output]

            def values(part: slice) -> AnyArray:
                missing = kept.slice(name, np.asarray(whole[part], np.float32)) - stream[part]
                form = (1, -1, *[1] * (missing.ndim - 2))
                back = (missing - shift.reshape(form)) / np.where(usable, scale, 1).reshape(form)
                direct = kept.slice(map_.output, np.asarray(plain[part], np.float32))
                return np.asarray(np.where(usable.reshape(form), back, direct), np.float32)

            return values
    teacher.reach([map_.output])
    teacher.release([map_.output])
    held = teacher.held[map_.output]
    return lambda part: kept.slice(map_.output, np.asarray(held[part], np.float32))


def _residual(graph: Graph, map_: Linear) -> tuple[str, str, int | None] | None:
    """(sum, the other summand, BatchNormalization in between) where the layer's output only goes into an Add."""
    name, between = map_.output, None
    for _ in range(2):
        readers = graph.consumers.get(name, [])
        if len(readers) != 1 or name in graph.outputs:
            return None
        index, _ = readers[0]
        reader = graph.nodes[index]
        if reader.op_type == "BatchNormalization" and between is None and map_.out_axis == 1:
            between, name = index, reader.output[0]
            continue
        if reader.op_type == "Add":
            other = reader.input[1] if reader.input[0] == name else reader.input[0]
            if other in graph.producer and other != name:
                return reader.output[0], other, between
        return None
    return None


def _ancestors(graph: Graph, name: str) -> set[int]:
    found: set[int] = set()
    stack = [name]
    while stack:
        node = graph.producer.get(stack.pop())
        if node is not None and node not in found:
            found.add(node)
            stack.extend(n for n in graph.nodes[node].input if n)
    return found


def with_values(model: onnx.ModelProto, values: dict[str, AnyArray]) -> onnx.ModelProto:
    """A copy of the model in which these initializers have other values."""
    from onnx import numpy_helper

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name in values:
            doc = tensor.doc_string
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))
            tensor.doc_string = doc
    return copy


__all__: Sequence[str] = ["Repaired", "repair", "with_values"]
