"""Samples as the rest of the package sees them: feeds for onnxruntime, batch by batch, with labels where they exist."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from ..model.graph import AnyArray

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Samples:
    """What calibration and evaluation run on.

    arrays: input -> [n, …]; fixed: input -> array without a sample axis, the same in every feed. labels: int64 [n].
    source: where they come from, preprocessing: what was done to them, both in words. real: whether the user chose
    them. evaluation: other samples of the same kind to judge by (never calibrated with), where the source has some.
    foreign_labels: whether the labels may be of other classes than the model's. batch: how many samples one run takes
    where `fixed` says so (a recurrent state for N of them), else 0.
    """

    arrays: Mapping[str, AnyArray]
    fixed: Mapping[str, AnyArray] = field(default_factory=dict)
    labels: IntArray | None = None
    source: str = ""
    preprocessing: str = ""
    real: bool = True
    evaluation: Samples | None = None
    foreign_labels: bool = False
    batch: int = 0

    @property
    def count(self) -> int:
        """Number of samples."""
        return min((len(a) for a in self.arrays.values()), default=1)

    def take(self, indices: IntArray) -> Samples:
        """A subset, in the order of `indices`."""
        arrays = {n: a[indices] for n, a in self.arrays.items()}
        return replace(self, arrays=arrays, labels=None if self.labels is None else self.labels[indices])

    def batches(self, size: int) -> Iterator[tuple[dict[str, AnyArray], int]]:
        """(feed, valid) with feeds of exactly `size` samples; the last one repeats its last sample to fill up."""
        for start in range(0, self.count, size):
            stop = min(start + size, self.count)
            index = np.minimum(np.arange(start, start + size), stop - 1)
            yield {**{n: a[index] for n, a in self.arrays.items()}, **self.fixed}, stop - start


def probe_shapes(samples: Samples, given: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The shapes that the user gave, and for other inputs those of real samples (0: the sample axis, to be guessed, if
    the data does not say)."""
    if not samples.real:
        return dict(given)
    per_sample = {name: (samples.batch, *array.shape[1:]) for name, array in samples.arrays.items()}
    return {**per_sample, **{name: array.shape for name, array in samples.fixed.items()}, **given}


def probe_values(samples: Samples) -> dict[str, AnyArray]:
    """What the user's own samples hold; nothing where they are made up."""
    return {**samples.arrays, **samples.fixed} if samples.real else {}


def choose(samples: Samples, count: int, seed: int) -> Samples:
    """At most `count` samples, seeded; class-balanced where labels exist. All of them where there are no more."""
    if samples.count <= count:
        return samples
    order = np.random.default_rng(seed).permutation(samples.count)
    if samples.labels is not None:
        labels = samples.labels[order]
        rank = np.empty(len(order), np.int64)  # position among the samples of the same class
        for label in np.unique(labels):
            rank[labels == label] = np.arange((labels == label).sum())
        order = order[np.argsort(rank, kind="stable")]
    return samples.take(np.sort(order[:count]))
