"""What the model wants at its inputs: which of them is an image, and in which layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx

from ..model.graph import AnyArray, Graph, dims
from ..model.probes import IMAGE_CHANNELS, Shape
from ..model.twin import fed_type
from .rows import IN_MEMORY, IntArray, Lazy, Rows


@dataclass(frozen=True)
class ImageInput:
    """An input that takes pictures: name, numpy dtype, size, and whether channels come last."""

    name: str
    dtype: np.dtype[np.generic]
    channels: int
    height: int
    width: int
    channels_last: bool

    def arrange(self, images: AnyArray) -> AnyArray:
        """[n, C, H, W] -> the input's layout and dtype."""
        moved = images.transpose(0, 2, 3, 1) if self.channels_last else images
        return np.ascontiguousarray(moved).astype(self.dtype)


def image_input(value: onnx.ValueInfoProto, shape: Shape, layout: str = "auto") -> ImageInput | None:
    """The input as a picture of the given shape, or None for audio, states, vectors, integers that are no bytes.
    layout: `NCHW`, `NHWC`, or `auto`, which takes the axis that can be channels (the first of two)."""
    dtype = fed_type(value.type.tensor_type.elem_type)
    if len(shape) != 4 or (dtype.kind not in "f" and dtype != np.uint8):
        return None
    if layout != "NHWC" and shape[1] in IMAGE_CHANNELS and min(shape[2:]) > 4:
        return ImageInput(value.name, dtype, shape[1], shape[2], shape[3], False)
    if layout != "NCHW" and shape[3] in IMAGE_CHANNELS and min(shape[1:3]) > 4:
        return ImageInput(value.name, dtype, shape[3], shape[1], shape[2], True)
    return None


def image_inputs(graph: Graph, shapes: Mapping[str, Shape], layout: str = "auto") -> list[ImageInput]:
    """The inputs that take pictures. One with room for several, next to an input with room for another number, is none:
    it is a state that looks like a picture."""
    declared = {v.name: (dims(v) or ("",))[0] for v in graph.inputs if dims(v) != ()}
    room = {size for size in declared.values() if isinstance(size, int)}
    odd = {name for name, size in declared.items() if isinstance(size, int) and size > 1 and len(room) > 1}
    found = (image_input(v, shapes[v.name], layout) for v in graph.inputs if v.name not in odd)
    return [i for i in found if i is not None]


def other_inputs(
    graph: Graph, shapes: Mapping[str, Shape], skip: set[str], count: int, seed: int, layout: str = "auto"
) -> tuple[dict[str, Rows], dict[str, AnyArray]]:
    """Seeded noise (floats) or zeros (integers, booleans) for inputs that are no image: those with a sample axis,
    [count, …] each, and those without."""
    rng = np.random.default_rng(seed)
    sampled = sampled_inputs(graph, shapes, layout)
    arrays: dict[str, Rows] = {}
    fixed: dict[str, AnyArray] = {}
    for value in graph.inputs:
        if value.name in skip:
            continue
        dtype = fed_type(value.type.tensor_type.elem_type)
        shape = shapes[value.name]
        if value.name in sampled:
            arrays[value.name] = _made_up((count, *shape[1:]), dtype, rng)
        else:
            fixed[value.name] = np.asarray(rng.standard_normal(shape) if dtype.kind == "f" else np.zeros(shape), dtype)
    return arrays, fixed


def _made_up(shape: Shape, dtype: np.dtype[np.generic], rng: np.random.Generator) -> Rows:
    """Noise or zeros [n, …]; where that is much, each sample is drawn when it is needed, from a seed of its own."""
    if prod(shape) * dtype.itemsize <= IN_MEMORY:
        return np.asarray(rng.standard_normal(shape) if dtype.kind == "f" else np.zeros(shape), dtype)
    seed = int(rng.integers(1 << 32))

    def make(numbers: IntArray) -> AnyArray:
        if dtype.kind != "f":
            return np.zeros((len(numbers), *shape[1:]), dtype)
        rows = [np.random.default_rng((seed, int(k))).standard_normal(shape[1:]) for k in numbers]
        return np.asarray(rows, dtype)

    return Lazy(shape, dtype, make)


def sampled_inputs(graph: Graph, shapes: Mapping[str, Shape], layout: str = "auto") -> set[str]:
    """Inputs whose axis 0 counts samples: it is symbolic, or 1, or the input is a picture."""
    found = {i.name for i in image_inputs(graph, shapes, layout)}
    for value in graph.inputs:
        declared = dims(value)
        if declared is None:
            found |= {value.name} if shapes[value.name] else set()
        elif declared and (isinstance(declared[0], str) or declared[0] == 1):
            found.add(value.name)
    return found
