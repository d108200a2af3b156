"""ConvTranspose as the Conv that it is: on an input with zeros between its pixels, with the kernel reversed.

Every output pixel then sees one patch, in which only the taps of its own phase meet a pixel. The Gram matrix of such
patches is zero between taps of different phases, so that one least squares problem holds one per phase, and the bias,
which all phases share, is fitted with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..calibrate.linear import Linear
from ..model.graph import AnyArray, Graph, attribute


@dataclass(frozen=True)
class Stuffing:
    """map: the Conv on the stuffed input. crops: pixels (begin, end) per axis that its pads take off instead."""

    map: Linear
    crops: tuple[tuple[int, int], ...]


def stuffing(graph: Graph, map_: Linear, size: Sequence[int], out: Sequence[int]) -> Stuffing:
    """size, out: spatial sizes of the ConvTranspose's input and output. Pads follow from them (ONNX, ConvTranspose)
    where the node does not spell them."""
    node = graph.nodes[map_.node]
    spelled = map_.pads is not None and not attribute(node, "output_shape", [])
    pads = []
    for a, (n, o, k, s, d) in enumerate(zip(size, out, map_.kernel, map_.strides, map_.dilations, strict=True)):
        reach, long = (k - 1) * d, (n - 1) * s + 1
        if spelled and map_.pads is not None:
            begin = map_.pads[a][0]
        else:
            extra = list(attribute(node, "output_padding", [0] * len(map_.kernel)))[a]
            total = max(0, long + reach + extra - o)
            upper = attribute(node, "auto_pad", "NOTSET") == "SAME_UPPER"
            begin = total // 2 if upper else total - total // 2
        pads.append((reach - begin, o - long + begin))
    ones = (1,) * len(map_.kernel)
    positive = tuple((max(a, 0), max(b, 0)) for a, b in pads)
    crops = tuple((max(-a, 0), max(-b, 0)) for a, b in pads)
    return Stuffing(replace(map_, stored="conv", strides=ones, pads=positive), crops)


def stuffed(x: AnyArray, strides: Sequence[int], crops: Sequence[tuple[int, int]]) -> AnyArray:
    """x [n, C, …] with strides − 1 zeros between its pixels, without `crops` (begin, end) pixels per axis."""
    size = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], strides, strict=True)]
    wide = np.zeros((*x.shape[:2], *size), x.dtype)
    both = (slice(None), slice(None))
    every = both + tuple(slice(None, None, s) for s in strides)
    wide[every] = x
    inner = both + tuple(slice(a, n - b) for (a, b), n in zip(crops, size, strict=True))
    return np.asarray(wide[inner])


def reversed_kernel(map_: Linear, weight: AnyArray) -> AnyArray:
    """[C, O/g, …] -> [O, C/g, …] with the taps reversed."""
    g, taps = map_.groups, weight.shape[2:]
    split = weight.reshape(g, weight.shape[0] // g, weight.shape[1], *taps).swapaxes(1, 2)
    return np.flip(split.reshape(-1, weight.shape[0] // g, *taps), tuple(range(2, 2 + len(taps))))


def stored_kernel(map_: Linear, weight: AnyArray) -> AnyArray:
    """The inverse of `reversed_kernel`."""
    g, taps = map_.groups, weight.shape[2:]
    split = weight.reshape(g, weight.shape[0] // g, weight.shape[1], *taps).swapaxes(1, 2)
    return np.ascontiguousarray(np.flip(split.reshape(-1, weight.shape[0] // g, *taps), tuple(range(2, 2 + len(taps)))))
