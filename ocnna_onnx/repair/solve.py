"""Affine least squares between two nets, layer by layer: min Σ ‖y − W x − b‖² + λ ‖W − W_kept‖² (METHODS.md §6)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from ..model.graph import AnyArray

FloatArray = npt.NDArray[np.float64]

RIDGES = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 10.0)
"""λ as shares of the mean variance of a feature."""

CAUTIOUS = 1.0
"""The ridge where no samples are held out to choose one."""


@dataclass(frozen=True)
class Pairs:
    """Second moments of features x [groups, rows, d] and targets y [groups, rows, o], around pilot means. intercept:
    whether a bias may be fitted, too."""

    rows: int = 0
    intercept: bool = True
    pilot_x: AnyArray | None = None
    pilot_y: AnyArray | None = None
    x: FloatArray = field(default_factory=lambda: np.zeros(0))
    y: FloatArray = field(default_factory=lambda: np.zeros(0))
    xx: FloatArray = field(default_factory=lambda: np.zeros(0))
    xy: FloatArray = field(default_factory=lambda: np.zeros(0))
    yy: FloatArray = field(default_factory=lambda: np.zeros(0))

    def of(self, x: AnyArray, y: AnyArray, alone: bool = True) -> Pairs:
        """Those of further rows, around the same pilots. Products in float32, sums in float64. alone: with the moments
        of x itself; without them see `with_features`."""
        x, y = x - self.pilot_x, y - self.pilot_y
        across = x.transpose(0, 2, 1)
        return Pairs(
            x.shape[1],
            self.intercept,
            self.pilot_x,
            self.pilot_y,
            np.asarray(x.sum(axis=1, dtype=np.float64)) if alone else np.zeros(0),
            np.asarray(y.sum(axis=1, dtype=np.float64)),
            np.asarray(across @ x, np.float64) if alone else np.zeros(0),
            np.asarray(across @ y, np.float64),
            np.einsum("gro,gro->go", y, y, dtype=np.float64),
        )

    def with_features(self, other: Pairs) -> Pairs:
        """With the moments of x of `other`, which saw the same rows with other targets, around the same pilots."""
        return replace(self, x=other.x, xx=other.xx)

    def plus(self, other: Pairs) -> Pairs:
        """Both together."""
        if not other.rows or not self.rows:
            return self if self.rows else other
        sums = (a + b for a, b in zip(self._sums(), other._sums(), strict=True))
        return Pairs(self.rows + other.rows, self.intercept, self.pilot_x, self.pilot_y, *sums)

    def _sums(self) -> tuple[FloatArray, ...]:
        return self.x, self.y, self.xx, self.xy, self.yy

    def means(self) -> tuple[FloatArray, FloatArray]:
        """Of x [groups, d] and y [groups, o], without the pilots."""
        return self.x / self.rows, self.y / self.rows

    def centred(self) -> tuple[FloatArray, FloatArray]:
        """Covariances xx [groups, d, d] and xy [groups, d, o]."""
        mx, my = self.means()
        if not self.intercept:
            return self.xx / self.rows, self.xy / self.rows
        return self.xx / self.rows - mx[:, :, None] * mx[:, None, :], self.xy / self.rows - mx[:, :, None] * my[:, None]

    def error(self, weight: FloatArray, bias: FloatArray) -> FloatArray:
        """Mean squared error of y ≈ x W + b, [groups, o]. weight: [groups, d, o], bias: [groups, o]."""
        assert self.pilot_x is not None
        assert self.pilot_y is not None
        offset = bias + np.einsum("gd,gdo->go", self.pilot_x[:, 0], weight) - self.pilot_y[:, 0]
        mx, my = self.means()
        square = np.einsum("gdo,gdo->go", weight, self.xx @ weight) / self.rows
        cross = np.einsum("gdo,gdo->go", weight, self.xy) / self.rows
        linear = np.einsum("gd,gdo->go", mx, weight)
        return np.asarray(square - 2 * cross + self.yy / self.rows + 2 * offset * (linear - my) + offset**2)

    def bias(self, weight: FloatArray) -> FloatArray:
        """The best bias for a weight, [groups, o]."""
        assert self.pilot_x is not None
        assert self.pilot_y is not None
        mx, my = self.means()
        if not self.intercept:
            return np.zeros_like(my)
        return np.asarray(my + self.pilot_y[:, 0] - np.einsum("gd,gdo->go", mx + self.pilot_x[:, 0], weight))


def pilot(x: AnyArray, y: AnyArray, intercept: bool) -> Pairs:
    """No rows yet; the pilots are the means of these, or zero where there is no bias to fit."""
    means = [a.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32) for a in (x, y)]
    pilots = means if intercept else [np.zeros_like(m) for m in means]
    return Pairs(0, intercept, *pilots)


@dataclass(frozen=True)
class Fit:
    """weight [groups, d, o], bias [groups, o]; ridge: the one that held-out samples chose, None where no new weights
    helped. before, after: mean squared errors on held-out samples."""

    weight: FloatArray
    bias: FloatArray
    ridge: float | None
    before: float
    after: float


def fit(seen: Pairs, held_out: Pairs, weight: FloatArray, bias: FloatArray, method: str = "least-squares") -> Fit:
    """Weights by least squares, shrunk towards `weight`; the amount by the error on held-out samples, and refitted on
    all samples. Where nothing helps there, the weights stay as they are. Without held-out samples it is CAUTIOUS."""
    if not held_out.rows:
        ((w, b),) = _path(seen, weight, (CAUTIOUS,))
        errors = [float(seen.error(*pair).sum()) for pair in ((weight, bias), (w, b))]
        return Fit(w, b, CAUTIOUS, *errors) if errors[1] < errors[0] else Fit(weight, bias, None, errors[0], errors[0])
    before = float(held_out.error(weight, bias).sum())
    if method != "least-squares":
        return _weaker(seen, held_out, weight, bias, method == "moments", before)
    best: tuple[float, float | None] = (before, None)
    for ridge, (w, b) in zip(RIDGES, _path(seen, weight, RIDGES), strict=True):
        error = float(held_out.error(w, b).sum())
        if error < best[0]:
            best = (error, ridge)
    error, chosen = best
    if chosen is None:
        fixed = seen.bias(weight)
        error = float(held_out.error(weight, fixed).sum())
        if error < before:
            return Fit(weight, seen.plus(held_out).bias(weight), None, before, error)
        return Fit(weight, bias, None, before, before)
    ((w, b),) = _path(seen.plus(held_out), weight, (chosen,))
    return Fit(w, b, chosen, before, error)


def _weaker(seen: Pairs, held_out: Pairs, weight: FloatArray, bias: FloatArray, scaled: bool, before: float) -> Fit:
    """Outputs get the mean of their targets, and with `scaled` their variance: weights keep their direction."""
    both = seen.plus(held_out)

    def changed(pairs: Pairs) -> FloatArray:
        if not scaled:
            return weight
        xx, _ = pairs.centred()
        variance = np.einsum("gdo,gdo->go", weight, xx @ weight)
        wanted = pairs.yy / pairs.rows - (pairs.means()[1] ** 2 if pairs.intercept else 0)
        ratio = np.sqrt(np.divide(wanted.clip(min=0), variance, out=np.ones_like(variance), where=variance > 0))
        return np.asarray(weight * ratio.clip(0.1, 10)[:, None, :])

    trial = changed(seen)
    after = float(held_out.error(trial, seen.bias(trial)).sum())
    if not after < before:
        return Fit(weight, bias, None, before, before)
    final = changed(both)
    return Fit(final, both.bias(final), None, before, after)


def _path(pairs: Pairs, weight: FloatArray, ridges: tuple[float, ...]) -> list[tuple[FloatArray, FloatArray]]:
    """(weight, bias) for every ridge, from one decomposition."""
    xx, xy = pairs.centred()
    values, vectors = np.linalg.eigh(xx)
    values = values.clip(min=0)
    level = np.maximum(values.mean(axis=1), np.finfo(np.float64).tiny)
    across = vectors.transpose(0, 2, 1)
    target, start = across @ xy, across @ weight
    found = []
    for ridge in ridges:
        shrink = (ridge * level)[:, None, None]
        w = vectors @ ((target + shrink * start) / (values[:, :, None] + shrink))
        found.append((w, pairs.bias(w)))
    return found
