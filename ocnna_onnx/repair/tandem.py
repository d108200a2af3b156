"""Two layers, one behind the other, refitted together: min ‖y − W₂ φ(W₁ x + b₁) − b₂‖² by Gauss–Newton steps.

Fitted alone, a layer brings back the channels that stayed. Together with the layer that reads them they may become
others: what removed channels carried is gathered in those that stayed, as far as a narrower pair can. Every step is one
linear least squares problem in both weights, with the bends of φ as they are, solved by preconditioned conjugate
gradients (Nocedal, Wright 2006, Numerical Optimization, §10.3), damped, and kept only where held-out samples agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import reduce

import numpy as np
import numpy.typing as npt

from .bends import Between, Slopes, ahead, behind, gain, through
from .windows import Windows

Array = npt.NDArray[np.float32]
Double = npt.NDArray[np.float64]

STEPS = 4
"""Gauss–Newton steps at most."""

ITERATIONS = 12
"""Of conjugate gradients in a step."""

DAMPINGS = (1e-3, 1e-2, 1e-1)
"""As shares of the mean curvature: the next one where held-out samples refuse what the last one brought."""

GAIN = 5e-3
"""A step that wins a smaller share of the held-out error is the last."""

SPARING = 4
"""One part of so many tells the curvature, where that leaves PER_FEATURE rows per feature."""

PER_FEATURE = 32

FEW = 4
"""One part of so many tells whether a pair is worth it: a step on these must win WORTH of the held-out error."""

WORTH = 0.01


@dataclass(frozen=True)
class Part:
    """Some samples. x: features of the first layer and a column of ones [rows₁, d₁ + 1]. target: [rows₂, outputs], the
    second layer's output. begins: where the Relu behind it starts to pass, [rows₂, outputs], or None; cut: where the
    original is cut off there. windows: what positions of the second layer see."""

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
    """bends: what lies between the layers. weight: of each output's error, [outputs]; rising: see `Part.missing`.
    biases: whether the layers have biases that may move. pool: works on several parts at once."""

    bends: Between
    weight: Array
    rising: npt.NDArray[np.bool_]
    biases: tuple[bool, bool]
    pool: Executor


def improved(
    start: Tandem, seen: Sequence[Part], held_out: Sequence[Part], setting: Setting
) -> tuple[Tandem, float, float]:
    """Better weights, and the mean squared errors on held-out samples before and after; `start` where nothing helps."""
    best, now = start, _error(start, held_out, setting)
    before = now
    some = seen[::FEW]
    if (
        _tried(start, some, held_out, setting, _spectrum([part.x for part in some], setting), DAMPINGS[-1])[0]
        > (1 - WORTH) * now
    ):
        return start, now, now
    dampings = iter(DAMPINGS)
    damping = next(dampings)
    curvature = _spectrum([part.x for part in seen], setting)
    for _ in range(STEPS):
        error, found = _tried(best, seen, held_out, setting, curvature, damping)
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


def _tried(
    at: Tandem,
    seen: Sequence[Part],
    held_out: Sequence[Part],
    setting: Setting,
    curvature: tuple[Double, Double],
    damping: float,
) -> tuple[float, Tandem]:
    """Where a step leads, whole or half, and the held-out error there."""
    step = _step(at, seen, setting, curvature, damping)
    tried = [(_error(t, held_out, setting), t) for t in (_moved(at, step, s) for s in (1.0, 0.5))]
    return min(tried, key=lambda pair: pair[0])


def _moved(at: Tandem, step: Tandem, size: float) -> Tandem:
    return Tandem(at.first + np.float32(size) * step.first, at.second + np.float32(size) * step.second)


def _error(at: Tandem, parts: Sequence[Part], setting: Setting) -> float:
    def squares(part: Part) -> tuple[float, int]:
        middle, _ = through(part.x @ at.first, setting.bends)
        missing = part.missing(part.windows.gathered(middle) @ at.second, setting.rising) * setting.weight
        return float(np.einsum("ro,ro->", missing, missing, dtype=np.float64)), len(missing)

    sums, rows = zip(*setting.pool.map(squares, parts), strict=True)
    return float(sum(sums) / sum(rows))


def _spectrum(rows: Sequence[Array], setting: Setting) -> tuple[Double, Double]:
    """Eigenvalues and vectors of the second moments of features, from chunks of rows."""
    moments = reduce(np.add, setting.pool.map(lambda x: (x.T @ x).astype(np.float64), rows))
    values, vectors = np.linalg.eigh(moments / sum(map(len, rows)))
    return values.clip(min=0), vectors


@dataclass(frozen=True)
class _Local:
    """Both layers around the weights as they are, on some samples. slopes: of the bends; seen: what the second layer
    sees; missing: what it lacks; asked: [rows₂, outputs], how much each error counts, 0 where nothing is asked."""

    part: Part
    bends: Between
    slopes: Slopes
    seen: Array
    missing: Array
    asked: Array

    @classmethod
    def of(cls, at: Tandem, part: Part, setting: Setting) -> _Local:
        middle, slopes = through(part.x @ at.first, setting.bends)
        seen = part.windows.gathered(middle)
        missing = part.missing(seen @ at.second, setting.rising)
        asked = np.broadcast_to(setting.weight, missing.shape)
        if part.cut is not None:
            asked = np.asarray(asked * (~part.cut | (missing != 0)), np.float32)
        return cls(part, setting.bends, slopes, seen, missing, asked)

    def forth(self, at: Tandem, d: Tandem) -> Array:
        """What a change of the weights does to the second layer, linearly."""
        middle = self.part.windows.gathered(ahead(self.part.x @ d.first, self.bends, self.slopes))
        return np.asarray((middle[:, :-1] @ at.second[:-1] + self.seen @ d.second) * self.asked)

    def back(self, at: Tandem, e: Array) -> Tandem:
        """The adjoint."""
        e = e * self.asked
        middle = behind(self.part.windows.scattered(e @ at.second[:-1].T), self.bends, self.slopes)
        return Tandem(self.part.x.T @ middle, self.seen.T @ e)


def _step(
    at: Tandem, parts: Sequence[Part], setting: Setting, curvature: tuple[Double, Double], damping: float
) -> Tandem:
    """The damped least squares step, both weights at once."""
    local = list(setting.pool.map(lambda part: _Local.of(at, part, setting), parts))
    some = _some(local)
    rows = sum(len(one.missing) for one in local)
    slopes = np.mean([gain(one.bends, one.slopes) for one in local], axis=0) * sum(len(p.x) for p in parts)
    further = _spectrum([one.seen for one in local], setting)
    squares = setting.weight**2
    gains = (squares * at.second[:-1] ** 2).sum(axis=1).reshape(-1, at.first.shape[1]).sum(axis=0) * slopes / rows
    levels = float(curvature[0].mean() * gains.mean()), float(further[0].mean() * squares.mean())
    ridges = [np.float32(max(damping * level, 1e-12)) for level in levels]

    def gathered(several: Callable[[_Local], Tandem], over: Sequence[_Local]) -> Tandem:
        found = reduce(lambda a, b: _moved(a, b, 1.0), setting.pool.map(several, over))
        rows = np.float32(sum(len(one.missing) for one in over))
        return held(Tandem(found.first / rows, found.second / rows))

    def held(d: Tandem) -> Tandem:  # biases that do not move
        d.first[-1] *= setting.biases[0]
        d.second[-1] *= setting.biases[1]
        return d

    def product(d: Tandem) -> Tandem:
        found = gathered(lambda one: one.back(at, one.forth(at, d)), some)
        return Tandem(found.first + ridges[0] * d.first, found.second + ridges[1] * d.second)

    def prepared(r: Tandem) -> Tandem:
        first = _divided(r.first, curvature, gains, ridges[0])
        return held(Tandem(first, _divided(r.second, further, squares, ridges[1])))

    right = gathered(lambda one: one.back(at, one.missing * setting.weight), local)
    return _conjugate_gradients(product, right, prepared)


def _some(local: Sequence[_Local]) -> Sequence[_Local]:
    """Parts enough to know the curvature by: it needs fewer samples than the gradient does (Byrd et al. 2011, On the
    Use of Stochastic Hessian Information in Optimization Methods for Machine Learning)."""
    features = max(local[0].part.x.shape[1], local[0].seen.shape[1])
    rows = sum(len(one.missing) for one in local)
    return local[:: max(1, min(SPARING, rows // (PER_FEATURE * features)))]


def _divided(r: Array, curvature: tuple[Double, Double], gains: Array, ridge: float) -> Array:
    values, vectors = curvature
    return np.asarray(vectors @ ((vectors.T @ r) / (values[:, None] * gains + ridge)), np.float32)


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
