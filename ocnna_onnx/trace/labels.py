"""Label arrays: which unit sits at which position of a tensor.

A `Labels` is an integer array over the *factors* of a tensor's axes. Most axes have one factor, their size. An axis
that a Reshape merged has several, as einops writes them: `n (c h w)`. The array has size 1 along every factor on
which the label does not depend, so the memory is about one integer per channel however large the maps are. Label 0
means "no unit: fixed". A factor of true size 1 is dropped: a channel that is alone on its axis cannot go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod
from operator import mul

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Labels:
    """Unit labels of one tensor. Two of them are the same only where they are one object.

    array: int64, one dimension per factor (in the order of `factors`, flattened), each of size 1 or of the factor.
    factors: for each axis of the tensor its factor sizes (all > 1; an empty tuple for an axis of size 1).
    """

    array: IntArray
    factors: tuple[Shape, ...]

    @property
    def shape(self) -> Shape:
        """The tensor's shape."""
        return tuple(prod(f) for f in self.factors)

    @property
    def axes(self) -> Shape:
        """The axes of the tensor along which the label varies."""
        return tuple(a for a in range(len(self.factors)) if any(d > 1 for d in self._dims(a)))

    @property
    def units(self) -> IntArray:
        """The distinct units in the array, ascending, without 0."""
        found = np.unique(self.array)
        return found[found > 0]

    def _start(self, axis: int) -> int:
        return sum(len(f) for f in self.factors[:axis])

    def _dims(self, axis: int) -> Shape:
        start = self._start(axis)
        return self.array.shape[start : start + len(self.factors[axis])]


def along(vector: IntArray, axis: int, shape: Shape) -> Labels:
    """Labels that vary along one axis only. vector: int64 [shape[axis]], shape[axis] > 1."""
    factors = tuple((s,) if s != 1 else () for s in shape)
    dims = [1] * sum(len(f) for f in factors)
    dims[sum(len(f) for f in factors[:axis])] = -1
    return Labels(vector.astype(np.int64).reshape(dims), factors)


def plain(array: IntArray) -> Labels:
    """Labels of a dense array with one factor per axis; axes along which nothing varies shrink to size 1."""
    factors = tuple((s,) if s != 1 else () for s in array.shape)
    return _shrink(Labels(array.reshape([s for s in array.shape if s != 1]), factors))


def dense(labels: Labels) -> IntArray:
    """The array with one dimension per axis of the tensor: its size where the label varies, else 1."""
    merged = _refactor(labels, tuple((s,) if s != 1 else () for s in labels.shape))
    dims = iter(merged.array.shape)
    return merged.array.reshape([1 if s == 1 else next(dims) for s in labels.shape])


def transpose(labels: Labels, perm: Sequence[int]) -> Labels:
    """Axes in a new order, as numpy.transpose."""
    order = [labels._start(p) + i for p in perm for i in range(len(labels.factors[p]))]
    return Labels(labels.array.transpose(order), tuple(labels.factors[p] for p in perm))


def reshape(labels: Labels, shape: Shape) -> Labels:
    """As numpy.reshape on the tensor. Factors are aligned first: `n c h w -> n g (c' h w)` stays small."""
    source = [s for f in labels.factors for s in f]
    target = _boundaries(shape)
    mine = [b for b in _boundaries(source) if all(b % t == 0 or t % b == 0 for t in target)]
    sizes = _sizes(sorted({*mine, *target}))
    array = _regroup(labels.array, 0, source, sizes)
    factors: list[Shape] = []
    position = 0
    for size in shape:
        taken: list[int] = []
        while prod(taken) < size:
            taken.append(sizes[position])
            position += 1
        factors.append(tuple(taken))
    return _merge_runs(_shrink(Labels(array, tuple(factors))))


def take(labels: Labels, axis: int, indices: IntArray) -> Labels | None:
    """As numpy.take along one axis; None where nothing varies any more, or nothing is left."""
    if not len(indices):
        return None
    single = _single_factor(labels, axis)
    start, size = single._start(axis), len(indices)
    array = single.array
    if single.factors[axis] and array.shape[start] > 1:
        array = array.take(indices, axis=start)
    if size == 1 and single.factors[axis]:
        array = array.reshape(array.shape[:start] + array.shape[start + 1 :])
    factors = (*single.factors[:axis], (size,) if size != 1 else (), *single.factors[axis + 1 :])
    if size != 1 and not single.factors[axis]:  # a size-1 axis that is repeated
        array = np.expand_dims(array, start)
    out = Labels(array, factors)
    return out if out.axes else None


def restretch(labels: Labels, shape: Shape) -> Labels:
    """The same labels on a tensor of another `shape` of the same rank; axes along which they vary keep their size."""
    varying = labels.axes
    factors: list[Shape] = []
    dims: list[int] = []
    for axis, size in enumerate(shape):
        if axis in varying:
            factors.append(labels.factors[axis])
            dims.extend(labels._dims(axis))
        else:
            factors.append((size,) if size != 1 else ())
            dims.extend((1,) if size != 1 else ())
    return Labels(labels.array.reshape(dims), tuple(factors))


def placed(labels: Labels, source: Sequence[int | None], shape: Shape) -> Labels:
    """The labels on a tensor of `shape` whose axis k is axis source[k] of the present one (None: an axis of its own).
    They must not vary along axes that are left out."""
    order = [a for a in source if a is not None]
    moved = transpose(labels, (*order, *(a for a in range(len(labels.factors)) if a not in order)))
    factors: list[Shape] = []
    dims: list[int] = []
    for axis, size in zip(source, shape, strict=True):
        if axis is not None and axis in labels.axes:
            factors.append(labels.factors[axis])
            dims.extend(labels._dims(axis))
        else:
            factors.append((size,) if size != 1 else ())
            dims.extend((1,) if size != 1 else ())
    return Labels(moved.array.reshape(dims), tuple(factors))


def vector(labels: Labels, axis: int) -> IntArray:
    """The labels along one axis, [shape[axis]], at the first position of every other axis."""
    if labels.axes == (axis,):
        return dense(labels).reshape(-1)
    first = np.moveaxis(dense(labels), axis, 0)
    return np.broadcast_to(first.reshape(first.shape[0], -1)[:, 0], (labels.shape[axis],))


def broadcast(labels: Labels, shape: Shape) -> Labels:
    """Align to the right with `shape` as numpy broadcasting does; new and stretched axes do not vary."""
    missing = len(shape) - len(labels.factors)
    array = labels.array
    factors: list[Shape] = []
    dims: list[int] = []
    for axis, size in enumerate(shape):
        own = labels.factors[axis - missing] if axis >= missing else ()
        if own or size == 1:
            factors.append(own)
            dims.extend(labels._dims(axis - missing) if own else ())
        else:
            factors.append((size,))
            dims.append(1)
    return Labels(array.reshape(dims), tuple(factors))


def paired(a: Labels, b: Labels) -> tuple[IntArray, IntArray]:
    """Two labellings of tensors of one shape, as two flat arrays of equal length, position by position."""
    factors = tuple(_common(fa, fb) for fa, fb in zip(a.factors, b.factors, strict=True))
    left, right = np.broadcast_arrays(_refactor(a, factors).array, _refactor(b, factors).array)
    return left.reshape(-1), right.reshape(-1)


def compact(labels: Labels) -> IntArray:
    """The labels with one dimension per axis, without repetition: an axis `(c hw)` that varies with c has size c."""
    return labels.array.reshape([prod(labels._dims(a)) for a in range(len(labels.factors))])


def spread(labels: Labels, array: BoolArray) -> BoolArray:
    """A boolean for every entry of `labels.array` -> for every position: each axis of its true size, or 1 where
    nothing varies along it."""
    for axis in range(len(labels.factors)):
        start, own = labels._start(axis), labels.factors[axis]
        dims = array.shape[start : start + len(own)]
        if any(d > 1 for d in dims):
            array = np.broadcast_to(array, (*array.shape[:start], *own, *array.shape[start + len(own) :]))
    sizes = []
    for axis, own in enumerate(labels.factors):
        sizes.append(prod(array.shape[labels._start(axis) : labels._start(axis) + len(own)]))
    return array.reshape(sizes)


def _boundaries(sizes: Sequence[int]) -> list[int]:
    return list(accumulate(sizes, mul, initial=1))


def _sizes(boundaries: Sequence[int]) -> Shape:
    return tuple(b // a for a, b in pairwise(boundaries) if b // a > 1)


def _common(a: Shape, b: Shape) -> Shape:
    """The coarsest factors of one axis that both can be expressed in."""
    if a == b:
        return a
    if not a or not b:
        return a or b
    one, two = _boundaries(a), _boundaries(b)
    mine = [x for x in one if all(x % y == 0 or y % x == 0 for y in two)]
    yours = [y for y in two if all(x % y == 0 or y % x == 0 for x in one)]
    return _sizes(sorted({*mine, *yours}))


def _refactor(labels: Labels, factors: tuple[Shape, ...]) -> Labels:
    """The same labels over other factors of the same axes."""
    array, position = labels.array, 0
    for old, new in zip(labels.factors, factors, strict=True):
        if old != new:
            array = _regroup(array, position, old, new)
        position += len(new)
    return Labels(array, factors)


def _regroup(array: IntArray, start: int, old: Sequence[int], new: Sequence[int]) -> IntArray:
    """Re-express dims start … start+len(old) of `array`, which stand for factors `old`, over factors `new`."""
    shared = sorted(set(_boundaries(old)) & set(_boundaries(new)))
    dims: list[int] = []
    stretched: list[int] = []
    o = n = 0
    for low, high in pairwise(shared):
        block_old: list[int] = []
        while low * prod(block_old) < high:
            block_old.append(old[o + len(block_old)])
        block_new: list[int] = []
        while low * prod(block_new) < high:
            block_new.append(new[n + len(block_new)])
        have = array.shape[start + o : start + o + len(block_old)]
        varies = any(d > 1 for d in have)
        stretched.extend(block_old if varies and len(block_old) > 1 else have)
        dims.extend(block_new if varies else [1] * len(block_new))
        o += len(block_old)
        n += len(block_new)
    head, tail = array.shape[:start], array.shape[start + len(old) :]
    return np.broadcast_to(array, (*head, *stretched, *tail)).reshape((*head, *dims, *tail))


def _single_factor(labels: Labels, axis: int) -> Labels:
    size = prod(labels.factors[axis])
    one = (size,) if size != 1 else ()
    return _refactor(labels, (*labels.factors[:axis], one, *labels.factors[axis + 1 :]))


def _shrink(labels: Labels) -> Labels:
    """Drop dependence that is only apparent (all labels equal along a factor); one factor at least stays."""
    array = labels.array
    for d in range(array.ndim):
        if array.shape[d] > 1 and bool((array == array.take([0], axis=d)).all()):
            if sum(s > 1 for s in array.shape) > 1:
                array = array.take([0], axis=d)
    return Labels(array, labels.factors)


def _merge_runs(labels: Labels) -> Labels:
    """Adjacent factors of an axis that both vary, or both do not, become one."""
    factors: list[Shape] = []
    for axis, own in enumerate(labels.factors):
        merged: list[int] = []
        flags: list[bool] = []
        for size, dim in zip(own, labels._dims(axis), strict=True):
            if flags and flags[-1] == (dim > 1):
                merged[-1] *= size
            else:
                merged.append(size)
                flags.append(dim > 1)
        factors.append(tuple(merged))
    return _refactor(labels, tuple(factors))
