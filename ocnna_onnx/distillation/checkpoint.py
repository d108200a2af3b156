"""What a distillation needs to go on where it stopped, as a file that is there whole or not at all."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError, UsageError
from ..model.save import check_target, write_atomically
from ..report.fidelity import Closeness
from .judging import to_json
from .loop import Nets, State
from .optimizing import Optimizer

SCHEMA = 1


def check_place(path: Path, resume: bool, read: Iterable[Path]) -> None:
    """Refuse a checkpoint that cannot be written, is one of the files that are read, or is not there to resume, before
    any work is done. Raises UsageError."""
    check_target(path, None, False, "checkpoint")
    if any(f.resolve() == path.resolve() or (f.exists() and path.exists() and path.samefile(f)) for f in read):
        raise UsageError(f"{path}: is read by this run; choose another checkpoint")
    if resume and not path.exists():
        raise UsageError(f"{path}: no such checkpoint; nothing to resume")


def write(path: Path, about: dict[str, Any], content: dict[str, Any]) -> None:
    """about: what the run is of (JSON), by which it is recognised. content: tensors and plain numbers. Raises
    UsageError where it cannot be written; an earlier one stays then."""
    import torch

    held = io.BytesIO()
    torch.save({"schema": SCHEMA, "about": json.dumps(about, sort_keys=True), "content": content}, held)
    write_atomically(path, lambda stream: stream.write(held.getbuffer()))


def read(path: Path, about: dict[str, Any]) -> dict[str, Any]:
    """The content. Raises UsageError where there is no such file, DataError where it is no checkpoint of this run."""
    import torch

    if not path.exists():
        raise UsageError(f"{path}: no such checkpoint; nothing to resume")
    try:
        found = torch.load(path, weights_only=True)
        known = json.loads(found["about"])
        schema, content = found["schema"], dict(found["content"])
    except Exception as error:  # torch raises a dozen unrelated types
        raise DataError(f"{path}: not a checkpoint of a distillation") from error
    if schema != SCHEMA:
        raise DataError(f"{path}: schema {schema!r} is not known to this version (it knows {SCHEMA})")
    differs = sorted(k for k in {*known, *about} if known.get(k) != about.get(k))
    if differs:
        raise DataError(f"{path}: the checkpoint of another run (its {', '.join(differs)} differ)")
    return content


def content_of(state: State, nets: Nets, optimizer: Optimizer) -> dict[str, Any]:
    """Where a run stands, as `write` takes it."""
    import torch

    return {
        "weights": {n: w.detach() for n, w in nets.student.weights.items()},
        "averaged": state.averaged,
        "optimizer": optimizer.state(),
        "steps": state.steps,
        "step": state.step,
        "loss": state.loss,
        "best": None if state.best is None else {n: torch.from_numpy(v) for n, v in state.best.items()},
        "verdict": None if state.verdict is None else to_json(state.verdict),
        "taken": state.taken,
        "checks": state.checks,
    }


def restored(content: Mapping[str, Any], nets: Nets, optimizer: Optimizer) -> State:
    """The state of a checkpoint; weights and optimizer are set to it."""
    import torch

    with torch.no_grad():
        for name, weight in nets.student.weights.items():
            weight.copy_(content["weights"][name])
    optimizer.restore(content["optimizer"])
    best, verdict = content["best"], content["verdict"]
    return State(
        steps=content["steps"],
        step=content["step"],
        averaged=dict(content["averaged"]),
        best=None if best is None else {n: v.numpy() for n, v in best.items()},
        verdict=None if verdict is None else Closeness(**verdict),
        taken=content["taken"],
        checks=list(content["checks"]),
        loss=content["loss"],
    )
