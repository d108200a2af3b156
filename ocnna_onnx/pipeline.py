"""The steps in order: load, trace, score, plan, rewrite, prove, report. The only place that knows them all."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .asking import asked_for, within_sight
from .auto import Chosen, choose_criterion, is_auto
from .budgeting import meet
from .criteria.scores import Scores
from .criteria.table import CRITERION, parsed
from .data.open import DEFAULT_SAMPLES
from .data.samples import choose, probe_shapes, probe_values
from .distillation.asked import check_size, recipe_for
from .distillation.recipe import SAMPLES
from .distillation.split import Split, flips_allowed, split_of
from .errors import DataError, TargetMissed, UsageError
from .evolution.division import divided
from .finishing import Further, Result, carry_out, finished
from .gauging import given_sensitivities, sensitivities_of
from .heldout import DROP_SAMPLES, HELD_OUT, fitting, judging
from .mending import check_method
from .model.load import load
from .opened import Opened, open_model, require_free
from .plan.decide import decide, ordered
from .plan.normalize import check_normalization
from .plan.plan import Plan, planned, removed_channels
from .plan.select import Cut, excluded, patterns_of, unscored
from .plan.sensitivities import Sensitivities
from .repair.job import Repaired
from .report.inspection import Inspection, inspection, wall_infos
from .report.outcome import Told
from .report.reach import reach
from .report.savings import Savings
from .scoring import given_scores, scores_of
from .settings import samples_for, settings_of
from .trace.groups import find_groups
from .trace.tracer import trace as trace_model
from .wishes import Met, Wishes, wishes_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .settings import Common

STRICT = "strict_inputs"
"""The plan's option that says that overridable inputs stay as they are."""


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
    criterion: str = CRITERION,
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
    sensitivities: Sensitivities | str | os.PathLike[str] | None = None,
    best_effort: bool = False,
    distill: str | float | None = None,
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
    these (of `score`, or a scores.json) instead. sensitivities: share out a target by these (of `sensitivity`, or its
    file) instead of measuring; they bring their scores. best_effort: go as far as possible where a target cannot be
    met. distill: a time (`10m`), or `steps=N`: after the repair a gradient brings the net closer to the original, on up
    to 4096 samples where nobody said how many (`ocnna_onnx.distill`; needs the extra). common: samples, seed, runtime:
    see `ocnna_onnx.settings.Common`.

    Raises UsageError (options), ModelError (the model), DataError (the data), NothingFree (no unit can go),
    TargetMissed (a target is out of reach), ProofFailed (the proof refused the result).
    """
    automatic = is_auto(criterion, scores, sensitivities)
    if not automatic:
        parsed(criterion)
    exclude, exclude_op = patterns_of("exclude", exclude), patterns_of("exclude_op", exclude_op)
    check_normalization(normalize)
    check_method(repair)
    settings = settings_of(**common)
    asked = asked_for(target, ratio, percentile, min_channels, settings.data is not None)
    recipe = None if distill is None else recipe_for(distill, settings)
    few = DROP_SAMPLES if asked.drops else DEFAULT_SAMPLES
    narrow = settings.samples or few
    if settings.samples is None:
        settings = replace(settings, samples=few if recipe is None else SAMPLES)
    wishes = wishes_of(asked.targets, allocate, align, min_channels, keep, max_cut, settings.runtime)
    by_curves = bool(asked.targets) and allocate == "sensitivity"
    given, sensed = _given(scores, sensitivities, by_curves, criterion, normalize)
    normalize = normalize if sensed is None else sensed.normalize
    job = open_model(model, settings)
    if recipe is not None:
        check_size(job.loaded)
    if sensed is not None:
        sensed.check_model(job.loaded.sha256)
        job.reused.append("sensitivities")
    if given is not None:
        job.reused.append("scores")
    require_free(job)
    asked, notes = within_sight(asked, job.samples.count)
    method = repair if job.samples.real else "none"  # made-up samples tell what a net does, not what it is for
    wishes = replace(wishes, targets=asked.targets, mended=method == "least-squares")
    everything = job.samples
    if asked.drops:
        job = replace(job, samples=fitting(everything))
    if recipe is not None:  # a gradient takes more samples than scores and repair need
        most = -(-narrow // HELD_OUT) if asked.drops else narrow
        job = replace(job, samples=choose(job.samples, most, settings.seed))
    barred = excluded(job.trace, exclude, exclude_op)
    if not np.isin(np.flatnonzero(job.trace.free), job.trace.unit_class[barred], invert=True).any():
        notes = (*notes, "nothing is left to prune: --exclude and --exclude-op match all that could go")
    choice: Chosen | None = None
    if automatic:
        choice = choose_criterion(job, wishes if asked.targets else asked.cut, normalize, barred, method)
        criterion, notes = choice.criterion, (*notes, *choice.notes)
    everything = replace(everything, notes=(*everything.notes, *notes))
    started = time.perf_counter()
    known = given or scores_of(job, criterion, job.trace.free_sources())
    values = known.by_source(job.trace)
    job.timings["score"] = time.perf_counter() - started
    barred = np.union1d(barred, unscored(job.trace, values))
    obtained: dict[str, Any] = {}
    tried: Mapping[str, Any] = {}
    options: dict[str, Any] = {"min_channels": min_channels, "samples": job.samples.count}
    mended: Repaired | None = None
    if asked.targets:
        if by_curves and sensed is None:
            sensed = sensitivities_of(job, known, normalize, barred)
        order = ordered(job.trace, job.groups, values, normalize, barred)
        cuts = None if sensed is None else sensed.cuts_of(order.start.trace, order.groups, order.score)
        met = meet(job, order, cuts, wishes, partial(finished, job, method), judging(everything))
        if met.short and not (best_effort or asked.by_default):  # by default nobody insisted
            raise _missed(met, job, wishes, bool(exclude or exclude_op))
        decided, mended, deepest, tried = met.decided, met.repaired, met.deepest, met.tried
        obtained = {"targets": met.to_json(asked.targets)}
        texts = [t.text for t in asked.targets]
        options.update({"target": texts, "allocate": allocate, "align": wishes.align.multiple})
        bounds = {"keep": wishes.keep, "max_cut": wishes.max_cut}
        options.update({name: dict(given) for name, given in bounds.items() if given})
    else:
        decided = decide(job.trace, job.groups, values, asked.cut, normalize, barred)
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
    further: Further | None = None
    if recipe is not None:
        flips = flips_allowed(settings)
        split = Split(fitting(everything), judging(everything), flips) if asked.drops else split_of(everything, flips)
        further = Further(recipe, split)
    return carry_out(replace(job, samples=everything), plan, stays, told, job.samples, mended, further)


def _given(
    scores: Any, sensitivities: Any, by_curves: bool, criterion: str, normalize: str
) -> tuple[Scores | None, Sensitivities | None]:
    """What was measured before, as the user hands it over. by_curves: whether sensitivities have a say at all."""
    if sensitivities is None:
        return (None if scores is None else given_scores(scores, criterion)), None
    if scores is not None or not by_curves:
        raise UsageError(
            "sensitivities bring their scores and share out a target: leave out scores, ratio, percentile and uniform "
            "allocation, or the sensitivities"
        )
    sensed = given_sensitivities(sensitivities, criterion, normalize)
    return sensed.scores, sensed


def _missed(met: Met, job: Opened, wishes: Wishes, excluded: bool) -> TargetMissed:
    """What could not be met, how far it got, and what stands in the way: options, walls of the net."""
    first = met.short[0]
    walls = wall_infos(job.trace, job.groups)
    told = ", ".join(f"node '{w.node}' ({w.op}): {w.reason}" for w in walls[:3]) or "none"
    reached = met.describe(first)
    own = (
        (f"align {wishes.align.multiple} (align 1 goes further)", wishes.align.multiple > 1),
        (f"min_channels {wishes.min_channels}", wishes.min_channels > 1),
        ("keep", wishes.keep),
        ("max_cut", wishes.max_cut),
        ("exclude", excluded),
        *((t.text, t.kind == "drop") for t in wishes.targets),
    )
    bounds = ", ".join(name for name, holds in own if holds)
    text = f"target {first.text} cannot be met: {reached} is as far as it goes"
    text += (f"; your options: {bounds}" if bounds else "") + f"; walls: {told}"
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
    searched = "search" in plan.options  # repaired and judged on the samples that it was
    if searched:
        settings = replace(settings, samples=settings.samples or plan.options.get("samples"), seed=plan.seed)
    job = open_model(model, replace(settings, strict_inputs=settings.strict_inputs or is_strict(plan)))
    if plan.sha256 != job.loaded.sha256:
        raise DataError(
            f"the plan belongs to another model ('{plan.name}', sha256 {plan.sha256[:12]}…; "
            f"this one has {job.loaded.sha256[:12]}…)"
        )
    paired, classes = planned(plan, job.trace)
    job = replace(job, trace=paired, groups=find_groups(paired))
    dropped = any(str(t).startswith("drop") for t in plan.options.get("target", ()))
    if searched:
        job = replace(job, samples=divided(job.samples, plan.seed).whole)
    fit_on = fitting(job.samples) if dropped else job.samples
    deepest = Savings(paired).spared(np.flatnonzero(paired.free))
    told = Told(reach(paired, deepest), repair, repair if job.samples.real else "none")
    return carry_out(job, plan, paired.keep_units(classes), told, fit_on)


def is_strict(plan: Plan) -> bool:
    """Whether the plan was made with `strict_inputs`."""
    return bool(plan.options.get(STRICT))


__all__ = ["Result", "apply", "inspect", "is_strict", "prune"]
