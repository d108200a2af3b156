"""What a layer sees and what it should make of it: rows of features and of targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

from ..calibrate.linear import Linear, features, matrix, out_positions, outputs, stored_weight
from ..calibrate.sampling import positions_of
from ..data.rows import Rows
from ..model.graph import AnyArray
from .frontier import Frontier
from .job import Job, Site
from .residual import affine
from .transposed import Stuffing, reversed_kernel, stored_kernel, stuffed

FloatArray = npt.NDArray[np.float64]
Target = Callable[[slice | npt.NDArray[np.int64]], AnyArray]
"""What a layer's outputs should be, of some samples: [samples, …]."""


@dataclass(frozen=True)
class Sight:
    """A layer's rows of features and of targets. view: of a ConvTranspose. count: rows of x that have a target."""

    map: Linear
    view: Stuffing | None
    x: Rows
    target: Target
    count: int

    @property
    def places(self) -> int:
        """Output positions of one sample."""
        return prod(out_positions(self.plain, self._seen(slice(0, 1)).shape))

    @property
    def plain(self) -> Linear:
        """The layer as a Conv or a product."""
        return self.map if self.view is None else self.view.map

    def _seen(self, part: slice) -> AnyArray:
        x = np.asarray(self.x[part], np.float32)
        return x if self.view is None else stuffed(x, self.map.strides, self.view.crops)

    def features(self, part: slice, at: npt.NDArray[np.int64] | None) -> AnyArray:
        return features(self.plain, self._seen(part), at)

    def outputs(self, y: AnyArray, at: npt.NDArray[np.int64] | None) -> AnyArray:
        return outputs(self.plain, y, at)

    def matrix(self, value: AnyArray) -> FloatArray:
        """The weight as `features` meet it."""
        return np.asarray(matrix(self.plain, value if self.view is None else reversed_kernel(self.map, value)))

    def stored(self, found: FloatArray, like: AnyArray) -> AnyArray:
        """The inverse, in the shape and type of `like`."""
        with np.errstate(over="ignore"):  # fp16
            if self.view is None:
                return stored_weight(self.plain, found, like)
            return stored_kernel(self.map, stored_weight(self.plain, found, reversed_kernel(self.map, like)))


def explains(student: Frontier, sight: Sight, weight: FloatArray, bias: FloatArray) -> bool:
    """Whether features and weights give what onnxruntime makes of the layer, at a few places."""
    _, made = next(iter(student.again(sight.map.output, [0])))
    part = slice(0, min(2, sight.count, len(made)))
    total = sight.places
    at = positions_of(0, part.stop, total, 64, 0) if total > 64 else None
    ours = sight.features(part, at) @ weight + bias[:, None]
    theirs = sight.outputs(made[part].astype(np.float64), at)
    if ours.shape != theirs.shape:
        return False
    limit = 1e-4 if made.dtype != np.float16 else 3e-2
    finite = np.isfinite(theirs)
    scale = max(float(np.abs(theirs[finite]).max(initial=0.0)), 1e-6)
    return bool((np.abs(ours - theirs)[finite] <= 10 * limit * scale).all())


def target_of(job: Job, site: Site) -> tuple[Target, str]:
    """The original's output on the kept filters; for the last layer of a residual branch what is missing in the sum.
    And the original's tensor that it is made of."""
    kept, map_, total = job.rewritten.kept, site.layer.map, site.total
    if total is None:
        own = job.teacher.held[map_.output]
        return lambda part: kept.slice(map_.output, np.asarray(own[part], np.float32)), map_.output
    name = total.total
    whole, stream = job.teacher.held[name], job.student.held[total.other]
    if not total.between:
        return lambda part: kept.slice(name, np.asarray(whole[part], np.float32)) - stream[part], name
    size = job.constants.shape[map_.output][map_.out_axis]
    scale, shift = affine(job.graph, job.constants, job.found.values, total, size).astype(np.float32)
    usable = np.abs(scale) > 1e-6
    plain = job.teacher.held[map_.output]

    def values(part: slice | npt.NDArray[np.int64]) -> AnyArray:
        missing = kept.slice(name, np.asarray(whole[part], np.float32)) - stream[part]
        form = [-1 if a == map_.out_axis else 1 for a in range(missing.ndim)]
        back = (missing - shift.reshape(form)) / np.where(usable, scale, 1).reshape(form)
        direct = kept.slice(map_.output, np.asarray(plain[part], np.float32))
        return np.asarray(np.where(usable.reshape(form), back, direct), np.float32)

    return values, name
