"""Scores and a cut -> which decisions go."""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from ..trace.groups import Group
from ..trace.labels import IntArray
from ..trace.types import Source, Trace
from .normalize import NORMALIZATIONS

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Cut:
    """How much of every group goes: a share (`ratio`), or what scores at or below a percentile (OCNNA)."""

    ratio: float | None = None
    percentile: float | None = None
    min_channels: int = 1


def class_scores(
    unit_class: IntArray, sources: Sequence[Source], scores: Mapping[int, FloatArray], normalize: str = "mean"
) -> FloatArray:
    """One score per class, [classes]: each member layer's scores are normalised, and averaged.

    unit_class: int64 [units + 1]. scores: number of the source -> [channels]. normalize: see NORMALIZATIONS. A class
    that has several channels of a layer takes their mean there first.
    """
    size = int(unit_class.max(initial=0)) + 1
    total, members = np.zeros(size), np.zeros(size)
    for number, score in scores.items():
        normal = NORMALIZATIONS[normalize](score)
        classes = unit_class[sources[number].units]
        count = np.bincount(classes, minlength=len(total))
        present = count > 0
        total[present] += (np.bincount(classes, normal, minlength=len(total)) / np.maximum(count, 1))[present]
        members[present] += 1
    return np.asarray(np.divide(total, members, out=np.zeros_like(total), where=members > 0))


def select(trace: Trace, groups: Sequence[Group], score: FloatArray, cut: Cut, barred: IntArray) -> IntArray:
    """Classes that go. barred: classes that the user excluded. Ties keep the lower index; no tensor is emptied."""
    chosen = [_from_group(g, np.setdiff1d(g.free, barred), score, cut) for g in groups]
    removed = np.concatenate(chosen) if chosen else np.zeros(0, np.int64)
    return np.sort(spare_emptied(removed, trace.axis_classes().values(), score))


def _from_group(group: Group, free: IntArray, score: FloatArray, cut: Cut) -> IntArray:
    order = np.argsort(group.classes, kind="stable")
    position = order[np.searchsorted(group.classes, free, sorter=order)]
    free = free[np.argsort(position)]  # by channel index, not by class number
    most = max(0, min(len(free), len(group.classes) - max(1, cut.min_channels)))
    values = score[free]
    worst_first = np.lexsort((-np.arange(len(free)), values))
    if cut.percentile is not None:
        if cut.percentile <= 0 or not len(free):
            return free[:0]
        threshold = np.percentile(values, cut.percentile)
        count = int((values <= threshold).sum())
    else:
        count = math.floor((cut.ratio or 0.0) * len(group.classes) + 1e-9)
    return free[worst_first[: min(count, most)]]


def spare_emptied(removed: IntArray, together: Iterable[IntArray], score: FloatArray) -> IntArray:
    """Where a tensor (one half of a Split, say) would lose everything, its best-scored class stays. together: the sets
    of which something must stay (`Trace.axis_classes`)."""
    gone = np.zeros(len(score), bool)
    gone[removed] = True
    for classes in together:
        if gone[classes].all():
            gone[classes[np.lexsort((classes, -score[classes]))[0]]] = False
    return removed[gone[removed]]


def excluded(trace: Trace, patterns: Sequence[str], operators: Sequence[str] = ()) -> IntArray:
    """Units of channels made by a node whose name matches a glob (or `re:` regular expression), or whose
    operator is listed. Raises UsageError for a broken regular expression."""
    found: list[IntArray] = [np.zeros(0, np.int64)]
    for source in trace.sources:
        name, op = trace.graph.names[source.node], trace.graph.nodes[source.node].op_type
        if op in operators or any(matches(name, p) for p in patterns):
            found.append(source.units)
    return np.unique(np.concatenate(found))


def unscored(trace: Trace, scores: Mapping[int, FloatArray]) -> IntArray:
    """Units that can go, and of which no layer has a score (a scores.json that names some layers only): they stay."""
    seen = np.zeros(len(trace.free), bool)
    for k in scores:
        seen[trace.unit_class[trace.sources[k].units]] = True
    units = np.arange(1, len(trace.unit_class))
    return units[trace.free[trace.unit_class[units]] & ~seen[trace.unit_class[units]]]


def patterns_of(option: str, given: Sequence[str]) -> tuple[str, ...]:
    """The user's list of names, or one name. Raises UsageError."""
    if not isinstance(given, Sequence) or any(not isinstance(p, str) for p in given):
        raise UsageError(f"{option} {given!r} is no list of names")
    return (given,) if isinstance(given, str) else tuple(given)


def matches(name: str, pattern: str) -> bool:
    """Whether a node name matches a glob, or a regular expression with `re:` in front (searched anywhere)."""
    if pattern.startswith("re:"):
        try:
            return re.search(pattern[3:], name) is not None
        except re.error as error:
            raise UsageError(f"--exclude {pattern}: not a regular expression ({error})") from error
    return fnmatch.fnmatchcase(name, pattern)
