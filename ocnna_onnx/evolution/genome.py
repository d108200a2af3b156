"""Masks: one bit for every decision of the net that is open (1: it stays), and what makes a mask a net."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..plan.align import Alignment, aligned
from ..plan.select import spare_emptied
from ..trace.groups import Group
from ..trace.labels import BoolArray, IntArray
from ..trace.types import Trace

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Space:
    """All masks of a net. A coupled group (a residual stage, a Conv between two others) has one stretch of the mask.

    classes: int64 [bits], the class that each bit decides on. group: int64 [bits], ascending. widths: per group, how
    many classes it has, with those that stay in any case. total: classes of the net. together: sets of classes of which
    one must stay. axes: the class of every channel along each axis; alignment: the multiples on which they end. least:
    classes that a group keeps.
    """

    classes: IntArray
    group: IntArray
    widths: tuple[int, ...]
    total: int
    together: tuple[IntArray, ...] = ()
    axes: tuple[IntArray, ...] = ()
    alignment: Alignment = Alignment()
    least: int = 1

    @property
    def bits(self) -> int:
        return len(self.classes)

    def step(self, group: int) -> int:
        """How many of a group's bits flip at once, so that its width ends on a multiple."""
        multiple = self.alignment.of(self.widths[group])
        return multiple if self.widths[group] % multiple == 0 else 1

    def removed(self, mask: BoolArray) -> IntArray:
        """The classes that go, ascending. mask: bool [bits]."""
        return np.sort(self.classes[~mask])


def space_of(
    trace: Trace,
    groups: Sequence[Group],
    axes: Sequence[IntArray],
    alignment: Alignment = Alignment(),
    min_channels: int = 1,
) -> Space:
    """The masks of a traced net. axes: see `levels.axis_channels`."""
    open_ = [g for g in groups if len(g.free)]
    numbers = np.repeat(np.arange(len(open_)), [len(g.free) for g in open_])
    return Space(
        classes=np.concatenate([np.zeros(0, np.int64), *(g.free for g in open_)]),
        group=numbers,
        widths=tuple(len(g.classes) for g in open_),
        total=len(trace.free),
        together=tuple(trace.axis_classes().values()),
        axes=tuple(axes),
        alignment=alignment,
        least=max(1, min_channels),
    )


def legal(space: Space, mask: BoolArray, score: FloatArray) -> BoolArray:
    """The mask with as few bits more as make it a net: where a group, or a tensor, would be empty, its best-scored
    classes stay, and those that a multiple of channels lacks. score: float64 [classes of the net]."""
    kept = mask.copy()
    for g, width in enumerate(space.widths):
        own = np.flatnonzero(space.group == g)
        lacking = space.least - (width - int((~kept[own]).sum()))
        if lacking > 0:
            gone = own[~kept[own]]
            kept[gone[np.argsort(-score[space.classes[gone]], kind="stable")[:lacking]]] = True
    classes = spare_emptied(space.removed(kept), space.together, score)
    classes = aligned(classes, space.axes, score, space.alignment)
    return ~np.isin(space.classes, classes)
