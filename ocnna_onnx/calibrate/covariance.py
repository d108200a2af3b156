"""Second moments of features, accumulated batch by batch around a pilot mean, so that no digits are lost."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..model.graph import AnyArray

FloatArray = npt.NDArray[np.float64]


@dataclass
class Covariance:
    """Grows with `add`. first: Σ (x − pilot) [groups, d]. second: Σ (x − pilot)(x − pilot)ᵀ [groups, d, d]. rows: how
    many x."""

    pilot: AnyArray | None = None
    first: FloatArray = field(default_factory=lambda: np.zeros(0))
    second: FloatArray = field(default_factory=lambda: np.zeros(0))
    rows: int = 0

    def add(self, x: AnyArray) -> None:
        """x: [groups, rows, d]. Products in float32 within a batch, sums in float64."""
        if self.pilot is None:
            self.pilot = x.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
            self.first = np.zeros((x.shape[0], x.shape[2]))
            self.second = np.zeros((x.shape[0], x.shape[2], x.shape[2]))
        shifted = x - self.pilot
        self.first += shifted.sum(axis=1, dtype=np.float64)
        self.second += shifted.transpose(0, 2, 1) @ shifted
        self.rows += x.shape[1]

    def settled(self) -> Settled:
        """What came of it, computed once."""
        return Settled(self.mean(), self.centred())

    def mean(self) -> FloatArray:
        """[groups, d]."""
        assert self.pilot is not None
        return np.asarray(self.pilot[:, 0] + self.first / self.rows)

    def centred(self) -> FloatArray:
        """[groups, d, d]: the covariance (divided by the number of rows)."""
        shift = self.first / self.rows
        return np.asarray(self.second / self.rows - shift[:, :, None] * shift[:, None, :])


@dataclass(frozen=True)
class Settled:
    """A covariance to which nothing more comes. means: [groups, d]. about: [groups, d, d], about the mean."""

    means: FloatArray
    about: FloatArray

    def mean(self) -> FloatArray:
        """[groups, d]."""
        return self.means

    def centred(self) -> FloatArray:
        """[groups, d, d]; not to be written to."""
        return self.about
