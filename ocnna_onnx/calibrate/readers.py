"""Who reads the channels that may go: every layer with weights that contracts over them, as features and a matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import numpy.typing as npt

from ..model.graph import AnyArray
from ..trace.labels import IntArray, vector
from ..trace.types import Trace
from .covariance import Covariance, Settled
from .linear import Linear, features, linear, matrix, out_positions
from .sampling import PER_FEATURE, positions_of, positions_per_image
from .stream import Tap

FloatArray = npt.NDArray[np.float64]

PATCH_WORK = 1.2e11
"""Where PER_FEATURE rows for every feature of a patch would cost more multiplications, channels alone are features."""

MOST_FEATURES = 1 << 13


@dataclass(frozen=True)
class Reader:
    """A layer that contracts over channels. map: what it reads and how; where patches are too large, a map of single
    positions. matrix: float64 [groups, features, outputs]. units: int64 [groups, features], the unit of each feature
    (0: fixed). run: features that lie one behind the other per channel and are taken for positions (Gemm after a
    Flatten), else 1."""

    map: Linear
    matrix: FloatArray
    units: IntArray
    run: int = 1

    @property
    def width(self) -> int:
        """Features of one group."""
        return int(self.units.shape[1])


@dataclass(frozen=True)
class Readings:
    """All layers that read channels, and the covariance of what each of them sees: once the pass over the samples is
    done."""

    readers: Sequence[Reader]
    covariances: Sequence[Covariance | Settled]

    def settled(self) -> Readings:
        """The same, computed once, for what asks many times; half as large as that and this together."""
        return Readings(self.readers, [c.settled() if isinstance(c, Covariance) else c for c in self.covariances])


def readers(trace: Trace) -> list[Reader]:
    """All of them, in the order of the nodes."""
    found = []
    for node in sorted({node for node, _ in trace.masks}):
        reader = _reader(trace, node)
        if reader is not None:
            found.append(reader)
    return found


def _reader(trace: Trace, node: int) -> Reader | None:
    map_ = linear(trace.graph, trace.shapes, trace.constants, node)
    if map_ is None:
        return None
    labels = trace.labels.get(map_.tensor, ())
    weight = trace.constants.value(trace.graph.nodes[node].input[map_.weight])
    if len(labels) != 1 or labels[0].axes != (map_.axis,) or weight is None:
        return None
    units = vector(labels[0], map_.axis)
    whole = matrix(map_, weight)
    per_group = len(units) // map_.groups
    if map_.groups > 1 and per_group == 1:
        return None  # depthwise: the channel passes through, and its reader comes later
    taps = map_.taps if map_.stored == "conv" else 1
    if taps == 1 or PER_FEATURE * (per_group * taps) ** 3 <= PATCH_WORK:
        reader = Reader(map_, whole, np.repeat(units.reshape(map_.groups, -1), taps, axis=1))
    else:
        single = replace(
            map_,
            kernel=(1,) * len(map_.kernel),
            strides=(1,) * len(map_.kernel),
            dilations=(1,) * len(map_.kernel),
            pads=((0, 0),) * len(map_.kernel),
        )
        split = whole.reshape(map_.groups, per_group, taps * whole.shape[2])
        reader = Reader(single, split, units.reshape(map_.groups, -1))
    run = _run(units) if reader.width > MOST_FEATURES // 4 and map_.stored in ("io", "oi") else 1
    if run > 1:
        outputs = run * whole.shape[2]
        reader = Reader(map_, whole.reshape(1, -1, outputs), units.reshape(1, -1)[:, ::run], run)
    return reader if reader.width <= MOST_FEATURES else None


def _run(units: IntArray) -> int:
    """How many times every unit is repeated before the next one comes; 1 where that is not regular."""
    change = np.flatnonzero(np.diff(units))
    run = int(change[0]) + 1 if len(change) else len(units)
    regular = len(units) % run == 0 and (units.reshape(-1, run) == units[::run, None]).all()
    return run if regular else 1


def seen(reader: Reader, x: AnyArray, at: IntArray | None) -> AnyArray:
    """Features of the reader at some positions, float [groups, rows, width]."""
    if reader.run == 1:
        return features(reader.map, x, at)
    moved = np.moveaxis(x, reader.map.axis, -1)
    split = moved.reshape(-1, reader.width, reader.run).transpose(0, 2, 1)
    return np.ascontiguousarray(split).reshape(1, -1, reader.width)


def covariances(found: Sequence[Reader], samples: int, seed: int) -> tuple[list[Tap], list[Covariance]]:
    """Taps that fill the covariance of each reader's features. samples: how many images there will be."""
    gathered = [Covariance() for _ in found]
    taps = []
    for reader, into in zip(found, gathered, strict=True):
        held = 2 * 8 * prod(reader.units.shape) * reader.width
        taps.append(Tap(reader.map.tensor, _watch(reader, into, samples, seed), held))
    return taps, gathered


def _watch(reader: Reader, into: Covariance, samples: int, seed: int) -> Callable[[AnyArray, int, int], None]:
    done = 0

    def take(x: AnyArray, batch: int, valid: int) -> None:
        nonlocal done
        images = x.shape[0]
        x = x[: max(1, valid * images // batch)].astype(np.float32, copy=False)
        places = prod(out_positions(reader.map, x.shape)) * reader.run
        each = positions_per_image(samples * images // batch, places, reader.width) if reader.run == 1 else None
        at = None if each is None else positions_of(done, len(x), places, each, seed)
        into.add(seen(reader, x, at))
        done += len(x)

    return take
