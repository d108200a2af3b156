"""The step from samples to scores: one streamed pass for whatever the criterion wants to see, or none where the scores
are known already."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .blending import blend
from .criteria.cache import cached, key_of, remember
from .criteria.request import Criterion, Options
from .criteria.scores import Layer, Scores, read_scores, scores_from_json
from .criteria.table import CRITERION, parsed
from .errors import DataError, UsageError
from .measuring import FloatArray, measured
from .opened import Opened, open_model
from .settings import settings_of
from .trace.types import Trace

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .settings import Common


def score(model: Any, *, criterion: str = CRITERION, **common: Unpack[Common]) -> Scores:
    """One score per output channel of every layer, before any grouping or normalisation; higher = keep.

    criterion: a name of `ocnna_onnx.criteria.table.CRITERIA`, with options behind a colon (`ocnna:variance=1`).
    common: see `ocnna_onnx.settings.Common`. Raises UsageError, ModelError, DataError.
    """
    parsed(criterion)
    opened = open_model(model, settings_of(**common))
    return scores_of(opened, criterion, opened.trace.free_sources(), others=True)


def scores_of(
    opened: Opened,
    criterion: str,
    sources: Sequence[int],
    others: bool = False,
) -> Scores:
    """Scores of these sources. others: those of the rest, too, in a pass of their own (what is tapped together has a
    say in rounding); layers whose output is not finite are left out there."""
    trace, samples, settings = opened.trace, opened.samples, opened.settings
    name, rule, options = parsed(criterion)
    about = {**about_run(opened), "criterion": criterion, "options": options, "others": others}
    key = key_of(about, samples if rule.images else None) if settings.cache else ""
    found = cached(key, scores_from_json) if key else None
    if found is not None:
        opened.reused.append("scores")
        return found
    rest = [k for k in range(len(trace.sources)) if k not in set(sources)] if others else []
    told = {**options, "seed": settings.seed, **({"samples": samples.count} if rule.images else {})}
    if name == "blend":
        blended = blend(opened, options, sources, rest)
        made, told = blended.scores, {**told, **blended.told}
    else:
        made = _scored(opened, sources, (rule, options))
        for k in rest:
            with contextlib.suppress(DataError, UsageError):
                made.update(_scored(opened, (k,), (rule, options)))
    found = Scores(name, told, _layers(trace, made))
    if key:
        remember(key, found.to_json())
    return found


def scores_together(opened: Opened, criteria: Sequence[str]) -> dict[str, Scores | UsageError]:
    """Scores of all sources of which something can go by several criteria, in one pass; or why one does not apply.
    Raises DataError."""
    trace, samples, settings = opened.trace, opened.samples, opened.settings
    sources = trace.free_sources()
    rules = {c: parsed(c) for c in criteria}
    key = key_of({**about_run(opened), "together": list(criteria)}, samples) if settings.cache else ""
    known = {c: cached(f"{key}-{k}", scores_from_json) if key else None for k, c in enumerate(criteria)}
    found: dict[str, Scores | UsageError] = {c: s for c, s in known.items() if s is not None}
    if len(found) < len(criteria):  # all of them once more: what is tapped together has a say in rounding
        asked = [rules[c][1:] for c in criteria]
        for k, made in enumerate(measured(trace, sources, asked, samples, settings)):
            c = criteria[k]
            if isinstance(made, UsageError):
                found[c] = made
                continue
            name, _, options = rules[c]
            told = {**options, "seed": settings.seed, "samples": samples.count}
            scores = Scores(name, told, _layers(trace, dict(zip(sources, made, strict=True))))
            found[c] = scores
            if key:
                remember(f"{key}-{k}", scores.to_json())
    return {c: found[c] for c in criteria}


def about_run(opened: Opened) -> dict[str, Any]:
    """What any measurement depends on besides its own options and the samples."""
    settings = opened.settings
    return {
        "model": opened.loaded.sha256,
        "shapes": opened.trace.shapes.feeds,
        "seed": settings.seed,
        "runtime": [settings.runtime.providers, settings.runtime.threads, os.cpu_count()],
        "strict": settings.strict_inputs,
    }


def _layers(trace: Trace, made: Mapping[int, FloatArray]) -> dict[str, Layer]:
    sources = trace.sources
    return {trace.graph.names[sources[k].node]: Layer(sources[k].tensor, made[k]) for k in sorted(made)}


def _scored(
    opened: Opened,
    sources: Sequence[int],
    criterion: tuple[Criterion, Options],
) -> dict[int, FloatArray]:
    """Raises UsageError where the criterion does not apply."""
    (found,) = measured(opened.trace, tuple(sources), [criterion], opened.samples, opened.settings)
    if isinstance(found, UsageError):
        raise found
    return dict(zip(sources, found, strict=True))


def given_scores(given: Any, criterion: str) -> Scores:
    """What the user handed over: Scores, or the path of a scores.json. criterion: what was asked for besides. Raises
    UsageError, DataError."""
    if isinstance(given, str | os.PathLike):
        given = read_scores(given)
    if not isinstance(given, Scores):
        raise UsageError(f"scores of type {type(given).__name__} are not understood: give a path or Scores")
    check_criterion(given, criterion, "scores")
    return given


def check_criterion(own: Scores, criterion: str, what: str) -> None:
    """Raises DataError where what was measured goes by another criterion than the one that is asked for; the default
    asks for none."""
    name, _, options = parsed(criterion)
    differs = name != own.criterion or any(own.options.get(k, v) != v for k, v in options.items())
    if criterion != CRITERION and differs:
        told = ", ".join(f"{k}={own.options[k]}" for k in options if k in own.options)
        raise DataError(
            f"the {what} were measured by criterion {own.criterion}{f' ({told})' if told else ''}, not by "
            f"{criterion}: leave --criterion out, or measure them again"
        )
