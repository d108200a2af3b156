"""OBS for channels (Hassibi 1993; Frantar 2022; Kurtić 2023): what it costs to remove a channel when all that read it
may refit the weights of the rest."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from threadpoolctl import threadpool_limits

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
    """One group of a reader on its way. What is left of the inverse is inverse − factors · factorsᵀ, never written out.

    inverse: [d, d] of the damped covariance. factors: [d, d], of which `gone` columns are filled. weights: [d, outputs]
    as refitted so far. features: per distinct size of a class, (classes [n], features [n, size]). blocks: what is left
    of the inverse for each of these, [n, size, size]. energy: variance of the outputs. damping: what was added to the
    diagonal.
    """

    inverse: FloatArray
    factors: FloatArray
    weights: FloatArray
    features: list[tuple[IntArray, IntArray]]
    blocks: list[FloatArray]
    energy: float
    damping: float
    gone: int = 0


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
    """The scores of every layer of the subject, from covariances of what reads them."""
    trace = subject.trace
    of_unit = trace.pairing.base  # before channels of grouped Convs are paired: that is done by score
    cost = np.full(int(of_unit.max(initial=0)) + 1, np.nan)
    removable = np.zeros(len(cost), bool)
    for source in subject.layers:
        free = trace.free[trace.unit_class[source.units]]
        removable[of_unit[source.units[free] if free.any() else source.units]] = True
    removable[0] = False
    jobs = []
    # many small products: one BLAS thread each, and the groups side by side
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(subject.workers) as pool:
        made = pool.map(lambda r, c: _states(r, c, of_unit, damping), found, gathered)
        states = [s for several in made for s in several]
        for together in _together(states, len(cost)):
            member = np.zeros(len(cost), bool)
            member[together] = True
            mine = [s for s in states if member[_classes(s)].any()]
            jobs.append(pool.submit(_greedy, mine, np.flatnonzero(member & removable), cost))
        for job in jobs:
            job.result()
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
        features = _by_size(of_unit[reader.units[g]])
        blocks = [inverse[at[:, :, None], at[:, None, :]] for _, at in features]
        found.append(_State(inverse, np.empty_like(h), w.copy(), features, blocks, energy, added))
    return found


def _by_size(classes: IntArray) -> list[tuple[IntArray, IntArray]]:
    """Classes [n] with their features [n, size], for every size that there is. classes: of each feature, 0: fixed."""
    order = np.argsort(classes, kind="stable")
    present, start, sizes = np.unique(classes[order], return_index=True, return_counts=True)
    found = []
    for size in np.unique(sizes[present > 0]):
        chosen = (sizes == size) & (present > 0)
        found.append((present[chosen], order[start[chosen][:, None] + np.arange(size)]))
    return found


def _together(states: Sequence[_State], count: int) -> list[IntArray]:
    """Classes that some layer reads together, as connected components."""
    pairs = []
    seen = np.zeros(count, bool)
    for state in states:
        classes = _classes(state)
        seen[classes] = True
        pairs.append((classes[:-1], classes[1:]))
    number = components(count, pairs)
    return [np.flatnonzero((number == k) & seen) for k in np.unique(number[seen])]


def _classes(state: _State) -> IntArray:
    return np.concatenate([classes for classes, _ in state.features] or [np.zeros(0, np.int64)])


def _greedy(states: Sequence[_State], classes: IntArray, cost: FloatArray) -> None:
    """Fill in `cost` of these classes, in the order in which they go."""
    left, spent = classes, 0.0
    step = max(1, len(classes) // STEPS)
    while len(left):
        each = np.zeros(len(cost))
        for state in states:
            _add_costs(state, each)
        order = left[np.argsort(each[left], kind="stable")][:step]
        joint = sum(_remove(state, order) for state in states)
        shares = each[order].cumsum()
        scale = joint / shares[-1] if shares[-1] > 0 else 0.0
        cost[order] = spent + shares * scale
        spent += float(joint)
        left = np.setdiff1d(left, order)


def _add_costs(state: _State, each: FloatArray) -> None:
    """Add what each class alone would cost, relative to the energy of the outputs. each: [classes]."""
    if state.energy <= 0:
        return
    for (classes, at), block in zip(state.features, state.blocks, strict=True):
        weights = state.weights[at]
        outer = weights @ weights.transpose(0, 2, 1)
        left_over = np.linalg.inv(block) - state.damping * np.eye(at.shape[1])  # variance the others do not explain
        each[classes] += np.einsum("cij,cji->c", left_over, outer).clip(min=0) / state.energy


def _remove(state: _State, classes: IntArray) -> float:
    """Take the features of these classes out and refit the others; returns the relative increase of the error."""
    going = [np.isin(c, classes) for c, _ in state.features]
    if not any(g.any() for g in going):
        return 0.0
    gone = np.concatenate([at[g].reshape(-1) for (_, at), g in zip(state.features, going, strict=True)])
    before = state.factors[:, : state.gone]
    across = state.inverse[:, gone] - before @ before[gone].T
    lower = np.linalg.cholesky(across[gone])
    added = solve_triangular(lower, across.T, lower=True).T
    weights = state.weights[gone]
    solved = cho_solve((lower, True), weights)
    increase = max(0.0, float((weights * solved).sum() - state.damping * (weights**2).sum()))
    state.weights -= across @ solved
    state.factors[:, state.gone : state.gone + len(gone)] = added
    state.gone += len(gone)
    kept = [~g for g in going]
    state.features = [(c[k], at[k]) for (c, at), k in zip(state.features, kept, strict=True)]
    state.blocks = [b[k] for b, k in zip(state.blocks, kept, strict=True)]
    for k, (_, at) in enumerate(state.features):
        rows = added[at]
        state.blocks[k] = state.blocks[k] - rows @ rows.transpose(0, 2, 1)
    return increase / state.energy if state.energy > 0 else 0.0
