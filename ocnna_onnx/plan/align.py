"""Channel counts that end on multiples: what runtimes are fast at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..trace.labels import IntArray

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Alignment:
    """multiple: on which channel counts end. adaptive: narrow layers may end on a smaller one (a quarter of their
    width, at least 4), so that something can go there at all."""

    multiple: int = 1
    adaptive: bool = False

    def of(self, width: int) -> int:
        """The multiple for an axis of so many channels."""
        if not self.adaptive or self.multiple <= 4:
            return self.multiple
        return min(self.multiple, max(4, 1 << max(0, (width // 4).bit_length() - 1)))


def aligned(removed: IntArray, together: Iterable[IntArray], score: FloatArray, alignment: Alignment) -> IntArray:
    """The classes that go when every axis keeps a multiple of channels: the best-scored of those that should have gone
    stay.

    together: per kind of axis the class of each of its channels (`axis_channels`). Axes that are no multiple to begin
    with, or are not cut at all, have no say.
    """
    gone = np.zeros(len(score), bool)
    gone[removed] = True
    axes = [a for a in together if alignment.multiple > 1 and len(a) % alignment.of(len(a)) == 0]
    changed = True
    while changed:
        changed = False
        for classes in axes:
            multiple = alignment.of(len(classes))
            while (excess := int((~gone[classes]).sum()) % multiple) and gone[classes].any():
                candidates = np.unique(classes[gone[classes]])
                weight = np.array([(classes == c).sum() for c in candidates])
                fitting = candidates[weight <= multiple - excess]
                pool = fitting if len(fitting) else candidates
                gone[pool[np.lexsort((pool, -score[pool]))[0]]] = False
                changed = True
    return removed[gone[removed]]
