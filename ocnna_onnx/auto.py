"""`--criterion auto`: the criterion under whose order the net, cut as asked for and repaired, stays closest to the
original on samples that neither the scores nor the repair have seen."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx

from .budgeting import meet
from .calibrate.readers import Readings
from .calibrate.stream import batch_size
from .criteria.table import AUTO
from .data.samples import Samples, choose
from .errors import UsageError
from .mending import repaired
from .opened import Opened
from .plan.align import Alignment
from .plan.costs import cost_model
from .plan.decide import Decided, decide, ordered
from .plan.select import Cut, FloatArray
from .plan.targets import Target, parse_targets
from .repair.job import Repaired
from .repair.values import with_values
from .report.fidelity import squared_error
from .rewrite.rewrite import rewrite
from .scoring import scores_together
from .sensing import damages, readings
from .trace.labels import IntArray
from .wishes import Wishes

CANDIDATES = ("obs", "wanda", "group-l2", "activation-l2", "ocnna")
"""The orders that are tried: what does best (docs/results.md) of those that look at the readers' errors, at weights
and inputs, at weights alone, at responses; and the method that this package is named after. Of equals the first."""

BLIND = "obs"
"""What is taken where nothing can be compared."""

SAMPLES = 256
"""Samples that the choice looks at; one of HELD_OUT judges, the others score and repair."""

HELD_OUT = 4

FEW = 8
"""Fewer samples cannot be divided."""

ROUGH = (0.3, 0.8)
"""Shares of a group's classes at which its damage is measured for a candidate: what a whole prune measures, at half as
many cuts (a deep one among them, since some groups nearly go), and on ROUGH_SAMPLES. Equal shares will not do: an order
that spoils one group is then judged by that one."""

ROUGH_SAMPLES = 32

PROBE = "macs=60%"
"""The cut at which candidates are compared where the target has no budget of its own (drop, latency in ms)."""


@dataclass(frozen=True)
class Tried:
    """A candidate. error: squared error of the pruned and repaired net's outputs, relative to the original's, on the
    samples that were held out. macs, params: shares that were left. removed: units that went."""

    criterion: str
    error: float
    macs: float
    params: float
    removed: int

    def to_json(self) -> dict[str, Any]:
        """A row of report.json. error: null where it is no number."""
        error = self.error if np.isfinite(self.error) else None
        ratios = {"macs_ratio": self.macs, "params_ratio": self.params}
        return {"criterion": self.criterion, "error": error, **ratios, "removed": self.removed}


@dataclass(frozen=True)
class Chosen:
    """criterion: the one that is taken; why: in a sentence. tried: the candidates that were compared, at `cut`, with
    `repair`; left_out: candidate -> why it was not. fitted, held: samples that scored and repaired, and that judged."""

    criterion: str
    why: str
    cut: str = ""
    repair: str = "none"
    fitted: int = 0
    held: int = 0
    tried: tuple[Tried, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        """For the report's warnings: why nothing was compared."""
        return () if self.tried else (f"criterion auto: {self.why}",)

    def to_json(self) -> dict[str, Any]:
        """The `criterion_choice` entry of report.json."""
        return {
            "asked": AUTO,
            "criterion": self.criterion,
            "measured": bool(self.tried),
            "why": self.why,
            "cut": self.cut,
            "repair": self.repair,
            "fitted_on": self.fitted,
            "held_out": self.held,
            "candidates": [t.to_json() for t in self.tried],
            "left_out": dict(self.left_out),
        }


def is_auto(criterion: Any, scores: Any = None, sensitivities: Any = None) -> bool:
    """Whether a criterion is to be chosen. Raises UsageError where there are scores already."""
    for name, given in (("scores", scores), ("sensitivities", sensitivities)):
        if criterion == AUTO and given is not None:
            raise UsageError(f"criterion auto chooses the scores, and {name} are given: leave one of them out")
    return bool(criterion == AUTO)


def choose_criterion(
    job: Opened,
    cut: Cut | Wishes,
    normalize: str,
    barred: IntArray,
    repair: str,
    candidates: Sequence[str] = CANDIDATES,
) -> Chosen:
    """The best of the candidates for this cut of this net. All are scored in one pass over at most SAMPLES of the
    samples. Wishes are met unaligned, by sensitivities that are measured roughly. repair: the method that follows.

    Without samples of the user's own, with too few, or where no output can be compared: BLIND, and why. Deterministic.
    Raises UsageError where none of the candidates applies, DataError.
    """
    started = time.perf_counter()
    if not job.samples.real:
        return Chosen(BLIND, f"no samples of yours (--data): {BLIND} without a comparison")
    if job.samples.count < FEW:
        return Chosen(BLIND, f"{job.samples.count} samples are too few to hold some out: {BLIND} without a comparison")
    seen, held = _divided(job.samples, job.settings.seed)
    quiet = replace(job.settings, progress=lambda stage, done, total: None)
    part = replace(job, samples=seen)
    try:
        batch = batch_size(job.trace.shapes, held)
        distance = squared_error(job.loaded.model, held, batch, job.settings.runtime, job.settings.memory)
    except UsageError as error:
        return Chosen(BLIND, f"{error}: {BLIND} without a comparison")
    asked, told = _asked(cut)
    tried, left_out = [], {}
    found = scores_together(part, candidates)
    shared = isinstance(asked, Wishes) and asked.allocate == "sensitivity"
    few, rest = _few(seen)
    seen_by = (readings(job.trace, rest, job.settings), few) if shared else None
    for k, (name, scores) in enumerate(found.items()):
        job.settings.progress("choose", k, len(found))
        if isinstance(scores, UsageError):
            left_out[name] = str(scores)
            continue
        values = scores.by_source(job.trace)
        decided = _decided(replace(part, settings=quiet), values, asked, normalize, barred, held, seen_by)
        rewritten = rewrite(decided.trace, decided.trace.keep_units(decided.classes))
        mended = repaired(decided.trace, rewritten, seen, quiet, repair)
        off = distance(with_values(rewritten.model, mended.values))
        tried.append(Tried(name, off, *_shares(decided), len(decided.classes)))
    job.settings.progress("choose", len(found), len(found))
    job.timings["choose"] = time.perf_counter() - started
    if not tried:
        raise UsageError(f"criterion auto: none of {', '.join(found)} applies; {next(iter(left_out.values()))}")
    best = min(tried, key=lambda t: t.error if np.isfinite(t.error) else float("inf"))
    why = _why(best, tried, held.count, told, repair)
    return Chosen(best.criterion, why, told, repair, seen.count, held.count, tuple(tried), left_out)


def _divided(samples: Samples, seed: int) -> tuple[Samples, Samples]:
    """(for scores and repairs, for judging): disjoint, drawn by the seed."""
    some = choose(samples, SAMPLES, seed)
    order = np.random.default_rng(seed).permutation(some.count)
    held = some.count // HELD_OUT
    return some.take(np.sort(order[held:])), some.take(np.sort(order[:held]))


def _few(samples: Samples) -> tuple[Samples, Samples]:
    """(what judges single groups, what their readers are refitted on)."""
    numbers = np.arange(samples.count)
    first = min(ROUGH_SAMPLES, max(1, samples.count // 4))
    return samples.take(numbers[:first]), samples.take(numbers[first:] if samples.count > first else numbers)


def _asked(cut: Cut | Wishes) -> tuple[Cut | Wishes, str]:
    """The cut at which candidates are compared, and in words."""
    if isinstance(cut, Cut):
        return cut, f"percentile {cut.percentile:g}" if cut.percentile is not None else f"ratio {cut.ratio or 0:g}"
    targets = tuple(t for t in cut.targets if t.kind in ("macs", "params", "bytes")) or (_budget(cut.targets),)
    return replace(cut, targets=targets, align=Alignment()), ", ".join(t.text for t in targets)


def _budget(targets: Sequence[Target]) -> Target:
    """What stands in for targets that can only be measured: as much of the multiply–accumulates as of the time."""
    shares = [t.value for t in targets if t.kind == "latency" and t.relative]
    return parse_targets(f"macs={100 * shares[0]:g}%" if shares else PROBE)[0]


def _decided(
    job: Opened,
    values: Mapping[int, FloatArray],
    cut: Cut | Wishes,
    normalize: str,
    barred: IntArray,
    held: Samples,
    seen_by: tuple[Readings, Samples] | None,
) -> Decided:
    """What goes by these scores. seen_by: what the readers see, and samples that judge them, where the budget is shared
    by sensitivity."""
    if isinstance(cut, Cut):
        return decide(job.trace, job.groups, values, cut, normalize, barred)
    order = ordered(job.trace, job.groups, values, normalize, barred)
    cuts = None
    if seen_by is not None:
        read, few = seen_by
        cuts = damages(order.start.trace, order.groups, order.score, read, few, job.settings, cuts=ROUGH)
    return meet(job, order, cuts, cut, _plain, held).decided


def _plain(decided: Decided) -> tuple[onnx.ModelProto, Repaired]:
    return rewrite(decided.trace, decided.trace.keep_units(decided.classes)).model, Repaired()


def _shares(decided: Decided) -> tuple[float, float]:
    """(MACs, parameters) left."""
    costs = cost_model(decided.trace)
    gone = np.zeros(len(decided.trace.free), bool)
    whole = costs.macs_left(gone), costs.params_left(gone)
    gone[decided.classes] = True
    return costs.macs_left(gone) / max(1.0, whole[0]), costs.params_left(gone) / max(1.0, whole[1])


def _why(best: Tried, tried: Sequence[Tried], held: int, cut: str, repair: str) -> str:
    if not any(t.removed for t in tried):
        return f"{cut} removes nothing, whatever the order: {best.criterion} as the first of the candidates"
    if not np.isfinite(best.error):
        return f"no candidate leaves outputs that are finite at {cut}: {best.criterion} as the first of them"
    mended = f"after the repair ({repair})" if repair != "none" else "without a repair"
    others = sorted((t for t in tried if t is not best), key=lambda t: t.error)
    then = f"; next is {others[0].criterion} with {others[0].error:.3g}" if others else ""
    return (
        f"at {cut}, {mended}, its squared error of the outputs on {held} samples that were held out is the lowest: "
        f"{best.error:.3g} of the original's{then}"
    )


__all__ = ["CANDIDATES", "Chosen", "Tried", "choose_criterion", "is_auto"]
