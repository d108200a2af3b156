"""From a front to what is handed back: chosen on other samples, repaired, proven, reported."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..distillation.recipe import Recipe
from ..distillation.split import flips_allowed, split_of
from ..errors import TargetMissed
from ..finishing import Further, Result, carry_out
from ..opened import Opened
from ..plan.plan import Plan, removed_channels
from ..report.outcome import Told
from ..report.reach import reach
from ..report.savings import Savings
from ..trace.labels import BoolArray, IntArray
from .evolve import Archive, without_original
from .fitness import judge_of
from .found import THREE, Member, Search
from .front import hypervolume, named
from .mutate import expected_flips
from .run import Run
from .workers import workforce


def finished(run: Run, archive: Archive, recipe: Recipe | None = None, interrupted: bool = False) -> Search:
    """The front as it is on the samples that choose; the three, repaired, proven and, by the recipe, distilled: not
    where the search, or the distillation of the one before, was interrupted. Raises TargetMissed where no candidate is
    wanted, ProofFailed."""
    front = without_original(archive, run.rules)
    if not len(front):
        if interrupted:
            raise KeyboardInterrupt
        raise TargetMissed(
            f"no candidate was found with an error of at most {run.rules.worst:.1%}: give more generations, "
            "seeds, or, in another folder, a larger --max-error"
        )
    chooser = replace(
        run.evaluator,
        judge=judge_of(run.job.trace, run.parts.selection, run.job.settings.runtime, run.job.settings.memory),
        timed=False,
    )
    tasks = [replace(run.task(archive.masks[k], None), cost=float(archive.worth.cost[k])) for k in front]
    progress = run.job.settings.progress
    with workforce(chooser, run.asked.jobs, run.asked.dask, lambda d, t: progress("selection", d, t)) as work:
        again = np.array([f.error for f in work(tasks)], np.float64)
    three = named(again, archive.worth.cost[front])
    chosen = {"heavy": three.heavy, "knee": three.knee, "light": three.light}
    members = tuple(_member(run, archive, int(k), float(e)) for k, e in zip(front, again, strict=True))
    job = replace(run.job, samples=replace(run.parts.whole, notes=run.job.samples.notes))
    split = None if recipe is None else split_of(run.parts.whole, flips_allowed(job.settings))
    results: dict[int, Result] = {}
    for name in THREE:
        number = chosen[name]
        if number not in results:
            further = None if recipe is None or split is None or interrupted else Further(recipe, split)
            results[number] = _result(run, job, members[number], archive.masks[front[number]], further)
            section = results[number].report["distillation"]
            interrupted |= section is not None and section["interrupted"]
    whole = archive.front(run.rules)
    told = {
        "model": {"sha256": job.loaded.sha256, "name": job.loaded.name},
        "options": run.asked.to_json(),
        "seed": job.settings.seed,
        "samples": {
            "source": job.samples.source,
            "search": run.parts.search.count,
            "selection": run.parts.selection.count,
            "final": (run.parts.whole.evaluation or run.parts.whole).count,
            "error": "labels" if run.evaluator.judge.labelled else "disagreement with the original",
        },
        "original": {"error": float(archive.worth.error[0]), "cost": float(archive.worth.cost[0])},
        "bits": run.space.bits,
        "expected_flips": round(expected_flips(run.space, run.rules.mutation, run.rules.led), 2),
        "generations": archive.done,
        "evaluated": len(archive),
        "stopped_early": int(archive.worth.stopped.sum()),
        "hypervolume": hypervolume(archive.worth.error[whole], archive.worth.cost[whole]),
    }
    by_name = {name: results[number] for name, number in chosen.items()}
    return Search(by_name, chosen, members, archive, run.rules, told, interrupted)


def _member(run: Run, archive: Archive, position: int, selection_error: float) -> Member:
    mask = archive.masks[position]
    macs, params = run.shares(mask)
    job, asked = run.job, run.asked
    remove = removed_channels(job.trace, job.trace.keep_units(run.space.removed(mask)))
    options = {
        "search": {k: v for k, v in asked.to_json().items() if k not in ("align", "exclude", "min_channels")},
        "align": asked.align.multiple,
        "min_channels": asked.min_channels,
        "samples": run.parts.total,
        **({"exclude": asked.to_json()["exclude"]} if asked.exclude or asked.exclude_op else {}),
        **({"strict_inputs": True} if job.settings.strict_inputs else {}),
    }
    return Member(
        plan=Plan(job.loaded.sha256, job.loaded.name, "search", options, job.settings.seed, remove, asked.measured),
        error=float(archive.worth.error[position]),
        selection_error=selection_error,
        cost=float(archive.worth.cost[position]),
        macs=macs,
        params=params,
        removed=int((~mask).sum()),
        generation=int(archive.generation[position]),
    )


def _result(run: Run, job: Opened, member: Member, mask: BoolArray, further: Further | None) -> Result:
    """Rewritten, proven, repaired (and distilled) on all samples but those of the final figures, and compared on
    these."""
    trace = job.trace
    removed: IntArray = run.space.removed(mask)
    method = run.asked.repair if job.samples.real else "none"
    deepest = Savings(trace).spared(np.flatnonzero(trace.free))
    told = Told(reach(trace, deepest), run.asked.repair, method)
    own = replace(job, timings=dict(job.timings))
    return carry_out(own, member.plan, trace.keep_units(removed), told, job.samples, further=further)
