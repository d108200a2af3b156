"""CHIP (Sui et al. 2021, arXiv 2110.13981): channel independence, the drop of the nuclear norm when a channel is
zeroed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..calibrate.maps import as_maps
from ..calibrate.moments import Moments, merged, moments
from ..calibrate.stream import Tap
from ..errors import UsageError
from ..model.graph import AnyArray
from .reading import in_numbers, read_at
from .request import Criterion, Options, Request, Subject

FloatArray = npt.NDArray[np.float64]

IMAGES = 64
STEP = 0.75
NODES = np.exp(np.arange(-56, 56 + STEP, STEP))
"""Nodes of the quadrature, in units of the largest squared singular value: the integrand is analytic for |Im ln t| < π,
so that the trapezoidal rule in ln t errs by e^(−2π²/STEP) (4·10⁻¹²), and the ends cut off 10⁻¹²."""


def independence(matrix: FloatArray) -> FloatArray:
    """‖M‖_* − ‖M with row c zeroed‖_* for every row c of M [channels, positions] (equation 4), [channels].

    All rows from one decomposition M = U S Vᵀ, instead of one SVD per row. With λ = s² and
    g_c(t) = [(M Mᵀ + t)⁻¹]_cc = Σ_i u_ci² / (λ_i + t), the determinant of M Mᵀ + t without row and column c is
    g_c(t) · det(M Mᵀ + t); as √λ = 1/π ∫ λ / (λ + t) · t^(−1/2) dt, the drop is
    1/π ∫₀^∞ [Σ_i u_ci² λ_i / (λ_i + t)²] / g_c(t) · t^(−1/2) dt, a sum of positive terms. Compared with the plain loop
    it agrees to about 1e-8 of the largest singular value.
    """
    size = np.sqrt(np.einsum("cp,cp->c", matrix, matrix))
    found = np.zeros(len(matrix))
    rows = np.flatnonzero(size > 0)
    if not len(rows):
        return found
    scale = float(size.max())
    live = matrix[rows] / scale
    wide = live.shape[0] <= live.shape[1]
    values, vectors = np.linalg.eigh(live @ live.T if wide else live.T @ live)
    top = float(values[-1])
    sure = values > top * len(values) * np.finfo(np.float64).eps
    values = values[sure] / top
    shares = vectors[:, sure] ** 2 if wide else (live @ vectors[:, sure]) ** 2 / (values * top)
    rest = np.clip(1 - shares.sum(axis=1), 0, None)[:, None]  # of the null space
    inverse = 1 / (values[:, None] + NODES)
    weighed = shares @ (values[:, None] * inverse**2)
    integrand = weighed / (rest / NODES + shares @ inverse) * np.sqrt(NODES)
    found[rows] = integrand.sum(axis=1) * STEP / np.pi * np.sqrt(top) * scale
    return found


def request(subject: Subject, options: Options) -> Request:
    """Mean over the first `images` samples (0: all) of the independence of each channel, behind the activation."""
    most = options["images"]
    if most < 0:
        raise UsageError(f"chip: images {most} is out of range: at least 0 (0: all)")
    tensors = read_at(subject, options, "chip")
    found: list[Moments | None] = [None] * len(tensors)

    def watch(k: int) -> Tap:
        def take(output: AnyArray, batch: int, valid: int) -> None:
            so_far = found[k]
            done = 0 if so_far is None else so_far.count
            if most and done >= most:
                return
            maps = as_maps(output, subject.layers[k].axis, batch)
            maps = maps[: max(1, valid * len(maps) // batch)][: most - done if most else None]
            parts = [independence(m.reshape(len(m), -1).astype(np.float64)) for m in maps]
            found[k] = merged(so_far, moments(np.stack(parts)))

        return Tap(tensors[k], take)

    def finish() -> list[FloatArray]:
        return [m.mean for m in found if m is not None]

    return in_numbers(subject.trace, Request(tuple(watch(k) for k in range(len(tensors))), finish))


CHIP = Criterion(request, "Sui 2021", {"tap": "activation", "images": IMAGES})
