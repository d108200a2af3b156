"""How much energy the leading principal components of many matrices hold: the numerical part of OCNNA.

Only the eigenvalues of the smaller Gram matrix are needed. They are computed in float32, which errs by about 1e-6 of
the total; a matrix whose number of components hangs on some ten times that, or whose scale float32 cannot hold, is done
again in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..model.graph import AnyArray
from . import lockstep, tridiagonal

FloatArray = npt.NDArray[np.float64]

LOCKSTEP = 32
"""Gram matrices up to this side are worth doing in lockstep; larger ones are LAPACK's."""

FEWEST = 400
"""Fewer matrices than this are LAPACK's, too: a step costs a call, however few the lanes."""

LANES = 1 << 13
"""About as many matrices at once."""

BYTES = 1 << 23
"""Of one working copy of a chunk; there are about four."""

CACHED = 1 << 19
"""Of one working copy of what is done one by one."""

KEPT = 1 / 16
"""Share of a map's squares that must be left when its means are taken off, for float32 to hold the difference."""

SCALE = (1e-24, 1e24)
"""Energies whose squares and sums float32 holds."""


@dataclass(frozen=True)
class Spectrum:
    """squares: eigenvalues [n, side] of the Gram matrices as shares of their sums, descending. total: the sums [n].
    sure: where float32 held all of it [n]. All but `sure` float32."""

    squares: AnyArray
    total: AnyArray
    sure: npt.NDArray[np.bool_]


def leading_energy(matrices: AnyArray, variance: float) -> FloatArray:
    """Σ_{j ≤ k} s_j² of the column-centred matrices, k the smallest that explains more than `variance` of Σ_j s_j².

    matrices: float32 or float64 [n, rows, columns], the rows are the samples. variance ≥ 1 takes all of it.
    Returns float64 [n].
    """
    n, rows, columns = matrices.shape
    everything = variance >= 1 or min(rows, columns) == 1
    lanes = min(rows, columns) <= LOCKSTEP and n >= FEWEST
    small = lanes and max(rows, columns) <= LOCKSTEP and not everything
    area = max(rows * columns, min(rows, columns) ** 2)
    most = max(1, min(LANES if small else n, BYTES // (4 * area)))
    step = max(1, -(-n // max(1, round(n / most))))
    found = np.empty(n)
    for k in range(0, n, step):
        chunk = matrices[k : k + step]
        if everything:
            found[k : k + step] = _energy(chunk)
            continue
        spectrum = _in_lockstep(_gram_lanes(chunk) if small else _in_lanes(chunk)) if lanes else _one_by_one(chunk)
        found[k : k + step] = _settle(chunk, spectrum, variance)
    return found


def enough(squares: AnyArray, variance: float) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Running sums of eigenvalues [n, side], and the index of the first that exceeds `variance` of all.

    squares: descending. Scikit-learn's side of a tie: the share must be exceeded.
    """
    sums = squares.cumsum(axis=1, dtype=np.float64)
    above = sums > variance * sums[:, -1:]
    return sums, np.where(above.any(axis=1), above.argmax(axis=1), sums.shape[1] - 1)


def _in_lockstep(gram: AnyArray) -> Spectrum:
    """Of float32 Gram matrices [side, side, n]."""
    with np.errstate(all="ignore"):
        total = np.einsum("iib->b", gram)
        sound = _sound(total)
        gram *= np.where(sound, 1 / total, 0)
    gram[:, :, ~sound] = 0
    values, settled = lockstep.eigenvalues(gram)
    return Spectrum(np.sort(values.T, axis=1)[:, ::-1], total, sound & settled)


def _one_by_one(chunk: AnyArray) -> Spectrum:
    """Of [n, rows, columns], so few at a time that they stay in the cache from end to end."""
    n, side = len(chunk), min(chunk.shape[1:])
    values, total, sure = np.empty((n, side), np.float32), np.empty(n, np.float32), np.empty(n, np.bool_)
    step = max(1, CACHED // (4 * max(1, chunk[0].size)))
    for k in range(0, n, step):
        part = slice(k, k + step)
        gram = _gram(chunk[part])
        with np.errstate(all="ignore"):
            total[part] = np.einsum("bii->b", gram)
            sound = _sound(total[part])
            gram *= np.where(sound, 1 / total[part], 0)[:, None, None]
        gram[~sound] = 0
        values[part], settled = tridiagonal.eigenvalues(gram)
        sure[part] = sound & settled
    return Spectrum(values[:, ::-1], total, sure)


def _sound(total: AnyArray) -> npt.NDArray[np.bool_]:
    return np.asarray((total > SCALE[0]) & (total < SCALE[1]))


def _settle(chunk: AnyArray, spectrum: Spectrum, variance: float) -> FloatArray:
    """Leading energies from float32 spectra, in float64 where float32 cannot tell."""
    squares, total, sure = spectrum.squares, spectrum.total, spectrum.sure
    side = squares.shape[1]
    sums, first = enough(squares.clip(min=0), variance)
    margin = np.abs(sums - variance * sums[:, -1:]).min(axis=1)
    sure = sure & (margin > 32 * np.finfo(np.float32).eps * side**0.5)
    found = np.take_along_axis(sums, first[:, None], axis=1)[:, 0] * total
    again = np.flatnonzero(~sure)
    step = max(1, BYTES // (8 * max(1, chunk[0].size)))
    for k in range(0, len(again), step):
        found[again[k : k + step]] = _exact(chunk[again[k : k + step]], variance)
    return np.asarray(found)


def _exact(matrices: AnyArray, variance: float) -> FloatArray:
    """The same in float64, by LAPACK."""
    centred = _centred(matrices.astype(np.float64))
    size = np.abs(centred).max(axis=(1, 2))
    found = np.zeros(len(centred))
    some = size > 0
    scaled = centred[some] / size[some, None, None]
    across = scaled.transpose(0, 2, 1)
    gram = scaled @ across if scaled.shape[1] <= scaled.shape[2] else across @ scaled
    sums, first = enough(np.linalg.eigvalsh(gram)[:, ::-1].clip(min=0), variance)
    found[some] = np.take_along_axis(sums, first[:, None], axis=1)[:, 0] * size[some] ** 2
    return np.asarray(found)


def _centred(matrices: AnyArray) -> AnyArray:
    """Column-centred [n, rows, columns], in the dtype that comes in.

    The first row goes before the mean is taken: what is left is of the size of the variation, so that a large mean
    costs no digits and a constant column leaves exact zeros.
    """
    moved = matrices - matrices[:, :1]
    moved -= moved.mean(axis=1, keepdims=True)
    return np.asarray(moved)


def _single(matrices: AnyArray) -> AnyArray:
    """Column-centred, float32; what float32 does not hold becomes infinite or zero, and is told by its energy."""
    with np.errstate(all="ignore"):
        return _centred(matrices).astype(np.float32, copy=False)


def _gram(chunk: AnyArray) -> AnyArray:
    """Smaller Gram matrices [n, side, side] of [n, rows, columns], float32."""
    centred = _single(chunk)
    across = centred.transpose(0, 2, 1)
    with np.errstate(all="ignore"):
        gram = centred @ across if centred.shape[1] <= centred.shape[2] else across @ centred
    return np.asarray(gram)


def _in_lanes(chunk: AnyArray) -> AnyArray:
    """The same, [side, side, n]."""
    return np.ascontiguousarray(_gram(chunk).transpose(1, 2, 0))


def _gram_lanes(chunk: AnyArray) -> AnyArray:
    """The same, lane by lane from the start: small matrices are all overhead otherwise."""
    n, rows, columns = chunk.shape
    with np.errstate(all="ignore"):
        lanes = np.array(chunk.reshape(n, -1).T, order="C").reshape(rows, columns, n)  # a copy always: it is worked on
        lanes -= lanes[0].copy()
        lanes = lanes.astype(np.float32, copy=False)
        lanes -= lanes.mean(axis=0)
        if rows < columns:
            lanes = lanes.transpose(1, 0, 2)
        side = lanes.shape[1]
        gram = np.empty((side, side, n), np.float32)
        for i in range(side):
            np.einsum("kb,kjb->jb", lanes[:, i], lanes[:, i:], out=gram[i, i:])
            gram[i + 1 :, i] = gram[i, i + 1 :]
    return gram


def _energy(chunk: AnyArray) -> FloatArray:
    """‖M̄‖² of [n, rows, columns]: Σ y² less the columns' means; centred first where that would cost digits."""
    n, rows, columns = chunk.shape
    flat = np.ascontiguousarray(chunk).reshape(n, 1, rows * columns)
    with np.errstate(all="ignore"):
        whole = (flat @ flat.transpose(0, 2, 1))[:, 0, 0].astype(np.float64)
        sums = (np.ones((1, rows), chunk.dtype) @ flat.reshape(chunk.shape))[:, 0].astype(np.float64)
        found = whole - np.einsum("nc,nc->n", sums, sums) / rows
        sure = (found > KEPT * whole) & (found > SCALE[0]) & (whole < SCALE[1])
    again = np.flatnonzero(~sure)
    if len(again):
        wide = _centred(chunk[again].astype(np.float64))
        size = np.abs(wide).max(axis=(1, 2))
        wide /= np.where(size > 0, size, 1)[:, None, None]
        found[again] = np.einsum("nrc,nrc->n", wide, wide) * size**2
    return np.asarray(found)
