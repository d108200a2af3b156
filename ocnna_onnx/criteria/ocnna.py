"""OCNNA (Balderas, Lastra, Benítez 2024, https://doi.org/10.3390/math12193032): PCA, Frobenius norm, coefficient of
variation."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..model.graph import AnyArray
from .spectra import enough, leading_energy

FloatArray = npt.NDArray[np.float64]

VARIANCE = 0.95
CELLS = 8
"""Side of a pooled map."""

CHUNK = 1 << 20
"""Samples and Gram matrices of the filters done at once, in elements of 8 bytes; there are about five copies."""


def pca_norms(maps: AnyArray, variance: float = VARIANCE) -> FloatArray:
    """F[i, c] = sqrt(Σ_{j ≤ k} s_j²) of the column-centred map, k the smallest that explains more than `variance`.

    maps: [images, channels, rows, columns]; the rows of a map are the samples of its PCA. Returns float64
    [images, channels]. A 1 × 1 map has no variance after centring: F = |y|. Equal to
    `sklearn.decomposition.PCA(n_components=variance)` per map, without vectors: the squared singular values are the
    eigenvalues of the smaller Gram matrix, and their sum is all that is needed.
    """
    images, channels, rows, columns = maps.shape
    if rows == 1 and columns == 1:
        return np.asarray(np.abs(maps[:, :, 0, 0]), np.float64)
    energy = leading_energy(maps.reshape(-1, rows, columns), variance)
    return np.asarray(np.sqrt(energy).reshape(images, channels))


def pooled(maps: AnyArray) -> AnyArray:
    """Maps averaged over a grid of at most 8 × 8 cells, flattened: [images, channels, features ≤ 64] of [..., H, W]."""
    images, channels, rows, columns = maps.shape
    down, across = _cells(rows, maps.dtype), _cells(columns, maps.dtype)
    small = down @ (maps @ across.T)
    return np.asarray(small.reshape(images, channels, -1))


def pca_norms_per_filter(features: AnyArray, variance: float = VARIANCE) -> FloatArray:
    """The other reading: the n maps of one filter are the samples of its PCA (METHODS: `per="filter"`).

    features: [n images, channels, d features] (see `pooled`). F[i, c] = norm of image i's projection on the leading
    components of filter c, centred over the images. Returns float64 [n, channels].
    """
    images, channels, size = features.shape
    found = np.empty((images, channels))
    step = max(1, CHUNK // (images * size + min(images, size) ** 2))
    for k in range(0, channels, step):
        samples = features[:, k : k + step].transpose(1, 0, 2).astype(np.float64)
        samples -= samples[:, :1]
        samples -= samples.mean(axis=1, keepdims=True)
        found[:, k : k + step] = _projections(samples, variance).T
    return found


def _projections(centred: FloatArray, variance: float) -> FloatArray:
    """Norms [c, n] of the samples [c, n, d] on their leading components."""
    if variance >= 1 or min(centred.shape[1:]) == 1:
        return np.asarray(np.linalg.norm(centred, axis=2))
    largest = np.abs(centred).max(axis=(1, 2), keepdims=True)
    scaled = centred / np.where(largest > 0, largest, 1)
    across = scaled.transpose(0, 2, 1)
    wide = scaled.shape[1] < scaled.shape[2]
    squares, vectors = np.linalg.eigh(scaled @ across if wide else across @ scaled)
    squares, vectors = squares[:, ::-1].clip(min=0), vectors[:, :, ::-1]
    _, last = enough(squares, variance)
    kept = np.arange(squares.shape[1]) <= last[:, None]
    parts = vectors * np.sqrt(squares)[:, None] if wide else scaled @ vectors  # both are U S
    return np.asarray(np.sqrt(np.einsum("cnk,ck->cn", parts**2, kept)) * largest[:, :, 0])


def _cells(size: int, dtype: np.dtype[Any]) -> AnyArray:
    """The matrix [cells, size] that averages neighbours into at most CELLS cells, as even as they come."""
    cells = min(CELLS, size)
    owner = np.arange(size) * cells // size
    member = owner == np.arange(cells)[:, None]
    return np.asarray(member / member.sum(axis=1, keepdims=True), dtype)


def variation(norms: FloatArray) -> FloatArray:
    """score[c] = std_i F[i, c] / mean_i F[i, c] (ddof 0); 0 for a dead filter. norms: [images, channels]."""
    mean, deviation = norms.mean(axis=0), norms.std(axis=0)
    return np.asarray(np.divide(deviation, mean, out=np.zeros_like(mean), where=mean > 0))
