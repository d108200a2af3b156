"""Layers whose patches are too large for a Gram matrix: one map from the channels that stayed to all that there were,
x ≈ A x̃ + a, applied at every tap (or position): W̃ = W A (METHODS.md §6).

The bias is the mean residual over the layer's own output positions, zero padding included: W a would be wrong there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..calibrate.linear import Linear, features
from ..calibrate.readers import PATCH_WORK
from ..calibrate.sampling import PER_FEATURE
from ..model.graph import AnyArray
from ..trace.kept import Kept
from ..trace.labels import IntArray, vector

FloatArray = npt.NDArray[np.float64]

LARGEST = 3072
"""Features of one group that are solved for at once where they are channels already."""


@dataclass(frozen=True)
class Places:
    """Where the features of one channel lie. before: int64 [channels, places] among those of the original layer; after:
    [kept channels, places] among those of the pruned one. kept: int64, which channels stay."""

    before: IntArray
    after: IntArray
    kept: IntArray


def is_too_large(map_: Linear, width: int) -> bool:
    """Whether patches of `width` features cost too much to solve for."""
    return width > LARGEST if map_.taps == 1 and map_.stored == "conv" else PER_FEATURE * width**3 > PATCH_WORK


def places(kept: Kept, map_: Linear, tensor: str) -> Places | None:
    """tensor: what the layer reads, in the original. None where channels are all that there is, or lie irregularly."""
    if map_.groups > 1 or map_.axis >= len(kept.trace.shapes.shape.get(tensor, ())):
        return None
    stays = kept.along(tensor, map_.axis)
    if map_.stored == "conv":
        before = np.arange(len(stays) * map_.taps).reshape(len(stays), -1)
        channels = np.flatnonzero(stays)
        return Places(before, np.arange(len(channels) * map_.taps).reshape(len(channels), -1), channels)
    labels = kept.trace.labels.get(tensor, ())
    if len(labels) != 1 or labels[0].axes != (map_.axis,) or map_.stored not in ("io", "oi"):
        return None
    units = vector(labels[0], map_.axis)
    found, counts = np.unique(units, return_counts=True)
    if found[0] == 0 or len(set(counts.tolist())) != 1 or counts[0] == 1:
        return None
    before = np.argsort(units, kind="stable").reshape(len(found), -1)
    channels = np.flatnonzero(stays[before].all(axis=1))
    return Places(before, (np.cumsum(stays) - 1)[before[channels]], channels)


def channel_rows(map_: Linear, at: Places, x: AnyArray, before: bool, positions: IntArray | None) -> AnyArray:
    """[1, rows, channels] of the layer's input: a row per pixel, or per place of a flattened map."""
    if map_.stored == "conv":
        ones = (1,) * len(map_.kernel)
        single = replace(map_, kernel=ones, strides=ones, dilations=ones, pads=((0, 0),) * len(ones))
        return features(single, x, positions)
    flat = np.moveaxis(x, map_.axis, -1).reshape(-1, x.shape[map_.axis])
    where = at.before if before else at.after
    return np.ascontiguousarray(flat[:, where].transpose(0, 2, 1)).reshape(1, -1, len(where))


def start(at: Places) -> FloatArray:
    """The map that knows nothing: what stayed is what it was, [1, kept channels, channels]."""
    found = np.zeros((1, len(at.kept), len(at.before)))
    found[0, np.arange(len(at.kept)), at.kept] = 1
    return found


def composed(at: Places, across: FloatArray, whole: FloatArray) -> FloatArray:
    """The layer behind the map. across: [1, kept channels, channels]. whole: the original [1, features, outputs].
    Returns [1, kept features, outputs]."""
    outputs = whole.shape[2]
    split = whole[0][at.before].reshape(len(at.before), -1)
    found = np.zeros((at.after.size, outputs))
    found[at.after] = (across[0] @ split).reshape(*at.after.shape, outputs)
    return found[None]


@dataclass
class Residue:
    """Residuals of a candidate, per output channel: Σ r and Σ r² of samples that were seen (0) and held out (1)."""

    first: FloatArray
    second: FloatArray
    count: FloatArray

    @classmethod
    def of(
        cls,
        runs: Iterable[tuple[AnyArray, npt.NDArray[np.bool_]]],
        axis: int,
        wanted: Callable[[int], AnyArray],
    ) -> Residue:
        """runs: outputs of the candidate, and which of their rows are held out. wanted: number of a run -> targets."""
        found: Residue | None = None
        for number, (y, late) in enumerate(runs):
            target = wanted(number)
            n = len(target)
            r = np.moveaxis(target - y[:n].astype(np.float32), axis, 1).reshape(n, y.shape[axis], -1)
            if found is None:
                found = cls(np.zeros((2, r.shape[1])), np.zeros((2, r.shape[1])), np.zeros(2))
            for part, mask in enumerate((~late[:n], late[:n])):
                found.first[part] += r[mask].sum(axis=(0, 2), dtype=np.float64)
                found.second[part] += np.square(r[mask]).sum(axis=(0, 2), dtype=np.float64)
                found.count[part] += mask.sum() * r.shape[2]
        assert found is not None
        return found

    def shift(self, part: int | None = None) -> FloatArray:
        """The bias that would be missing: the mean residual, of all samples or of one part."""
        if part is None:
            return np.asarray(self.first.sum(axis=0) / max(self.count.sum(), 1))
        return np.asarray(self.first[part] / max(self.count[part], 1))

    def error(self, shift: FloatArray) -> float:
        """Mean squared error on held-out samples (of all, where none is held out) with this bias added."""
        part = 1 if self.count[1] else 0
        n = max(float(self.count[part]), 1.0)
        return float((self.second[part] / n - 2 * shift * self.first[part] / n + shift**2).sum())
