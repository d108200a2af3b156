"""`search`: three nets by an evolution strategy over masks (DeepPruningES; METHODS.md §2): evaluated on one part of the
samples, chosen on another, and finished like every pruned net."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..distillation.asked import check_size, recipe_for
from ..errors import DataError, UsageError
from ..opened import open_model, require_free
from ..settings import settings_of
from ..trace.labels import BoolArray
from .asked import asked_of
from .clock import Clock, Standing, Watch
from .division import FEWEST
from .evolve import PARENTS, Archive, Worth, evolve, start
from .finish import finished
from .found import Search, made
from .front import Bar
from .run import Run, prepared
from .state import NAME, begun_with, load_state, save_state
from .workers import Work, workforce

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..settings import Common

SAMPLES = 1024
"""Samples that a search takes where nobody said how many."""


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
    max_error: float | None = None,
    classic: bool = False,
    exclude: Sequence[str] = (),
    exclude_op: Sequence[str] = (),
    min_channels: int = 1,
    time_limit: str | float | None = None,
    distill: str | float | None = None,
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
    max_error: candidates with more are not wanted; by default those that keep less than a quarter of what the original
    has over a net that always says the same. classic: the published scheme, without its training: uniform flips, no
    seeds, no repair, no alignment, 10 generations. time_limit: `10m`, or seconds, until the last generation ends.
    distill: a time or `steps=N`, for each of the three after its repair (`ocnna_onnx.distill`). jobs: processes of this
    machine (by default one per core; of a latency one). dask: the address of a Dask scheduler whose workers evaluate
    instead. folder: where the state is kept after every generation; resume: go on from there. watch: called after every
    generation. common: see `ocnna_onnx.settings.Common`.

    Two thirds of the samples evaluate candidates and one third chooses the three, where the data has others for the
    final figures; else a half, a quarter, and the last quarter for the figures. An interrupt (KeyboardInterrupt) ends
    the search: the best three so far come back, with `interrupted`.

    Raises UsageError, ModelError, DataError, NothingFree, TargetMissed (no candidate is wanted), ProofFailed.
    """
    began = time.perf_counter()
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
    recipe = None if distill is None else recipe_for(distill, settings)
    state = _state(folder, resume)
    if resume and state is not None and asked.align.adaptive:  # timed anew it might come out otherwise
        then = begun_with(state).get("align")
        asked = replace(asked, align=replace(asked.align, multiple=then)) if isinstance(then, int) else asked
    job = open_model(model, replace(settings, samples=settings.samples or SAMPLES))
    if recipe is not None:
        check_size(job.loaded)
    require_free(job)
    if job.samples.count < FEWEST:
        raise DataError(f"{job.samples.source}: {job.samples.count} samples; a search needs {FEWEST} at least")
    run = prepared(job, asked)
    progress = job.settings.progress
    with workforce(run.evaluator, asked.jobs, asked.dask, lambda d, t: progress("generation", d, t)) as work:
        archive, interrupted = _evolved(run, work, state, resume, _clock(run, began, watch))
    job.timings["search"] = time.perf_counter() - began
    return finished(run, archive, recipe, interrupted)


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


def _clock(run: Run, began: float, watch: Watch) -> Clock:
    return Clock(run.rules, run.asked.generations, run.asked.time_limit, watch, began)


def _evolved(run: Run, work: Work, state: Path | None, resume: bool, clock: Clock) -> tuple[Archive, bool]:
    """(everything that was evaluated, whether it was interrupted)."""

    def evaluate(masks: BoolArray, bar: Bar) -> Worth:
        return run.worth(work, masks, bar)

    about = run.about if state is not None else {}
    if resume and state is not None:
        archive = load_state(state, about)
    else:
        archive = start(run.space, run.rules, run.seeds(run.asked.population - PARENTS), evaluate)
    scores = list(run.known.scores.values())
    seed, generations = run.job.settings.seed, run.asked.generations
    try:
        if state is not None and not archive.done:
            save_state(state, about, archive)
        clock.tell(archive)
        for archive in evolve(run.space, run.rules, archive, scores, seed, generations, evaluate):  # noqa: B020
            if state is not None:
                save_state(state, about, archive)
            clock.tell(archive)
            if clock.is_up():
                break
    except KeyboardInterrupt:
        return archive, True
    return archive, False


__all__ = ["Search", "Standing", "search"]
