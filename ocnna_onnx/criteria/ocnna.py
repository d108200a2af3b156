"""OCNNA (Balderas, Lastra, Benítez 2024, https://doi.org/10.3390/math12193032): PCA, Frobenius norm, coefficient of
variation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ..calibrate.maps import as_maps
from ..calibrate.moments import Moments, moments
from ..calibrate.stream import Tap
from ..errors import UsageError
from ..model.graph import AnyArray
from .reading import in_numbers, read_at
from .request import Criterion, Gather, Options, Request, Subject, from_outputs
from .spectra import LOCKSTEP, enough, leading_energy

FloatArray = npt.NDArray[np.float64]

VARIANCE = 0.95
CELLS = 8
"""Side of a pooled map."""

GATHER = 1 << 22
"""Bytes of a layer's maps that are worth waiting for: small maps are done thousands at a time."""

MOST_IMAGES = 256
"""Images whose maps are samples of a filter's own PCA."""

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


def variation(norms: Moments) -> FloatArray:
    """score[c] = std_i F[i, c] / mean_i F[i, c] (ddof 0); 0 for a dead filter. norms: of F over the images."""
    score = np.divide(norms.deviation, norms.mean, out=np.zeros_like(norms.mean), where=norms.mean > 0)
    return np.asarray(score)


def request(subject: Subject, options: Options) -> Request:
    """The published score of every layer's outputs. variance: share that the components keep (1: all, F = ‖M̄‖). per:
    `image` (each map has a PCA of its own) or `filter` (its maps are the samples, pooled to 8 × 8, of the first
    MOST_IMAGES images). tap: at the layer's own output (`conv`), or behind the BatchNormalization and activation that
    follow it (`activation`)."""
    variance, per = options["variance"], options["per"]
    if not 0 < variance <= 1:
        raise UsageError(f"ocnna: variance {variance:g} is out of range: 0 < variance ≤ 1 (the share that is kept)")
    if per not in ("image", "filter"):
        raise UsageError(f"ocnna: per={per} is neither image nor filter")
    tensors = read_at(subject, options, "ocnna")
    if per == "filter":
        return in_numbers(subject.trace, _per_filter(subject, tensors, variance))
    norms = partial(pca_norms, variance=variance)
    gather = Gather(subject.samples, GATHER, LOCKSTEP)
    measured = from_outputs(subject.layers, tensors, norms, variation, gather)
    return in_numbers(subject.trace, measured)


def _per_filter(subject: Subject, tensors: tuple[str, ...], variance: float) -> Request:
    kept: list[list[AnyArray]] = [[] for _ in tensors]

    def watch(k: int) -> Callable[[AnyArray, int, int], None]:
        def take(output: AnyArray, batch: int, valid: int) -> None:
            maps = as_maps(output, subject.layers[k].axis, batch)
            room = MOST_IMAGES - sum(map(len, kept[k]))
            if room > 0:
                kept[k].append(pooled(maps[: min(room, max(1, valid * len(maps) // batch))]).astype(np.float32))

        return take

    def finish() -> list[FloatArray]:
        return [variation(moments(pca_norms_per_filter(np.concatenate(parts), variance))) for parts in kept]

    held = [4 * CELLS**2 * min(subject.samples, MOST_IMAGES) * len(s.units) for s in subject.layers]
    return Request(tuple(Tap(t, watch(k), held[k]) for k, t in enumerate(tensors)), finish)


OCNNA = Criterion(request, "Balderas 2024", {"variance": VARIANCE, "per": "image", "tap": "conv"})
