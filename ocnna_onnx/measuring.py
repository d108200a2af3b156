"""Criteria and samples in, scores out: one streamed pass for whatever several criteria want to see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .calibrate.stream import Tap, stream, workers
from .criteria.request import Criterion, Options, Request, Subject
from .data.samples import Samples
from .errors import UsageError
from .settings import Settings
from .trace.types import Trace

FloatArray = npt.NDArray[np.float64]

Measured = list[FloatArray]
"""Scores of every source that was asked for, in order: float64 [channels]."""


def measured(
    trace: Trace,
    sources: tuple[int, ...],
    criteria: Sequence[tuple[Criterion, Options]],
    samples: Samples,
    settings: Settings,
) -> list[Measured | UsageError]:
    """What each criterion says of these sources, or why it does not apply to them. A tensor that several want is
    fetched once. Raises DataError."""
    subject = Subject(trace, sources, samples.count, settings.seed, workers(settings.runtime))
    asked = [_request(rule, subject, options) for rule, options in criteria]
    taps = [tap for request in asked if isinstance(request, Request) for tap in request.taps]
    if taps:
        watch(trace, taps, samples, settings)
    return [_finished(request) for request in asked]


def watch(trace: Trace, taps: Sequence[Tap], samples: Samples, settings: Settings) -> None:
    """One pass over the samples, with its progress. Raises DataError."""
    stream(
        trace.graph,
        trace.shapes,
        taps,
        samples,
        settings.runtime,
        settings.memory,
        lambda done, total: settings.progress("calibrate", done, total),
    )


def _request(rule: Criterion, subject: Subject, options: Options) -> Request | UsageError:
    try:
        return rule.request(subject, options)
    except UsageError as error:
        return error


def _finished(request: Request | UsageError) -> Measured | UsageError:
    if isinstance(request, UsageError):
        return request
    try:
        return [np.asarray(values, np.float64) for values in request.finish()]
    except UsageError as error:
        return error
