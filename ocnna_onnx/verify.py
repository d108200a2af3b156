"""`check`: whether a pruned file is what it says it is, at any later time, from its stamp or from a plan."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from .calibrate.stream import batch_size
from .data.samples import probe_shapes, probe_values
from .errors import DataError, ProofFailed
from .model.graph import Graph, constant_node_value
from .model.light import Light
from .model.load import load
from .model.session import open_session
from .model.stamp import KEY, read_stamp
from .pipeline import is_strict, proof_feeds
from .plan.plan import Plan, plan_from_json, planned, read_plan
from .prove.proof import Proof, prove
from .report.evaluate import Agreement, evaluate
from .rewrite.rewrite import rewrite
from .settings import samples_for, settings_of
from .trace.groups import find_groups
from .trace.tracer import trace as trace_model

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .settings import Common


@dataclass(frozen=True)
class CheckResult:
    """proof: of the last step, on the file itself. steps: how many prunes lead from the original to the file.
    changed: initializers whose values differ from the surgery's (a repair, a distillation): the proof then covers
    structure and shapes, and the surgery itself. agreement: on the data. warnings: what to know about the data."""

    proof: Proof
    steps: int
    changed: tuple[str, ...]
    agreement: Agreement | None
    samples: str
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As `check --json` prints it."""
        return {
            "schema": 1,
            "proof": self.proof.to_json(),
            "steps": self.steps,
            "changed": list(self.changed),
            "agreement": None if self.agreement is None else self.agreement.to_json(),
            "accuracy": None if self.agreement is None else self.agreement.accuracy_json(),
            "samples": self.samples,
            "warnings": list(self.warnings),
        }


def check(
    original: Any,
    pruned: Any,
    *,
    plan: Plan | str | os.PathLike[str] | None = None,
    **common: Unpack[Common],
) -> CheckResult:
    """Repeat proof and agreement. Raises ProofFailed where the two do not belong together or the proof fails.

    common: see `ocnna_onnx.settings.Common`. strict_inputs: weights that are graph inputs too must not have been cut;
    each plan's own setting holds in any case.
    """
    settings = settings_of(**common)
    runtime = settings.runtime
    before, after = load(original, settings.base_folder), load(pruned, settings.base_folder)
    with open_session(after.model, runtime):
        pass
    chosen = samples_for(before, settings)
    given, values = probe_shapes(chosen, settings.input_shapes), probe_values(chosen)
    plans = _plans(plan, before.sha256, after.proto)
    current: onnx.ModelProto | Light = before.model
    for number, step in enumerate(plans):
        traced = trace_model(current, given, runtime, values, settings.strict_inputs or is_strict(step))
        try:
            traced, classes = planned(step, traced)
        except DataError as error:
            raise ProofFailed(f"the files do not belong together: {error}") from error
        rewritten = rewrite(traced, traced.keep_units(classes))
        final = number == len(plans) - 1
        changed = _differences(rewritten.model, after.model) if final else ()
        # changed weights are somebody's repair: what can be proven is the surgery they started from
        subject = after.model if final and not changed else rewritten.model
        settings.progress("prove", number, len(plans))
        feeds = proof_feeds(traced, chosen, settings.seed)
        proof = prove(rewritten.kept, subject, find_groups(traced), feeds, runtime, settings.rtol)
        if not proof.passed:
            raise ProofFailed(f"the proof failed: {proof.reason}", proof.node, proof.max_relative_error)
        current = rewritten.model
    settings.progress("prove", len(plans), len(plans))
    judged = chosen.evaluation or chosen
    agreement = evaluate(before.model, after.model, judged, batch_size(traced.shapes, judged), runtime)
    return CheckResult(proof, len(plans), changed, agreement, judged.source, chosen.notes)


def _plans(plan: Plan | str | os.PathLike[str] | None, sha256: str, pruned: onnx.ModelProto) -> list[Plan]:
    """The plans that lead from the original to the pruned file, in order."""
    if plan is not None:
        given = plan if isinstance(plan, Plan) else read_plan(Path(plan))
        if given.sha256 != sha256:
            raise ProofFailed(f"the plan belongs to another model than ORIGINAL ('{given.name}')")
        return [given]
    stamp = read_stamp(pruned)
    if not stamp:
        raise ProofFailed(f"PRUNED carries no readable stamp (metadata '{KEY}'); pass --plan")
    start = next((k for k, entry in enumerate(stamp) if entry.get("source_sha256") == sha256), None)
    if start is None:
        raise ProofFailed("PRUNED was not made from ORIGINAL: no entry of its stamp names ORIGINAL's sha256")
    return [plan_from_json(entry["plan"], "the stamp") for entry in stamp[start:]]


def _differences(expected: onnx.ModelProto, actual: Light) -> tuple[str, ...]:
    """Initializers whose values differ. Raises ProofFailed where more than values differs."""
    wanted, found = Graph(expected), Graph(actual.proto, actual.weights)
    if len(wanted.nodes) != len(found.nodes):
        raise ProofFailed(f"PRUNED has {len(found.nodes)} nodes, the plan gives {len(wanted.nodes)}")
    constants: list[str] = []
    for name, a, b in zip(wanted.names, wanted.nodes, found.nodes, strict=True):
        if (a.op_type, a.domain, list(a.input), list(a.output)) != (b.op_type, b.domain, list(b.input), list(b.output)):
            raise ProofFailed(f"node '{name}' of PRUNED is not the one that the plan gives", name)
        if _is_other_constant(a, b):
            constants.append(a.output[0])
        elif {x.name: x for x in a.attribute} != {x.name: x for x in b.attribute}:
            raise ProofFailed(f"node '{name}' of PRUNED has other attributes than the plan gives", name)
    if wanted.initializers.keys() != found.initializers.keys() or wanted.outputs != found.outputs:
        raise ProofFailed("PRUNED has other initializers or outputs than the plan gives")
    changed = constants
    for name, tensor in wanted.initializers.items():
        other = found.initializers[name]
        if list(tensor.dims) != list(other.dims) or tensor.data_type != other.data_type:
            raise ProofFailed(f"'{name}' of PRUNED has shape {list(other.dims)}, the plan gives {list(tensor.dims)}")
        value = found.array(name)
        if wanted.array(name).tobytes() != value.tobytes():
            if value.dtype.kind in "fV" and not np.isfinite(value.astype(np.float64)).all():
                raise ProofFailed(f"'{name}' of PRUNED holds NaN or infinite values")
            changed.append(name)
    return tuple(changed)


def _is_other_constant(a: onnx.NodeProto, b: onnx.NodeProto) -> bool:
    """Whether both are Constants of floats of one shape and type that differ in value, and are finite."""
    if a.op_type != "Constant" or b.op_type != "Constant" or a.attribute == b.attribute:
        return False
    one, two = constant_node_value(a), constant_node_value(b)
    if one is None or two is None or (one.shape, one.dtype) != (two.shape, two.dtype):
        return False
    return one.dtype.kind == "f" and bool(np.isfinite(two).all())
