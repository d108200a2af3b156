"""`distill`: a pruned net learns from its original on samples without labels, with a gradient."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from . import __version__
from .calibrate.stream import batch_size
from .data.samples import probe_shapes, probe_values
from .distillation.asked import check_size
from .distillation.checkpoint import check_place
from .distillation.distil import distilled
from .distillation.extra import onnx2torch
from .distillation.lineage import descend, plans_between
from .distillation.recipe import SAMPLES, TEMPERATURE, recipe_of
from .distillation.split import flips_allowed, split_of
from .distillation.subject import Subject
from .errors import UsageError
from .finishing import save_beside
from .model.load import load
from .model.session import open_session
from .pipeline import is_strict
from .plan.plan import Plan, read_plan
from .report.evaluate import evaluate
from .settings import samples_for, settings_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .settings import Common


@dataclass(frozen=True)
class Distilled:
    """A distilled model with its report (the dictionary of its JSON). interrupted: Ctrl-C ended the steps; the
    model is the best until then. checkpoint: where to go on from; gone once a run that is done is saved."""

    model: onnx.ModelProto
    report: dict[str, Any]
    external: bool = False
    sources: tuple[Path, ...] = ()
    checkpoint: Path | None = None

    @property
    def interrupted(self) -> bool:
        return bool(self.report["distillation"]["interrupted"])

    @property
    def resumable(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return self.checkpoint is not None and bool(self.report["distillation"]["resumable"])

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> int:
        """Write the model, whole or not at all; external data as PRUNED had it. Returns the bytes written. Raises
        UsageError where `path` is one of the files that were read (PRUNED's own: unless `overwrite`; a run that was
        interrupted cannot go on without it)."""
        written = save_beside(self.model, Path(path), self.external, self.sources, overwrite)
        if self.resumable and self.checkpoint is not None and not self.interrupted:
            self.checkpoint.unlink(missing_ok=True)
        return written


def distill(
    original: Any,
    pruned: Any,
    *,
    time: str | float | None = None,
    steps: int | None = None,
    temperature: float = TEMPERATURE,
    augment: str | Sequence[str] = "auto",
    plan: Plan | str | os.PathLike[str] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    **common: Unpack[Common],
) -> Distilled:
    """The pruned net with weights that a gradient brought closer to the original, or as it was where none did better on
    samples that are held out; nothing but values of weights differs.

    original, pruned: paths, bytes, ModelProtos or objects with `.model_proto`; never modified. time: `90s`, `10m`,
    `1.5h` or seconds, by default ten minutes; turned into steps at the start, by timing a few. steps: instead of it.
    temperature: T of the loss (`distillation.loss`). augment: `shift`, `flip`, `mix` (with commas in between, or as a
    sequence), `none`, or `auto`: shifts for pictures, and flips where a folder's preset allows them. plan: how PRUNED
    came about, where its stamp does not say. checkpoint: a file to go on from, with resume=True; it
    goes when the result is saved. common: see
    `ocnna_onnx.settings.Common`; samples are by default at most 4096, and data must be given.

    Needs the extra `[distill]`. Raises UsageError (options, no data, the extra), ModelError (a net that is quantized,
    too large, or does not convert), DataError (PRUNED is no descendant of ORIGINAL, the data, a checkpoint of another
    run). Same seed, steps, machine and threads: the same bytes.
    """
    settings = settings_of(**common)
    recipe = recipe_of(time, steps, temperature, augment, settings.seed)
    if settings.data is None:
        raise UsageError(
            "distillation learns from samples: give data (--data), the more the better; labels are not needed"
        )
    if resume and checkpoint is None:
        raise UsageError("resume needs the checkpoint to go on from")
    place = None if checkpoint is None else Path(checkpoint)
    if place is not None:
        named = (original, pruned, plan, settings.data)
        check_place(place, resume, [Path(p) for p in named if isinstance(p, (str, os.PathLike))])
    onnx2torch()
    settings = replace(settings, samples=settings.samples or SAMPLES)
    settings.progress("load", 0, 2)
    before, after = load(original, settings.base_folder), load(pruned, settings.base_folder)
    for model in (before, after):
        check_size(model)
    if place is not None:
        check_place(place, resume, (*before.files, *after.files))  # external weights too
    for model in (before, after):
        with open_session(model.model, settings.runtime):
            pass
    samples = samples_for(before, settings)
    settings.progress("load", 1, 2)
    given = plan if plan is None or isinstance(plan, Plan) else read_plan(Path(plan))
    plans = plans_between(before, after, given)
    strict = [settings.strict_inputs or is_strict(p) for p in plans]
    lineage = descend(
        before, after, plans, settings, probe_shapes(samples, settings.input_shapes), probe_values(samples), strict
    )
    settings.progress("load", 2, 2)
    whole = after.model.whole()
    subject = Subject(before.model, before.sha256, whole, after.sha256, lineage)
    split = split_of(samples, flips_allowed(settings))
    model, section = distilled(subject, split, recipe, settings, place, resume)
    judged = samples.evaluation or split.held
    batch = batch_size(lineage.trace.shapes, judged)
    agreement = evaluate(before.model, model, judged, batch, settings.runtime)
    report = {
        "schema": 1,
        "tool": f"ocnna-onnx {__version__}",
        "original": {"sha256": before.sha256, "name": before.name},
        "pruned": {"sha256": after.sha256, "name": after.name},
        "data": {
            "source": samples.source,
            "preprocessing": samples.preprocessing,
            "samples": samples.count,
            "evaluated_on": samples.evaluation.source if samples.evaluation else f"the {judged.count} held out",
        },
        "distillation": section,
        "agreement": None if agreement is None else agreement.to_json(),
        "accuracy": None if agreement is None else agreement.accuracy_json(),
        "warnings": [*samples.notes, *_of_checkpoint(section)],
    }
    return Distilled(model, report, after.external, (*after.files, *before.files), place)


def _of_checkpoint(section: dict[str, Any]) -> list[str]:
    """What a checkpoint that could not be written is worth a note."""
    error = section["checkpoint_error"]
    return [] if error is None else [f"the last checkpoint was not written: {error}"]


__all__ = ["Distilled", "distill"]
