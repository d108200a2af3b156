"""Eigenvalues of many small symmetric matrices in lockstep: one lane each, the lanes along the last axis.

LAPACK spends most of its time on small matrices in calls. Here every step is one NumPy operation over all lanes:
Householder's reduction to a tridiagonal matrix (Golub, Van Loan, Matrix Computations, 8.3.1), then the rational QR
iteration without square roots of Pal, Walker and Kahan (LAPACK's xSTERF) with Wilkinson's shift.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Lanes = npt.NDArray[Any]
"""float32 or float64, [..., lanes]."""

SWEEPS = 8
"""Sweeps an eigenvalue may take; two are usual. Lanes that need more are left to the caller."""

STRAGGLERS = 1024
"""One lane in so many may stay behind at each eigenvalue: another sweep over all lanes costs more."""

FLOOR = 1e-30
"""Below this a square is none; keeps every quotient finite in float32."""


def eigenvalues(matrices: Lanes) -> tuple[Lanes, npt.NDArray[np.bool_]]:
    """Eigenvalues [n, lanes] in no order, and the lanes whose iteration settled, of [n, n, lanes].

    matrices: symmetric, positive semidefinite, scaled to a trace of at most 1; overwritten. The error of an eigenvalue
    is a few units of rounding of 1, as LAPACK's.
    """
    with np.errstate(all="ignore"):  # lanes without variance divide 0 by 0: they are masked
        diagonal, squares = tridiagonal(matrices)
        return diagonal, qr(diagonal, squares)


def tridiagonal(a: Lanes) -> tuple[Lanes, Lanes]:
    """Diagonal [n, lanes] and squared off-diagonal [n - 1, lanes] of tridiagonal matrices similar to [n, n, lanes]."""
    n, lanes = a.shape[0], a.shape[2]
    kind = a.dtype.type
    none = kind(np.finfo(a.dtype).eps ** 2 * 1e-6)
    diagonal, squares = np.empty((n, lanes), a.dtype), np.zeros((max(n - 1, 0), lanes), a.dtype)
    products = np.empty((max(n - 2, 0), max(n - 2, 0), lanes), a.dtype)
    for j in range(n - 2):
        diagonal[j] = a[0, 0]
        v, a = a[1:, 0], a[1:, 1:]
        square = np.einsum("ib,ib->b", v, v)
        some = square > none
        square *= some
        squares[j] = square
        length = np.sqrt(square)
        scale = np.abs(v[0])
        scale *= length
        scale += square
        scale = np.divide(kind(1), scale, out=np.zeros_like(scale), where=some)  # 2 / ‖v‖²
        v[0] += np.copysign(length, v[0])
        p = np.einsum("ijb,jb->ib", a, v)
        p *= scale
        half = np.einsum("ib,ib->b", v, p)
        half *= scale
        half *= kind(0.5)
        p -= v * half
        product = products[: n - 1 - j, : n - 1 - j] if j else np.empty_like(a)
        np.multiply(v[:, None], p[None], out=product)
        a -= product
        a -= product.transpose(1, 0, 2)
    if n > 1:
        np.multiply(a[1, 0], a[1, 0], out=squares[n - 2])
        diagonal[n - 2] = a[0, 0]
    diagonal[n - 1] = a[-1, -1]
    return diagonal, squares


def qr(d: Lanes, e: Lanes) -> npt.NDArray[np.bool_]:
    """Turn a diagonal [n, lanes] into eigenvalues, in place; e: the squared off-diagonal [n - 1, lanes].

    All lanes work on the same corner until all but a few have converged there; a lane that is ahead takes its shift
    from the corner further up. Returns the lanes that converged everywhere.
    """
    n, lanes = d.shape
    kind = d.dtype.type
    floor, half, negligible = kind(FLOOR), kind(0.5), kind(np.finfo(d.dtype).eps ** 2)
    # The recurrences of xSTERF, two quantities to a pair so that one call serves both, every row's kept for later.
    squares, turns, moved = (np.empty((n, 2, lanes), d.dtype) for _ in range(3))
    radii, product = np.empty((n, lanes), d.dtype), np.empty((2, lanes), d.dtype)
    squares[:-1, 1] = e  # (γ²/c, e²)
    e = squares[:-1, 1]
    gammas = moved[:, 1]  # (next of d, γ)
    per_row = (squares[:, 0], squares[:, 1], squares, radii, turns, turns[:, 0], moved, gammas[1:], squares[1:, 0])
    steps = list(zip(*per_row, strict=False))  # views made once: the inner loop is all calls
    first, second = product
    settled = np.ones(lanes, np.bool_)
    for last in range(n - 1, 0, -1):
        edge, corner = e[:last], d[: last + 1]
        for sweep in range(SWEEPS + 1):
            alive = edge > negligible
            edge *= alive  # exact zeros split a matrix, and nothing becomes subnormal
            here = alive[last - 1]
            left = int(np.count_nonzero(here))
            if left <= min(lanes // STRAGGLERS, 4) or sweep == SWEEPS:
                settled &= ~here
                break
            low, high, square = d[last], d[last - 1], e[last - 1]
            if last > 1 and left < lanes:
                low, high = np.where(here, low, high), np.where(here, high, d[last - 2])
                square = np.where(here, square, e[last - 2])
            shift = _wilkinson(low, high, square, half, floor)
            np.subtract(corner[0], shift, out=gammas[0])
            np.subtract(corner[1:], shift, out=moved[:last, 0])
            np.multiply(gammas[0], gammas[0], out=first)
            np.maximum(first, floor, out=squares[0, 0])
            for p, b, pair, r, turn, cosine, before, gamma, p_next in steps[:last]:
                np.add(p, b, out=r)
                np.divide(pair, r, out=turn)
                np.multiply(turn, before, out=product)
                np.subtract(first, second, out=gamma)
                np.multiply(gamma, gamma, out=first)
                np.divide(first, cosine, out=second)
                np.maximum(second, floor, out=p_next)
            np.add(moved[:last, 0], gammas[:last], out=corner[:-1])
            corner[:-1] -= gammas[1 : last + 1]
            corner[-1] = gammas[last]
            corner += shift
            np.multiply(turns[: last - 1, 1], radii[1:last], out=edge[:-1])
            np.multiply(turns[last - 1, 1], squares[last, 0], out=edge[-1])
    return settled


def _wilkinson(low: Lanes, high: Lanes, square: Lanes, half: Any, floor: Any) -> Lanes:
    """The eigenvalue of [[high, e], [e, low]] that is nearer to low; square = e²."""
    middle = (high - low) * half
    root = np.sqrt(middle * middle + square)
    root += floor
    root = np.copysign(root, middle) + middle
    return np.asarray(low - square / root)
