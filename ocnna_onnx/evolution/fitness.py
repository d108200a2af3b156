"""What one candidate is worth: the net without its channels, refitted from covariances of the original that serve every
mask, opened in memory and run on the samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from threadpoolctl import threadpool_limits

from ..calibrate.covariance import Covariance, Settled
from ..calibrate.readers import Reader, Readings
from ..calibrate.stream import batch_size
from ..data.samples import Samples
from ..errors import UsageError
from ..model.graph import AnyArray
from ..model.light import Light, light, placed
from ..model.session import Runtime, open_session, run
from ..model.turns import in_turns
from ..repair.refit import all_refitted
from ..report.evaluate import Kind, kind_of, of_samples, usable_labels
from ..rewrite.constants import cut_array, operand_cuts
from ..rewrite.rewrite import Rewritten, rewrite
from ..trace.labels import IntArray
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
class Wanted:
    """What is right at one output. kind: `top1` (labels, or the original's classes), `pixel` (the original's),
    `relative_l2`. right: per batch, int32 [n, …] classes, or the original's output. labelled: whether these are
    labels."""

    output: str
    kind: Kind
    right: tuple[AnyArray, ...]
    labelled: bool = False

    @property
    def useless(self) -> float:
        """The error of the best net that gives every sample (pixel) the same answer; 1 where answers are no classes."""
        if self.kind == "relative_l2":
            return 1.0
        _, counts = np.unique(np.concatenate([r.reshape(-1) for r in self.right]), return_counts=True)
        return 1 - float(counts.max() / counts.sum())


@dataclass(frozen=True)
class Judge:
    """Samples, held in memory, and what is right on them, output by output: a candidate's error is the mean over all of
    them. error: the original's own. batch: samples of one run."""

    samples: Samples
    wanted: tuple[Wanted, ...]
    error: float
    batch: int

    @property
    def labelled(self) -> bool:
        """Whether labels say what is right."""
        return self.wanted[0].labelled

    @property
    def useless(self) -> float:
        """The error of a net that does not look at its input."""
        return float(np.mean([w.useless for w in self.wanted]))


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


def judge_of(trace: Trace, samples: Samples, runtime: Runtime, memory: int | None = None) -> Judge:
    """Runs the original once. Labels are those of the first output, where it has classes. memory: bytes that samples
    and outputs may take. Raises UsageError where it has no output of numbers, or they take more; DataError for labels
    that are none of its classes."""
    held = replace(samples, arrays={n: np.asarray(a[np.arange(samples.count)]) for n, a in samples.arrays.items()})
    with threadpool_limits(1, "blas"), open_session(trace.graph.model, runtime, True) as session:
        names = [o.name for o in session.get_outputs() if o.type in FLOATS]
        if not names:
            raise UsageError("the model has no float output by which pruned nets could be compared with it")
        whole = batch_size(trace.shapes, held)
        fixed = any(0 not in trace.shapes.dynamic.get(n, ()) for n in held.arrays)
        batch = whole if fixed else min(whole, BATCH)
        kinds: dict[str, Kind] = {}
        right: dict[str, list[AnyArray]] = {n: [] for n in names}
        labels: IntArray | None = None
        size = sum(np.asarray(a).nbytes for a in held.arrays.values())
        for feed, valid in held.batches(batch):
            made = run(session, names, feed)
            for name in names:
                output = of_samples(made[name], batch, valid)
                if name not in kinds:
                    kinds[name] = kind_of(output)
                    if name == names[0]:
                        labels = usable_labels(held, output, kinds[name])
                right[name].append(_told(output, kinds[name]))
                size += right[name][-1].nbytes
            if memory is not None and size > memory:
                raise UsageError(
                    f"{samples.count} samples and what the original makes of them take more than the memory that a "
                    "search may use (--memory): give fewer --samples"
                )
    wanted = [Wanted(n, kinds[n], tuple(right[n])) for n in names]
    ends = np.cumsum([len(r) if r.ndim else 0 for r in right[names[0]]])
    if labels is None or ends[-1] != len(labels):  # or rows that are no samples
        return Judge(held, tuple(wanted), 0.0, batch)
    classes = np.concatenate(right[names[0]])
    wanted[0] = Wanted(names[0], "top1", tuple(np.split(labels.astype(np.int32), ends[:-1])), True)
    return Judge(held, tuple(wanted), float((classes != labels).mean()) / len(wanted), batch)


def _told(output: AnyArray, kind: Kind) -> AnyArray:
    """What is kept of an output of the original."""
    return np.array(output) if kind == "relative_l2" else output.argmax(axis=1).astype(np.int32)


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
    weightless = evaluator.repair != "least-squares"
    changed = all_refitted(trace.graph, evaluator.readers, evaluator.seen, ~keep, weightless)
    return placed(small, _cut(trace, rewritten, changed))


def _cut(trace: Trace, rewritten: Rewritten, values: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
    """The values as the small net holds them, under its names."""
    stored = {(c.node, c.input): c.new_tensor for c in rewritten.cuts}
    found = dict(values)
    for (node, i), axes in operand_cuts(trace, rewritten.kept.keep).items():
        name = trace.graph.nodes[node].input[i]
        if name in values:
            found[stored[trace.graph.names[node], i]] = cut_array(values[name], axes)
    return found


def _judged(evaluator: Evaluator, small: Light, cost: float, limit: float) -> Fitness:
    judge = evaluator.judge
    names = [w.output for w in judge.wanted]
    off, size = np.zeros(len(names)), np.zeros(len(names))
    may_stop = len(names) == 1 and judge.wanted[0].kind != "relative_l2"
    seen = 0
    with open_session(small, evaluator.runtime, True) as session:
        for k, (feed, valid) in enumerate(judge.samples.batches(judge.batch)):
            made = run(session, names, feed)
            for i, wanted in enumerate(judge.wanted):
                found = of_samples(made[wanted.output], judge.batch, valid)
                off[i], size[i] = np.add((off[i], size[i]), _compared(wanted, found, wanted.right[k]))
            seen += valid
            if may_stop and FEWEST <= seen < judge.samples.count:
                error = off[0] / max(size[0], 1.0)
                if error - DOUBT * np.sqrt(error * (1 - error) / seen) >= limit:
                    return Fitness(float(error), cost, stopped=True)
    errors = [_error(w.kind, o, s) for w, o, s in zip(judge.wanted, off, size, strict=True)]
    return Fitness(sum(errors) / len(errors), cost)


def _error(kind: Kind, off: float, size: float) -> float:
    """0 … 1."""
    if not size:
        return 0.0 if not off else 1.0
    error = np.sqrt(off / size) if kind == "relative_l2" else off / size
    return float(min(1.0, error)) if np.isfinite(error) else 1.0


def _compared(wanted: Wanted, found: AnyArray, right: AnyArray) -> tuple[float, float]:
    """(what is wrong, of how much)."""
    if wanted.kind == "relative_l2":
        size = float((right.astype(np.float64) ** 2).sum())
        return (float(((found - right.astype(np.float64)) ** 2).sum()) if found.shape == right.shape else size), size
    classes = found.argmax(axis=1) if found.ndim > 1 else np.full(0, -1)
    if classes.shape != right.shape:
        return float(right.size), float(right.size)
    return float(((classes != right) | ~np.isfinite(found).all(axis=1)).sum()), float(right.size)


def _latency(evaluator: Evaluator, small: Light) -> float:
    """Time of a run of the candidate as a share of the original's: both on one sample, in turns."""
    one = evaluator.judge.samples.take(np.arange(1))
    feed, _ = next(one.batches(batch_size(evaluator.trace.shapes, one)))
    names = [w.output for w in evaluator.judge.wanted]
    with (
        open_session(evaluator.trace.graph.model, evaluator.runtime, True) as one,
        open_session(small, evaluator.runtime, True) as two,
    ):
        before, after = in_turns((one, two), names, feed, RUNS)
    return after / before
