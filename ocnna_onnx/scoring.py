"""The step from samples to scores: one streamed pass for whatever the criterion wants to see, or none where the scores
are known already."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .calibrate.stream import stream, workers
from .criteria.cache import cached, key_of, remember
from .criteria.request import Criterion, Options, Subject
from .criteria.scores import Layer, Scores, read_scores
from .criteria.table import parsed
from .data.samples import Samples
from .errors import DataError, UsageError
from .opened import Opened, open_model
from .settings import Settings, settings_of
from .trace.types import Trace

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .settings import Common


def score(model: Any, *, criterion: str = "ocnna", **common: Unpack[Common]) -> Scores:
    """One score per output channel of every layer, before any grouping or normalisation; higher = keep.

    criterion: a name of `ocnna_onnx.criteria.table.CRITERIA`, with options behind a colon (`ocnna:variance=1`).
    common: see `ocnna_onnx.settings.Common`. Raises UsageError, ModelError, DataError.
    """
    parsed(criterion)
    opened = open_model(model, settings_of(**common))
    return scores_of(opened, criterion, prunable(opened.trace), others=True)


def prunable(trace: Trace) -> tuple[int, ...]:
    """Numbers of the sources of which something can go."""
    return tuple(k for k, s in enumerate(trace.sources) if trace.free[trace.unit_class[s.units]].any())


def scores_of(opened: Opened, criterion: str, sources: Sequence[int], others: bool = False) -> Scores:
    """Scores of these sources. others: those of the rest, too, in a pass of their own (what is tapped together has a
    say in rounding); layers whose output is not finite are left out there."""
    trace, samples, settings = opened.trace, opened.samples, opened.settings
    name, rule, options = parsed(criterion)
    about = {
        "model": opened.loaded.sha256,
        "shapes": trace.shapes.feeds,
        "criterion": criterion,
        "options": options,
        "seed": settings.seed,
        "runtime": [settings.runtime.providers, settings.runtime.threads, os.cpu_count()],
        "strict": settings.strict_inputs,
        "others": others,
    }
    key = key_of(about, samples if rule.images else None) if settings.cache else ""
    found = cached(key) if key else None
    if found is not None:
        return found
    made = _measured(trace, tuple(sources), rule, options, samples, settings)
    rest = [k for k in range(len(trace.sources)) if k not in set(sources)] if others else []
    for k in rest:
        try:
            made.update(_measured(trace, (k,), rule, options, samples, settings))
        except DataError:
            continue
    told = {**options, "seed": settings.seed, **({"samples": samples.count} if rule.images else {})}
    layers = {trace.graph.names[trace.sources[k].node]: made[k] for k in sorted(made)}
    found = Scores(name, told, layers)
    if key:
        remember(key, found)
    return found


def _measured(
    trace: Trace, sources: tuple[int, ...], rule: Criterion, options: Options, samples: Samples, settings: Settings
) -> dict[int, Layer]:
    request = rule.request(Subject(trace, sources, samples.count, settings.seed, workers(settings.runtime)), options)
    if request.taps:
        stream(
            trace.graph,
            trace.shapes,
            request.taps,
            samples,
            settings.runtime,
            settings.memory,
            lambda done, total: settings.progress("calibrate", done, total),
        )
    return {
        k: Layer(trace.sources[k].tensor, np.asarray(values, np.float64))
        for k, values in zip(sources, request.finish(), strict=True)
    }


def given_scores(given: Any) -> Scores:
    """What the user handed over: Scores, or the path of a scores.json. Raises UsageError, DataError."""
    if isinstance(given, Scores):
        return given
    if isinstance(given, str | os.PathLike):
        return read_scores(given)
    raise UsageError(f"scores of type {type(given).__name__} are not understood: give a path or Scores")
