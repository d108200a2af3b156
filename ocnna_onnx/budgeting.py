"""From targets to what goes: curves of damage, a budget, and where a target can only be measured (latency, drop) a
search over budgets."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from .alignment import measured_alignment
from .calibrate.stream import batch_size
from .data.samples import Samples
from .errors import UsageError
from .model.light import Light
from .model.session import Runtime, open_session, run
from .opened import Opened
from .plan.align import Alignment, aligned
from .plan.allocate import Curve, allocate
from .plan.costs import CostModel, cost_model
from .plan.decide import Decided, Ordered
from .plan.select import matches, spare_emptied
from .plan.sensitivities import Cuts, order_of
from .plan.targets import Target
from .repair.repair import Repaired
from .report.bound import paired_bound
from .report.difference import difference
from .rewrite.rewrite import rewrite
from .sensing import curve
from .trace.groups import Group
from .trace.labels import BoolArray, IntArray
from .trace.types import Trace

FloatArray = npt.NDArray[np.float64]

HELD_OUT = 2
"""One sample of so many judges a `drop`, and is used for nothing else: with fewer the bound is all doubt."""

DROP_SAMPLES = 1024
"""Samples that a `drop` takes where nobody said how many."""

FADING = 0.2
"""What is left of an early group's damage once all layers behind it are repaired, as a share of what its curve says: a
repair refits them one after the other to what the original makes, and the curves know of the first readers only.
Chosen on training images, for ResNets and VGG (0.25 and 0.1 do about as well, 1 does worse)."""

LEVELS = 7
"""Budgets that are tried where a target can only be measured."""

LEAST = 0.05
"""Share of the multiply–accumulates below which no search goes."""

LATENCY_RUNS = 15

STAMP = 1500
"""Bytes of a stamp without its channels."""

Test = Callable[[IntArray], tuple[bool, dict[str, Any]]]
"""Whether a target holds when these classes go, and what was measured."""

Finish = Callable[[Decided], tuple[onnx.ModelProto, Repaired]]
"""The model as it would leave when these classes go, and its repair."""


@dataclass(frozen=True)
class Wishes:
    """How a budget is to be met. allocate: `sensitivity` or `uniform`. align: on which multiples channel counts end.
    keep: glob -> channels that its layers keep at least; max_cut: glob -> share that they lose at most. measured: what
    was timed for it. mended: whether what is left will be repaired by least squares."""

    targets: tuple[Target, ...]
    allocate: str = "sensitivity"
    align: Alignment = Alignment()
    min_channels: int = 1
    keep: Mapping[str, int] = field(default_factory=dict)
    max_cut: Mapping[str, float] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)
    mended: bool = False


@dataclass(frozen=True)
class Met:
    """decided: what goes. reached: target -> what the plan comes to, in its own unit. short: targets that are not met.
    told: for the report. reachable: target -> the least that it could come to (None: nobody knows), deepest: what goes
    then. tried: target that can only be measured -> the cuts of its search, in order. repaired: the repair of this very
    cut, where it was made on the way."""

    decided: Decided
    reached: dict[str, float]
    short: tuple[Target, ...]
    told: dict[str, Any]
    reachable: Mapping[str, float | None]
    deepest: IntArray
    tried: Mapping[str, list[dict[str, Any]]]
    repaired: Repaired | None = None

    def describe(self, target: Target) -> str:
        """What was reached, in the target's unit."""
        value = self.reached[target.kind]
        if target.relative:
            return f"{target.kind} {100 * value:.1f}%"
        return f"{target.kind} {value * 1e3:.2f} ms" if target.kind == "latency" else f"{target.kind} {value:,.0f}"

    def to_json(self, targets: Sequence[Target]) -> list[dict[str, Any]]:
        """One row per target: asked, reachable, reached, whether it is met, and what was measured for it."""
        return [
            {
                "asked": t.text,
                "kind": t.kind,
                "reachable": self.reachable[t.kind],
                "reached": self.reached[t.kind],
                "met": t not in self.short,
                **({"measured": self.told[t.kind]} if t.kind in self.told else {}),
            }
            for t in targets
        ]


@dataclass(frozen=True)
class _Ways:
    """Everything that levels of a budget are made from."""

    job: Opened
    decided: Decided
    score: FloatArray
    curves: Sequence[Curve]
    most: Sequence[int]
    costs: CostModel
    wishes: Wishes
    axes: Sequence[IntArray]

    @property
    def trace(self) -> Trace:
        return self.decided.trace


def wishes_of(
    targets: tuple[Target, ...],
    allocation: str,
    align: int | str,
    min_channels: int,
    keep: Mapping[str, int] | None,
    max_cut: Mapping[str, float] | None,
    runtime: Runtime,
) -> Wishes:
    """The user's options, once they are seen to be in range. Raises UsageError."""
    if allocation not in ("sensitivity", "uniform"):
        raise UsageError(f"unknown allocation '{allocation}'; choose sensitivity or uniform")
    for pattern, least in (keep or {}).items():
        if not isinstance(least, int) or least < 1:
            raise UsageError(f"keep {pattern}={least}: a number of channels, at least 1")
    for pattern, share in (max_cut or {}).items():
        if not 0 <= share <= 1:
            raise UsageError(f"max_cut {pattern}={share}: a share from 0 to 1")
    measured: dict[str, Any] = {}
    if align == "auto":
        alignment = Alignment()
        if targets:
            multiple = measured_alignment(runtime)
            alignment, measured = Alignment(multiple, adaptive=True), {"alignment": multiple}
    elif str(align) in ("1", "2", "4", "8", "16", "32", "64"):
        alignment = Alignment(int(align))
    else:
        raise UsageError(f"align {align!r}: choose auto, 1, 4, 8, 16 or 32")
    return Wishes(targets, allocation, alignment, min_channels, keep or {}, max_cut or {}, measured)


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
    most = [_most(trace, g, wishes) for g in order.groups]
    curves = _curves(order, cuts, wishes)
    ways = _Ways(job, start, order.score, curves, most, cost_model(trace), wishes, axis_channels(trace))
    counted = [t for t in wishes.targets if t.kind in ("macs", "params", "bytes")]
    measured = [t for t in wishes.targets if t.kind in ("latency", "drop")]
    told: dict[str, Any] = {}
    tried: dict[str, list[dict[str, Any]]] = {}
    mended: dict[bytes, Repaired] = {}
    classes = _counted(ways, counted) if counted else None
    for target in measured:
        limits = classes if target.kind == "latency" or classes is None else None
        if target.kind == "latency":
            test = _latency_test(ways, target)
        else:
            test = _drop_test(ways, target, finished, judge, mended)
        searched, about = _searched(ways, target, _noted(ways, test, tried.setdefault(target.kind, [])), limits)
        told[target.kind] = about
        classes = searched if classes is None or target.kind == "latency" else _smaller(ways, classes, searched)
    assert classes is not None
    reached, short = _reached(ways, classes, wishes.targets, told)
    deepest = _deepest(ways)
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


def _smaller(ways: _Ways, a: IntArray, b: IntArray) -> IntArray:
    """The cut that leaves more."""
    left = [ways.costs.macs_left(_gone(ways.trace, c)) for c in (a, b)]
    return a if left[0] >= left[1] else b


def _gone(trace: Trace, classes: IntArray) -> BoolArray:
    gone = np.zeros(len(trace.free), bool)
    gone[classes] = True
    return gone


def _most(trace: Trace, group: Group, wishes: Wishes) -> int:
    """Classes that a group may lose."""
    units = len(group.classes)
    most = min(len(group.free), units - max(1, wishes.min_channels))
    names = [trace.graph.names[trace.sources[k].node] for k in group.sources]
    for pattern, least in wishes.keep.items():
        if any(matches(n, pattern) for n in names):
            most = min(most, units - least)
    for pattern, share in wishes.max_cut.items():
        if any(matches(n, pattern) for n in names):
            most = min(most, int(share * units + 1e-9))
    return max(0, most)


def _curves(order: Ordered, cuts: Sequence[Cuts] | None, wishes: Wishes) -> list[Curve]:
    steps = [wishes.align.of(len(g.classes)) for g in order.groups]
    if wishes.allocate == "uniform":
        return [_uniform(g, order.score, s) for g, s in zip(order.groups, steps, strict=True)]
    assert cuts is not None
    made = [curve(g, order.score, c, s) for g, c, s in zip(order.groups, cuts, steps, strict=True)]
    if not wishes.mended:
        return made
    behind = _behind(order.start.trace, order.groups)
    return [replace(c, damage=c.damage * FADING**share) for c, share in zip(made, behind, strict=True)]


def _behind(trace: Trace, groups: Sequence[Group]) -> list[float]:
    """The share of all layers that come after the last one that reads a group: what they can make up for."""
    layers = np.unique([node for node, _ in trace.masks])
    return [float((layers > max(g.consumers, default=layers[-1])).mean()) if len(layers) else 0.0 for g in groups]


def _uniform(group: Group, score: FloatArray, step: int) -> Curve:
    """A curve whose slope per share of the group is the same everywhere: all groups lose the same share."""
    order = order_of(group, score)
    return Curve(order, np.zeros(len(order) + 1), len(group.classes), step)


def _level(ways: _Ways, cost: Callable[[BoolArray], float], budget: float) -> IntArray:
    """The classes that go at one budget, aligned."""
    trace, wishes = ways.trace, ways.wishes
    asked = budget
    classes: IntArray = np.zeros(0, np.int64)
    for _ in range(6):
        if wishes.allocate == "uniform":
            taken = _equal_shares(ways, cost, asked)
        else:
            taken = allocate(ways.curves, ways.most, cost, len(trace.free), asked)
        classes = _dense(ways, taken)
        over = cost(_gone(trace, classes)) - budget
        if over <= 0 or asked <= 0:
            break
        asked -= max(over, 1e-4 * budget)
    return classes


def _dense(ways: _Ways, taken: Sequence[int]) -> IntArray:
    """The classes that go when each group loses so many, but those that must stay: where a tensor would be empty, or a
    channel count would not be aligned."""
    together = list(ways.trace.axis_classes().values())
    chosen = [c.order[:n] for c, n in zip(ways.curves, taken, strict=True)]
    removed = np.sort(np.concatenate([np.zeros(0, np.int64), *chosen]))
    return aligned(spare_emptied(removed, together, ways.score), ways.axes, ways.score, ways.wishes.align)


def _deepest(ways: _Ways) -> IntArray:
    """The classes that go when every group loses all that it may."""
    return _dense(ways, ways.most)


def _equal_shares(ways: _Ways, cost: Callable[[BoolArray], float], budget: float) -> list[int]:
    """The smallest share that, taken from every group, meets the budget."""

    def taken(share: float) -> list[int]:
        return [min(m, int(share * c.units + 1e-9)) for c, m in zip(ways.curves, ways.most, strict=True)]

    def spent(share: float) -> float:
        gone = np.zeros(len(ways.trace.free), bool)
        for c, n in zip(ways.curves, taken(share), strict=True):
            gone[c.order[:n]] = True
        return cost(gone)

    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (low, middle) if spent(middle) <= budget else (middle, high)
    return taken(high)


def axis_channels(trace: Trace) -> list[IntArray]:
    """The class of every channel along each source's axis, and along what reads several of them (a Concat)."""
    found: dict[bytes, IntArray] = {}
    for arrays in trace.labels.values():
        for x in arrays:
            if len(x.axes) == 1:
                classes = trace.unit_class[x.array.reshape(-1)]
                found.setdefault(classes.tobytes(), classes)
    return list(found.values())


def _original(ways: _Ways, kind: str) -> float:
    nothing = np.zeros(len(ways.trace.free), bool)
    if kind == "macs":
        return ways.costs.macs_left(nothing)
    if kind == "params":
        return ways.costs.params_left(nothing)
    return float(ways.job.loaded.bytes)


def _cost_of(ways: _Ways, kind: str) -> Callable[[BoolArray], float]:
    if kind == "macs":
        return ways.costs.macs_left
    if kind == "params":
        return ways.costs.params_left
    nothing = np.zeros(len(ways.trace.free), bool)
    params = ways.costs.params_left(nothing)
    graph = ways.trace.graph
    stored = sum(graph.array(n).nbytes for n, t in graph.initializers.items() if t.dims)
    width = min(stored, ways.job.loaded.bytes) / max(1.0, params)  # bytes of a parameter
    return lambda gone: ways.job.loaded.bytes - width * (params - ways.costs.params_left(gone))


def _counted(ways: _Ways, targets: Sequence[Target]) -> IntArray:
    """What goes so that all counted targets hold. Bytes are foretold from parameters, and then weighed."""
    slack = 0.0
    for _ in range(4):
        classes = _foretold(ways, targets, slack)
        limit = next((t.limit(_original(ways, "bytes")) for t in targets if t.kind == "bytes"), None)
        if limit is None or (over := _weighed(ways, classes) - limit) <= 0:
            break
        slack += over
    return classes


def _weighed(ways: _Ways, classes: IntArray) -> float:
    """Bytes of the file, with room for its stamp (about a byte per channel that goes)."""
    if not len(classes):
        return float(ways.job.loaded.bytes)
    model = rewrite(ways.trace, ways.trace.keep_units(classes)).model
    return float(model.ByteSize() + STAMP + 2 * len(classes))


def _foretold(ways: _Ways, targets: Sequence[Target], slack: float) -> IntArray:
    """The worst excess is what a step must lower. slack: bytes by which files came out larger than foretold."""
    limits = {t.kind: t.limit(_original(ways, t.kind)) for t in targets}
    if "bytes" in limits:
        limits["bytes"] -= slack
    parts = [(_cost_of(ways, t.kind), limits[t.kind]) for t in targets]
    if len(parts) == 1:
        return _level(ways, *parts[0])
    return _level(ways, lambda gone: sum(max(1.0, cost(gone) / limit) for cost, limit in parts), float(len(parts)))


def _searched(ways: _Ways, target: Target, test: Test, start: IntArray | None) -> tuple[IntArray, dict[str, Any]]:
    """A search over budgets of multiply–accumulates: the mildest cut that is fast enough, or the deepest whose drop
    holds. start: a cut that must go in any case (latency)."""
    total = _original(ways, "macs")
    fast = target.kind == "latency"
    report = ways.job.settings.progress
    best: tuple[IntArray, dict[str, Any]] | None = None
    last: tuple[IntArray, dict[str, Any]] | None = None
    low, high = LEAST, 1.0  # shares of MACs: `high` is nothing at all
    if start is not None:
        high = ways.costs.macs_left(_gone(ways.trace, start)) / total
        holds, about = test(start)
        if holds and fast:
            return start, about
    seen: dict[bytes, tuple[bool, dict[str, Any]]] = {}
    for k in range(LEVELS):
        report(target.kind, k, LEVELS)
        share = (low + high) / 2
        classes = _level(ways, ways.costs.macs_left, share * total)
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
        deepest = _level(ways, ways.costs.macs_left, LEAST * total)
        return deepest, test(deepest)[1]
    nothing: IntArray = np.zeros(0, np.int64)
    return nothing, last[1] if last is not None else {}


def _noted(ways: _Ways, test: Test, tried: list[dict[str, Any]]) -> Test:
    """The same test, which also writes down every cut that it is asked about."""
    total = _original(ways, "macs")

    def noting(classes: IntArray) -> tuple[bool, dict[str, Any]]:
        holds, about = test(classes)
        left = ways.costs.macs_left(_gone(ways.trace, classes)) / total
        tried.append({"macs_ratio": left, "removed": len(classes), "holds": holds, **about})
        return holds, about

    return noting


def _drop_test(ways: _Ways, target: Target, finished: Finish, judge: Samples, mended: dict[bytes, Repaired]) -> Test:
    """mended: gets the repair of the latest cut that held, which is the one that a search ends with: one at a time,
    since each is as large as the weights."""
    batch = batch_size(ways.job.trace.shapes, judge)

    def test(classes: IntArray) -> tuple[bool, dict[str, Any]]:
        model, repaired = finished(replace(ways.decided, classes=classes))
        found = difference(ways.job.loaded.model, model, judge, batch, ways.job.settings.runtime)
        if found is None:
            return False, {}
        holds = found.bound <= target.value
        if holds:
            mended.clear()
            mended[classes.tobytes()] = repaired
        return holds, found.to_json()

    return test


def judging(samples: Samples) -> Samples:
    """The samples that judge a drop: every HELD_OUT-th."""
    held = np.arange(HELD_OUT - 1, samples.count, HELD_OUT)
    return samples.take(held if len(held) else np.arange(samples.count))


def can_show(drop: float, samples: int) -> bool:
    """Whether so many samples could show that a drop holds, if the half of them that judges saw no change at all."""
    return paired_bound(0, 0, max(1, samples // HELD_OUT)) <= drop


def fitting(samples: Samples) -> Samples:
    """The others."""
    index = np.arange(samples.count)
    rest = index[index % HELD_OUT != HELD_OUT - 1]
    return samples.take(rest if len(rest) else index)


def _latency_test(ways: _Ways, target: Target) -> Test:
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
    seconds: tuple[list[float], list[float]] = ([], [])
    runtime = job.settings.runtime
    with open_session(job.loaded.model, runtime, True) as one, open_session(small, runtime, True) as two:
        names = [o.name for o in one.get_outputs()]
        for k in range(LATENCY_RUNS + 2):
            for session, times in zip((one, two), seconds, strict=True):
                started = time.perf_counter()
                run(session, names, feed)
                if k > 1:
                    times.append(time.perf_counter() - started)
    return float(np.median(seconds[0])), float(np.median(seconds[1]))


def _reachable(
    ways: _Ways, deepest: IntArray, targets: Sequence[Target], tried: Mapping[str, Sequence[Mapping[str, Any]]]
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
            value = _counted_value(ways, deepest, target.kind)
            found[target.kind] = value / _original(ways, target.kind) if target.relative else value
    return found


def _counted_value(ways: _Ways, classes: IntArray, kind: str) -> float:
    return _weighed(ways, classes) if kind == "bytes" else _cost_of(ways, kind)(_gone(ways.trace, classes))


def _reached(
    ways: _Ways, classes: IntArray, targets: Sequence[Target], told: Mapping[str, Any]
) -> tuple[dict[str, float], tuple[Target, ...]]:
    reached: dict[str, float] = {}
    short = []
    for target in targets:
        if target.kind in ("macs", "params", "bytes"):
            original = _original(ways, target.kind)
            value = _counted_value(ways, classes, target.kind)
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


__all__ = ["Met", "Wishes", "axis_channels", "fitting", "judging", "latencies", "meet"]
