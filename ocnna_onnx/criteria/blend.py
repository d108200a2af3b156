"""Blending (He et al. 2021, "Blending Pruning Criteria for Convolutional Neural Networks", ICANN): which criteria say
the same, which one speaks for them, and an evolutionary search for weights. What weights are worth is told from above:
nothing here knows how a net is pruned or compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from .request import Criterion, Options, Request, Subject

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

MEMBERS = ("ocnna", "l2", "l1", "group-l2", "fpgm", "bn-scale", "wanda", "activation-l2", "apoz")
"""What is blended unless the user says otherwise; the first of a cluster that is as central as another speaks for it.
lamp ranks as l2 does; hrank, chip and obs cost more than the rest together."""

SAME = 0.05
"""Criteria whose distances (1 - similarity) are all below it are one cluster: no silhouette can tell one from two."""

STEPS = 100
"""Weights are multiples of 1/STEPS: reported as they were used, and near duplicates are not tried again."""

REDRAWS = 8
"""How often a child that was seen before is drawn anew."""

RATIO = 0.2
"""The share of every group that the search removes. Nothing is repaired there: a deeper cut leaves nets that are all at
chance, and what is closest among those says nothing about other cuts (measured on the nets of `models/`)."""

SPREAD = 0.3
COOLING = 0.7
"""Standard deviation of the first generation's mutations, and what it is multiplied by from one to the next."""


def similarity(scores: Sequence[Sequence[FloatArray]]) -> FloatArray:
    """Spearman correlation of two criteria's scores, averaged over layers: [criteria, criteria] in -1 … 1.

    scores: of every criterion, of every layer, [channels]. A layer that a criterion cannot order (all equal) has
    correlation 1 with another such criterion, else 0; layers of one channel do not count.
    """
    from scipy.stats import rankdata

    total = np.zeros((len(scores), len(scores)))
    layers = [np.stack(layer) for layer in zip(*scores, strict=True) if layer[0].size > 1]
    for layer in layers:
        ranks = rankdata(layer, axis=1)
        ranks -= ranks.mean(axis=1, keepdims=True)
        size = np.sqrt((ranks**2).sum(axis=1))
        flat = size == 0
        unit = ranks / np.where(flat, 1, size)[:, None]
        total += unit @ unit.T + np.outer(flat, flat)
    found = np.asarray(total / len(layers)) if layers else np.ones_like(total)
    np.fill_diagonal(found, 1)
    return np.asarray(np.clip((found + found.T) / 2, -1, 1))


def clusters(similar: FloatArray, count: int = 0) -> list[list[int]]:
    """Criteria that say the same, each cluster in ascending order, ordered by their first.

    similar: [criteria, criteria]. Agglomerative with average linkage on 1 - similarity. count: how many (no more than
    there are criteria); 0: as many as give the best silhouette, the fewest of several.
    """
    from sklearn.metrics import silhouette_score

    size = len(similar)
    distance = 1 - similar
    np.fill_diagonal(distance, 0)
    if count:
        labels = _linked(distance, min(count, size))
    elif distance.max(initial=0) < SAME:
        labels = np.zeros(size, np.int64)
    elif size == 2:
        labels = np.arange(size)
    else:
        tried = [_linked(distance, k) for k in range(2, size)]
        judged = [float(silhouette_score(distance, labels, metric="precomputed")) for labels in tried]
        labels = tried[int(np.argmax(judged))]
    return [np.flatnonzero(labels == k).tolist() for k in dict.fromkeys(labels.tolist())]


def _linked(distance: FloatArray, count: int) -> IntArray:
    """The cluster of each, by average linkage."""
    from sklearn.cluster import AgglomerativeClustering

    if count in (1, len(distance)):
        return np.zeros(len(distance), np.int64) if count == 1 else np.arange(len(distance))
    found = AgglomerativeClustering(n_clusters=count, metric="precomputed", linkage="average").fit(distance)
    return np.asarray(found.labels_, np.int64)


def representative(similar: FloatArray, members: Sequence[int]) -> int:
    """The medoid: the member that is most similar to the others; the first of several."""
    near = similar[np.ix_(members, members)].sum(axis=1)
    return members[int(np.flatnonzero(near >= near.max() - 1e-12)[0])]


def blended_scores(weights: FloatArray, scores: Sequence[Sequence[FloatArray]]) -> list[FloatArray]:
    """Σ_m w_m · score_m per layer. weights: [criteria]; scores: normalised, of every criterion, of every layer."""
    return [np.asarray(weights @ np.stack(layer)) for layer in zip(*scores, strict=True)]


def on_simplex(values: FloatArray) -> FloatArray:
    """The weights nearest in proportion: nothing below 0, sum 1, multiples of 1/STEPS by largest remainder.

    values: [n], finite. Where none is positive, everything goes to the largest.
    """
    positive = np.maximum(values, 0) + 0.0  # no negative zero
    if positive.max() <= 0:
        positive = np.where(np.arange(len(values)) == np.argmax(values), 1.0, 0.0)
    share = positive / positive.max()  # so that no sum overflows
    exact = share / share.sum() * STEPS
    steps = np.floor(exact)
    left = STEPS - int(steps.sum())
    steps[np.argsort(steps - exact, kind="stable")[:left]] += 1
    return np.asarray(steps / STEPS)


@dataclass(frozen=True)
class Evolved:
    """weights: [n], of the best that was found; value: its fitness. alone: [n], the fitness of each criterion by
    itself. tried: how many different weights were evaluated."""

    weights: FloatArray
    value: float
    alone: FloatArray
    tried: int


def evolve(
    fitness: Callable[[FloatArray], float],
    dims: int,
    rng: np.random.Generator,
    population: int = 6,
    generations: int = 4,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evolved:
    """Weights on the simplex with the lowest fitness: a (μ+λ) evolution strategy with μ = λ = `population`.

    It starts from every corner (so that no criterion alone is better than what is found), their mean, and draws from a
    flat Dirichlet distribution. A child lies between two parents and is moved by Gaussian noise that shrinks from
    generation to generation; the best of parents and children are the next parents, the earlier of equals first.
    fitness: weights [dims] -> what is to be small; called once for every different weights.
    """
    seen: dict[bytes, float] = {}
    pool: list[tuple[float, FloatArray]] = []
    start = max(dims + 1, population) if dims > 1 else 1
    total = start + (generations * population if dims > 1 else 0)

    def judge(weights: FloatArray) -> None:
        value = fitness(weights)
        seen[weights.tobytes()] = value if np.isfinite(value) else np.inf
        pool.append((seen[weights.tobytes()], weights))
        progress(len(seen), total)

    def judge_new(draw: Callable[[], FloatArray]) -> None:
        for _ in range(REDRAWS):
            weights = on_simplex(draw())
            if weights.tobytes() not in seen:
                return judge(weights)
        return None

    for corner in np.eye(dims):
        judge(corner)
    alone = np.array([value for value, _ in pool])
    if dims > 1:
        judge_new(lambda: np.ones(dims))
        for _ in range(start - len(pool)):
            judge_new(lambda: rng.dirichlet(np.ones(dims)))
        for g in range(generations):
            parents = sorted(pool, key=lambda p: p[0])[:population]
            pool = list(parents)
            for _ in range(population):
                judge_new(lambda: _child([w for _, w in parents], SPREAD * COOLING**g, rng))  # noqa: B023
    progress(total, total)
    value, weights = min(pool, key=lambda p: p[0])
    return Evolved(weights, value, alone, len(seen))


def _child(parents: Sequence[FloatArray], spread: float, rng: np.random.Generator) -> FloatArray:
    a, b = (parents[k] for k in rng.integers(len(parents), size=2))
    return np.asarray(a + rng.random() * (b - a) + rng.normal(0, spread, len(a)))


def request(subject: Subject, options: Options) -> Request:
    """Never asked: weights need a pruned net to be judged by (`ocnna_onnx.blending`). Raises UsageError."""
    raise UsageError("blend: it is made of other criteria and cannot be a part of one")


BLEND = Criterion(
    request,
    "He 2021, weights by search",
    {
        "criteria": "",
        "clusters": 0,
        "generations": 4,
        "population": 6,
        "ratio": RATIO,
        "images": 64,
        "normalize": "rank",
    },
)
