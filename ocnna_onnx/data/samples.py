"""Samples as the rest of the package sees them: feeds for onnxruntime, batch by batch, with labels where they exist."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from ..model.graph import AnyArray
from .rows import IntArray as IntArray
from .rows import Rows, subset

PROBE_ROWS = 16
"""How many samples the probe gets to see; it repeats them where it takes more."""


@dataclass(frozen=True)
class Samples:
    """What calibration and evaluation run on.

    arrays: input -> rows [n, …], which may be read or decoded only when a batch asks for them; fixed: input -> array
    without a sample axis, the same in every feed. labels: int64 [n].
    source: where they come from, preprocessing: what was done to them, both in words. real: whether the user chose
    them. evaluation: other samples of the same kind to judge by (never calibrated with), where the source has some.
    foreign_labels: whether the labels may be of other classes than the model's. batch: how many samples one run takes
    where `fixed` says so (a recurrent state for N of them), else 0. notes: what the user should know about them.
    """

    arrays: Mapping[str, Rows]
    fixed: Mapping[str, AnyArray] = field(default_factory=dict)
    labels: IntArray | None = None
    source: str = ""
    preprocessing: str = ""
    real: bool = True
    evaluation: Samples | None = None
    foreign_labels: bool = False
    batch: int = 0
    notes: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Number of samples."""
        return min((len(a) for a in self.arrays.values()), default=1)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything that a run gets to see (not of the labels), in hex. Reads all of it, once. Raises
        DataError where samples turn out to be broken."""
        found = hashlib.sha256()
        for feed, valid in self.batches(min(32, self.count)):
            for name in sorted(feed):
                found.update(f"{name}{feed[name].dtype}{feed[name].shape}{valid}".encode())
                found.update(np.ascontiguousarray(feed[name]).tobytes())
        return found.hexdigest()

    def take(self, indices: IntArray) -> Samples:
        """A subset, in the order of `indices`. Nothing is read that is not in memory already."""
        arrays = {n: subset(a, indices) for n, a in self.arrays.items()}
        return replace(self, arrays=arrays, labels=None if self.labels is None else self.labels[indices])

    def batches(self, size: int) -> Iterator[tuple[dict[str, AnyArray], int]]:
        """(feed, valid) with feeds of exactly `size` samples; the last one repeats its last sample to fill up. Raises
        DataError where samples that are read only now turn out to be broken."""
        for start in range(0, self.count, size):
            valid = min(size, self.count - start)
            read = {n: a[np.arange(start, start + valid)] for n, a in self.arrays.items()}
            if valid < size:
                fill = np.minimum(np.arange(size), valid - 1)
                read = {n: a[fill] for n, a in read.items()}
            yield {**read, **self.fixed}, valid


def probe_shapes(samples: Samples, given: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The shapes that the user gave, and for other inputs those of real samples (0: the sample axis, to be guessed, if
    the data does not say)."""
    if not samples.real:
        return dict(given)
    per_sample = {name: (samples.batch, *array.shape[1:]) for name, array in samples.arrays.items()}
    return {**per_sample, **{name: array.shape for name, array in samples.fixed.items()}, **given}


def probe_values(samples: Samples) -> dict[str, AnyArray]:
    """What the first of the user's own samples hold; nothing where they are made up."""
    if not samples.real:
        return {}
    return {**{name: rows[:PROBE_ROWS] for name, rows in samples.arrays.items()}, **samples.fixed}


def choose(samples: Samples, count: int, seed: int) -> Samples:
    """At most `count` samples, seeded; class-balanced where labels exist. All of them where there are no more."""
    if samples.count <= count:
        return samples
    return samples.take(chosen(samples.count, samples.labels, count, seed))


def chosen(total: int, labels: IntArray | None, count: int, seed: int) -> IntArray:
    """The numbers of at most `count` of `total` samples, ascending; class-balanced where labels [total] exist."""
    if total <= count:
        return np.arange(total)
    order = np.random.default_rng(seed).permutation(total)
    if labels is not None:
        shuffled = labels[order]
        rank = np.empty(len(order), np.int64)  # position among the samples of the same class
        for label in np.unique(shuffled):
            rank[shuffled == label] = np.arange((shuffled == label).sum())
        order = order[np.argsort(rank, kind="stable")]
    return np.sort(order[:count])
