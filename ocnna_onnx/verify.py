"""`check`: whether a pruned file is what it says it is, at any later time, from its stamp or from a plan."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from .calibrate.stream import batch_size
from .data.samples import probe_shapes, probe_values
from .errors import DataError, ProofFailed
from .finishing import proof_feeds
from .model.light import Light
from .model.load import load
from .model.session import open_session
from .model.stamp import KEY, read_stamp
from .pipeline import is_strict
from .plan.plan import Plan, plan_from_json, planned, read_plan
from .prove.proof import Proof, prove
from .report.evaluate import Agreement, evaluate
from .rewrite.only import only_values
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
        changed = only_values(rewritten.model, after.model) if final else ()
        # changed weights are somebody's repair: what can be proven is the surgery they started from
        subject = after.model if final and not changed else rewritten.model
        feeds = proof_feeds(traced, chosen, settings.seed)
        proof = prove(
            rewritten.kept,
            subject,
            find_groups(traced),
            feeds,
            runtime,
            settings.rtol,
            lambda done, total: settings.progress("prove", done, total),
        )
        if not proof.passed:
            raise ProofFailed(f"the proof failed: {proof.reason}", proof.node, proof.max_relative_error)
        current = rewritten.model
    settings.progress("prove", 1, 1)
    judged = chosen.evaluation or chosen
    agreement = evaluate(
        before.model,
        after.model,
        judged,
        batch_size(traced.shapes, judged),
        runtime,
        lambda done, total: settings.progress("evaluate", done, total),
    )
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
