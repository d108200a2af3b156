"""HRank (Lin et al. 2020, arXiv 2002.10179): a filter whose maps have a low rank goes first."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..model.graph import AnyArray
from .reading import mean_over_images

FloatArray = npt.NDArray[np.float64]

CHUNK = 1 << 22
"""Elements of one batch of maps and Gram matrices (float64)."""


def ranks(maps: AnyArray) -> FloatArray:
    """Rank of each map, [images, channels]: singular values above s_max · max(rows, columns) · 2⁻²³.

    That is the tolerance of `numpy.linalg.matrix_rank` on a float32 map, with singular values in float64: square roots
    of the eigenvalues of the smaller Gram matrix. A 1 × 1 map: whether it is not 0. maps: [images, channels, rows,
    columns].
    """
    images, channels, rows, columns = maps.shape
    flat = maps.reshape(-1, rows, columns)
    step = max(1, CHUNK // (rows * columns + min(rows, columns) ** 2))
    parts = [_ranks(flat[k : k + step].astype(np.float64)) for k in range(0, len(flat), step)]
    return np.concatenate(parts).reshape(images, channels)


def _ranks(maps: FloatArray) -> FloatArray:
    """[n] of [n, rows, columns]."""
    rows, columns = maps.shape[1:]
    if min(rows, columns) == 1:
        return np.asarray(maps.any(axis=(1, 2)), np.float64)
    across = maps.transpose(0, 2, 1)
    squares = np.linalg.eigvalsh(maps @ across if rows <= columns else across @ maps)  # s², ascending
    least = (max(rows, columns) * float(np.finfo(np.float32).eps)) ** 2 * squares[:, -1:]
    return np.asarray((squares > least).sum(axis=1), np.float64)


HRANK = mean_over_images("hrank", "Lin 2020", ranks)
