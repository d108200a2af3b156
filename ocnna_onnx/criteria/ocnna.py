"""OCNNA (Balderas, Lastra, Benítez 2024, https://doi.org/10.3390/math12193032): PCA, Frobenius norm, coefficient of
variation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..calibrate.moments import Moments
from ..errors import UsageError
from ..model.graph import AnyArray
from .reading import in_numbers, read_at
from .request import Criterion, Options, Request, Subject, from_outputs

FloatArray = npt.NDArray[np.float64]

VARIANCE = 0.95
CHUNK = 1 << 24
"""Elements of one batch of Gram matrices."""


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
    flat = maps.reshape(-1, rows, columns)
    side = min(rows, columns)
    step = max(1, CHUNK // (side * side + rows * columns))
    parts = [_norms(flat[k : k + step].astype(np.float64), variance) for k in range(0, len(flat), step)]
    return np.asarray(np.concatenate(parts).reshape(images, channels))


def _norms(maps: FloatArray, variance: float) -> FloatArray:
    """[n] norms of [n, rows, columns] maps."""
    centred = maps - maps.mean(axis=1, keepdims=True)
    energy = np.einsum("nrc,nrc->n", centred, centred)
    if variance >= 1 or min(centred.shape[1:]) == 1:
        return np.asarray(np.sqrt(energy))
    across = centred.transpose(0, 2, 1)
    gram = centred @ across if centred.shape[1] <= centred.shape[2] else across @ centred
    squares = np.linalg.eigvalsh(gram)[:, ::-1].clip(min=0)  # s_j², descending
    total = squares.cumsum(axis=1)
    enough = total > variance * total[:, -1:]
    first = np.where(enough.any(axis=1), enough.argmax(axis=1), total.shape[1] - 1)
    return np.asarray(np.sqrt(np.take_along_axis(total, first[:, None], axis=1)[:, 0]))


def variation(norms: Moments) -> FloatArray:
    """score[c] = std_i F[i, c] / mean_i F[i, c] (ddof 0); 0 for a dead filter. norms: of F over the images."""
    score = np.divide(norms.deviation, norms.mean, out=np.zeros_like(norms.mean), where=norms.mean > 0)
    return np.asarray(score)


def request(subject: Subject, options: Options) -> Request:
    """The published score of every layer: at its own output (`tap=conv`), or behind the BatchNormalization and
    activation that follow it (`tap=activation`)."""
    variance = options["variance"]
    if not 0 < variance <= 1:
        raise UsageError(f"ocnna: variance {variance:g} is out of range: 0 < variance ≤ 1 (the share that is kept)")
    tensors = read_at(subject, options, "ocnna")
    measured = from_outputs(subject.layers, tensors, lambda maps: pca_norms(maps, variance), variation)
    return in_numbers(subject.trace, measured)


OCNNA = Criterion(request, "Balderas 2024", {"variance": VARIANCE, "tap": "conv"})
