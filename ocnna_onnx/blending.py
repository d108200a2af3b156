"""The `blend` criterion, where all its steps are known: members are measured in one pass, clustered, and their weights
found by pruning and comparing on samples that the scores have not seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .calibrate.stream import batch_size
from .criteria.blend import MEMBERS, Evolved, blended_scores, clusters, evolve, representative, similarity
from .criteria.request import Criterion, Options
from .criteria.table import CRITERIA, parsed
from .data.samples import Samples
from .errors import DataError, NothingFree, UsageError
from .measuring import Measured, measured
from .opened import Opened
from .plan.decide import decide
from .plan.normalize import NORMALIZATIONS
from .plan.select import Cut
from .report.fidelity import fidelity
from .rewrite.rewrite import rewrite

FloatArray = npt.NDArray[np.float64]

EVERY = 4
"""One of so many samples is held out for the search (fewer where `images` are enough)."""

FEW = 8
"""Of fewer samples none is held out: scores and search see all of them."""


@dataclass(frozen=True)
class Blended:
    """scores: number of the source -> [channels]. told: members that apply, those left out with the reason, clusters,
    representatives, weights, and the fitness of each representative and of the blend, for scores.json."""

    scores: dict[int, FloatArray]
    told: dict[str, Any]


def blend(opened: Opened, options: Options, sources: Sequence[int], others: Sequence[int] = ()) -> Blended:
    """Blended scores of `sources`, by which the weights are found, and of `others`, each in a pass of its own; those
    whose output is not finite, or to which a representative does not apply, are left out.

    Raises UsageError (options; no member applies; no output to compare), NothingFree, DataError.
    """
    _check(options)
    named = _members(options["criteria"])
    if not sources:
        raise NothingFree("blend: nothing can be pruned in this model, so there is nothing to find weights by")
    normal = NORMALIZATIONS[options["normalize"]]
    seen, held = _held_out(opened.samples, options["images"], opened.settings.seed)
    found = measured(opened.trace, tuple(sources), list(named.values()), seen, opened.settings)
    scores, left_out = _applicable(named, found)
    names = list(scores)
    similar = similarity(list(scores.values()))
    together = clusters(similar, options["clusters"])
    chosen = [names[representative(similar, members)] for members in together]
    normalized = [[normal(layer) for layer in scores[name]] for name in chosen]
    kinds, evolved = _search(opened, options, sources, normalized, held)
    made = dict(zip(sources, blended_scores(evolved.weights, normalized), strict=True))
    used = [(named[name], w) for name, w in zip(chosen, evolved.weights.tolist(), strict=True) if w]
    for k in others:
        try:
            each = measured(opened.trace, (k,), [rule for rule, _ in used], seen, opened.settings)
        except DataError:
            continue
        layer = [[normal(s) for s in one] for one in each if not isinstance(one, UsageError)]
        if len(layer) == len(used):
            made[k] = blended_scores(np.array([w for _, w in used]), layer)[0]
    told = {
        "criteria": names,
        "left_out": left_out,
        "clusters": [[names[k] for k in members] for members in together],
        "representatives": chosen,
        "weights": dict(zip(chosen, evolved.weights.tolist(), strict=True)),
        "fitness": {
            "kind": kinds,
            "samples": held.count,
            "held_out": opened.samples.count >= FEW,
            "single": dict(zip(chosen, map(_number, evolved.alone.tolist()), strict=True)),
            "blend": _number(evolved.value),
            "tried": evolved.tried,
        },
    }
    return Blended(made, told)


def _check(options: Options) -> None:
    """Raises UsageError."""
    for name, least in (("clusters", 0), ("generations", 0), ("population", 1), ("images", 1)):
        if options[name] < least:
            raise UsageError(f"blend: {name} {options[name]} is out of range: at least {least}")
    if not 0 < options["ratio"] < 1:
        raise UsageError(f"blend: ratio {options['ratio']:g} is out of range: 0 < ratio < 1 (what the search cuts)")
    if options["normalize"] not in NORMALIZATIONS:
        have = ", ".join(NORMALIZATIONS)
        raise UsageError(f"blend: unknown normalization '{options['normalize']}'; choose one of {have}")


def _members(text: str) -> dict[str, tuple[Criterion, Options]]:
    """`l2+ocnna:variance=1` -> each as it was written, with its options. Raises UsageError."""
    found = {}
    for member in text.split("+") if text else (m for m in MEMBERS if m in CRITERIA):
        name, rule, options = parsed(member)
        if name == "blend":
            raise UsageError("blend: it cannot be blended with itself")
        found[member] = (rule, options)
    return found


def _applicable(
    named: Mapping[str, tuple[Criterion, Options]], found: Sequence[Measured | UsageError]
) -> tuple[dict[str, Measured], dict[str, str]]:
    """The scores of each member that applies to this net, and why others do not. Raises UsageError where none does."""
    scores: dict[str, Measured] = {}
    left_out: dict[str, str] = {}
    for name, one in zip(named, found, strict=True):
        if not isinstance(one, UsageError):
            scores[name] = one
        elif ":" in name:  # an option out of range is no trait of the net
            raise one
        else:
            left_out[name] = str(one)
    if not scores:
        raise UsageError(f"blend: none of {', '.join(left_out)} applies to this model; {next(iter(left_out.values()))}")
    return scores, left_out


def _held_out(samples: Samples, images: int, seed: int) -> tuple[Samples, Samples]:
    """(for scores, for the search): disjoint, drawn by the seed; the same where there are only a FEW."""
    if samples.count < FEW:
        return samples, samples.take(np.arange(min(images, samples.count)))
    order = np.random.default_rng(seed).permutation(samples.count)
    held = min(images, samples.count // EVERY)
    return samples.take(np.sort(order[held:])), samples.take(np.sort(order[:held]))


def _search(
    opened: Opened, options: Options, sources: Sequence[int], scores: list[Measured], held: Samples
) -> tuple[dict[str, str], Evolved]:
    """How outputs are compared, and the weights of these normalised scores under which the pruned net is closest to the
    original. Weights that cut the same are judged once."""
    settings = opened.settings
    batch = batch_size(opened.trace.shapes, held)
    kinds, distance = fidelity(opened.loaded.model, held, batch, settings.runtime, settings.memory)
    known: dict[bytes, float] = {}

    def fitness(weights: FloatArray) -> float:
        values = dict(zip(sources, blended_scores(weights, scores), strict=True))
        decided = decide(opened.trace, opened.groups, values, Cut(options["ratio"]))
        keep = decided.trace.keep_units(decided.classes)
        key = keep.tobytes()
        if key not in known:
            known[key] = distance(rewrite(decided.trace, keep).model)
        return known[key]

    evolved = evolve(
        fitness,
        len(scores),
        np.random.default_rng(settings.seed),
        options["population"],
        options["generations"],
        _progress(opened),
    )
    return kinds, evolved


def _progress(opened: Opened) -> Callable[[int, int], None]:
    return lambda done, total: opened.settings.progress("blend", done, total)


def _number(value: float) -> float | None:
    """None where it is none: JSON has no infinity."""
    return value if np.isfinite(value) else None
