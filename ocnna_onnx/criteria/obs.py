"""OBS for channels (Hassibi 1993; Frantar 2022; Kurtić 2023): what it costs to remove a channel when all that read it
may refit the weights of the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve

from ..calibrate.covariance import Covariance
from ..calibrate.readers import Reader, covariances, readers
from ..trace.components import components
from ..trace.labels import IntArray
from .request import Criterion, Options, Request, Subject

FloatArray = npt.NDArray[np.float64]

DAMPING = 0.01
STEPS = 64
"""Channels of a group go in so many steps; after each the inverse is brought up to date."""


@dataclass
class _State:
    """One group of a reader on its way: inverse [d, d] of the damped covariance, weights [d, outputs] as refitted so
    far, and the class of each feature. energy: variance of the outputs. damping: what was added to the diagonal."""

    inverse: FloatArray
    weights: FloatArray
    classes: IntArray
    energy: float
    damping: float


def request(subject: Subject, options: Options) -> Request:
    """tr(W_c (H⁻¹_cc)⁻¹ W_cᵀ) summed over the layers that read channel c, each relative to the variance of its outputs.

    H: centred covariance of the layer's input patches (the bias is refitted, too), damped by `damping` of its mean
    diagonal, which is taken off again from what the others do not explain: a dead channel costs nothing. Channels go
    from the cheapest on, with H⁻¹ downdated; the score is the sum of all costs up to this channel, so that the order of
    scores is the greedy one.
    """
    found = [r for r in readers(subject.trace) if np.isin(r.units, _wanted(subject)).any()]
    taps, gathered = covariances(found, subject.samples, subject.seed)
    return Request(tuple(taps), lambda: _finish(subject, found, gathered, options["damping"]))


OBS = Criterion(request, "Hassibi 1993; Frantar 2022; Kurtić 2023", {"damping": DAMPING})


def _wanted(subject: Subject) -> IntArray:
    return np.unique(np.concatenate([s.units for s in subject.layers] or [np.zeros(0, np.int64)]))


def _finish(
    subject: Subject, found: Sequence[Reader], gathered: Sequence[Covariance], damping: float
) -> list[FloatArray]:
    trace = subject.trace
    of_unit = trace.pairing.base  # before channels of grouped Convs are paired: that is done by score
    cost = np.full(int(of_unit.max(initial=0)) + 1, np.nan)
    states = [s for r, c in zip(found, gathered, strict=True) for s in _states(r, c, of_unit, damping)]
    removable = np.zeros(len(cost), bool)
    for source in subject.layers:
        free = trace.free[trace.unit_class[source.units]]
        removable[of_unit[source.units[free] if free.any() else source.units]] = True
    removable[0] = False
    for together in _together(states, len(cost)):
        member = np.isin(np.arange(len(cost)), together)
        mine = [s for s in states if member[s.classes].any()]
        _greedy(mine, np.flatnonzero(member & removable), cost)
    return [_of_layer(cost[of_unit[s.units]]) for s in subject.layers]


def _of_layer(cost: FloatArray) -> FloatArray:
    """Channels that no layer with weights reads, or that cannot go, have the highest score of their layer."""
    known = ~np.isnan(cost)
    return np.where(known, cost, cost[known].max() * 2 if known.any() else 1.0)


def _states(reader: Reader, covariance: Covariance, of_unit: IntArray, damping: float) -> list[_State]:
    found = []
    centred = covariance.centred()
    for g in range(len(centred)):
        h, w = centred[g], reader.matrix[g]
        energy = float(np.einsum("do,do->", w, h @ w))
        level = float(np.trace(h)) / len(h)
        added = damping * level if level > 0 else 1.0
        h[np.diag_indices(len(h))] += added
        inverse = cho_solve(cho_factor(h, lower=True), np.eye(len(h)))
        found.append(_State(inverse, w.copy(), of_unit[reader.units[g]], energy, added))
    return found


def _together(states: Sequence[_State], count: int) -> list[IntArray]:
    """Classes that some layer reads together, as connected components."""
    pairs = []
    seen = np.zeros(count, bool)
    for state in states:
        classes = np.unique(state.classes[state.classes > 0])
        seen[classes] = True
        pairs.append((classes[:-1], classes[1:]))
    number = components(count, pairs)
    return [np.flatnonzero((number == k) & seen) for k in np.unique(number[seen])]


def _greedy(states: Sequence[_State], classes: IntArray, cost: FloatArray) -> None:
    """Fill in `cost` of these classes, in the order in which they go."""
    left, spent = classes, 0.0
    step = max(1, len(classes) // STEPS)
    while len(left):
        each = np.zeros(len(cost))
        for state in states:
            each += _costs(state, len(cost))
        order = left[np.argsort(each[left], kind="stable")][:step]
        joint = sum(_remove(state, order) for state in states)
        shares = each[order].cumsum()
        scale = joint / shares[-1] if shares[-1] > 0 else 0.0
        cost[order] = spent + shares * scale
        spent += float(joint)
        left = np.setdiff1d(left, order)


def _costs(state: _State, count: int) -> FloatArray:
    """What each class alone would cost, relative to the energy of the outputs, [classes]."""
    found = np.zeros(count)
    order = np.argsort(state.classes, kind="stable")
    classes, start, sizes = np.unique(state.classes[order], return_index=True, return_counts=True)
    for size in np.unique(sizes[classes > 0]):
        chosen = (sizes == size) & (classes > 0)
        at = order[start[chosen][:, None] + np.arange(size)]  # [classes, size] features
        block = state.inverse[at[:, :, None], at[:, None, :]]
        weights = state.weights[at]
        outer = weights @ weights.transpose(0, 2, 1)
        left_over = np.linalg.inv(block) - state.damping * np.eye(size)  # variance that the others do not explain
        found[classes[chosen]] = np.einsum("cij,cji->c", left_over, outer)
    return found.clip(min=0) / state.energy if state.energy > 0 else np.zeros(count)


def _remove(state: _State, classes: IntArray) -> float:
    """Take the features of these classes out and refit the others; returns the relative increase of the error."""
    gone = np.isin(state.classes, classes)
    if not gone.any():
        return 0.0
    stay = ~gone
    across = state.inverse[np.ix_(stay, gone)]
    factor = cho_factor(state.inverse[np.ix_(gone, gone)], lower=True)
    solved = cho_solve(factor, state.weights[gone])
    increase = max(0.0, float((state.weights[gone] * solved).sum() - state.damping * (state.weights[gone] ** 2).sum()))
    state.weights = state.weights[stay] - across @ solved
    state.inverse = state.inverse[np.ix_(stay, stay)] - across @ cho_solve(factor, across.T)
    state.classes = state.classes[stay]
    return increase / state.energy if state.energy > 0 else 0.0
