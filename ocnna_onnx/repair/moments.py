"""Second moments of what a layer sees and should make of it, of most samples and of those held out."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from ..calibrate.sampling import positions_of, positions_per_image
from ..calibrate.stream import workers
from ..model.graph import AnyArray
from .frontier import Frontier
from .rectified import Threshold, predicted
from .sight import Sight
from .solve import Pairs, pilot

FloatArray = npt.NDArray[np.float64]

HELD_OUT = 8
"""One sample of so many chooses the shrinkage, and says whether a layer's repair helps."""

WORK = 2e11

ROWS = 1 << 13
"""Rows of features at once."""


@dataclass(frozen=True)
class Relaxed:
    """A second round in front of a Relu, with targets that ask for nothing where it cuts off (`rectified`). weight,
    bias: what the first round made of the layer. known: the moments of that round."""

    begins: Threshold
    weight: FloatArray
    bias: FloatArray
    known: tuple[Pairs, Pairs]


def pairs_of(
    student: Frontier,
    sight: Sight,
    offset: FloatArray,
    intercept: bool,
    relaxed: Relaxed | None = None,
) -> tuple[Pairs, Pairs]:
    """Moments of most samples, and of those that are held out."""
    places = sight.places
    width = sight.features(slice(0, 1), np.zeros((1, 1), np.int64) if places > 1 else None).shape[2]
    each = positions_per_image(sight.count, places, width, WORK)
    fixed = offset[:, None].astype(np.float32)

    def rows(part: slice) -> tuple[AnyArray, AnyArray]:
        at = None if each is None else positions_of(part.start, part.stop - part.start, places, each, 0)
        inputs = sight.features(part, at)
        wanted = sight.outputs(sight.target(part), at)
        if relaxed is not None:
            made = predicted(inputs, relaxed.weight, relaxed.bias)
            wanted = relaxed.begins.relaxed(wanted, made, part, at)
        return inputs, wanted - fixed

    known = None if relaxed is None else relaxed.known
    return moments_of(student, sight, rows, places if each is None else each, intercept, known)


def moments_of(
    student: Frontier,
    sight: Sight,
    rows: Callable[[slice], tuple[AnyArray, AnyArray]],
    each: int,
    intercept: bool,
    known: tuple[Pairs, Pairs] | None = None,
) -> tuple[Pairs, Pairs]:
    """each: rows of features per sample. known: those of the same features with other targets."""
    step = max(1, ROWS // each)

    def part(first: int) -> slice:
        return slice(first, min(first + step, sight.count))

    if known is None:
        empty = pilot(*rows(part(0)), intercept)
    else:
        empty = Pairs(0, intercept, known[0].pilot_x, known[0].pilot_y)

    def moments(first: int) -> tuple[Pairs, Pairs]:
        now = part(first)
        inputs, wanted = rows(now)
        samples = student.is_late(sight.map.tensor, np.arange(now.start, now.stop), HELD_OUT)
        late = np.repeat(samples, inputs.shape[1] // len(samples))
        both = [empty.of(inputs[:, m], wanted[:, m], known is None) if m.any() else empty for m in (~late, late)]
        return both[0], both[1]

    seen, held_out = empty, empty
    # products of a few thousand rows: one BLAS thread each, and chunks side by side
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(workers(student.runtime)) as pool:
        for a, b in pool.map(moments, range(0, sight.count, step)):
            seen, held_out = seen.plus(a), held_out.plus(b)
    if known is not None:
        return seen.with_features(known[0]), held_out.with_features(known[1])
    return seen, held_out


def energy_of(pairs: Pairs) -> float:
    """Variance of the targets, summed over the channels."""
    my = pairs.y / pairs.rows
    return max(float((pairs.yy / pairs.rows - my**2).sum()), 1e-30)
