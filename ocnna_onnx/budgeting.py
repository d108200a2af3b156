"""From targets to what goes: the tightest of all, counted in closed form or searched where it must be measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .data.samples import Samples
from .levels import (
    Ways,
    axis_channels,
    counted_cut,
    counted_value,
    curves_of,
    deepest_cut,
    most_of,
    whole_cost,
)
from .opened import Opened
from .plan.costs import cost_model
from .plan.decide import Ordered
from .plan.sensitivities import Cuts
from .plan.targets import Target
from .repair.job import Repaired
from .searching import Finish, drop_test, latency_test, noted, search_levels
from .trace.labels import IntArray
from .wishes import Met, Wishes


def meet(
    job: Opened,
    order: Ordered,
    cuts: Sequence[Cuts] | None,
    wishes: Wishes,
    finished: Finish,
    judge: Samples,
) -> Met:
    """What goes so that all targets hold, each group in this order. cuts: what was measured of each group, needed
    unless the allocation is uniform. finished: asked only where a drop must be measured, on `judge`."""
    start, trace = order.start, order.start.trace
    most = [most_of(trace, g, wishes) for g in order.groups]
    curves = curves_of(order, cuts, wishes)
    ways = Ways(job, start, order.score, curves, most, cost_model(trace), wishes, axis_channels(trace))
    counted = [t for t in wishes.targets if t.kind in ("macs", "params", "bytes")]
    latency, drop = (next((t for t in wishes.targets if t.kind == kind), None) for kind in ("latency", "drop"))
    told: dict[str, Any] = {}
    tried: dict[str, list[dict[str, Any]]] = {}
    mended: dict[bytes, Repaired] = {}
    classes = counted_cut(ways, counted) if counted else None
    if latency is not None:
        test = noted(ways, latency_test(ways, latency), tried.setdefault("latency", []))
        classes, told["latency"] = search_levels(ways, latency, test, classes)
    if drop is not None:  # last: it is measured of what the others leave
        wanted = classes
        test = noted(ways, drop_test(ways, drop, finished, judge, mended), tried.setdefault("drop", []))
        classes, told["drop"] = search_levels(ways, drop, test, wanted)
        if latency is not None and classes is not wanted:  # the drop holds with less, which is slower
            told["latency"] = latency_test(ways, latency)(classes)[1]
    assert classes is not None
    reached, short = _reached(ways, classes, wishes.targets, told)
    deepest = deepest_cut(ways)
    return Met(
        decided=replace(start, classes=classes),
        reached=reached,
        short=short,
        told=told,
        reachable=_reachable(ways, deepest, wishes.targets, tried),
        deepest=deepest,
        tried=tried,
        repaired=mended.get(classes.tobytes()),
    )


def _reachable(
    ways: Ways, deepest: IntArray, targets: Sequence[Target], tried: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, float | None]:
    """What each target comes to, in its own unit, when all goes that may; of a latency the least that was measured on
    the way, of a drop the least that so many samples can show."""
    found: dict[str, float | None] = {}
    for target in targets:
        seen = tried.get(target.kind, ())
        if target.kind == "latency":
            found[target.kind] = min(
                (row["after_ms"] / (row["before_ms"] if target.relative else 1e3) for row in seen), default=None
            )
        elif target.kind == "drop":
            found[target.kind] = min((row["floor"] for row in seen if "floor" in row), default=None)
        else:
            value = counted_value(ways, deepest, target.kind)
            found[target.kind] = value / whole_cost(ways, target.kind) if target.relative else value
    return found


def _reached(
    ways: Ways, classes: IntArray, targets: Sequence[Target], told: Mapping[str, Any]
) -> tuple[dict[str, float], tuple[Target, ...]]:
    reached: dict[str, float] = {}
    short = []
    for target in targets:
        if target.kind in ("macs", "params", "bytes"):
            original = whole_cost(ways, target.kind)
            value = counted_value(ways, classes, target.kind)
            reached[target.kind] = value / original if target.relative else value
            holds = value <= target.limit(original) * (1 + 1e-9)
        elif target.kind == "latency":
            about = told["latency"]
            value, original = about["after_ms"] / 1e3, about["before_ms"] / 1e3
            reached["latency"] = value / original if target.relative else value
            holds = value <= target.limit(original)
        else:
            about = told["drop"]
            reached["drop"] = about.get("bound", 1.0) if len(classes) else 0.0
            holds = not len(classes) or about.get("bound", 1.0) <= target.value
        if not holds:
            short.append(target)
    return reached, tuple(short)
