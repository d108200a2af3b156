"""Targets that can only be measured (latency, drop): a search over levels of multiply–accumulates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from .calibrate.stream import batch_size
from .data.samples import Samples
from .levels import Ways, gone_of, level, whole_cost
from .model.light import Light
from .model.session import open_session
from .model.turns import in_turns
from .opened import Opened
from .plan.decide import Decided
from .plan.targets import Target
from .repair.job import Repaired
from .report.difference import difference
from .rewrite.rewrite import rewrite
from .trace.labels import IntArray

LEVELS = 7
"""Budgets that are tried where a target can only be measured."""

LEAST = 0.05
"""Share of the multiply–accumulates below which no search goes."""

LATENCY_RUNS = 15

Test = Callable[[IntArray], tuple[bool, dict[str, Any]]]
"""Whether a target holds when these classes go, and what was measured."""

Finish = Callable[[Decided], tuple[onnx.ModelProto, Repaired]]
"""The model as it would leave when these classes go, and its repair."""


def search_levels(ways: Ways, target: Target, test: Test, start: IntArray | None) -> tuple[IntArray, dict[str, Any]]:
    """A search over budgets of multiply–accumulates: the mildest cut that is fast enough, or the deepest whose drop
    holds; and what was measured of it. start: the cut that other targets ask for: the one where this target holds,
    too; else a latency takes more than it, and a drop less."""
    total = whole_cost(ways, "macs")
    fast = target.kind == "latency"
    report = ways.job.settings.progress
    best: tuple[IntArray, dict[str, Any]] | None = None
    last: tuple[IntArray, dict[str, Any]] | None = None
    low, high = LEAST, 1.0  # shares of MACs: `high` is nothing at all
    if start is not None:
        holds, about = test(start)
        if holds:
            return start, about
        left = ways.costs.macs_left(gone_of(ways.trace, start)) / total
        low, high = (low, left) if fast else (left, high)
    seen: dict[bytes, tuple[bool, dict[str, Any]]] = {}
    for k in range(LEVELS):
        report(target.kind, k, LEVELS)
        share = (low + high) / 2
        classes = level(ways, ways.costs.macs_left, share * total)
        key = classes.tobytes()
        if key not in seen:
            seen[key] = test(classes)
        holds, about = seen[key]
        last = classes, about
        if holds:
            best = last
        # fast: milder where it holds; drop: deeper where it holds
        low, high = (share, high) if holds == fast else (low, share)
    report(target.kind, LEVELS, LEVELS)
    if best is not None:
        return best
    if fast:
        assert last is not None
        deepest = level(ways, ways.costs.macs_left, LEAST * total)
        return deepest, test(deepest)[1]
    nothing: IntArray = np.zeros(0, np.int64)
    return nothing, test(nothing)[1]


def noted(ways: Ways, test: Test, tried: list[dict[str, Any]]) -> Test:
    """The same test, which also writes down every cut that it is asked about."""
    total = whole_cost(ways, "macs")

    def noting(classes: IntArray) -> tuple[bool, dict[str, Any]]:
        holds, about = test(classes)
        left = ways.costs.macs_left(gone_of(ways.trace, classes)) / total
        tried.append({"macs_ratio": left, "removed": len(classes), "holds": holds, **about})
        return holds, about

    return noting


def drop_test(ways: Ways, target: Target, finished: Finish, judge: Samples, mended: dict[bytes, Repaired]) -> Test:
    """mended: gets the repair of the latest cut that held, which is the one that a search ends with: one at a time,
    since each is as large as the weights."""
    batch = batch_size(ways.job.trace.shapes, judge)

    def test(classes: IntArray) -> tuple[bool, dict[str, Any]]:
        original = ways.job.loaded.model
        model, repaired = finished(replace(ways.decided, classes=classes)) if len(classes) else (original, Repaired())
        found = difference(original, model, judge, batch, ways.job.settings.runtime)
        if found is None:
            return False, {}
        holds = found.bound <= target.value
        if holds:
            mended.clear()
            mended[classes.tobytes()] = repaired
        return holds, found.to_json()

    return test


def latency_test(ways: Ways, target: Target) -> Test:
    """Holds where the small net is fast enough beside the original, both timed in turns."""

    def test(classes: IntArray) -> tuple[bool, dict[str, Any]]:
        decided = replace(ways.decided, classes=classes)
        small = rewrite(decided.trace, decided.trace.keep_units(classes)).model
        before, after = latencies(ways.job, small)
        return after <= target.limit(before), {"before_ms": before * 1e3, "after_ms": after * 1e3}

    return test


def latencies(job: Opened, small: onnx.ModelProto | Light) -> tuple[float, float]:
    """Median seconds of a run of the original and of the pruned model, in turns, on one sample where they allow it."""
    one_sample = job.samples.take(np.arange(1))
    feed, _ = next(one_sample.batches(batch_size(job.trace.shapes, one_sample)))
    runtime = job.settings.runtime
    with open_session(job.loaded.model, runtime, True) as one, open_session(small, runtime, True) as two:
        names = [o.name for o in one.get_outputs()]
        before, after = in_turns((one, two), names, feed, LATENCY_RUNS)
    return before, after
