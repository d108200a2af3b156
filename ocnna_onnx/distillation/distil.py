"""The whole step: from an original and a pruned net to the pruned net with weights that a gradient moved."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx

from .. import __version__
from ..calibrate.stream import batch_size
from ..errors import UsageError
from ..model.session import Runtime
from ..model.stamp import add_entry
from ..repair.values import with_values
from ..report.fidelity import Closeness, closeness
from ..settings import Settings
from . import checkpoint as files
from .judging import to_json
from .leaving import final_of, rounded, stored_types
from .loop import Nets, State, Values, follow, timed
from .nets import nets_of
from .optimizing import optimizer_of
from .recipe import CHECKS, FEATURES, RATE, Recipe
from .split import Split
from .subject import Subject


def distilled(
    subject: Subject,
    split: Split,
    recipe: Recipe,
    settings: Settings,
    checkpoint: Path | None = None,
    resume: bool = False,
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """(the pruned net with the weights that do best on the samples that are held out, the starting ones included; the
    `distillation` section of a report).

    checkpoint: a file to go on from, written about once a minute and after the last step; with `resume` it must be
    there. It stays: what comes next can fail, and whoever has saved the model removes it. Where it cannot be written,
    the run goes on and the section says `checkpoint_error`; `resumable`: whether there is one of this run. Ctrl-C ends
    the steps, not this function: what was best so far is returned, and the section says `interrupted`.
    Raises UsageError without the extra, ModelError where a net does not convert or differs from onnxruntime, DataError
    where the two nets do not belong together or the checkpoint is another run's.
    """
    began = time.perf_counter()
    with _threads(settings.runtime):
        nets, error = nets_of(subject, split, recipe, settings)
        judged = _judge(subject, nets, split, settings)
        started = time.perf_counter()
        start = judged({})
        judging = time.perf_counter() - started
        about = _about(subject, split, recipe, nets) if checkpoint is not None else {}
        content = files.read(checkpoint, about) if checkpoint is not None and resume else None
        optimizer = optimizer_of(nets.student.weights)
        if content is None:
            state = State(_steps(recipe, nets, judging, time.perf_counter() - began))
        else:
            state = files.restored(content, nets, optimizer)
        resumed_at = None if content is None else state.step
        first = state.step
        looped = time.perf_counter()
        kept: dict[str, Any] = {"resumable": content is not None, "checkpoint_error": None}

        def save() -> None:
            if checkpoint is None:
                return
            try:
                files.write(checkpoint, about, files.content_of(state, nets, optimizer))
            except UsageError as error:  # a full disk is no reason to lose the steps
                kept["checkpoint_error"] = str(error)
            else:
                kept.update(resumable=True, checkpoint_error=None)

        settings.progress("distil", first, state.steps)
        follow(nets, state, optimizer, start, split.held.count, judged, save, lambda s: _tell(settings, s))
        took = time.perf_counter() - looped
        final = final_of(subject, nets, state, split, settings)
    if state.best is not None:
        entry = {"version": __version__, "source_sha256": subject.sha256}
        add_entry(final, {**entry, "distilled": _stamped(subject, recipe, nets, state)})
    section = {
        **_stamped(subject, recipe, nets, state),
        "seconds": round(time.perf_counter() - began, 3),
        "steps_per_second": round((state.step - first) / took, 4) if took > 0 else None,
        "resumed_at": resumed_at,
        "interrupted": state.interrupted,
        "diverged": state.diverged,
        "samples": split.fit.count,
        "held_out": split.held.count,
        "taps": len(nets.loss.taps),
        "weights": len(nets.student.weights),
        "parameters": int(sum(nets.student.value(n).size for n in nets.student.weights)),
        "bridge_error": error,
        "before": to_json(start),
        "after": to_json(state.verdict or start),
        "checks": state.checks,
        **kept,
    }
    return final, section


def _judge(subject: Subject, nets: Nets, split: Split, settings: Settings) -> Callable[[Values], Closeness]:
    """Values of weights -> the verdict on the file that would have them."""
    batch = batch_size(subject.lineage.trace.shapes, split.held)
    verdict = closeness(subject.original, split.held, batch, settings.runtime, settings.memory)
    stored = stored_types(subject.pruned)

    def judged(values: Values) -> Closeness:
        return verdict(with_values(subject.pruned, rounded(values, stored)) if values else subject.pruned)

    return judged


def _steps(recipe: Recipe, nets: Nets, judging: float, spent: float) -> int:
    """How many steps the run takes; a time is turned into steps once, by timing a few of them."""
    if recipe.steps is not None:
        return recipe.steps
    assert recipe.seconds is not None
    started = time.perf_counter()
    each = timed(nets)
    left = recipe.seconds - spent - (time.perf_counter() - started) - 2 * CHECKS * judging
    return max(1, int(left / each))


def _tell(settings: Settings, state: State) -> None:
    told = [f"loss {state.loss:.3f}"]
    last = state.checks[-1].get("averaged") if state.checks else None
    if last is not None and last["agreement"] is not None:
        told.append(f"held-out agreement {last['agreement']:.1%}")
    elif last is not None and last["error"] is not None:
        told.append(f"held-out error {last['error']:.2g}")
    settings.progress(f"distil ({', '.join(told)})", state.step, state.steps)


def _about(subject: Subject, split: Split, recipe: Recipe, nets: Nets) -> dict[str, Any]:
    """What makes a run this run and no other."""
    return {
        "original": subject.original_sha256,
        "pruned": subject.sha256,
        "samples": [split.fit.count, split.held.count, split.fit.source, split.fit.digest],
        "seed": recipe.seed,
        "temperature": recipe.temperature,
        "rate": RATE,
        "steps": recipe.steps,
        "time": recipe.seconds,
        "augment": _augment(nets),
        "batch": nets.feeding.batch,
    }


def _augment(nets: Nets) -> list[str]:
    return sorted(nets.feeding.views.ways) if nets.feeding.views is not None else []


def _stamped(subject: Subject, recipe: Recipe, nets: Nets, state: State) -> dict[str, Any]:
    """What the stamp says of a distillation: enough to repeat it."""
    return {
        "original_sha256": subject.original_sha256,
        "time": recipe.seconds,
        "steps": state.steps,
        "done": state.step,
        "taken": state.taken,
        "seed": recipe.seed,
        "temperature": recipe.temperature,
        "features": FEATURES,
        "rate": RATE,
        "batch": nets.feeding.batch * nets.runs,
        "augment": _augment(nets),
    }


@contextmanager
def _threads(runtime: Runtime) -> Iterator[None]:
    """PyTorch with as many threads as onnxruntime was given (0: its own choice), then as before."""
    from .extra import onnx2torch

    onnx2torch()
    import torch

    before = torch.get_num_threads()
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
