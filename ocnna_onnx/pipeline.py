"""The steps in order: load, trace, score, plan, rewrite, prove, report. The only place that knows them all."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from . import __version__
from .calibrate.stream import batch_size
from .criteria.scores import Scores
from .criteria.table import parsed
from .data.samples import Samples, probe_shapes, probe_values
from .errors import DataError, NothingFree, ProofFailed, UsageError
from .model.load import load
from .model.save import save
from .model.stamp import add_stamp
from .opened import Opened, open_model
from .plan.decide import decide
from .plan.normalize import NORMALIZATIONS
from .plan.plan import Plan, planned, removed_channels
from .plan.select import Cut, FloatArray, excluded
from .prove.inputs import Feed, random_feeds, sample_feed
from .prove.proof import prove
from .report.evaluate import evaluate
from .report.inspection import Inspection, inspection, wall_infos
from .report.outcome import Outcome
from .rewrite.rewrite import rewrite
from .scoring import given_scores, prunable, scores_of
from .settings import samples_for, settings_of
from .trace.groups import find_groups
from .trace.labels import BoolArray, IntArray
from .trace.tracer import trace as trace_model
from .trace.types import Trace

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .settings import Common

DEFAULT_RATIO = 0.3

STRICT = "strict_inputs"
"""The plan's option that says that overridable inputs stay as they are."""


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


def inspect(model: Any, **common: Unpack[Common]) -> Inspection:
    """Layers, coupled groups and walls of a model, and (by its `why`) an answer for one tensor or node. Nothing is
    changed.

    model: a path, bytes, a ModelProto or an object with `.model_proto`. common: see `ocnna_onnx.settings.Common`; data
    is needed only where shapes can be found by running the model alone, and it does not run on zeros. Raises
    ModelError, UsageError, ShapeNeeded, DataError.
    """
    settings = settings_of(**common)
    loaded = load(model, settings.base_folder)
    given, values = settings.input_shapes, {}
    notes: tuple[str, ...] = ()
    if settings.data is not None:
        samples = samples_for(loaded, settings)
        given, values, notes = probe_shapes(samples, given), probe_values(samples), samples.notes
    traced = trace_model(loaded.model, given, settings.runtime, values, settings.strict_inputs)
    found = inspection(traced, loaded.name)
    return replace(found, warnings=(*notes, *found.warnings))


def prune(
    model: Any,
    *,
    criterion: str = "ocnna",
    ratio: float | None = None,
    percentile: float | None = None,
    exclude: Sequence[str] = (),
    exclude_op: Sequence[str] = (),
    min_channels: int = 1,
    normalize: str = "mean",
    scores: Scores | str | os.PathLike[str] | None = None,
    **common: Unpack[Common],
) -> Result:
    """A smaller model that computes exactly what `model` computes with the removed channels silenced.

    model: a path, bytes, a ModelProto or an object with `.model_proto`; never modified. criterion: how filters are
    scored (`ocnna`, `ocnna:variance=1`, `l2`, …: `ocnna_onnx.criteria.table`). ratio: removes floor(ratio · units) of
    every group (default 0.3). percentile: OCNNA as published, all units at or below that percentile of their group's
    scores. exclude: globs (or `re:` expressions) of node names. min_channels: units that every group keeps. normalize:
    what makes the layers of a group comparable: `mean` (divide by it), `rank`, `lamp`. scores: start from these (of
    `score`, or a scores.json) instead. common: samples, seed, runtime: see `ocnna_onnx.settings.Common`.

    Raises UsageError (options), ModelError (the model), DataError (the data), NothingFree (no unit can go),
    ProofFailed (the proof refused the result).
    """
    parsed(criterion)
    _check_cut(ratio, percentile, min_channels)
    for option, patterns in (("exclude", exclude), ("exclude_op", exclude_op)):
        if not isinstance(patterns, Sequence) or any(not isinstance(p, str) for p in patterns):
            raise UsageError(f"{option} {patterns!r} is no list of names")
    if normalize not in NORMALIZATIONS:
        raise UsageError(f"unknown normalization '{normalize}'; choose one of {', '.join(NORMALIZATIONS)}")
    given = None if scores is None else given_scores(scores)
    job = open_model(model, settings_of(**common))
    if not any(len(g.free) for g in job.groups):
        rows = tuple((w.node, w.op, w.tensor, w.reason) for w in wall_infos(job.trace, job.groups))
        raise NothingFree(_nothing_free(rows, len(job.groups)), rows)
    if ratio is None and percentile is None:
        ratio = DEFAULT_RATIO
    started = time.perf_counter()
    known = given or scores_of(job, criterion, prunable(job.trace))
    values = known.by_source(job.trace)
    job.timings["score"] = time.perf_counter() - started
    exclude = (exclude,) if isinstance(exclude, str) else exclude
    exclude_op = (exclude_op,) if isinstance(exclude_op, str) else exclude_op
    barred = np.union1d(excluded(job.trace, exclude, exclude_op), _unscored(job.trace, values))
    decided = decide(job.trace, job.groups, values, Cut(ratio, percentile, min_channels), normalize, barred)
    job = replace(job, trace=decided.trace, groups=decided.groups)
    keep = job.trace.keep_units(decided.classes)
    options: dict[str, Any] = {"min_channels": min_channels, "samples": job.samples.count}
    options.update({"ratio": ratio} if percentile is None else {"percentile": percentile})
    options.update({"criterion": dict(known.options)} if known.options else {})
    options.update({"normalize": normalize} if normalize != "mean" else {})
    if exclude or exclude_op:
        options["exclude"] = [*exclude, *(f"op:{op}" for op in exclude_op)]
    if job.settings.strict_inputs:
        options[STRICT] = True
    removed = removed_channels(job.trace, keep)
    plan = Plan(job.loaded.sha256, job.loaded.name, known.criterion, options, job.settings.seed, removed)
    return _carry_out(job, plan, keep)


def apply(plan: Plan, model: Any, **common: Unpack[Common]) -> Result:
    """Replay a plan: the same bytes as the prune that made it. Raises DataError where it is not this model's plan.

    common: see `ocnna_onnx.settings.Common`; strict_inputs holds, too, where the plan was made that way.
    """
    if not isinstance(plan, Plan):
        raise UsageError(f"expected a Plan (Result.plan, or the plan of plan.json), got {type(plan).__name__}")
    settings = settings_of(**common)
    job = open_model(model, replace(settings, strict_inputs=settings.strict_inputs or is_strict(plan)))
    if plan.sha256 != job.loaded.sha256:
        raise DataError(
            f"the plan belongs to another model ('{plan.name}', sha256 {plan.sha256[:12]}…; "
            f"this one has {job.loaded.sha256[:12]}…)"
        )
    paired, classes = planned(plan, job.trace)
    job = replace(job, trace=paired, groups=find_groups(paired))
    return _carry_out(job, plan, paired.keep_units(classes))


def _check_cut(ratio: float | None, percentile: float | None, min_channels: int) -> None:
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


def is_strict(plan: Plan) -> bool:
    """Whether the plan was made with `strict_inputs`."""
    return bool(plan.options.get(STRICT))


def _nothing_free(rows: Sequence[tuple[str, str, str, str]], groups: int) -> str:
    if not groups and rows:
        node, op, _, reason = rows[0]
        return f"nothing can be pruned: node '{node}' ({op}): {reason}"
    if not groups:
        return "nothing can be pruned: no Conv, ConvTranspose, Gemm or MatMul with constant weights makes channels"
    node, op, tensor, reason = rows[0]
    return f"nothing can be pruned: {len(rows)} walls, the first at node '{node}' ({op}) on '{tensor}': {reason}"


def _unscored(trace: Trace, scores: Mapping[int, FloatArray]) -> IntArray:
    """Units that can go, and of which no layer has a score (a scores.json that names some layers only): they stay."""
    seen = np.zeros(len(trace.free), bool)
    for k in scores:
        seen[trace.unit_class[trace.sources[k].units]] = True
    units = np.arange(1, len(trace.unit_class))
    return units[trace.free[trace.unit_class[units]] & ~seen[trace.unit_class[units]]]


def proof_feeds(trace: Trace, samples: Samples, seed: int) -> Iterable[Feed]:
    """The first samples, then seeded random inputs of growing scale."""
    first = sample_feed(trace.graph, trace.shapes, samples)
    given = first.values if first is not None and samples.real else {}
    drawn = random_feeds(trace.graph, trace.shapes, seed, given)
    return chain([first] if first is not None else [], drawn)


def _carry_out(job: Opened, plan: Plan, keep: BoolArray) -> Result:
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
        batch_size(job.trace.shapes, judged),
        runtime,
        lambda done, total: progress("evaluate", done, total),
    )
    job.timings["evaluate"] = time.perf_counter() - started
    if plan.remove:
        add_stamp(rewritten.model, __version__, job.loaded.sha256, plan.to_json())
    outcome = Outcome(job.loaded, job.trace, job.groups, job.samples, plan, rewritten, proof, agreement, job.timings)
    return Result(rewritten.model, plan, outcome.to_json(__version__), job.loaded.external, job.loaded.files)


__all__ = ["Result", "apply", "inspect", "proof_feeds", "prune"]
