"""A model on its way: loaded, seen to run, its data opened, traced."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from .data.samples import Samples, probe_shapes, probe_values
from .errors import NothingFree
from .model.load import LoadedModel, load
from .model.session import open_session
from .report.inspection import wall_infos
from .settings import Settings, samples_for
from .trace.groups import Group, find_groups
from .trace.tracer import trace as trace_model
from .trace.types import Trace


@dataclass(frozen=True)
class Opened:
    """What was loaded, its trace and groups, and how to run it. timings: seconds per stage, filled as stages end;
    reused: what was measured before instead, in an earlier run or by whoever
    handed it over."""

    settings: Settings
    loaded: LoadedModel
    trace: Trace
    groups: tuple[Group, ...]
    samples: Samples
    timings: dict[str, float]
    reused: list[str] = field(default_factory=list)


def open_model(model: Any, settings: Settings) -> Opened:
    """Load the model, see that onnxruntime opens it, open the data, trace at the data's shapes."""
    timings: dict[str, float] = {}
    settings.progress("load", 0, 2)
    started = time.perf_counter()
    loaded = load(model, settings.base_folder)
    with open_session(loaded.model, settings.runtime):
        pass
    timings["load"] = time.perf_counter() - started
    settings.progress("load", 1, 2)
    samples = samples_for(loaded, settings)
    settings.progress("load", 2, 2)
    settings.progress("trace", 0, 1)
    started = time.perf_counter()
    given, values = probe_shapes(samples, settings.input_shapes), probe_values(samples)
    traced = trace_model(loaded.model, given, settings.runtime, values, settings.strict_inputs)
    timings["trace"] = time.perf_counter() - started
    settings.progress("trace", 1, 1)
    return Opened(settings, loaded, traced, find_groups(traced), samples, timings)


def require_free(opened: Opened) -> None:
    """Raises NothingFree where no unit of the model can go, with its walls."""
    if any(len(g.free) for g in opened.groups):
        return
    rows = tuple((w.node, w.op, w.tensor, w.reason) for w in wall_infos(opened.trace, opened.groups))
    if not rows:
        text = "no Conv, ConvTranspose, Gemm or MatMul with constant weights makes channels"
    else:
        node, op, tensor, reason = rows[0]
        text = f"node '{node}' ({op}): {reason}"
        if opened.groups:
            text = f"{len(rows)} walls, the first at node '{node}' ({op}) on '{tensor}': {reason}"
    raise NothingFree(f"nothing can be pruned: {text}", rows)
