"""FPGM (He et al. 2019, arXiv 1811.00250): a filter near the geometric median of its layer is replaceable by others."""

from __future__ import annotations

from hashlib import sha256

import numpy as np
import numpy.typing as npt

from ..trace.types import Source, Trace
from .magnitude import filters

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

CHUNK = 512
"""Filters whose distances to all others are held at once."""

PAIRS = 1 << 22
"""Elements of differences that are formed at once."""

NEAR = 1e-6
"""Squared distances below this share of the squared norms have lost digits in the Gram matrix, and are formed anew."""


def fpgm(trace: Trace, source: Source) -> FloatArray:
    """Σ_j ‖W_c − W_j‖₂ over the filters of a layer (equation 7), a BatchNormalization folded in; [channels]. A filter
    of zeros is dead rather than unusual: 0."""
    weight = filters(trace, source)
    return np.where(weight.any(axis=1), distances(weight), 0.0)


def distances(points: FloatArray) -> FloatArray:
    """Σ_j ‖p_c − p_j‖₂ of the rows of [n, size], [n]; relative error about 1e-9."""
    first, place, count = _distinct(points)
    return _weighed(points[first], count)[place]


def _distinct(points: FloatArray) -> tuple[IntArray, IntArray, FloatArray]:
    """(index of one row of each kind, kind of each row, rows of each kind)."""
    kinds: dict[bytes, int] = {}
    place = np.array([kinds.setdefault(sha256(row.tobytes()).digest(), len(kinds)) for row in points], np.int64)
    return np.unique(place, return_index=True)[1], place, np.bincount(place).astype(np.float64)


def _weighed(points: FloatArray, count: FloatArray) -> FloatArray:
    """Σ_j count_j · ‖p_c − p_j‖₂, [n]: by the Gram matrix, and pairs that nearly coincide by their difference."""
    centred = points - points.mean(axis=0)
    norms = np.einsum("ij,ij->i", centred, centred)
    total = np.zeros(len(points))
    for start in range(0, len(points), CHUNK):
        part = centred[start : start + CHUNK]
        both = norms[start : start + CHUNK, None] + norms
        squares = np.clip(both - 2 * (part @ centred.T), 0, None)
        first, second = np.nonzero(squares <= NEAR * both)
        step = max(1, PAIRS // max(1, points.shape[1]))
        for k in range(0, len(first), step):
            i, j = first[k : k + step], second[k : k + step]
            difference = points[start + i] - points[j]
            squares[i, j] = np.einsum("ij,ij->i", difference, difference)
        total[start : start + CHUNK] = np.sqrt(squares) @ count
    return total
