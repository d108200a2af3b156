"""Scores of layers in, decisions out: channels of grouped Convs are paired, members of a group averaged, and the lowest
of every group go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..trace.coupling import pair
from ..trace.groups import Group, find_groups
from ..trace.labels import IntArray
from ..trace.types import Trace
from .select import Cut, class_scores, select

FloatArray = npt.NDArray[np.float64]

NOTHING: IntArray = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Decided:
    """classes: those that go. trace, groups: with channels of grouped Convs paired by score."""

    trace: Trace
    groups: tuple[Group, ...]
    classes: IntArray


def decide(
    trace: Trace,
    groups: Sequence[Group],
    scores: Mapping[int, FloatArray],
    cut: Cut,
    normalize: str = "mean",
    barred: IntArray = NOTHING,
) -> Decided:
    """What goes. scores: number of the source -> [channels]; normalize: see NORMALIZATIONS; barred: units that stay."""
    base = trace.pairing.base
    score = class_scores(base, trace.sources, scores, normalize)[base]
    score[np.isin(base, base[barred])] = np.inf
    paired = pair(trace, score)
    groups = tuple(groups) if paired is trace else find_groups(paired)
    values = class_scores(paired.unit_class, paired.sources, scores, normalize)
    return Decided(paired, groups, select(paired, groups, values, cut, paired.unit_class[barred]))


@dataclass(frozen=True)
class Ordered:
    """Which channels go first, while nothing goes yet. start: the trace and its groups. groups: the same, where classes
    that are barred cannot go. score: per class; the lowest of a group go first."""

    start: Decided
    groups: tuple[Group, ...]
    score: FloatArray


def ordered(
    trace: Trace,
    groups: Sequence[Group],
    scores: Mapping[int, FloatArray],
    normalize: str = "mean",
    barred: IntArray = NOTHING,
) -> Ordered:
    """The order in which classes go by these scores; arguments as for `decide`."""
    start = decide(trace, groups, scores, Cut(0.0), normalize, barred)
    score = class_scores(start.trace.unit_class, start.trace.sources, scores, normalize)
    stay = start.trace.unit_class[barred]
    return Ordered(start, tuple(replace(g, free=np.setdiff1d(g.free, stay)) for g in start.groups), score)
