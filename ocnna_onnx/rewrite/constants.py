"""Cutting weights: which positions of each constant stay, one copy per reader where readers differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..trace.kept import kept_along
from ..trace.labels import BoolArray
from ..trace.types import Trace

Kept = dict[int, BoolArray]
"""axis -> bool [size]: what stays."""


@dataclass(frozen=True)
class CutRecord:
    """One constant cut along one axis: `kept` holds the indices that stay, ascending."""

    node: str
    input: int
    tensor: str
    new_tensor: str
    axis: int
    kept: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "node": self.node,
            "input": self.input,
            "tensor": self.tensor,
            "new_tensor": self.new_tensor,
            "axis": self.axis,
            "kept": list(self.kept),
        }


def operand_cuts(trace: Trace, keep: BoolArray) -> dict[tuple[int, int], Kept]:
    """(node, input) -> what stays of that constant operand; only operands of which something goes."""
    found: dict[tuple[int, int], Kept] = {}
    for cut in trace.cuts:
        stays = kept_along(cut.labels, cut.along, keep)
        axes = found.setdefault((cut.node, cut.input), {})
        axes[cut.axis] = axes[cut.axis] & stays if cut.axis in axes else stays
    pruned = {place: {a: k for a, k in sorted(axes.items()) if not k.all()} for place, axes in found.items()}
    return {place: axes for place, axes in sorted(pruned.items()) if axes}


def signature(axes: Mapping[int, BoolArray]) -> tuple[tuple[int, bytes], ...]:
    """What distinguishes two different cuts of one constant."""
    return tuple((a, k.tobytes()) for a, k in axes.items())


def cut_array(array: np.ndarray[Any, Any], axes: Mapping[int, BoolArray]) -> np.ndarray[Any, Any]:
    """The array with only the kept positions of each axis."""
    for axis, stays in axes.items():
        array = np.compress(stays, array, axis=axis)
    return array
