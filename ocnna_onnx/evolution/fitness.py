"""What one candidate is worth: the net without its channels, refitted from covariances of the original that serve every
mask, opened in memory and run on the samples."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import numpy_helper
from threadpoolctl import threadpool_limits

from ..calibrate.covariance import Covariance, Settled
from ..calibrate.readers import Reader, Readings
from ..calibrate.stream import batch_size
from ..data.samples import Samples
from ..errors import UsageError
from ..model.graph import AnyArray
from ..model.light import Light, light
from ..model.session import Runtime, open_session, run
from ..repair.refit import refitted
from ..report.evaluate import Kind, kind_of, of_samples, usable_labels
from ..rewrite.constants import cut_array, operand_cuts
from ..rewrite.rewrite import Rewritten, rewrite
from ..trace.labels import BoolArray, IntArray
from ..trace.types import Trace
from .front import Bar

FLOATS = ("tensor(float)", "tensor(float16)", "tensor(double)")

BATCH = 64
"""Samples of one run, at most: after each the evaluation may stop."""

FEWEST = 128
"""Samples that are looked at before it may."""

DOUBT = 2.5
"""Standard errors by which the estimate must lie above what a candidate has to beat."""

RUNS = 9
"""Runs of which a latency is the median."""


@dataclass(frozen=True)
class Judge:
    """Samples, held in memory, and what is right on them. output: the output that is compared. kind: `top1` (labels, or
    the original's classes), `pixel` (the original's), `relative_l2`. right: int64 [n, …] classes, or the original's
    outputs. labelled: whether `right` holds labels. error: the original's own. batch: samples of one run."""

    samples: Samples
    output: str
    kind: Kind
    right: AnyArray
    labelled: bool
    error: float
    batch: int


@dataclass(frozen=True)
class Evaluator:
    """Everything that workers need, free of files and open sessions, so that it can be sent anywhere. readers, seen:
    the layers that are refitted, and what they saw in the original. repair: as for `prune`. timed: whether the cost is
    a measured latency."""

    trace: Trace
    readers: tuple[Reader, ...]
    seen: tuple[Covariance | Settled, ...]
    repair: str
    judge: Judge
    runtime: Runtime
    timed: bool = False


@dataclass(frozen=True)
class Task:
    """One candidate. removed: int64, the classes that go. cost: in shares of the original's, None where it is to be
    measured. bar: what it must beat; None: it is evaluated to the end."""

    removed: IntArray
    cost: float | None
    bar: Bar | None = None


@dataclass(frozen=True)
class Fitness:
    """error: 0 … 1. cost: a share of the original's. stopped: see `Worth`."""

    error: float
    cost: float
    stopped: bool = False


def judge_of(trace: Trace, samples: Samples, runtime: Runtime) -> Judge:
    """Runs the original once. Raises UsageError where it has no output of numbers, DataError for labels that are none
    of its classes."""
    held = replace(samples, arrays={n: np.asarray(a[np.arange(samples.count)]) for n, a in samples.arrays.items()})
    model = trace.graph.model
    found: list[AnyArray] = []
    with threadpool_limits(1, "blas"), open_session(model, runtime, True) as session:
        output = next((o.name for o in session.get_outputs() if o.type in FLOATS), None)
        if output is None:
            raise UsageError("the model has no float output by which pruned nets could be compared with it")
        whole = batch_size(trace.shapes, held)
        fixed = any(0 not in trace.shapes.dynamic.get(n, ()) for n in held.arrays)
        batch = whole if fixed else min(whole, BATCH)
        for feed, valid in held.batches(batch):
            found.append(of_samples(run(session, [output], feed)[output], batch, valid))
    outputs = np.concatenate(found)
    kind = kind_of(outputs)
    if kind == "relative_l2":
        return Judge(held, output, kind, outputs, False, 0.0, batch)
    classes = outputs.argmax(axis=1)
    labels = usable_labels(held, outputs, kind)
    if labels is None:
        return Judge(held, output, kind, classes, False, 0.0, batch)
    return Judge(held, output, kind, labels, True, float((classes != labels).mean()), batch)


def evaluator_of(
    trace: Trace, seen: Readings | None, repair: str, judge: Judge, runtime: Runtime, timed: bool
) -> Evaluator:
    """seen: what the readers saw of the samples; None where nothing is refitted."""
    readers: list[Reader] = []
    covariances: list[Covariance | Settled] = []
    for reader, covariance in zip(*((seen.readers, seen.covariances) if seen else ((), ())), strict=True):
        name = trace.graph.nodes[reader.map.node].input[reader.map.weight]
        if name in trace.graph.initializers and len(trace.graph.consumers.get(name, ())) == 1:
            readers.append(reader)
            covariances.append(covariance)
    one = replace(runtime, threads=1)  # so that results do not depend on who computes them
    return Evaluator(trace, tuple(readers), tuple(covariances), repair, judge, one, timed)


def fitness(evaluator: Evaluator, task: Task) -> Fitness:
    """Deterministic but for latencies."""
    with threadpool_limits(1, "blas"):
        small = candidate(evaluator, task.removed)
        cost = task.cost if task.cost is not None else _latency(evaluator, small)
        limit = np.inf if task.bar is None else task.bar.limit(cost)
        return _judged(evaluator, small, cost, limit)


def candidate(evaluator: Evaluator, removed: IntArray) -> Light:
    """The net without these classes, refitted."""
    trace = evaluator.trace
    keep = trace.keep_units(removed)
    rewritten = rewrite(trace, keep)
    small = light(rewritten.model)
    if keep.all() or evaluator.repair == "none":
        return small
    return _with(small, _cut(trace, rewritten, _refitted(evaluator, ~keep)))


def _refitted(evaluator: Evaluator, gone: BoolArray) -> dict[str, AnyArray]:
    """New values of initializers, in their full shapes."""
    graph = evaluator.trace.graph
    changed: dict[str, AnyArray] = {}
    stored = _Stored(evaluator.trace, changed)
    weightless = evaluator.repair != "least-squares"
    for reader, settled in zip(evaluator.readers, evaluator.seen, strict=True):
        if gone[reader.units].any():
            changed.update(refitted(graph, reader, settled, gone, stored, weightless))
    return changed


class _Stored(Mapping[str, AnyArray]):
    """Initializers by name, as they are by now; read from the model only when they are asked for."""

    def __init__(self, trace: Trace, changed: Mapping[str, AnyArray]) -> None:
        self._graph, self._changed = trace.graph, changed

    def __getitem__(self, name: str) -> AnyArray:
        return self._changed[name] if name in self._changed else self._graph.array(name)

    def __contains__(self, name: object) -> bool:
        return name in self._graph.initializers

    def __iter__(self) -> Any:
        return iter(self._graph.initializers)

    def __len__(self) -> int:
        return len(self._graph.initializers)


def _cut(trace: Trace, rewritten: Rewritten, values: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
    """The values as the small net holds them, under its names."""
    stored = {(c.node, c.input): c.new_tensor for c in rewritten.cuts}
    found = dict(values)
    for (node, i), axes in operand_cuts(trace, rewritten.kept.keep).items():
        name = trace.graph.nodes[node].input[i]
        if name in values:
            found[stored[trace.graph.names[node], i]] = cut_array(values[name], axes)
    return found


def _with(model: Light, values: Mapping[str, AnyArray]) -> Light:
    """The same net with other weights. model: free to be edited."""
    for tensor in model.proto.graph.initializer:
        if tensor.name in values and tensor.name not in model.weights:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values[tensor.name]), tensor.name))
    return Light(model.proto, {n: values.get(n, a) for n, a in model.weights.items()})


def _judged(evaluator: Evaluator, small: Light, cost: float, limit: float) -> Fitness:
    judge = evaluator.judge
    wrong = total = 0.0
    seen = 0
    with open_session(small, evaluator.runtime, True) as session:
        for feed, valid in judge.samples.batches(judge.batch):
            found = of_samples(run(session, [judge.output], feed)[judge.output], judge.batch, valid)
            off, size = _compared(judge, found, seen, valid)
            wrong, total, seen = wrong + off, total + size, seen + valid
            if judge.kind != "relative_l2" and FEWEST <= seen < judge.samples.count:
                error = wrong / total
                if error - DOUBT * np.sqrt(error * (1 - error) / seen) >= limit:
                    return Fitness(error, cost, stopped=True)
    error = np.sqrt(wrong / total) if judge.kind == "relative_l2" and total else wrong / max(total, 1.0)
    return Fitness(float(min(1.0, error)) if np.isfinite(error) else 1.0, cost)


def _compared(judge: Judge, found: AnyArray, start: int, valid: int) -> tuple[float, float]:
    """(what is wrong, of how much)."""
    if judge.kind == "relative_l2":
        right = judge.right[start : start + len(found)].astype(np.float64)
        return float(((found - right) ** 2).sum()), float((right**2).sum())
    right = judge.right[start : start + valid]
    finite = np.isfinite(found).all(axis=1)
    return float(((found.argmax(axis=1) != right) | ~finite).sum()), float(right.size)


def _latency(evaluator: Evaluator, small: Light) -> float:
    """Time of a run of the candidate as a share of the original's: both on one sample, in turns."""
    one = evaluator.judge.samples.take(np.arange(1))
    feed, _ = next(one.batches(batch_size(evaluator.trace.shapes, one)))
    seconds: tuple[list[float], list[float]] = ([], [])
    with (
        open_session(evaluator.trace.graph.model, evaluator.runtime, True) as before,
        open_session(small, evaluator.runtime, True) as after,
    ):
        for k in range(RUNS + 2):
            for session, times in zip((before, after), seconds, strict=True):
                started = time.perf_counter()
                run(session, [evaluator.judge.output], feed)
                if k > 1:
                    times.append(time.perf_counter() - started)
    return float(np.median(seconds[1]) / np.median(seconds[0]))
