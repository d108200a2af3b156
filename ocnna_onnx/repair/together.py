"""A layer and the one in front of it as one problem: which pairs there are, and on which samples they are refitted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from ..calibrate.linear import features, matrix, out_positions, outputs, stored_weight
from ..calibrate.stream import workers
from ..model.constants import Constants
from ..model.graph import AnyArray, Graph, attribute
from ..model.shapes import Shapes
from ..trace.types import Trace
from .bends import MOST, bends_behind
from .frontier import Frontier
from .layers import Layer, layer_at
from .rectified import FLAT, Threshold
from .tandem import Part, Setting, Tandem, improved
from .windows import Windows

HELD = 1 << 24
"""Numbers of the larger of both feature matrices that are held at once; samples beyond are left out."""

ROWS = 1 << 12
"""Positions of the first layer that are worked on at once: they stay in the processor's cache."""

GROWTH = 4.0
"""Weights may grow by so much."""

LEAST = 16
"""Samples below which nothing is refitted in pairs."""

KINDS = frozenset("Relu LeakyRelu Clip BatchNormalization Identity".split())


def front_of(trace: Trace, graph: Graph, shapes: Shapes, constants: Constants, layer: Layer) -> Layer | None:
    """The Conv whose outputs this Conv alone reads, with nothing in between but what `bends` knows."""
    map_ = layer.map
    if map_.stored != "conv" or map_.groups != 1:
        return None
    name = map_.tensor
    for _ in range(MOST + 1):
        index = graph.producer.get(name)
        if index is None or name in graph.outputs or len(graph.consumers.get(name, ())) != 1:
            return None
        node = graph.nodes[index]
        if node.op_type == "Conv" and attribute(node, "group", 1) == 1:
            found = layer_at(trace, graph, shapes, constants, index)
            if isinstance(found, Layer) and found.map.groups == 1 and found.map.stored == "conv":
                return found
            return None
        if node.op_type != "Conv" and node.op_type not in KINDS:
            return None
        name = node.input[0]
    return None


@dataclass(frozen=True)
class Pair:
    """front: the layer in front. target: of the second layer, of samples by number. scale: what becomes of each of its
    outputs in the sum behind it, or None. begins: the Relu behind it, or None. shift: what the second layer's repair
    has put into its slot, [outputs]: where that lies behind the layer, its own output is without it."""

    front: Layer
    layer: Layer
    target: Callable[[npt.NDArray[np.int64]], AnyArray]
    scale: AnyArray | None
    begins: Threshold | None
    count: int
    shift: npt.NDArray[np.float64]


def refitted_together(
    student: Frontier, shapes: Shapes, constants: Constants, pair: Pair, late: npt.NDArray[np.bool_]
) -> tuple[dict[str, AnyArray], float]:
    """New values by name, and the share of the held-out error that is left; no values where held-out samples (`late`,
    bool [count]) see no gain."""
    front, layer = pair.front, pair.layer
    sizes = out_positions(front.map, student.held[front.map.tensor].shape)
    between = bends_behind(student, shapes, constants, front.map.output, layer.map.tensor, sizes)
    chosen = _chosen(student, pair, between[1], late) if between is not None else None
    if between is None or chosen is None:
        return {}, 1.0
    bends, sizes = between
    start, biases = _start(student, pair)
    outputs_ = start.second.shape[1]
    scale = pair.scale if pair.begins is None else pair.begins.scale
    weight = np.ones(outputs_, np.float32) if scale is None else np.abs(np.asarray(scale, np.float32).reshape(-1))
    rising = np.ones(outputs_, bool) if pair.begins is None else pair.begins.scale > 0
    # products of a few thousand rows: one BLAS thread each, and parts side by side
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(workers(student.runtime)) as pool:
        size = max(1, ROWS // prod(out_positions(front.map, student.held[front.map.tensor].shape)))
        seen, held_out = (
            list(pool.map(lambda k: _part(student, pair, sizes, k), np.array_split(part, -(-len(part) // size))))
            for part in chosen
        )
        if not all(np.isfinite(part.x).all() and np.isfinite(part.target).all() for part in seen):
            return {}, 1.0
        found, before, after = improved(start, seen, held_out, Setting(bends, weight, rising, biases, pool))
    return (_values(student, pair, start, found), after / before) if after < before else ({}, 1.0)


def _chosen(
    student: Frontier, pair: Pair, sizes: tuple[int, ...], late: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.int64], ...] | None:
    """Numbers of samples to fit on and to judge by."""
    shape = student.held[pair.front.map.tensor].shape
    a = prod(out_positions(pair.front.map, shape)) * (shape[1] * pair.front.map.taps + 1)
    b = prod(out_positions(pair.layer.map, (1, 0, *sizes))) * (
        student.weights[pair.layer.weight.name].shape[1] * pair.layer.map.taps + 1
    )
    c = 4 * prod(out_positions(pair.front.map, shape)) * student.weights[pair.layer.weight.name].shape[1]
    most = HELD // max(a, b, c)
    numbers = np.arange(pair.count)
    fit, judge = numbers[~late], numbers[late]
    if min(most, len(fit)) < LEAST or not len(judge):
        return None
    return _spread(fit, most), _spread(judge, max(LEAST, most // 4))


def _spread(numbers: npt.NDArray[np.int64], most: int) -> npt.NDArray[np.int64]:
    return numbers if len(numbers) <= most else numbers[np.linspace(0, len(numbers) - 1, most).astype(np.int64)]


def _start(student: Frontier, pair: Pair) -> tuple[Tandem, tuple[bool, bool]]:
    parts = []
    for layer in (pair.front, pair.layer):
        value = layer.weight.turned(student.weights[layer.weight.name])
        weight = matrix(layer.map, value)[0]
        bias = np.zeros(weight.shape[1]) + layer.offset
        if layer.slot is not None:
            bias = bias + layer.slot.bias(student.weights[layer.slot.name]).reshape(-1)
            if layer is pair.layer and not layer.slot.own:
                bias = bias + pair.shift
        parts.append((weight, bias))
    (w1, b1), (w2, b2) = parts
    channels = len(w2) // pair.layer.map.taps
    turned = w2.reshape(channels, -1, w2.shape[1]).transpose(1, 0, 2).reshape(w2.shape)  # (tap, channel)
    made = [np.concatenate([w, b[None]]).astype(np.float32) for w, b in ((w1, b1), (turned, b2))]
    return Tandem(*made), (pair.front.slot is not None, pair.layer.slot is not None)


def _part(student: Frontier, pair: Pair, sizes: tuple[int, ...], numbers: npt.NDArray[np.int64]) -> Part:
    front, layer, begins = pair.front.map, pair.layer.map, pair.begins
    x = np.asarray(student.held[front.tensor][numbers], np.float32)
    seen = features(front, x)[0]
    seen = np.concatenate([seen, np.ones((len(seen), 1), np.float32)], axis=1)
    wanted = pair.target(numbers)
    target = np.ascontiguousarray(outputs(layer, wanted)[0], np.float32)
    windows = Windows.of(layer, (len(x), 1, *sizes))
    if begins is None:
        return Part(seen, target, None, None, windows)
    added = begins.shift.reshape(1, -1)
    if begins.stream is not None:
        added = added + outputs(layer, np.asarray(begins.stream[numbers], np.float32))[0]
    usable = np.abs(begins.scale) > FLAT
    starts = np.asarray(-added / np.where(usable, begins.scale, 1), np.float32)
    starts = np.broadcast_to(starts, target.shape)
    return Part(seen, target, starts, (begins.scale * target + added < 0) & usable, windows)


def _values(student: Frontier, pair: Pair, start: Tandem, found: Tandem) -> dict[str, AnyArray]:
    values: dict[str, AnyArray] = {}
    taps = pair.layer.map.taps
    for layer, old, new, k in (
        (pair.front, start.first, found.first, 1),
        (pair.layer, start.second, found.second, taps),
    ):
        weight = new[:-1].astype(np.float64)
        lying = weight.reshape(k, -1, weight.shape[1]).transpose(1, 0, 2).reshape(1, *weight.shape)
        name = layer.weight.name
        like = layer.weight.turned(student.weights[name])
        with np.errstate(over="ignore"):  # fp16
            values[name] = np.ascontiguousarray(layer.weight.turned(stored_weight(layer.map, lying, like)))
        if layer.slot is not None:
            shift = (new[-1] - old[-1]).astype(np.float64)
            with np.errstate(over="ignore"):  # fp16
                values[layer.slot.name] = layer.slot.moved(student.weights[layer.slot.name], shift)
        if np.linalg.norm(new[:-1]) > GROWTH * np.linalg.norm(old[:-1]):
            return {}  # leans on noise
    return values if all(np.isfinite(v).all() for v in values.values()) else {}


__all__: Sequence[str] = ["Pair", "front_of", "refitted_together"]
