"""Wanda (Sun et al. 2023, arXiv 2306.11695) for whole channels: weights that read a channel, times its norm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..model.einsum import read_equation
from ..model.graph import AnyArray, attribute
from ..trace import labels as lb
from ..trace.labels import IntArray
from ..trace.types import Cut, Source, Trace
from .reading import in_numbers
from .request import Criterion, Options, Request, Subject, from_outputs
from .slices import KERNELS, MATRICES, is_weight, weight_value

FloatArray = npt.NDArray[np.float64]

CHANNEL = 1


@dataclass(frozen=True)
class Reader:
    """A node that reads channels along `axis` of `tensor` with weights. strength: Σ |w| over the weights that each
    position meets; classes: the position's class (of `trace.pairing.base`), both [positions]."""

    tensor: str
    axis: int
    strength: FloatArray
    classes: IntArray


def energy(maps: AnyArray) -> FloatArray:
    """Σ x² of each map, [images, channels]."""
    return np.asarray(np.einsum("nchw,nchw->nc", maps, maps, dtype=np.float64))


def readers(trace: Trace, wanted: IntArray) -> Iterator[Reader]:
    """All nodes that read channels of the classes `wanted` with constant weights: convolutions (a depthwise one, too:
    it multiplies the channel by its filter), Gemm and MatMul from either side, Einsum, recurrent layers."""
    for node, op in enumerate(n.op_type for n in trace.graph.nodes):
        if op in KERNELS:
            yield from _convolution(trace, node, wanted)
    made = {(s.node, u) for s in trace.sources for u in s.units.tolist()}
    for cut in trace.cuts:
        op = trace.graph.nodes[cut.node].op_type
        own = any((cut.node, u) in made for u in cut.labels.units[:1].tolist())
        if op in KERNELS or own or not is_weight(trace, cut):
            continue
        classes = trace.pairing.base[lb.vector(cut.labels, cut.along)]
        place = _place(trace, cut) if np.isin(classes, wanted).any() else None
        if place is not None:
            weight = np.abs(weight_value(trace, trace.graph.nodes[cut.node], cut.input))
            strength = np.moveaxis(weight, cut.axis, 0).reshape(weight.shape[cut.axis], -1).sum(axis=1)
            yield Reader(*place, strength, classes)


def _convolution(trace: Trace, index: int, wanted: IntArray) -> Iterator[Reader]:
    """Conv W[O, C/g, …] and ConvTranspose W[C, O/g, …]."""
    node = trace.graph.nodes[index]
    tensor, i = node.input[0], KERNELS[node.op_type]
    rank = len(trace.shapes.shape.get(tensor, ()))
    axis = rank - 1 if attribute(node, "channels_last", 0) else CHANNEL
    found = [x for x in trace.labels.get(tensor, ()) if axis in x.axes]
    if not found or node.input[i] not in trace.constants.fixed:
        return
    classes = trace.pairing.base[lb.vector(found[0], axis)]
    if not np.isin(classes, wanted).any():
        return
    weight = np.abs(weight_value(trace, node, i))
    if node.op_type == "ConvTranspose":
        strength = weight.reshape(len(weight), -1).sum(axis=1)
    else:
        groups = int(attribute(node, "group", 1))
        strength = weight.reshape(groups, len(weight) // groups, weight.shape[1], -1).sum(axis=(1, 3)).reshape(-1)
    yield Reader(tensor, axis, strength, classes)


def _place(trace: Trace, cut: Cut) -> tuple[str, int] | None:
    """(tensor, axis) of the channels that a cut weight meets; None where it does not contract over them."""
    node = trace.graph.nodes[cut.node]
    if node.op_type in MATRICES:
        left, right = MATRICES[node.op_type]
        i, flip = (right, "transB") if cut.input == left else (left, "transA")
        rank, weight_rank = (len(trace.shapes.shape[node.input[k]]) for k in (i, cut.input))
        if cut.axis < weight_rank - 2:  # a stack of matrices along a labelled axis
            return None
        last = (i == left) != bool(attribute(node, flip, 0))
        return node.input[i], rank - 1 if last else rank - 2
    if node.op_type == "Einsum":
        shapes = [trace.shapes.shape[n] for n in node.input]
        parsed = read_equation(str(attribute(node, "equation", "")), [len(s) for s in shapes])
        if parsed is None:
            return None
        letter = parsed[0][cut.input][cut.axis]
        places = ((n, t.index(letter)) for n, t in zip(node.input, parsed[0], strict=True) if letter in t)
        return next((p for p in places if p[0] in trace.labels), None)
    tensors = (node.input[i] for i in range(len(node.input)) if (cut.node, i) in trace.masks)
    return next(((t, cut.along) for t in tensors if any(x is cut.labels for x in trace.labels.get(t, ()))), None)


def request(subject: Subject, options: Options) -> Request:
    """Σ over the weights w that read a channel of |w| · ‖x_c‖₂, x the tensor that they read, ‖x_c‖₂² = Σ x² over the
    positions and the mean over the images; the same for every channel of a class. A class that nothing reads with
    weights scores ‖y_c‖₂ of the layer's own output."""
    trace, base = subject.trace, subject.trace.pairing.base
    wanted = np.unique(np.concatenate([base[s.units] for s in subject.layers])) if subject.layers else base[:0]
    found = list(readers(trace, wanted))
    read = np.unique(np.concatenate([r.classes for r in found])) if found else base[:0]
    for s in subject.layers:
        alone = ~np.isin(base[s.units], read)
        if alone.any():
            found.append(Reader(s.tensor, s.axis, alone.astype(np.float64), base[s.units]))
    places = list(dict.fromkeys((r.tensor, r.axis) for r in found))
    layers = tuple(Source(-1, tensor, axis, base[:0]) for tensor, axis in places)
    measured = from_outputs(layers, tuple(p[0] for p in places), energy, lambda m: np.asarray(np.sqrt(m.mean)))

    def finish() -> list[FloatArray]:
        norms = dict(zip(places, measured.finish(), strict=True))
        total = np.zeros(int(base.max(initial=0)) + 1)
        for r in found:
            total += np.bincount(r.classes, r.strength * norms[r.tensor, r.axis], minlength=len(total))
        return [total[base[s.units]] for s in subject.layers]

    return in_numbers(trace, Request(measured.taps, finish))


WANDA = Criterion(request, "Sun 2023, for whole channels")
