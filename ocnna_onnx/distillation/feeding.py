"""Which samples a step gets to see, as torch tensors. It follows from the seed and the number of the step alone, so
that a run that was resumed sees what it would have seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.samples import IntArray, Samples
from ..model.graph import AnyArray
from .views import Views

if TYPE_CHECKING:
    import torch

HALVES = ("float16", "bfloat16")


@dataclass(frozen=True)
class Feeding:
    """batch: samples per run of the net. views: None leaves samples as they are."""

    samples: Samples
    batch: int
    views: Views | None
    seed: int

    def __call__(self, run: int) -> dict[str, torch.Tensor]:
        """The feed of run number `run`: the samples in an order that is drawn anew for every pass over them."""
        import torch

        numbers = self._numbers(run)
        feed = {n: tensor(rows[numbers]) for n, rows in self.samples.arrays.items()}
        if self.views is not None:
            generator = torch.Generator().manual_seed(_mixed(self.seed, 1, run))
            feed[self.views.image.name] = self.views(feed[self.views.image.name], generator)
        return {**feed, **{n: tensor(a) for n, a in self.samples.fixed.items()}}

    def _numbers(self, run: int) -> IntArray:
        count = self.samples.count
        places = np.arange(run * self.batch, (run + 1) * self.batch)
        orders = {e: np.random.default_rng((self.seed, int(e))).permutation(count) for e in np.unique(places // count)}
        return np.array([orders[p // count][p % count] for p in places], np.int64)


def tensor(array: AnyArray) -> Any:
    """As the torch nets take it: halves as float32."""
    import torch

    array = np.ascontiguousarray(array)
    if array.dtype.name in HALVES:
        array = array.astype(np.float32)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def tensors(feed: Mapping[str, AnyArray]) -> dict[str, Any]:
    """A feed of onnxruntime's."""
    return {name: tensor(array) for name, array in feed.items()}


def _mixed(*numbers: int) -> int:
    """A seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
