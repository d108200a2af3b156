"""How sensitive each group is: scores, then a few cuts of every group, each measured; or what was measured before."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .criteria.cache import cached, key_of, remember
from .criteria.scores import Scores
from .criteria.table import CRITERION, parsed
from .data.samples import Samples
from .errors import DataError, UsageError
from .opened import Opened, open_model, require_free
from .plan.costs import cost_model
from .plan.decide import ordered
from .plan.normalize import check_normalization
from .plan.select import excluded, patterns_of, unscored
from .plan.sensitivities import (
    Sensitivities,
    Sensitivity,
    members_of,
    order_of,
    positions,
    read_sensitivities,
    sensitivities_from_json,
)
from .scoring import about_run, check_criterion, given_scores, scores_of
from .sensing import CUTS, damages, readings
from .settings import settings_of
from .trace.groups import Group
from .trace.labels import IntArray

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .settings import Common

FloatArray = npt.NDArray[np.float64]

EVERY = 8
"""One sample of so many judges, at most SAMPLES; of few samples one of four."""

SAMPLES, FEWEST = 64, 32
"""Samples that judge the outputs: fewer where there are more than MANY groups, each of which runs the net a few times
on all of them."""

MANY = 64

NORMALIZE = "mean"
"""What the user gets without asking: no reason to refuse sensitivities that were measured otherwise."""


def sensitivity(
    model: Any,
    *,
    criterion: str = CRITERION,
    scores: Scores | str | os.PathLike[str] | None = None,
    normalize: str = NORMALIZE,
    exclude: Sequence[str] = (),
    exclude_op: Sequence[str] = (),
    **common: Unpack[Common],
) -> Sensitivities:
    """What a few cuts of every coupled group do to the outputs, each group alone: its lowest channels are silenced, the
    layers that read them refitted in closed form, and the outputs compared with the original's on samples.

    criterion, scores, normalize, exclude, exclude_op: which channels go first, and which stay, as for `prune`. common:
    see `ocnna_onnx.settings.Common`. Nothing is changed. Raises UsageError, ModelError, DataError, NothingFree.
    """
    parsed(criterion)
    exclude, exclude_op = patterns_of("exclude", exclude), patterns_of("exclude_op", exclude_op)
    check_normalization(normalize)
    given = None if scores is None else given_scores(scores, criterion)
    job = open_model(model, settings_of(**common))
    require_free(job)
    known = given or scores_of(job, criterion, job.trace.free_sources())
    barred = np.union1d(excluded(job.trace, exclude, exclude_op), unscored(job.trace, known.by_source(job.trace)))
    return sensitivities_of(job, known, normalize, barred)


def sensitivities_of(job: Opened, known: Scores, normalize: str, barred: IntArray) -> Sensitivities:
    """Sensitivities by these scores; those of an earlier run, where they are the same. barred: units that stay."""
    started = time.perf_counter()
    settings = job.settings
    about = {
        "what": "sensitivities",
        **about_run(job),
        "scores": known.to_json(),
        "normalize": normalize,
        "barred": barred.tolist(),
        "cuts": CUTS,
    }
    key = key_of(about, job.samples) if settings.cache else ""
    found = cached(key, sensitivities_from_json) if key else None
    if found is not None:
        job.reused.append("sensitivities")
        found = replace(found, name=job.loaded.name, source=job.samples.source)  # the same content by other names
    else:
        found = _measured(job, known, normalize, barred)
        if key:
            remember(key, found.to_json())
    job.timings["sensitivity"] = time.perf_counter() - started
    return found


def given_sensitivities(given: Any, criterion: str, normalize: str) -> Sensitivities:
    """What the user handed over: Sensitivities, or the path of their file. criterion, normalize: what was asked for
    besides; the default of either asks for nothing. Raises UsageError, DataError."""
    if isinstance(given, str | os.PathLike):
        given = read_sensitivities(given)
    if not isinstance(given, Sensitivities):
        raise UsageError(
            f"sensitivities of type {type(given).__name__} are not understood: give a path or Sensitivities"
        )
    check_criterion(given.scores, criterion, "sensitivities")
    if normalize not in (NORMALIZE, given.normalize):
        raise DataError(
            f"the sensitivities were measured with --normalize {given.normalize}, not {normalize}: leave it out, or "
            "measure them again"
        )
    return given


def _divided(samples: Samples, groups: int) -> tuple[Samples, Samples]:
    """(what readers are refitted on, what judges): apart, since a reader with more inputs than samples, like the last
    one behind a global pooling, can bring back anything of samples that it was fitted to."""
    most = SAMPLES if groups <= MANY else max(FEWEST, SAMPLES * MANY // groups)
    numbers = np.arange(samples.count)
    late = numbers[EVERY - 1 :: EVERY] if samples.count >= EVERY * SAMPLES else numbers[3::4]
    judging = late[:most] if len(late) else numbers
    rest = np.setdiff1d(numbers, judging)
    return samples.take(rest if len(rest) else numbers), samples.take(judging)


def _measured(job: Opened, known: Scores, normalize: str, barred: IntArray) -> Sensitivities:
    samples, report = job.samples, job.settings.progress
    order = ordered(job.trace, job.groups, known.by_source(job.trace), normalize, barred)
    trace, groups, score = order.start.trace, order.groups, order.score
    rest, held = _divided(samples, len(groups))
    seen = readings(job.trace, rest, job.settings)
    found = damages(trace, groups, score, seen, held, job.settings, progress=lambda d, t: report("sensitivity", d, t))
    costs = cost_model(trace)
    whole = max(1.0, costs.macs_left(np.zeros(len(trace.free), bool)))

    def share(group: Group) -> float:
        gone = np.zeros(len(trace.free), bool)
        gone[group.classes] = True
        return 1 - costs.macs_left(gone) / whole

    rows = tuple(
        Sensitivity(
            members=members_of(trace, group),
            channels=max(len(trace.sources[k].units) for k in group.sources),
            units=len(group.classes),
            removable=len(order_of(group, score)),
            macs=share(group),
            cuts=cuts,
        )
        for group, cuts in zip(groups, found, strict=True)
        if cuts
    )
    goes = positions(trace, [g for g, cuts in zip(groups, found, strict=True) if cuts], score)
    return Sensitivities(
        sha256=job.loaded.sha256,
        name=job.loaded.name,
        scores=known,
        normalize=normalize,
        seed=job.settings.seed,
        samples=held.count,
        source=samples.source,
        goes=goes,
        groups=rows,
    )
