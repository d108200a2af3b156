"""From the original to the pruned net: the plans in between, and which channels of which tensor have a teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from ..calibrate.where import after_activation
from ..data.samples import IntArray
from ..errors import DataError, ProofFailed
from ..model.graph import AnyArray
from ..model.light import Light
from ..model.load import LoadedModel
from ..model.probes import Shape
from ..model.stamp import KEY, read_stamp
from ..plan.plan import Plan, plan_from_json, planned
from ..rewrite.only import only_values
from ..rewrite.rewrite import rewrite
from ..settings import Settings
from ..trace.kept import Kept
from ..trace.tracer import trace as trace_model
from ..trace.types import Trace


@dataclass(frozen=True)
class Tap:
    """A tensor of the student with a teacher: the original's tensor of the same name, of which the positions `kept`
    (int64) along `axis` stay; None: all."""

    tensor: str
    axis: int
    kept: IntArray | None


@dataclass(frozen=True)
class Lineage:
    """trace: of the original. kept: what stays, step by step."""

    trace: Trace
    kept: tuple[Kept, ...]

    def taps(self) -> tuple[Tap, ...]:
        """Where features are compared: behind the activation that follows each layer with channels, where it keeps them
        in one axis at every step; not at the model's outputs, which have a loss of their own."""
        first = self.trace
        found: dict[str, Tap] = {}
        for source in first.sources:
            tensor = after_activation(first, source)
            if tensor in first.graph.outputs or first.shapes.dtype.get(tensor) not in FLOATS:
                continue
            if all(tensor in step.trace.labels for step in self.kept):
                tap = self._tap(tensor, source.axis)
                if tap is not None:
                    found[tensor] = tap
        return tuple(found.values())

    def _tap(self, tensor: str, axis: int) -> Tap | None:
        kept = np.arange(self.trace.shapes.shape[tensor][axis])
        whole = len(kept)
        for step in self.kept:
            changed = step.changed_axes(tensor)
            if set(changed) - {axis}:
                return None
            if axis in changed:
                kept = kept[changed[axis]]
        return Tap(tensor, axis, kept if len(kept) < whole else None)


FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


def plans_between(original: LoadedModel, pruned: LoadedModel, plan: Plan | None) -> list[Plan]:
    """The plans that lead from one to the other: the one that is given, else those of the stamp. Raises DataError."""
    if plan is not None:
        if plan.sha256 != original.sha256:
            raise DataError(f"the plan belongs to another model than ORIGINAL ('{plan.name}')")
        return [plan]
    stamp = read_stamp(pruned.proto)
    if not stamp:
        raise DataError(f"PRUNED carries no readable stamp (metadata '{KEY}'): pass --plan, the plan.json of its prune")
    start = next((k for k, entry in enumerate(stamp) if entry.get("source_sha256") == original.sha256), None)
    if start is None:
        raise DataError("PRUNED was not made from ORIGINAL: no entry of its stamp names ORIGINAL's sha256")
    return [plan_from_json(entry["plan"], "the stamp") for entry in stamp[start:]]


def descend(
    original: LoadedModel,
    pruned: LoadedModel,
    plans: Sequence[Plan],
    settings: Settings,
    given: Mapping[str, Shape],
    values: Mapping[str, AnyArray],
    strict: Sequence[bool],
) -> Lineage:
    """Replay the plans, and see that PRUNED is what they give but for the values of its weights. strict: whether each
    step leaves overridable inputs alone. Raises DataError where it is not."""
    current: onnx.ModelProto | Light = original.model
    steps: list[Kept] = []
    for plan, own in zip(plans, strict, strict=True):
        trace = trace_model(current, given, settings.runtime, values, own)
        trace, classes = planned(plan, trace)
        rewritten = rewrite(trace, trace.keep_units(classes))
        steps.append(rewritten.kept)
        current = rewritten.model
    if not steps:
        raise DataError("PRUNED was not pruned: its stamp holds no plan")
    try:
        assert isinstance(current, onnx.ModelProto)
        only_values(current, pruned.model)
    except ProofFailed as error:
        raise DataError(f"PRUNED is not what its plan makes of ORIGINAL: {error}") from error
    return Lineage(steps[0].trace, tuple(steps))
