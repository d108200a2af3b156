"""Two layers, one behind the other, refitted together: min ‖y − W₂ φ(W₁ x + b₁) − b₂‖² by Gauss–Newton steps.

Fitted alone, a layer brings back the channels that stayed. Together with the layer that reads them they may become
others: what removed channels carried is gathered in those that stayed, as far as a narrower pair can. Every step is one
linear least squares problem in both weights, with the bends of φ as they are, solved by preconditioned conjugate
gradients (Nocedal, Wright 2006, Numerical Optimization, §10.3), damped, and kept only where held-out samples agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .bends import Bend, bent
from .windows import Windows

Array = npt.NDArray[np.float32]
Double = npt.NDArray[np.float64]

STEPS = 4
"""Gauss–Newton steps at most."""

ITERATIONS = 12
"""Of conjugate gradients in a step."""

DAMPINGS = (1e-3, 1e-2, 1e-1)
"""As shares of the mean curvature: the next one where held-out samples refuse what the last one brought."""

GAIN = 2e-3
"""A step that wins less of the held-out error is the last."""


@dataclass(frozen=True)
class Rows:
    """Some samples. x: features of the first layer and a column of ones [rows₁, d₁ + 1]. target: [rows₂, outputs], the
    second layer's output without its fixed bias. begins: where the Relu behind it starts to pass, [rows₂, outputs], or
    None; cut: where the original is cut off there. windows: what positions of the second layer see."""

    x: Array
    target: Array
    begins: Array | None
    cut: npt.NDArray[np.bool_] | None
    windows: Windows

    def missing(self, made: Array, rising: npt.NDArray[np.bool_]) -> Array:
        """target − made, but 0 where both are cut off. rising: per output, whether larger values pass."""
        if self.begins is None or self.cut is None:
            return self.target - made
        beyond = np.where(rising, np.minimum(made, self.begins), np.maximum(made, self.begins))
        return np.asarray(np.where(self.cut, beyond, self.target) - made, np.float32)


@dataclass(frozen=True)
class Tandem:
    """Weights of both layers with their biases as a last row: first [d₁ + 1, K], second [taps · K + 1, outputs] in the
    order (tap, channel)."""

    first: Array
    second: Array


@dataclass(frozen=True)
class Setting:
    """bends: what lies between the layers. weight: of each output's error, [outputs]; rising: see `Rows.missing`.
    biases: whether the layers have biases that may move."""

    bends: Sequence[Bend]
    weight: Array
    rising: npt.NDArray[np.bool_]
    biases: tuple[bool, bool]


def improved(start: Tandem, seen: Rows, held_out: Rows, setting: Setting) -> tuple[Tandem, float, float]:
    """Better weights, and the mean squared errors on held-out samples before and after; `start` where nothing helps."""
    best, now = start, _error(start, held_out, setting)
    before = now
    dampings = iter(DAMPINGS)
    damping = next(dampings)
    curvature = _curvature(seen.x)
    for _ in range(STEPS):
        step = _step(best, seen, setting, curvature, damping)
        tried = [(_error(t, held_out, setting), t) for t in (_moved(best, step, s) for s in (1.0, 0.5))]
        error, found = min(tried, key=lambda pair: pair[0])
        if error < now:
            gain = 1 - error / now
            best, now = found, error
            if gain < GAIN:
                break
        else:
            damping = next(dampings, 0.0)
            if not damping:
                break
    return best, before, now


def _moved(at: Tandem, step: Tandem, size: float) -> Tandem:
    return Tandem(at.first + np.float32(size) * step.first, at.second + np.float32(size) * step.second)


def _forward(at: Tandem, rows: Rows, setting: Setting) -> tuple[Array, Array, Array]:
    """(what the second layer sees, with a column of ones; slopes of the bends; what the second layer makes)."""
    middle, slope = bent(rows.x @ at.first, setting.bends)
    seen = rows.windows.gathered(middle)
    return seen, slope, seen @ at.second


def _error(at: Tandem, rows: Rows, setting: Setting) -> float:
    _, _, made = _forward(at, rows, setting)
    missing = rows.missing(made, setting.rising) * setting.weight
    return float(np.einsum("ro,ro->", missing, missing, dtype=np.float64)) / len(missing)


def _curvature(x: Array) -> tuple[Double, Double]:
    """Eigenvalues and vectors of the second moments of features."""
    values, vectors = np.linalg.eigh((x.T @ x / len(x)).astype(np.float64))
    return values.clip(min=0), vectors


def _step(at: Tandem, rows: Rows, setting: Setting, curvature: tuple[Double, Double], damping: float) -> Tandem:
    """The damped least squares step, both weights at once."""
    seen, slope, made = _forward(at, rows, setting)
    missing = rows.missing(made, setting.rising)
    asked = setting.weight * (missing != 0) if rows.cut is not None else np.broadcast_to(setting.weight, missing.shape)
    back = np.ascontiguousarray(at.second[:-1].T)
    count = np.float32(len(missing))
    moves = tuple(np.float32(b) for b in setting.biases)

    def forth(d: Tandem) -> Array:
        middle = rows.windows.gathered(slope * (rows.x @ d.first))
        return np.asarray((middle[:, :-1] @ at.second[:-1] + seen @ d.second) * asked)

    def adjoint(e: Array) -> Tandem:
        e = e * asked / count
        middle = rows.windows.scattered(e @ back) * slope
        first, second = rows.x.T @ middle, seen.T @ e
        first[-1] *= moves[0]
        second[-1] *= moves[1]
        return Tandem(first, second)

    gains = (setting.weight**2 * at.second[:-1] ** 2).sum(axis=1).reshape(-1, at.first.shape[1]).sum(axis=0)
    gains = gains * (slope**2).mean(axis=0) * (rows.windows.rows / len(rows.x))
    ahead = _curvature(seen)
    heavy = float((setting.weight**2).mean())
    levels = float(curvature[0].mean() * gains.mean()), float(ahead[0].mean()) * heavy
    ridges = [max(damping * level, 1e-12) for level in levels]

    def product(d: Tandem) -> Tandem:
        found = adjoint(forth(d))
        return Tandem(found.first + np.float32(ridges[0]) * d.first, found.second + np.float32(ridges[1]) * d.second)

    def prepared(r: Tandem) -> Tandem:
        first = _divided(r.first, curvature, gains, ridges[0])
        return Tandem(first, _divided(r.second, ahead, setting.weight**2, ridges[1]))

    return _conjugate_gradients(product, adjoint(missing * setting.weight), prepared)


def _divided(r: Array, curvature: tuple[Double, Double], gains: Array, ridge: float) -> Array:
    values, vectors = curvature
    across = vectors.T @ r
    return np.asarray(vectors @ (across / (values[:, None] * gains + ridge)), np.float32)


def _conjugate_gradients(
    product: Callable[[Tandem], Tandem], right: Tandem, prepared: Callable[[Tandem], Tandem]
) -> Tandem:
    found = Tandem(np.zeros_like(right.first), np.zeros_like(right.second))
    residual = right
    direction = ready = prepared(residual)
    along = _inner(residual, ready)
    for _ in range(ITERATIONS):
        if along <= 0:
            break
        image = product(direction)
        curve = _inner(direction, image)
        if curve <= 0:
            break
        size = along / curve
        found = _moved(found, direction, size)
        residual = _moved(residual, image, -size)
        ready = prepared(residual)
        along, last = _inner(residual, ready), along
        direction = _moved(ready, direction, along / last)
    return found


def _inner(a: Tandem, b: Tandem) -> float:
    return float(np.vdot(a.first, b.first).astype(np.float64) + np.vdot(a.second, b.second).astype(np.float64))
