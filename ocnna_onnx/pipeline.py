"""The steps in order: load, trace, score, plan, rewrite, prove, report. The only place that knows them all."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from . import __version__
from .calibrate.stream import batch_size, per_image
from .criteria.table import CRITERIA, OutputCriterion, RandomCriterion, WeightCriterion
from .data.imageoptions import ImageOptions
from .data.open import open_data
from .data.samples import Samples, probe_shapes, probe_values
from .errors import DataError, NothingFree, ProofFailed, UsageError
from .model.graph import Graph
from .model.load import LoadedModel, load
from .model.probes import Shape
from .model.save import save
from .model.session import Runtime, check_providers, open_session
from .model.stamp import add_stamp
from .plan.plan import Plan, planned, removed_channels
from .plan.select import Cut, FloatArray, class_scores, excluded, select
from .prove.inputs import Feed, random_feeds, sample_feed
from .prove.proof import prove
from .report.evaluate import evaluate
from .report.inspection import Inspection, inspection, wall_infos
from .report.outcome import Outcome
from .rewrite.rewrite import rewrite
from .trace.coupling import pair
from .trace.groups import Group, find_groups
from .trace.labels import BoolArray, IntArray
from .trace.tracer import trace as trace_model
from .trace.types import Trace

DEFAULT_RATIO = 0.3

STRICT = "strict_inputs"
"""The plan's option that says that overridable inputs stay as they are."""

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Result:
    """A pruned model with its plan and report (the dictionary of report.json)."""

    model: onnx.ModelProto
    plan: Plan
    report: dict[str, Any]
    external: bool = False
    sources: tuple[Path, ...] = ()

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> int:
        """Write the model, whole or not at all; external data as the input had it. Returns the bytes written.

        Raises UsageError where `path` is the file that was pruned (unless `overwrite`), or holds its weights.
        """
        target = Path(path)
        for k, source in enumerate(self.sources):
            if target.exists() and source.exists() and target.samefile(source) and (k or not overwrite):
                raise UsageError(f"{target}: is the model that was pruned, or holds its weights; choose another path")
        return save(self.model, target, self.external)


@dataclass(frozen=True)
class Settings:
    """What the public functions have in common: the samples, the probe, how to run, what may be cut."""

    data: Any
    samples: int | None
    seed: int
    input_shapes: Mapping[str, Shape]
    base_folder: str | os.PathLike[str] | None
    runtime: Runtime
    rtol: float | None = None
    strict_inputs: bool = False
    progress: Progress = lambda stage, done, total: None
    image: ImageOptions | Mapping[str, Any] | str | None = None


@dataclass(frozen=True)
class _Job:
    """One model on its way: what was loaded, its trace and groups, and how to run it."""

    settings: Settings
    loaded: LoadedModel
    trace: Trace
    groups: tuple[Group, ...]
    samples: Samples
    timings: dict[str, float]


def inspect(
    model: Any,
    *,
    data: Any = None,
    image: ImageOptions | Mapping[str, Any] | str | None = None,
    input_shapes: Mapping[str, Shape] | None = None,
    strict_inputs: bool = False,
    base_folder: str | os.PathLike[str] | None = None,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    threads: int = 0,
) -> Inspection:
    """Layers, coupled groups and walls of a model, and (by its `why`) an answer for one tensor or node. Nothing is
    changed.

    model: a path, bytes, a ModelProto or an object with `.model_proto`. data, image: as for `prune`; needed only where
    shapes can be found by running the model alone, and it does not run on zeros. input_shapes: probe shapes for
    symbolic dimensions. strict_inputs: as for `prune`. Raises ModelError, UsageError, ShapeNeeded, DataError.
    """
    settings = settings_of(
        data, None, 0, input_shapes, base_folder, providers, threads, strict_inputs=strict_inputs, image=image
    )
    loaded = load(model, base_folder)
    given, values = settings.input_shapes, {}
    notes: tuple[str, ...] = ()
    if data is not None:
        samples = samples_for(loaded, settings)
        given, values, notes = probe_shapes(samples, given), probe_values(samples), samples.notes
    found = inspection(trace_model(loaded.model, given, settings.runtime, values, strict_inputs), loaded.name)
    return replace(found, warnings=(*notes, *found.warnings))


def prune(
    model: Any,
    *,
    data: Any = None,
    image: ImageOptions | Mapping[str, Any] | str | None = None,
    criterion: str = "ocnna",
    ratio: float | None = None,
    percentile: float | None = None,
    exclude: Sequence[str] = (),
    exclude_op: Sequence[str] = (),
    min_channels: int = 1,
    samples: int | None = None,
    seed: int = 0,
    input_shapes: Mapping[str, Shape] | None = None,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    threads: int = 0,
    rtol: float | None = None,
    strict_inputs: bool = False,
    base_folder: str | os.PathLike[str] | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Result:
    """A smaller model that computes exactly what `model` computes with the removed channels silenced.

    model: a path, bytes, a ModelProto or an object with `.model_proto`; never modified. data: `digits`; the path of an
    .npz or .npy, of a folder of pictures, of polygraphy's saved inputs, `script.py[:function]`; an array [n, …], a dict
    of arrays by input name (labels in `y` or `labels`), an iterable or a DataLoader of them, an onnxruntime
    CalibrationDataReader; or None for crops of two photographs. image: how pictures are prepared, a preset's name or
    the options of `ImageOptions`. ratio: removes floor(ratio · units) of every group (default 0.3). percentile: OCNNA
    as published, all units at or below that percentile of their group's scores. exclude: globs (or `re:` expressions)
    of node names. min_channels: units that every group keeps. samples: how many to calibrate with. rtol: the proof's
    tolerance.
    strict_inputs: weights that are graph inputs too, so that the caller may feed others (IR version 4 on), are walls;
    else they are cut together with the input's shape.

    Raises UsageError (options), ModelError (the model), DataError (the data), NothingFree (no unit can go),
    ProofFailed (the proof refused the result).
    """
    _check_options(criterion, ratio, percentile, min_channels)
    for option, patterns in (("exclude", exclude), ("exclude_op", exclude_op)):
        if not isinstance(patterns, Sequence) or any(not isinstance(p, str) for p in patterns):
            raise UsageError(f"{option} {patterns!r} is no list of names")
    settings = settings_of(
        data, samples, seed, input_shapes, base_folder, providers, threads, rtol, strict_inputs, progress, image
    )
    job = _open(model, settings)
    if not any(len(g.free) for g in job.groups):
        rows = tuple((w.node, w.op, w.tensor, w.reason) for w in wall_infos(job.trace, job.groups))
        raise NothingFree(_nothing_free(rows, len(job.groups)), rows)
    if ratio is None and percentile is None:
        ratio = DEFAULT_RATIO
    started = time.perf_counter()
    scores = _scores(job, criterion, seed)
    job.timings["score"] = time.perf_counter() - started
    exclude = (exclude,) if isinstance(exclude, str) else exclude
    exclude_op = (exclude_op,) if isinstance(exclude_op, str) else exclude_op
    barred = excluded(job.trace, exclude, exclude_op)
    job = _paired(job, scores, barred)
    score, barred = class_scores(job.trace.unit_class, job.trace.sources, scores), job.trace.unit_class[barred]
    classes = select(job.trace, job.groups, score, Cut(ratio, percentile, min_channels), barred)
    keep = job.trace.keep_units(classes)
    options: dict[str, Any] = {"min_channels": min_channels, "samples": job.samples.count}
    options.update({"ratio": ratio} if percentile is None else {"percentile": percentile})
    if exclude or exclude_op:
        options["exclude"] = [*exclude, *(f"op:{op}" for op in exclude_op)]
    if strict_inputs:
        options[STRICT] = True
    plan = Plan(job.loaded.sha256, job.loaded.name, criterion, options, seed, removed_channels(job.trace, keep))
    return _carry_out(job, plan, keep)


def apply(
    plan: Plan,
    model: Any,
    *,
    data: Any = None,
    image: ImageOptions | Mapping[str, Any] | str | None = None,
    samples: int | None = None,
    seed: int = 0,
    input_shapes: Mapping[str, Shape] | None = None,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    threads: int = 0,
    rtol: float | None = None,
    strict_inputs: bool = False,
    base_folder: str | os.PathLike[str] | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Result:
    """Replay a plan: the same bytes as the prune that made it. Raises DataError where it is not this model's plan.

    data, image: as for `prune`. strict_inputs: so, too, and where the plan was made that way.
    """
    if not isinstance(plan, Plan):
        raise UsageError(f"expected a Plan (Result.plan, or the plan of plan.json), got {type(plan).__name__}")
    strict = strict_inputs or is_strict(plan)
    settings = settings_of(
        data, samples, seed, input_shapes, base_folder, providers, threads, rtol, strict, progress, image
    )
    job = _open(model, settings)
    if plan.sha256 != job.loaded.sha256:
        raise DataError(
            f"the plan belongs to another model ('{plan.name}', sha256 {plan.sha256[:12]}…; "
            f"this one has {job.loaded.sha256[:12]}…)"
        )
    paired, classes = planned(plan, job.trace)
    job = replace(job, trace=paired, groups=find_groups(paired))
    return _carry_out(job, plan, paired.keep_units(classes))


def _check_options(criterion: str, ratio: float | None, percentile: float | None, min_channels: int) -> None:
    if criterion not in CRITERIA:
        raise UsageError(f"unknown criterion '{criterion}'; choose one of {', '.join(CRITERIA)}")
    if ratio is not None and percentile is not None:
        raise UsageError("give either a ratio or a percentile, not both")
    for name, number in (("ratio", ratio), ("percentile", percentile)):
        if number is not None and not isinstance(number, (int, float)):
            raise UsageError(f"{name} {number!r} is no number")
    if ratio is not None and not 0 <= ratio < 1:
        raise UsageError(f"ratio {ratio:g} is out of range: 0 ≤ ratio < 1 (the share of every group that goes)")
    if percentile is not None and not 0 <= percentile < 100:
        raise UsageError(f"percentile {percentile:g} is out of range: 0 ≤ percentile < 100")
    if min_channels < 1:
        raise UsageError(f"min_channels {min_channels} is out of range: at least 1")


def settings_of(
    data: Any,
    samples: int | None,
    seed: int,
    input_shapes: Mapping[str, Shape] | None,
    base_folder: str | os.PathLike[str] | None,
    providers: Sequence[str],
    threads: int,
    rtol: float | None = None,
    strict_inputs: bool = False,
    progress: Progress = lambda stage, done, total: None,
    image: ImageOptions | Mapping[str, Any] | str | None = None,
) -> Settings:
    """The settings, once they are seen to be in range. Raises UsageError."""
    for name, number in (("samples", samples), ("seed", seed), ("threads", threads)):
        if number is not None and not isinstance(number, int):
            raise UsageError(f"{name} {number!r} is no whole number")
    if input_shapes is not None and not isinstance(input_shapes, Mapping):
        raise UsageError(f"input_shapes {input_shapes!r} is no mapping of input names to shapes")
    if samples is not None and samples < 1:
        raise UsageError(f"samples {samples} is out of range: at least 1")
    if seed < 0:
        raise UsageError(f"seed {seed} is out of range: at least 0")
    if threads < 0:
        raise UsageError(f"threads {threads} is out of range: at least 0 (0: onnxruntime's choice)")
    if rtol is not None and not 0 < rtol < 1:
        raise UsageError(f"rtol {rtol:g} is out of range: 0 < rtol < 1")
    names = (providers,) if isinstance(providers, str) else tuple(providers)
    check_providers(names)
    shapes, runtime = dict(input_shapes or {}), Runtime(names, threads)
    return Settings(data, samples, seed, shapes, base_folder, runtime, rtol, strict_inputs, progress, image)


def is_strict(plan: Plan) -> bool:
    """Whether the plan was made with `strict_inputs`."""
    return bool(plan.options.get(STRICT))


def samples_for(loaded: LoadedModel, settings: Settings) -> Samples:
    """The samples to run this model on."""
    graph = Graph(loaded.proto)
    return open_data(settings.data, graph, settings.input_shapes, settings.samples, settings.seed, settings.image)


def _open(model: Any, settings: Settings) -> _Job:
    """Load the model, see that onnxruntime opens it, open the data, trace at the data's shapes."""
    timings: dict[str, float] = {}
    started = time.perf_counter()
    loaded = load(model, settings.base_folder)
    with open_session(loaded.model, settings.runtime):
        pass
    timings["load"] = time.perf_counter() - started
    samples = samples_for(loaded, settings)
    started = time.perf_counter()
    given, values = probe_shapes(samples, settings.input_shapes), probe_values(samples)
    traced = trace_model(loaded.model, given, settings.runtime, values, settings.strict_inputs)
    timings["trace"] = time.perf_counter() - started
    return _Job(settings, loaded, traced, find_groups(traced), samples, timings)


def _nothing_free(rows: Sequence[tuple[str, str, str, str]], groups: int) -> str:
    if not groups and rows:
        node, op, _, reason = rows[0]
        return f"nothing can be pruned: node '{node}' ({op}): {reason}"
    if not groups:
        return "nothing can be pruned: no Conv, ConvTranspose, Gemm or MatMul with constant weights makes channels"
    node, op, tensor, reason = rows[0]
    return f"nothing can be pruned: {len(rows)} walls, the first at node '{node}' ({op}) on '{tensor}': {reason}"


def _paired(job: _Job, scores: Mapping[int, FloatArray], barred: IntArray) -> _Job:
    """The job with channels of grouped Convs paired by score. barred: units that the user excluded."""
    base = job.trace.pairing.base
    score = class_scores(base, job.trace.sources, scores)[base]
    score[np.isin(base, base[barred])] = np.inf
    trace = pair(job.trace, score)
    return job if trace is job.trace else replace(job, trace=trace, groups=find_groups(trace))


def _scores(job: _Job, name: str, seed: int) -> dict[int, FloatArray]:
    """Number of a source -> the scores of its channels, for those of which something can go."""
    criterion = CRITERIA[name]
    wanted = [k for k, s in enumerate(job.trace.sources) if job.trace.free[job.trace.unit_class[s.units]].any()]
    sources = [job.trace.sources[k] for k in wanted]
    if isinstance(criterion, OutputCriterion):
        measured = per_image(
            job.trace,
            sources,
            job.samples,
            criterion.per_image,
            job.settings.runtime,
            lambda done, total: job.settings.progress("calibrate", done, total),
        )
        found = [criterion.finish(m) for m in measured]
    elif isinstance(criterion, WeightCriterion):
        found = [criterion.score(job.trace, s) for s in sources]
    else:
        assert isinstance(criterion, RandomCriterion)
        rng = np.random.default_rng(seed)
        found = [criterion.score(len(s.units), rng) for s in sources]
    return dict(zip(wanted, found, strict=True))


def proof_feeds(trace: Trace, samples: Samples, seed: int) -> Iterable[Feed]:
    """The first samples, then seeded random inputs of growing scale."""
    first = sample_feed(trace.graph, trace.shapes, samples)
    given = first.values if first is not None and samples.real else {}
    drawn = random_feeds(trace.graph, trace.shapes, seed, given)
    return chain([first] if first is not None else [], drawn)


def _carry_out(job: _Job, plan: Plan, keep: BoolArray) -> Result:
    """Rewrite, prove, evaluate, stamp, report."""
    runtime, progress = job.settings.runtime, job.settings.progress
    started = time.perf_counter()
    rewritten = rewrite(job.trace, keep)
    job.timings["rewrite"] = time.perf_counter() - started
    started = time.perf_counter()
    progress("prove", 0, 1)
    feeds = proof_feeds(job.trace, job.samples, job.settings.seed)
    proof = prove(rewritten.kept, rewritten.model, job.groups, feeds, runtime, job.settings.rtol)
    progress("prove", 1, 1)
    job.timings["prove"] = time.perf_counter() - started
    if not proof.passed:
        raise ProofFailed(
            f"the proof failed, nothing was written: {proof.reason}", proof.node, proof.max_relative_error
        )
    started = time.perf_counter()
    judged = job.samples.evaluation or job.samples
    agreement = evaluate(
        job.loaded.model,
        rewritten.model,
        judged,
        batch_size(job.trace, judged),
        runtime,
        lambda done, total: progress("evaluate", done, total),
    )
    job.timings["evaluate"] = time.perf_counter() - started
    if plan.remove:
        add_stamp(rewritten.model, __version__, job.loaded.sha256, plan.to_json())
    outcome = Outcome(job.loaded, job.trace, job.groups, job.samples, plan, rewritten, proof, agreement, job.timings)
    return Result(rewritten.model, plan, outcome.to_json(__version__), job.loaded.external, job.loaded.files)


__all__ = ["Result", "apply", "inspect", "proof_feeds", "prune"]
