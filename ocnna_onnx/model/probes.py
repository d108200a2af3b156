"""Shapes to probe at: concrete sizes for the symbolic dimensions of the inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from ..errors import ModelError, ShapeNeeded, UsageError
from .graph import Graph, dims

Shape = tuple[int, ...]

PROBE_BATCH = 2
PROBE_SIDE = 224
STRIDE = 32
"""By how much a second probe differs along the axes of maps: most nets take multiples of it."""

IMAGE_CHANNELS = (1, 3, 4)


def input_shapes(graph: Graph, given: Mapping[str, Shape]) -> dict[str, Shape]:
    """A concrete shape for every graph input: what is given, what is declared, else a guess.

    given: input -> shape (a value ≤ 0 leaves the guess to us). Raises ShapeNeeded, UsageError, ModelError.
    """
    unknown = set(given) - {i.name for i in graph.inputs}
    if unknown:
        known = ", ".join(i.name for i in graph.inputs)
        raise UsageError(f"--input-shapes names '{sorted(unknown)[0]}', which is no input of the model ({known})")
    peers = {i.name: [v for v in graph.inputs if v is not i] for i in graph.inputs}
    return {i.name: _guess(i, given.get(i.name), _shared_sizes(peers[i.name], given)) for i in graph.inputs}


def other_shapes(graph: Graph, first: Mapping[str, Shape]) -> list[dict[str, Shape]]:
    """Shapes for a second probe, which tells what follows symbolic dimensions, in the order in which they are to be
    tried: all of these take other sizes, or (where the net accepts neither) axis 0 alone does. None where there are no
    symbolic dimensions."""
    found: list[dict[str, Shape]] = []
    for step in (_one_stride_more, _twice, _same):
        named: dict[str, int] = {}
        other: dict[str, Shape] = {}
        for value in graph.inputs:
            sizes = list(first[value.name])
            declared = dims(value) or ("",) * min(1, len(sizes))  # without a declared shape axis 0 is all we dare
            for axis, name in enumerate(declared):
                if isinstance(name, str):
                    moved = sizes[axis] + 1 if axis == 0 else step(sizes[axis])
                    sizes[axis] = named.setdefault(name, moved) if name else moved
            other[value.name] = tuple(sizes)
        if other != first and other not in found:
            found.append(other)
    return found


def _one_stride_more(size: int) -> int:
    return size + (1 if size < STRIDE else STRIDE)


def _twice(size: int) -> int:
    return 2 * size


def _same(size: int) -> int:
    return size


def _shared_sizes(inputs: Sequence[onnx.ValueInfoProto], given: Mapping[str, Shape]) -> dict[str, int]:
    """Sizes of the symbolic dimensions that these inputs name: as given, or our guess where they count samples."""
    found: dict[str, int] = {}
    for value in inputs:
        declared = dims(value) or ()
        asked = given.get(value.name, (0,) * len(declared))
        found.update({n: s for n, s in zip(declared, asked, strict=False) if isinstance(n, str) and n and s > 0})
    for value in inputs:
        for name in (dims(value) or ())[:1]:
            if isinstance(name, str) and name:
                found.setdefault(name, PROBE_BATCH)
    return found


def _guess(value: onnx.ValueInfoProto, given: Shape | None, others: Mapping[str, int]) -> Shape:
    declared = dims(value)
    if not value.type.HasField("tensor_type"):
        raise ModelError(f"input '{value.name}' is no tensor (a sequence, an optional or a map): that is not supported")
    if declared is None:
        if given is None:
            raise ShapeNeeded(
                f"input '{value.name}' has no declared shape; give one: --input-shapes {value.name}:1,3,224,224",
                value.name,
            )
        return given
    if given is not None and len(given) != len(declared):
        raise UsageError(f"--input-shapes gives '{value.name}' {len(given)} dimensions, the model has {len(declared)}")
    image = len(declared) == 4 and (declared[1] in IMAGE_CHANNELS or declared[3] in IMAGE_CHANNELS)
    sizes: list[int] = []
    for axis, size in enumerate(declared):
        asked = given[axis] if given is not None and given[axis] > 0 else None
        if isinstance(size, int):
            if asked is not None and asked != size:
                raise UsageError(f"--input-shapes gives '{value.name}' axis {axis} size {asked}, the model has {size}")
            sizes.append(size)
        elif asked is not None:
            sizes.append(asked)
        elif size in others:
            sizes.append(others[size])
        elif axis == 0:
            sizes.append(PROBE_BATCH)
        elif image:
            sizes.append(PROBE_SIDE)
        else:
            text = ",".join(str(d) if isinstance(d, int) else "?" for d in declared)
            raise ShapeNeeded(
                f"input '{value.name}' [{text}] has a symbolic dimension (axis {axis}"
                f"{f', {size}' if size else ''}) that cannot be guessed; "
                f"give it: --input-shapes {value.name}:{text.replace('?', 'SIZE')}",
                value.name,
            )
    return tuple(sizes)
