"""Labels and the units that stay -> which positions of each tensor stay, hence every shape after the cut."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..model.graph import AnyArray
from .labels import BoolArray, Labels, Shape, compact
from .types import Trace


def kept_along(labels: Labels, axis: int, keep: BoolArray) -> BoolArray:
    """bool [shape[axis]]: a position stays while any unit at it stays."""
    mask = keep[labels.array]
    start = sum(len(f) for f in labels.factors[:axis])
    own = labels.factors[axis]
    others = tuple(d for d in range(mask.ndim) if not start <= d < start + len(own))
    return np.array(np.broadcast_to(mask.any(axis=others), own)).reshape(-1)


def is_rectangular(labels: Labels, keep: BoolArray) -> bool:
    """Whether what stays is a dense array: every kept slice along an axis keeps the same positions of the others."""
    mask = keep[compact(labels)]
    outer = np.ones([1] * mask.ndim, bool)
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        outer = outer & mask.any(axis=others, keepdims=True)
    return bool((mask == outer).all())


@dataclass(frozen=True)
class Kept:
    """A trace seen through the units that stay (`keep`: bool per unit, `Trace.keep_units`)."""

    trace: Trace
    keep: BoolArray

    def along(self, tensor: str, axis: int) -> BoolArray:
        """bool [size]: which positions of a tensor's axis stay."""
        out = np.ones(self.trace.shapes.shape[tensor][axis], bool)
        for labels in self.trace.labels.get(tensor, ()):
            if axis in labels.axes:
                out &= kept_along(labels, axis, self.keep)
        return out

    def changed(self, tensor: str) -> bool:
        """Whether anything of this tensor goes."""
        return any(not self.keep[x.array].all() for x in self.trace.labels.get(tensor, ()))

    def shape(self, tensor: str) -> Shape:
        """The tensor's shape after the cut."""
        old = self.trace.shapes.shape[tensor]
        if not self.changed(tensor):
            return old
        return tuple(int(self.along(tensor, a).sum()) for a in range(len(old)))

    def changed_axes(self, tensor: str) -> dict[int, BoolArray]:
        """axis -> bool [size], for the axes of which something goes."""
        axes = {a for x in self.trace.labels.get(tensor, ()) for a in x.axes}
        found = {a: self.along(tensor, a) for a in sorted(axes)}
        return {a: stays for a, stays in found.items() if not stays.all()}

    def slice(self, tensor: str, value: AnyArray) -> AnyArray:
        """What stays of a tensor's value; its other axes may have any size."""
        for axis, stays in self.changed_axes(tensor).items():
            value = np.compress(stays, value, axis=axis)
        return value

    def shapes(self) -> dict[str, Shape]:
        """Every tensor's shape after the cut, but of those that are computed from shapes: they follow by themselves."""
        follows = self.trace.constants.reads_shapes
        return {n: self.shape(n) for n in self.trace.shapes.shape if not follows(n)}

    def irregular(self) -> Iterable[str]:
        """Tensors of which no dense array would be left (a defect of a rule, or a plan that is not of this trace)."""
        for name, arrays in self.trace.labels.items():
            if any(len(x.axes) > 1 and not is_rectangular(x, self.keep) for x in arrays):
                yield name
