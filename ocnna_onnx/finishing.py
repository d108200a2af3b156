"""From what goes to what leaves: rewrite, prove, repair, compare, stamp, report."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import onnx

from . import __version__
from .calibrate.stream import batch_size
from .data.samples import Samples
from .distillation.distil import distilled
from .distillation.lineage import Lineage
from .distillation.recipe import Recipe
from .distillation.split import Split
from .distillation.subject import Subject, sha256_of
from .errors import ProofFailed, UsageError
from .mending import repaired
from .model.light import light
from .model.save import save
from .model.stamp import add_stamp
from .opened import Opened
from .plan.decide import Decided
from .plan.plan import Plan
from .prove.inputs import Feed, random_feeds, sample_feed
from .prove.proof import prove
from .repair.job import Repaired
from .repair.values import with_values
from .report.evaluate import evaluate
from .report.outcome import Outcome, Told
from .rewrite.only import only_values
from .rewrite.rewrite import rewrite
from .trace.labels import BoolArray
from .trace.types import Trace


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
        return save_beside(self.model, Path(path), self.external, self.sources, overwrite)


@dataclass(frozen=True)
class Further:
    """A distillation after the repair: how, and on which samples."""

    recipe: Recipe
    split: Split


def save_beside(model: onnx.ModelProto, target: Path, external: bool, sources: Sequence[Path], overwrite: bool) -> int:
    """Write a model made from `sources`, none of which may be written over (the first: unless `overwrite`). Raises
    UsageError."""
    for k, source in enumerate(sources):
        if target.exists() and source.exists() and target.samefile(source) and (k or not overwrite):
            raise UsageError(f"{target}: is the model that was pruned, or holds its weights; choose another path")
    return save(model, target, external)


def finished(job: Opened, method: str, decided: Decided) -> tuple[onnx.ModelProto, Repaired]:
    """The model as it would leave when these classes go, and its repair."""
    rewritten = rewrite(decided.trace, decided.trace.keep_units(decided.classes))
    found = repaired(decided.trace, rewritten, job.samples, job.settings, method)
    return with_values(rewritten.model, found.values), found


def proof_feeds(trace: Trace, samples: Samples, seed: int) -> Iterable[Feed]:
    """The first samples, then seeded random inputs of growing scale."""
    first = sample_feed(trace.graph, trace.shapes, samples)
    given = first.values if first is not None and samples.real else {}
    drawn = random_feeds(trace.graph, trace.shapes, seed, given)
    return chain([first] if first is not None else [], drawn)


def carry_out(
    job: Opened,
    plan: Plan,
    keep: BoolArray,
    told: Told,
    fit_on: Samples,
    mended: Repaired | None = None,
    further: Further | None = None,
) -> Result:
    """Rewrite, prove, repair, distil, evaluate, stamp, report. fit_on: the samples of the repair. mended: the repair of
    this very cut by this method on these samples, where it is known. further: what is to be distilled how, where that
    is asked for. Raises ProofFailed."""
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
    if mended is None:
        mended = repaired(job.trace, rewritten, fit_on, job.settings, told.repair)
    if mended.values:
        final = with_values(rewritten.model, mended.values)
        only_values(rewritten.model, light(final))
        rewritten = replace(rewritten, model=final)
    job.timings["repair"] = time.perf_counter() - started
    if plan.remove:
        add_stamp(rewritten.model, __version__, job.loaded.sha256, plan.to_json())
    section: dict[str, Any] | None = None
    judged = job.samples.evaluation or job.samples
    if further is not None and plan.remove:
        started = time.perf_counter()
        lineage = Lineage(job.trace, (rewritten.kept,))
        subject = Subject(job.loaded.model, job.loaded.sha256, rewritten.model, sha256_of(rewritten.model), lineage)
        final, section = distilled(subject, further.split, further.recipe, job.settings)
        rewritten = replace(rewritten, model=final)
        judged = job.samples.evaluation or further.split.held
        job.timings["distil"] = time.perf_counter() - started
    started = time.perf_counter()
    agreement = evaluate(
        job.loaded.model,
        rewritten.model,
        judged,
        batch_size(job.trace.shapes, judged),
        runtime,
        lambda done, total: progress("evaluate", done, total),
    )
    job.timings["evaluate"] = time.perf_counter() - started
    outcome = Outcome(
        job.loaded,
        job.trace,
        job.groups,
        job.samples,
        plan,
        rewritten,
        proof,
        agreement,
        job.timings,
        told,
        mended,
        job.reused,
        section,
    )
    return Result(rewritten.model, plan, outcome.to_json(__version__), job.loaded.external, job.loaded.files)
