"""Every operator of ONNX's own test corpus, pruned around at random: proven, walled or refused by name, never wrong.

    python tools/corpus.py                       # ~1,900 models, some 8,000 wrapped ones; minutes on two cores
    python tools/corpus.py --only 'test_resize*' --verbose

Writes a Markdown summary to stdout. Exits with 1 where there is a defect.

As they are, the models have no weights: the empty plan must give the same bytes back. Then each float input is made by
a Conv or MatMul with constant weights, each output is read by another, and half of what is free goes.
"""

from __future__ import annotations

import fnmatch
import multiprocessing
import os
import re
import sys
import time
import traceback
import warnings
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
os.environ["ALLOW_RELEASED_ONNX_OPSET_ONLY"] = "0"  # onnxruntime tries newer opsets than it promises to run

import click
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from support import run_model, tensors, zeroed_original

import ocnna_onnx
from ocnna_onnx.model.session import Runtime
from ocnna_onnx.prove.inputs import Feed, random_feeds
from ocnna_onnx.prove.proof import Proof, prove
from ocnna_onnx.rewrite.rewrite import Rewritten, rewrite
from ocnna_onnx.trace.groups import find_groups
from ocnna_onnx.trace.tracer import trace as trace_model
from ocnna_onnx.trace.types import Trace

Array: TypeAlias = np.ndarray[Any, Any]
Stage = Callable[[str], None]
Place = Literal["channels", "last", "rows"]
Sink = Literal["same", "flat"]
Status = Literal["equal", "proven", "walled", "too few", "inconclusive", "refused", "not runnable", "defect"]

RUNTIME = Runtime(threads=1)
UNPRUNED = "unpruned"
SOURCE, SINK = "corpus_source", "corpus_sink"
SINK_OUTPUTS = 2
PLEASE_REPORT = "please report"
"""What the package says of its own defects."""

NEWEST_IR = 10
"""What every onnxruntime of the last years opens; the corpus is of the newest, which it may not."""

LARGEST = 100.0
"""A case's own data are scaled down to this."""

MEANINGS: dict[Status, str] = {
    "equal": "the empty plan gives the same bytes",
    "proven": "the wrapped source lost channels, and the proof passed",
    "walled": "nothing on the wrapped source is free",
    "too few": "something is free, but going it would empty a tensor",
    "inconclusive": "the proof could not have failed, so it says so",
    "refused": "an OcnnaError",
    "not runnable": "onnxruntime cannot run the model unpruned",
    "defect": "another exception, a proof that failed, a file that does not run",
}


class Job(NamedTuple):
    """One model to try. inputs: which of the case's are wrapped (none: the case as it is, with the empty plan).

    live: the other inputs stay inputs instead of becoming constants.
    """

    case: str
    inputs: tuple[str, ...] = ()
    place: Place = "channels"
    sink: Sink = "same"
    live: bool = False

    def __str__(self) -> str:
        if not self.inputs:
            return self.case
        return f"{self.case} [{'+'.join(self.inputs)} {self.place}→{self.sink}{' live' if self.live else ''}]"


class Outcome(NamedTuple):
    """What became of one job. walls: (operator, reason) of those that hold the wrapped source."""

    status: Status
    message: str = ""
    walls: tuple[tuple[str, str], ...] = ()


class Case(NamedTuple):
    """A model of the corpus with the data of its first test."""

    model: onnx.ModelProto
    inputs: dict[str, Any]
    outputs: dict[str, Any]


# --- the corpus ---


def collect() -> dict[str, Case]:
    """The node tests of the installed onnx, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        found = collect_testcases(None)
    cases = {}
    for case in found:
        given, expected = case.data_sets[0]
        graph = case.model.graph
        inputs = dict(zip((i.name for i in graph.input), given, strict=False))
        outputs = dict(zip((o.name for o in graph.output), expected, strict=False))
        cases[case.name] = Case(case.model, inputs, outputs)
    return cases


def jobs_of(name: str, case: Case, live: bool) -> Iterator[Job]:
    """The case as it is; then each float input wrapped, and all of them, at every place and with every sink."""
    yield Job(name)
    graph = case.model.graph
    plain = all(i.type.HasField("tensor_type") for i in (*graph.input, *graph.output))
    training = any("training" in o.domain for o in case.model.opset_import)
    if not plain or training or set(case.inputs) != {i.name for i in graph.input}:
        return
    floats = [n for n, a in case.inputs.items() if isinstance(a, np.ndarray) and a.dtype == np.float32 and a.ndim >= 2]
    choices = [(n,) for n in floats] + ([tuple(floats)] if len(floats) > 1 else [])
    for inputs in choices:
        for place in places([case.inputs[n] for n in inputs]):
            for sink in ("same", "flat"):
                for stays in (False, True) if live and len(inputs) < len(case.inputs) else (False,):
                    yield Job(name, inputs, place, sink, stays)


def places(arrays: Sequence[Array]) -> list[Place]:
    """Where channels can be made: the second axis, the last, or the rows of a matrix."""
    found: list[Place] = ["channels"]
    if any(a.ndim > 2 for a in arrays):
        found.append("last")
    if any(a.ndim == 2 for a in arrays):
        found.append("rows")
    return found


# --- wrapping ---


@dataclass
class Wrapper:
    """A case's model on its way to having weights."""

    model: onnx.ModelProto
    rng: np.random.Generator
    feed: dict[str, Array] = field(default_factory=dict)

    def constant(self, name: str, value: Any) -> str:
        """A new initializer, of an array or (types that numpy lacks) a tensor; before IR version 4 it is listed among
        the inputs too."""
        graph = self.model.graph
        if isinstance(value, onnx.TensorProto):
            graph.initializer.append(value)
            graph.initializer[-1].name = name
        else:
            graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        if self.model.ir_version < 4:
            stored = graph.initializer[-1]
            graph.input.append(helper.make_tensor_value_info(name, stored.data_type, stored.dims))
        return name

    def source(self, name: str, array: Array, place: Place) -> onnx.NodeProto:
        """A node that makes the case's input `name`, of values that lie between those of a new input."""
        data, node = f"corpus_data_{name}", f"{SOURCE}_{name}"
        self.model.graph.input.append(helper.make_tensor_value_info(data, TensorProto.FLOAT, array.shape))
        self.feed[data] = sane(array)
        axis = {"channels": 1, "last": array.ndim - 1, "rows": array.ndim - 2}[place]
        size = array.shape[axis]
        weight = mixture(self.rng, size)
        if place == "channels" and array.ndim > 2:
            kernel = self.constant(f"{node}_w", weight.reshape(size, size, *[1] * (array.ndim - 2)))
            return helper.make_node("Conv", [data, kernel], [name], name=node)
        matrix = self.constant(f"{node}_w", weight)
        ends = [matrix, data] if place == "rows" else [data, matrix]
        return helper.make_node("MatMul", ends, [name], name=node)

    def sink(self, name: str, array: Array, place: Place, sink: Sink) -> None:
        """Nodes that read the case's output `name`; one that they cannot read stays an output."""
        graph, node = self.model.graph, f"{SINK}_{name}"
        kind = next(o.type.tensor_type.elem_type for o in graph.output if o.name == name)
        wanted = 1 if sink == "flat" else 2
        if array.ndim < wanted or array.dtype.kind not in "fiub" or not array.size:
            return
        current, shape = name, array.shape
        if kind != TensorProto.FLOAT:
            graph.node.append(helper.make_node("Cast", [current], [f"{node}_cast"], name=f"{node}_cast", to=1))
            current = f"{node}_cast"
        if sink == "flat":
            graph.node.append(helper.make_node("Flatten", [current], [f"{node}_flat"], name=f"{node}_flat", axis=0))
            current, shape = f"{node}_flat", (1, array.size)
        conv = sink == "same" and place == "channels" and array.ndim > 2
        size = shape[1] if conv else shape[-1]
        weight = (self.rng.standard_normal((SINK_OUTPUTS, size)) / size**0.5).astype(np.float32)
        matrix = weight.reshape(SINK_OUTPUTS, size, *[1] * (array.ndim - 2)) if conv else np.ascontiguousarray(weight.T)
        ends = [current, self.constant(f"{node}_w", matrix)]
        graph.node.append(helper.make_node("Conv" if conv else "MatMul", ends, [node], name=node))
        made = (shape[0], SINK_OUTPUTS, *shape[2:]) if conv else (*shape[:-1], SINK_OUTPUTS)
        old = next(o for o in graph.output if o.name == name)
        old.CopyFrom(helper.make_tensor_value_info(node, TensorProto.FLOAT, made))


def mixture(rng: np.random.Generator, size: int) -> Array:
    """float32 [size, size] whose rows and columns are weighted means: what comes out lies in the range of what went
    in, so that the operator's domain (of Log, of Acosh) is kept."""
    one, other = np.eye(size)[rng.permutation(size)], np.eye(size)[rng.permutation(size)]
    return np.asarray(0.6 * np.eye(size) + 0.25 * one + 0.15 * other, np.float32)


def sane(array: Array) -> Array:
    """The case's own data, finite and not huge."""
    finite = np.nan_to_num(array, nan=0.5, posinf=1.0, neginf=-1.0)
    top = float(np.abs(finite).max(initial=0.0))
    return np.asarray(finite * (LARGEST / top) if top > LARGEST else finite, np.float32)


def wrapped(case: Case, job: Job) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """The case's model with weights in front and behind, and a feed for it."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    model.ir_version = min(model.ir_version, NEWEST_IR)
    wrapper = Wrapper(model, np.random.default_rng(0))
    inputs = list(model.graph.input)
    del model.graph.input[:]
    sources = []
    for value in inputs:
        array = case.inputs[value.name]
        if value.name in job.inputs and array.ndim >= 2:
            place: Place = "channels" if job.place == "rows" and array.ndim > 2 else job.place
            sources.append(wrapper.source(value.name, array, place))
        elif job.live:
            model.graph.input.append(value)
            wrapper.feed[value.name] = array
        else:
            wrapper.constant(value.name, array)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*sources, *nodes])
    for name, array in case.outputs.items():
        if isinstance(array, (np.ndarray, np.generic)):
            wrapper.sink(name, np.asarray(array), job.place, job.sink)
    return model, wrapper.feed


# --- one job ---


def attempt(case: Case, job: Job, stage: Stage) -> Outcome:
    """Do it; whatever is raised becomes an outcome."""
    try:
        return prune_half(case, job, stage) if job.inputs else keep_all(case.model, stage)
    except ocnna_onnx.OcnnaError as error:
        return Outcome("defect" if PLEASE_REPORT in str(error) else "refused", f"{type(error).__name__}: {error}")
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "ocnna_onnx/" in f.filename]
        place = f" at {'/'.join(Path(frames[-1].filename).parts[-3:])}:{frames[-1].lineno}" if frames else ""
        text = str(error).strip().splitlines()
        return Outcome("defect", f"{type(error).__name__}{place}: {text[0] if text else ''}")


def keep_all(model: onnx.ModelProto, stage: Stage) -> Outcome:
    """The empty plan on the case as it is."""
    stage("trace")
    before = model.SerializeToString(deterministic=True)
    trace = trace_model(model, None, RUNTIME)
    find_groups(trace)
    if (fault := faulty_rule(trace)) is not None:
        return Outcome("defect", fault)
    stage("rewrite")
    made = rewrite(trace, trace.keep_units(np.zeros(0, np.int64))).model
    if model.SerializeToString(deterministic=True) != before:
        return Outcome("defect", "the caller's model was changed")
    if made.SerializeToString(deterministic=True) != before:
        return Outcome("defect", "the empty plan changes the file")
    stage("inspect")
    ocnna_onnx.inspect(model, threads=1)
    return Outcome("equal")


def faulty_rule(trace: Trace) -> str | None:
    """The reason of a wall that stands for an exception in a rule."""
    return next((w.reason for w in trace.walls if PLEASE_REPORT in w.reason), None)


def prune_half(case: Case, job: Job, stage: Stage) -> Outcome:
    """Wrap the case, remove half of what is free, prove."""
    model, feed = wrapped(case, job)
    stage(UNPRUNED)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run_model(model, feed)
    except Exception as error:
        return Outcome("not runnable", str(error).strip().splitlines()[0])
    stage("trace")
    before = model.SerializeToString(deterministic=True)
    trace = trace_model(model, None, RUNTIME)
    if (fault := faulty_rule(trace)) is not None:
        return Outcome("defect", fault)
    keep = removed_at_random(trace)
    stage("rewrite")
    result = rewrite(trace, keep)
    if model.SerializeToString(deterministic=True) != before:
        return Outcome("defect", "the caller's model was changed")
    stage("prove")
    feeds = chain([Feed(feed)], random_feeds(trace.graph, trace.shapes, 0) if not job.live else [])
    proof = prove(result.kept, result.model, find_groups(trace), feeds, RUNTIME)
    stage("redo")
    return verdict(before, trace, keep, result, proof, feed)


def removed_at_random(trace: Trace) -> Array:
    """bool [units + 1], what stays: half of every group's free decisions, one at least, no tensor is emptied."""
    rng = np.random.default_rng(0)
    gone = np.zeros(len(trace.free), bool)
    for group in find_groups(trace):
        count = min(max(len(group.free) // 2, 1), len(group.classes) - 1, len(group.free))
        gone[rng.permutation(group.free)[: max(count, 0)]] = True
    for classes in trace.axis_classes().values():
        if gone[classes].all():
            gone[classes[0]] = False
    return trace.keep_units(np.flatnonzero(gone))


def verdict(
    before: bytes, trace: Trace, keep: Array, result: Rewritten, proof: Proof, feed: dict[str, Array]
) -> Outcome:
    """What a proof comes to, once the surgery was redone by other means. before: the model, serialized."""
    if not proof.passed:
        status: Status = "inconclusive" if proof.reason.startswith("inconclusive") else "defect"
        return Outcome(status, proof.reason)
    if (apart := differs_from_records(trace, result) or differs_from_zeroed(trace, result, feed)) is not None:
        return Outcome("defect", apart)
    made = [s for s in trace.sources if trace.graph.names[s.node].startswith(SOURCE)]
    units = np.concatenate([np.zeros(0, np.int64), *(s.units for s in made)])
    if not keep[units].all():
        return Outcome("proven")
    if not any(not keep[s.units].all() for s in trace.sources):
        if result.model.SerializeToString(deterministic=True) != before:
            return Outcome("defect", "nothing went, yet the file changed")
    if not len(units):
        return Outcome("walled", walls=(("the wrapped source", "one channel only"),))
    classes = trace.unit_class[units]
    if trace.free[classes].any():
        return Outcome("too few")
    held = [w for w in trace.walls if np.isin(trace.unit_class[w.units], classes).any()]
    walls = dict.fromkeys((trace.graph.nodes[w.node].op_type, w.reason) for w in held)
    return Outcome("walled", walls=tuple(walls))


def differs_from_records(trace: Trace, result: Rewritten) -> str | None:
    """How the constants of the pruned file differ from the report's `cuts`, redone with numpy."""
    new = tensors(result.model)
    records: defaultdict[tuple[str, str], dict[int, tuple[int, ...]]] = defaultdict(dict)
    for cut in result.cuts:
        if records[(cut.tensor, cut.new_tensor)].setdefault(cut.axis, cut.kept) != cut.kept:
            return f"the report cuts '{cut.tensor}' to '{cut.new_tensor}' in two ways along axis {cut.axis}"
    for (tensor, name), axes in records.items():
        expected = trace.constants.value(tensor)
        for axis, stays in axes.items():
            expected = None if expected is None else np.take(expected, stays, axis=axis)
        if expected is None or name not in new or not np.array_equal(new[name], expected, equal_nan=True):
            return f"the report says that '{tensor}' was cut to '{name}', the file differs"
    return None


def differs_from_zeroed(trace: Trace, result: Rewritten, feed: dict[str, Array]) -> str | None:
    """How the pruned file differs from the original with zero weights for what went, an oracle without masks."""
    stored = tensors(trace.graph.model.whole())
    if any(cut.tensor not in stored for cut in result.cuts):
        return None
    oracle = zeroed_original(trace, result)
    if oracle is None:
        return None
    wanted, actual = run_model(oracle, feed), run_model(result.model, feed)
    for name, reference in wanted.items():
        if reference.dtype.kind != "f" or not np.isfinite(reference).all() or not reference.size:
            continue
        if actual[name].shape != reference.shape:
            return f"'{name}' has shape {actual[name].shape}, zeroed weights give {reference.shape}"
        error = float(np.abs(actual[name].astype(np.float64) - reference).max())
        if not error <= 1e-3 * max(float(np.abs(reference).max()), 0.1):
            return f"'{name}' is off by {error:.3g} from the original with zeroed weights"
    return None


# --- many jobs, under a watchdog ---


def serve(cases: dict[str, Case], pipe: Connection) -> None:
    """A worker: jobs come in; names of stages and, in the end, an outcome go out."""
    np.seterr(all="ignore")
    warnings.simplefilter("ignore")
    while (job := pipe.recv()) is not None:
        pipe.send(attempt(cases[job.case], job, pipe.send))


@dataclass
class Worker:
    """A process, what it is doing, and since when."""

    process: BaseProcess
    pipe: Connection
    job: Job | None = None
    stage: str = ""
    since: float = 0.0


def start(cases: dict[str, Case]) -> Worker:
    """A fresh worker."""
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()
    process = context.Process(target=serve, args=(cases, theirs), daemon=True)
    process.start()
    theirs.close()
    return Worker(process, mine)


def broken(worker: Worker, what: str) -> Outcome:
    """The outcome of a job whose worker hung or died."""
    status: Status = "not runnable" if worker.stage == UNPRUNED else "defect"
    return Outcome(status, f"{what} at stage '{worker.stage}'")


def run_all(cases: dict[str, Case], jobs: Iterable[Job], workers: int, limit: float) -> Iterator[tuple[Job, Outcome]]:
    """Outcomes as they come. A worker that hangs or dies is replaced, and its job is counted as such."""
    waiting = deque(jobs)
    pool = [start(cases) for _ in range(workers)]
    while waiting or any(w.job for w in pool):
        for k, worker in enumerate(pool):
            if worker.job is None and waiting:
                worker.job, worker.stage, worker.since = waiting.popleft(), "", time.monotonic()
                worker.pipe.send(worker.job)
            elif worker.job is not None and time.monotonic() - worker.since > limit:
                worker.process.kill()
                yield worker.job, broken(worker, f"hangs ({limit:g} s)")
                pool[k] = start(cases)
        ready = wait([w.pipe for w in pool if w.job], timeout=1.0)
        for k, worker in enumerate(pool):
            if worker.pipe not in ready or worker.job is None:
                continue
            try:
                message = worker.pipe.recv()
            except EOFError:
                worker.process.join()
                yield worker.job, broken(worker, f"the process dies (exit code {worker.process.exitcode})")
                pool[k] = start(cases)
                continue
            if isinstance(message, str):
                worker.stage = message
            else:
                yield worker.job, message
                worker.job = None
    for worker in pool:
        worker.pipe.send(None)
        worker.process.join()


# --- the report ---


def general(text: str) -> str:
    """A message without names and numbers, so that it can be counted."""
    return re.sub(r"\d[\d,.e+-]*", "#", re.sub(r"'[^']*'", "'…'", text))


def print_report(found: dict[Job, Outcome]) -> None:
    """Summary, walls, refusals, what was not runnable, defects."""
    print_counts(found)
    walls: Counter[tuple[str, str]] = Counter(w for o in found.values() for w in dict.fromkeys(o.walls))
    print_table("Walls on the wrapped source", ("operator", "reason"), Counter(_general_walls(walls)))
    for status in ("refused", "inconclusive", "not runnable"):
        rows: Counter[tuple[str, ...]] = Counter()
        example: dict[tuple[str, ...], str] = {}
        for job, outcome in found.items():
            if outcome.status == status:
                row = ("as it is" if not job.inputs else "wrapped", general(outcome.message))
                rows[row] += 1
                example.setdefault(row, str(job))
        shown = Counter({(*row, f"`{example[row]}`"): count for row, count in rows.items()})
        print_table(status.capitalize(), ("model", "message", "example"), shown)
    defects: defaultdict[str, list[Job]] = defaultdict(list)
    for job, outcome in found.items():
        if outcome.status == "defect":
            defects[outcome.message].append(job)
    click.echo(f"\n## Defects: {sum(map(len, defects.values()))}\n")
    for message, jobs in defects.items():
        for job in jobs:
            click.echo(f"- `{job}`: {message}")


def _general_walls(walls: Counter[tuple[str, str]]) -> Counter[tuple[str, ...]]:
    found: Counter[tuple[str, ...]] = Counter()
    for (op, reason), count in walls.items():
        found[(op, general(reason))] += count
    return found


def print_counts(found: dict[Job, Outcome]) -> None:
    """By status: models as they are, wrapped models, and cases, where the best of a case's wrapped models counts."""
    order: tuple[Status, ...] = (
        *("defect", "proven", "walled", "too few", "inconclusive", "refused", "not runnable", "equal"),
    )
    best: dict[str, Status] = {}
    for job, outcome in found.items():
        if job.inputs:
            best[job.case] = min(best.get(job.case, outcome.status), outcome.status, key=order.index)
    plain = Counter(o.status for j, o in found.items() if not j.inputs)
    around = Counter(o.status for j, o in found.items() if j.inputs)
    cases = Counter(best.values())
    click.echo("| | as they are | wrapped | cases (first line that holds) | meaning |\n|---|---|---|---|---|")
    for status in order:
        click.echo(f"| {status} | {plain[status]} | {around[status]} | {cases[status]} | {MEANINGS[status]} |")
    click.echo(f"| all | {plain.total()} | {around.total()} | {cases.total()} | |")


def print_table(title: str, heads: Sequence[str], rows: Counter[tuple[str, ...]]) -> None:
    """A Markdown table of counts, the largest first."""
    if not rows:
        return
    click.echo(f"\n## {title}\n\n| count | {' | '.join(heads)} |\n|---{'|---' * len(heads)}|")
    for row, count in rows.most_common():
        click.echo(f"| {count} | {' | '.join(cell.replace('|', '¦') for cell in row)} |")


@click.command()
@click.option("--only", multiple=True, help="Cases whose name matches this glob only; may be repeated.")
@click.option("--verbose", is_flag=True, help="Every outcome as it comes, to stderr.")
@click.option("--live", is_flag=True, help="Also leave the inputs that are not wrapped as inputs, not constants.")
@click.option("--workers", default=2, show_default=True, help="Processes.")
@click.option("--limit", default=20.0, show_default=True, help="Seconds after which a model counts as hung.")
def main(only: tuple[str, ...], verbose: bool, live: bool, workers: int, limit: float) -> None:
    """Try every model of the corpus, print what became of it."""
    cases = {n: c for n, c in collect().items() if not only or any(fnmatch.fnmatch(n, g) for g in only)}
    jobs = [job for name, case in cases.items() for job in jobs_of(name, case, live)]
    found: dict[Job, Outcome] = {}
    for job, outcome in run_all(cases, jobs, workers, limit):
        found[job] = outcome
        if verbose or outcome.status == "defect":
            walls = "; ".join(f"{op}: {reason}" for op, reason in outcome.walls)
            click.echo(f"{outcome.status}: {job} {outcome.message}{walls}", err=True)
    print_report({job: found[job] for job in jobs})
    sys.exit(1 if any(o.status == "defect" for o in found.values()) else 0)


if __name__ == "__main__":
    main()
