"""`search`: three nets by an evolution strategy over masks (DeepPruningES; METHODS.md §2): evaluated on one part of the
samples, chosen on another, and finished like every pruned net."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .budgeting import axis_channels
from .calibrate.readers import Readings
from .errors import DataError, TargetMissed, UsageError
from .evolution.asked import Asked, asked_of
from .evolution.division import FEWEST, Parts, divided
from .evolution.evolve import Archive, Rules, Worth, evolve, parents, start, without_original
from .evolution.fitness import Evaluator, Task, evaluator_of, judge_of
from .evolution.found import THREE, Member, Search, made
from .evolution.front import Bar, hypervolume, named
from .evolution.genome import Space, space_of
from .evolution.seeds import Knowledge, knowledge, seeds
from .evolution.state import NAME, load_state, save_state
from .evolution.workers import Work, workforce
from .finishing import Result, carry_out
from .opened import Opened, open_model, require_free
from .plan.costs import CostModel, cost_model
from .plan.plan import Plan, removed_channels
from .plan.select import excluded
from .report.outcome import Told
from .report.reach import reach
from .report.savings import Savings
from .scoring import scores_together
from .sensing import readings
from .settings import settings_of
from .trace.labels import BoolArray, IntArray

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .settings import Common

SAMPLES = 1024
"""Samples that a search takes where nobody said how many."""

WANTED = 0.5
"""Share of what the original gets right that a candidate must get right, too, to be wanted: below lies a net of no use
to anybody, and the lightest of all is an empty one."""


@dataclass(frozen=True)
class Standing:
    """How a search stands after a generation. evaluated: candidates so far. per_second: of this run, 0 before its first
    generation. knee: (error, cost) of the best so far. left: seconds; None where nobody knows yet."""

    generation: int
    generations: int
    evaluated: int
    per_second: float
    hypervolume: float
    knee: tuple[float, float]
    left: float | None


Watch = Callable[[Standing], None]


@dataclass(frozen=True)
class _Run:
    """A search that is ready to go. job: with the paired trace and the samples of the search. known: what scores say.
    evaluator: of candidates on these samples."""

    job: Opened
    asked: Asked
    parts: Parts
    known: Knowledge
    seen: Readings | None
    space: Space
    rules: Rules
    costs: CostModel
    evaluator: Evaluator

    @property
    def about(self) -> dict[str, Any]:
        """What the outcome depends on, so that a run that is resumed is known to be the same."""
        settings = self.job.settings
        return {
            **self.asked.to_json(),
            "model": self.job.loaded.sha256,
            "seed": settings.seed,
            "bits": self.space.bits,
            "samples": self.job.samples.digest,
        }

    def shares(self, mask: BoolArray) -> tuple[float, float]:
        """Of the multiply–accumulates and of the parameters that are left."""
        gone = np.zeros(self.space.total, bool)
        whole = self.costs.macs_left(gone), self.costs.params_left(gone)
        gone[self.space.removed(mask)] = True
        left = self.costs.macs_left(gone), self.costs.params_left(gone)
        return left[0] / max(1.0, whole[0]), left[1] / max(1.0, whole[1])

    def task(self, mask: BoolArray, bar: Bar | None) -> Task:
        """The candidate as a worker gets it."""
        macs, params = self.shares(mask)
        cost = {"macs": macs, "params": params}.get(self.asked.objective)
        return Task(self.space.removed(mask), cost, bar)


def search(
    model: Any,
    *,
    generations: int | None = None,
    population: int = 30,
    mutation: float = 0.1,
    objective: str = "macs",
    seed_with: Sequence[str] | str | None = None,
    repair: str | None = None,
    align: int | str | None = None,
    flips: str | None = None,
    parents: str | None = None,
    max_error: float | None = None,
    classic: bool = False,
    exclude: Sequence[str] = (),
    exclude_op: Sequence[str] = (),
    min_channels: int = 1,
    time_limit: float | None = None,
    jobs: int | None = None,
    dask: str | None = None,
    folder: str | os.PathLike[str] | None = None,
    resume: bool = False,
    watch: Watch = lambda standing: None,
    **common: Unpack[Common],
) -> Search:
    """Three pruned nets of one: `heavy` (least error), `light` (least cost) and the `knee` between them, and every
    candidate that nothing beats. Each of the three is repaired layer by layer, proven and reported as by `prune`.

    generations, population: of the evolution strategy (population: 3 parents and their children). mutation: the
    probability that a bit flips; of led flips the mean share of a group's bits that flip at once. objective: the cost,
    `macs`, `params` or `latency` (measured here); the other objective is the error on labels, or the disagreement with
    the original where there are none. seed_with: criteria whose cuts the search starts from, and which lead the flips;
    `none`: the unpruned net alone. repair: `least-squares` (closed form within every evaluation, the whole sequential
    repair for the three), `bias`, `moments`, `none`. align: as for `prune`. flips: `led` by the scores, or `uniform`.
    parents: from the `front`, or the `three` only. max_error: candidates with more are not wanted; by default those
    that get less than half right of what the original gets right. classic: the published scheme, without its training:
    uniform flips, three parents, no seeds, no repair, no alignment, 10 generations. time_limit: seconds. jobs:
    processes of this machine (by default one per core; of a latency one). dask: the address of a Dask scheduler whose
    workers evaluate instead. folder: where the state is kept after every generation; resume: go on from there. watch:
    called after every generation. common: see `ocnna_onnx.settings.Common`.

    Two thirds of the samples evaluate candidates and one third chooses the three, where the data has others for the
    final figures; else a half, a quarter, and the last quarter for the figures. An interrupt (KeyboardInterrupt) ends
    the search: the best three so far come back, with `interrupted`.

    Raises UsageError, ModelError, DataError, NothingFree, TargetMissed (no candidate is wanted), ProofFailed.
    """
    settings = settings_of(**common)
    asked = asked_of(
        generations=generations,
        population=population,
        mutation=mutation,
        objective=objective,
        seed_with=seed_with,
        repair=repair,
        align=align,
        flips=flips,
        parents=parents,
        max_error=max_error,
        classic=classic,
        exclude=exclude,
        exclude_op=exclude_op,
        min_channels=min_channels,
        time_limit=time_limit,
        jobs=jobs,
        dask=dask,
        runtime=settings.runtime,
    )
    if settings.data is None:
        raise UsageError("a search judges nets by samples: give data (--data)")
    state = _state(folder, resume)
    job = open_model(model, replace(settings, samples=settings.samples or SAMPLES))
    require_free(job)
    if job.samples.count < FEWEST:
        raise DataError(f"{job.samples.source}: {job.samples.count} samples; a search needs {FEWEST} at least")
    run = _prepared(job, asked)
    began = time.perf_counter()
    progress = job.settings.progress
    with workforce(run.evaluator, asked.jobs, asked.dask, lambda d, t: progress("generation", d, t)) as work:
        archive, clock, interrupted = _evolved(run, work, state, resume, watch)
    job.timings["search"] = time.perf_counter() - began
    return _finished(run, archive, clock, interrupted)


def _state(folder: str | os.PathLike[str] | None, resume: bool) -> Path | None:
    """The file of the state. Raises UsageError."""
    if folder is None:
        if resume:
            raise UsageError("resume needs the folder of the search")
        return None
    state = made(folder) / NAME
    if state.exists() and not resume:
        raise UsageError(f"{state}: a search was begun here: resume it (--resume), or choose another folder")
    return state


def _prepared(job: Opened, asked: Asked) -> _Run:
    """One pass over the samples of the search for all scores, one for all covariances, one for the original's own
    error."""
    settings = job.settings
    parts = divided(job.samples, settings.seed)
    job = replace(job, samples=parts.search)
    barred = excluded(job.trace, asked.exclude, asked.exclude_op)
    scores = scores_together(job, asked.seed_with) if asked.seed_with else {}
    known = knowledge(job, {n: s for n, s in scores.items() if not isinstance(s, UsageError)}, barred)
    refused = [f"seeds by {n}: {s}" for n, s in scores.items() if isinstance(s, UsageError)]
    trace, groups = known.start.start.trace, known.start.start.groups
    job = replace(job, trace=trace, groups=groups)
    job = replace(job, samples=replace(job.samples, notes=(*job.samples.notes, *refused)))
    seen = readings(trace, parts.search, settings) if known.scores or asked.repair != "none" else None
    judge = judge_of(trace, parts.search, settings.runtime)
    rules = Rules(
        population=asked.population,
        mutation=asked.mutation,
        led=asked.led,
        wide=asked.wide,
        worst=1 - WANTED * (1 - judge.error) if asked.worst is None else asked.worst,
    )
    return _Run(
        job=job,
        asked=asked,
        parts=parts,
        known=known,
        seen=seen,
        space=space_of(trace, known.start.groups, axis_channels(trace), asked.align, asked.min_channels),
        rules=rules,
        costs=cost_model(trace),
        evaluator=evaluator_of(
            trace,
            seen if asked.repair != "none" else None,
            asked.repair,
            judge,
            settings.runtime,
            asked.objective == "latency",
        ),
    )


def _evolved(run: _Run, work: Work, state: Path | None, resume: bool, watch: Watch) -> tuple[Archive, _Clock, bool]:
    """(everything that was evaluated, the clock, whether it was interrupted)."""

    def evaluate(masks: BoolArray, bar: Bar) -> Worth:
        found = work([run.task(m, bar) for m in masks])
        return Worth(
            np.array([f.error for f in found], np.float64),
            np.array([f.cost for f in found], np.float64),
            np.array([f.stopped for f in found], bool),
        )

    about = run.about if state is not None else {}
    clock = _Clock(run, watch)
    if resume and state is not None:
        archive = load_state(state, about)
    else:
        archive = start(run.space, run.rules, _seeds(run), evaluate)
    scores = list(run.known.scores.values())
    seed, generations = run.job.settings.seed, run.asked.generations
    try:
        clock.tell(archive)
        if state is not None:
            save_state(state, about, archive)
        for archive in evolve(run.space, run.rules, archive, scores, seed, generations, evaluate):  # noqa: B020
            if state is not None:
                save_state(state, about, archive)
            clock.tell(archive)
            if clock.is_up():
                break
    except KeyboardInterrupt:
        return archive, clock, True
    return archive, clock, False


def _seeds(run: _Run) -> list[BoolArray]:
    asked = run.asked
    if not run.known.scores or run.seen is None:
        return []
    kind = "params" if asked.objective == "params" else "macs"
    cuts = seeds(run.job, run.known, run.seen, kind, asked.population - 3, asked.align, asked.min_channels)
    return [~np.isin(run.space.classes, c) for c in cuts]


@dataclass
class _Clock:
    """Tells how a search stands. first, began: candidates and time when this run started."""

    run: _Run
    watch: Watch
    began: float = field(default_factory=time.perf_counter)
    first: int = -1
    generation: int = 0
    times: list[float] = field(default_factory=list)
    last: Standing | None = None

    def tell(self, archive: Archive) -> None:
        """After a generation, and once before the first."""
        now = time.perf_counter()
        if self.first < 0:
            self.first, self.generation = len(archive), archive.done
        self.times.append(now)
        spent = now - self.times[0]
        three = parents(archive, self.run.rules)
        front = archive.front(self.run.rules)
        worth = archive.worth
        self.last = Standing(
            generation=archive.done,
            generations=self.run.asked.generations,
            evaluated=len(archive),
            per_second=(len(archive) - self.first) / spent if spent > 0 else 0.0,
            hypervolume=hypervolume(worth.error[front], worth.cost[front]),
            knee=(float(worth.error[three.knee]), float(worth.cost[three.knee])),
            left=self._left(archive.done, now),
        )
        self.watch(self.last)

    def _left(self, done: int, now: float) -> float | None:
        limit = self.run.asked.time_limit
        by_time = None if limit is None else max(0.0, limit - (now - self.began))
        if len(self.times) < 2:
            return by_time
        each = (now - self.times[0]) / (done - self.generation)
        by_count = each * (self.run.asked.generations - done)
        return by_count if by_time is None else min(by_time, by_count)

    def is_up(self) -> bool:
        """Whether the time limit leaves no room for a generation like the last one."""
        limit = self.run.asked.time_limit
        return limit is not None and self.times[-1] - self.began + (self.times[-1] - self.times[-2]) > limit


def _finished(run: _Run, archive: Archive, clock: _Clock, interrupted: bool) -> Search:
    """The front as it is on the samples that choose; the three, repaired and proven."""
    front = without_original(archive, run.rules)
    if not len(front):
        raise TargetMissed(
            f"no candidate was found with an error of at most {run.rules.worst:.1%}: give more generations, "
            "seeds, or a larger --max-error"
        )
    chooser = replace(
        run.evaluator,
        judge=judge_of(run.job.trace, run.parts.selection, run.job.settings.runtime),
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
    results: dict[int, Result] = {}
    for name in THREE:
        number = chosen[name]
        if number not in results:
            results[number] = _result(run, job, members[number], archive.masks[front[number]])
    standing = clock.last
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
        "generations": archive.done,
        "evaluated": len(archive),
        "stopped_early": int(archive.worth.stopped.sum()),
        "hypervolume": standing.hypervolume if standing else 0.0,
        "per_second": standing.per_second if standing else 0.0,
    }
    by_name = {name: results[number] for name, number in chosen.items()}
    return Search(by_name, chosen, members, archive, run.rules, told, interrupted)


def _member(run: _Run, archive: Archive, position: int, selection_error: float) -> Member:
    mask = archive.masks[position]
    macs, params = run.shares(mask)
    job, asked = run.job, run.asked
    remove = removed_channels(job.trace, job.trace.keep_units(run.space.removed(mask)))
    options = {
        "search": {k: v for k, v in asked.to_json().items() if k not in ("align", "exclude", "min_channels")},
        "align": asked.align.multiple,
        "min_channels": asked.min_channels,
        "samples": run.parts.search.count + run.parts.selection.count,
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


def _result(run: _Run, job: Opened, member: Member, mask: BoolArray) -> Result:
    """Rewritten, proven, repaired on all samples but those of the final figures, and compared on these."""
    trace = job.trace
    removed: IntArray = run.space.removed(mask)
    method = run.asked.repair if job.samples.real else "none"
    deepest = Savings(trace).spared(np.flatnonzero(trace.free))
    told = Told(reach(trace, deepest), run.asked.repair, method)
    own = replace(job, timings=dict(job.timings))
    return carry_out(own, member.plan, trace.keep_units(removed), told, job.samples)


__all__ = ["Search", "Standing", "search"]
