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
from .auto import Chosen, choose_criterion, is_auto
from .budgeting import DROP_SAMPLES, Met, can_show, fitting, judging, meet, wishes_of
from .calibrate.stream import batch_size
from .criteria.scores import Scores
from .criteria.table import parsed
from .data.samples import Samples, probe_shapes, probe_values
from .errors import DataError, NothingFree, ProofFailed, TargetMissed, UsageError
from .mending import check_method, repaired
from .model.light import light
from .model.load import load
from .model.save import save
from .model.stamp import add_stamp
from .opened import Opened, open_model
from .plan.decide import Decided, decide
from .plan.normalize import NORMALIZATIONS
from .plan.plan import Plan, planned, removed_channels
from .plan.select import Cut, FloatArray, excluded
from .plan.targets import parse_targets
from .prove.inputs import Feed, random_feeds, sample_feed
from .prove.proof import prove
from .repair.values import with_values
from .report.evaluate import evaluate
from .report.inspection import Inspection, inspection, wall_infos
from .report.outcome import Outcome, Told
from .report.reach import reach
from .report.savings import Savings
from .rewrite.only import only_values
from .rewrite.rewrite import rewrite
from .scoring import given_scores, scores_of
from .settings import samples_for, settings_of
from .trace.groups import find_groups
from .trace.labels import BoolArray, IntArray
from .trace.tracer import trace as trace_model
from .trace.types import Trace

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .settings import Common

DEFAULT_TARGET, BLIND_TARGET = "drop=1%", "macs=90%"
"""With data, and without: then nothing about the user's samples can be measured."""

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
    target: str | Sequence[str] | None = None,
    ratio: float | None = None,
    percentile: float | None = None,
    allocate: str = "sensitivity",
    align: int | str = "auto",
    repair: str = "least-squares",
    exclude: Sequence[str] = (),
    exclude_op: Sequence[str] = (),
    min_channels: int = 1,
    keep: Mapping[str, int] | None = None,
    max_cut: Mapping[str, float] | None = None,
    normalize: str = "mean",
    scores: Scores | str | os.PathLike[str] | None = None,
    best_effort: bool = False,
    **common: Unpack[Common],
) -> Result:
    """A smaller model that computes exactly what `model` computes with the removed channels silenced; then its weights
    are repaired, so that its layers come as near to the original's as they can.

    model: a path, bytes, a ModelProto or an object with `.model_proto`; never modified. criterion: how filters are
    scored (`ocnna`, `ocnna:variance=1`, `obs`, …: `ocnna_onnx.criteria.table`), or `auto`: the one of several that does
    best on held-out samples (`ocnna_onnx.auto`). One of these says how much goes:
    target: `macs=50%`, `params=…`, `bytes=5MB`, `latency=70%` (measured here), `drop=1%` (percentage points, judged on
    samples that are held out), several: the tightest holds. ratio: floor(ratio · units) of every group. percentile:
    OCNNA as published, all units at or below that percentile of their group's scores. With none of them, `drop=1%` of
    the user's data, or `macs=90%` without data.
    allocate: which groups give how much for a target: by measured `sensitivity`, or `uniform`. align: channel counts
    end on multiples of it (of a target; `auto`: as this runtime needs, measured). repair: `least-squares`, `moments`,
    `bias` or `none`. exclude: globs (or `re:` expressions) of node names. min_channels: units that every group keeps.
    keep, max_cut: glob -> channels that its layers keep at least, or the share that they lose at most (of a target).
    normalize: what makes the layers of a group comparable: `mean` (divide by it), `rank`, `lamp`. scores: start from
    these (of `score`, or a scores.json) instead. best_effort: go as far as possible where a target cannot be met.
    common: samples, seed, runtime: see `ocnna_onnx.settings.Common`.

    Raises UsageError (options), ModelError (the model), DataError (the data), NothingFree (no unit can go),
    TargetMissed (a target is out of reach), ProofFailed (the proof refused the result).
    """
    automatic = is_auto(criterion, scores)
    if not automatic:
        parsed(criterion)
    _check_cut(ratio, percentile, min_channels)
    for option, patterns in (("exclude", exclude), ("exclude_op", exclude_op)):
        if not isinstance(patterns, Sequence) or any(not isinstance(p, str) for p in patterns):
            raise UsageError(f"{option} {patterns!r} is no list of names")
    if normalize not in NORMALIZATIONS:
        raise UsageError(f"unknown normalization '{normalize}'; choose one of {', '.join(NORMALIZATIONS)}")
    check_method(repair)
    asked = None if target is None else parse_targets(target)
    if asked and (ratio is not None or percentile is not None):
        raise UsageError("give either a target, a ratio or a percentile")
    settings = settings_of(**common)
    by_default = asked is None and ratio is None and percentile is None
    if by_default:
        asked = parse_targets(DEFAULT_TARGET if settings.data is not None else BLIND_TARGET)
        best_effort = True  # nobody insisted
    if settings.samples is None and asked and any(t.kind == "drop" for t in asked):
        settings = replace(settings, samples=DROP_SAMPLES)
    wishes = wishes_of(asked or (), allocate, align, min_channels, keep, max_cut, settings.runtime)
    notes: tuple[str, ...] = ()
    given = None if scores is None else given_scores(scores)
    job = open_model(model, settings)
    if not any(len(g.free) for g in job.groups):
        rows = tuple((w.node, w.op, w.tensor, w.reason) for w in wall_infos(job.trace, job.groups))
        raise NothingFree(_nothing_free(rows, len(job.groups)), rows)
    if by_default and asked and asked[0].kind == "drop" and not can_show(asked[0].value, job.samples.count):
        notes = (
            f"{job.samples.count} samples are too few to promise {DEFAULT_TARGET} (by default): cut to {BLIND_TARGET} "
            "instead, not measured on your data",
        )
        asked = parse_targets(BLIND_TARGET)
        wishes = replace(wishes, targets=asked)
    exclude = (exclude,) if isinstance(exclude, str) else exclude
    exclude_op = (exclude_op,) if isinstance(exclude_op, str) else exclude_op
    method = repair if job.samples.real else "none"  # made-up samples tell what a net does, not what it is for
    cut = Cut(ratio, percentile, min_channels)
    everything = job.samples
    if asked and any(t.kind == "drop" for t in asked):
        job = replace(job, samples=fitting(everything))
    choice: Chosen | None = None
    if automatic:
        barred = excluded(job.trace, exclude, exclude_op)
        choice = choose_criterion(job, wishes if asked else cut, normalize, barred, method)
        criterion, notes = choice.criterion, (*notes, *choice.notes)
    everything = replace(everything, notes=(*everything.notes, *notes))
    started = time.perf_counter()
    known = given or scores_of(job, criterion, job.trace.free_sources())
    values = known.by_source(job.trace)
    job.timings["score"] = time.perf_counter() - started
    barred = np.union1d(excluded(job.trace, exclude, exclude_op), _unscored(job.trace, values))
    obtained: dict[str, Any] = {}
    tried: Mapping[str, Any] = {}
    options: dict[str, Any] = {"min_channels": min_channels, "samples": job.samples.count}
    if asked:
        met = meet(job, values, normalize, barred, wishes, lambda d: _finished(job, d, method), judging(everything))
        decided = met.decided
        if met.short and not best_effort:
            raise _missed(met, job)
        obtained, deepest, tried = {"targets": met.to_json(asked)}, met.deepest, met.tried
        options.update({"target": [t.text for t in asked], "allocate": allocate, "align": wishes.align.multiple})
    else:
        decided = decide(job.trace, job.groups, values, cut, normalize, barred)
        everything_goes = Cut(1.0, min_channels=min_channels)
        deepest = decide(job.trace, job.groups, values, everything_goes, normalize, barred).classes
        options.update({"ratio": ratio} if percentile is None else {"percentile": percentile})
    job = replace(job, trace=decided.trace, groups=decided.groups)
    stays = job.trace.keep_units(decided.classes)
    options.update({"criterion": dict(known.options)} if known.options else {})
    options.update({"normalize": normalize} if normalize != "mean" else {})
    if exclude or exclude_op:
        options["exclude"] = [*exclude, *(f"op:{op}" for op in exclude_op)]
    if job.settings.strict_inputs:
        options[STRICT] = True
    removed = removed_channels(job.trace, stays)
    measured = {**wishes.measured, **obtained}
    plan = Plan(job.loaded.sha256, job.loaded.name, known.criterion, options, settings.seed, removed, measured)
    told = Told(reach(job.trace, deepest), repair, method, tried, None if choice is None else choice.to_json())
    return _carry_out(replace(job, samples=everything), plan, stays, told, job.samples)


def _finished(job: Opened, decided: Decided, method: str) -> onnx.ModelProto:
    """The model as it would leave when these classes go."""
    rewritten = rewrite(decided.trace, decided.trace.keep_units(decided.classes))
    found = repaired(decided.trace, rewritten, job.samples, job.settings, method)
    return with_values(rewritten.model, found.values)


def _missed(met: Met, job: Opened) -> TargetMissed:
    """What could not be met, how far it got, and which walls stand in the way."""
    first = met.short[0]
    walls = wall_infos(job.trace, job.groups)
    told = ", ".join(f"node '{w.node}' ({w.op}): {w.reason}" for w in walls[:3]) or "none"
    reached = met.describe(first)
    text = f"target {first.text} cannot be met: {reached} is as far as it goes; walls: {told}"
    return TargetMissed(f"{text} (--best-effort writes that)", {t.kind: met.reached[t.kind] for t in met.short})


def apply(plan: Plan, model: Any, *, repair: str = "none", **common: Unpack[Common]) -> Result:
    """Replay a plan: the same net as the prune that made it, before its repair; the repair again where it is asked for
    (with the same samples and seed: the same bytes). Raises DataError where it is not this model's plan.

    repair: as for `prune`. common: see `ocnna_onnx.settings.Common`; strict_inputs holds, too, where the plan was made
    that way.
    """
    if not isinstance(plan, Plan):
        raise UsageError(f"expected a Plan (Result.plan, or the plan of plan.json), got {type(plan).__name__}")
    check_method(repair)
    settings = settings_of(**common)
    job = open_model(model, replace(settings, strict_inputs=settings.strict_inputs or is_strict(plan)))
    if plan.sha256 != job.loaded.sha256:
        raise DataError(
            f"the plan belongs to another model ('{plan.name}', sha256 {plan.sha256[:12]}…; "
            f"this one has {job.loaded.sha256[:12]}…)"
        )
    paired, classes = planned(plan, job.trace)
    job = replace(job, trace=paired, groups=find_groups(paired))
    dropped = any(str(t).startswith("drop") for t in plan.options.get("target", ()))
    fit_on = fitting(job.samples) if dropped else job.samples
    deepest = Savings(paired).spared(np.flatnonzero(paired.free))
    told = Told(reach(paired, deepest), repair, repair)
    return _carry_out(job, plan, paired.keep_units(classes), told, fit_on)


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


def _carry_out(job: Opened, plan: Plan, keep: BoolArray, told: Told, fit_on: Samples) -> Result:
    """Rewrite, prove, repair, evaluate, stamp, report. fit_on: the samples of the repair."""
    runtime, progress = job.settings.runtime, job.settings.progress
    started = time.perf_counter()
    rewritten = rewrite(job.trace, keep)
    job.timings["rewrite"] = time.perf_counter() - started
    started = time.perf_counter()
    progress("prove", 0, 1)
    feeds = proof_feeds(job.trace, job.samples, job.settings.seed)
    proof = prove(
        rewritten.kept,
        rewritten.model,
        job.groups,
        feeds,
        runtime,
        job.settings.rtol,
        lambda done, total: progress("prove", done, total),
    )
    progress("prove", 1, 1)
    job.timings["prove"] = time.perf_counter() - started
    if not proof.passed:
        raise ProofFailed(
            f"the proof failed, nothing was written: {proof.reason}", proof.node, proof.max_relative_error
        )
    started = time.perf_counter()
    mended = repaired(job.trace, rewritten, fit_on, job.settings, told.repair)
    if mended.values:
        final = with_values(rewritten.model, mended.values)
        only_values(rewritten.model, light(final))
        rewritten = replace(rewritten, model=final)
    job.timings["repair"] = time.perf_counter() - started
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
    outcome = Outcome(
        job.loaded, job.trace, job.groups, job.samples, plan, rewritten, proof, agreement, job.timings, told, mended
    )
    return Result(rewritten.model, plan, outcome.to_json(__version__), job.loaded.external, job.loaded.files)


__all__ = ["Result", "apply", "inspect", "proof_feeds", "prune"]
