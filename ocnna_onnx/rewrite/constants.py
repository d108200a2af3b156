"""Cutting weights: which positions of each constant stay, one copy per reader where readers differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ProofFailed
from ..trace.kept import is_rectangular, kept_along
from ..trace.labels import BoolArray, compact
from ..trace.types import Cut, Trace

Kept = dict[int, BoolArray]
"""axis -> bool [size]: what stays. bool [groups, size] where every group of a grouped kernel keeps others: its blocks
along axis 0 are cut apart."""


@dataclass(frozen=True)
class CutRecord:
    """One constant cut along one axis: `kept` holds the indices that stay, ascending; one list per group (equal blocks
    along axis 0) where the groups of a grouped kernel keep others."""

    node: str
    input: int
    tensor: str
    new_tensor: str
    axis: int
    kept: tuple[int, ...] | tuple[tuple[int, ...], ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "node": self.node,
            "input": self.input,
            "tensor": self.tensor,
            "new_tensor": self.new_tensor,
            "axis": self.axis,
            "kept": [list(k) if isinstance(k, tuple) else k for k in self.kept],
        }


def operand_cuts(trace: Trace, keep: BoolArray) -> dict[tuple[int, int], Kept]:
    """(node, input) -> what stays of that constant operand; only operands of which something goes."""
    found: dict[tuple[int, int], Kept] = {}
    for cut in trace.cuts:
        stays = _stays(cut, keep)
        axes = found.setdefault((cut.node, cut.input), {})
        axes[cut.axis] = axes[cut.axis] & stays if cut.axis in axes else stays
    pruned = {place: {a: axes[a] for a in _by_group_first(axes)} for place, axes in found.items()}
    return {place: axes for place, axes in sorted(pruned.items()) if axes}


def _stays(cut: Cut, keep: BoolArray) -> BoolArray:
    """What stays along a cut's axis; per group where the labels say so and the groups differ."""
    if len(cut.labels.axes) < 2 or is_rectangular(cut.labels, keep):
        return kept_along(cut.labels, cut.along, keep)
    stays = keep[compact(cut.labels)]
    if cut.along != 1 or stays.ndim != 2 or len(set(stays.sum(axis=1).tolist()) - {0}) != 1:
        raise ProofFailed("the groups of a grouped kernel would keep different counts (a defect; please report it)")
    stays[~stays.any(axis=1)] = stays[stays.any(axis=1)][0]  # groups that go as a whole go along axis 0
    return stays


def _by_group_first(axes: Mapping[int, BoolArray]) -> list[int]:
    """The axes of which something goes; those cut per group come first, while the blocks are where they were."""
    return sorted((a for a, k in axes.items() if not k.all()), key=lambda a: (axes[a].ndim == 1, a))


def length(stays: BoolArray) -> int:
    """How many positions stay."""
    return int(stays.sum()) if stays.ndim == 1 else int(stays[0].sum())


def indices(stays: BoolArray) -> tuple[int, ...] | tuple[tuple[int, ...], ...]:
    """The positions that stay, as in a CutRecord."""
    if stays.ndim == 1:
        return tuple(np.flatnonzero(stays).tolist())
    return tuple(tuple(np.flatnonzero(row).tolist()) for row in stays)


def signature(axes: Mapping[int, BoolArray]) -> tuple[tuple[int, bytes], ...]:
    """What distinguishes two different cuts of one constant."""
    return tuple((a, k.tobytes()) for a, k in sorted(axes.items()))


def cut_array(array: np.ndarray[Any, Any], axes: Mapping[int, BoolArray]) -> np.ndarray[Any, Any]:
    """The array with only the kept positions of each axis."""
    for axis in _by_group_first(axes):
        stays = axes[axis]
        if stays.ndim == 1:
            array = np.compress(stays, array, axis=axis)
            continue
        blocks = array.reshape(len(stays), -1, *array.shape[1:])
        chosen = np.stack([np.flatnonzero(row) for row in stays])
        chosen = chosen.reshape(len(stays), *[-1 if d == axis else 1 for d in range(array.ndim)])
        array = np.take_along_axis(blocks, chosen, axis + 1).reshape(
            *array.shape[:axis], length(stays), *array.shape[axis + 1 :]
        )
    return array
