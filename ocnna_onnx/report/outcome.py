"""Everything a run found, and its machine-readable form: report.json."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..data.samples import Samples
from ..model import cost
from ..model.constants import Constants
from ..model.graph import Graph
from ..model.load import LoadedModel
from ..plan.align import Alignment
from ..plan.plan import Plan
from ..plan.select import matches
from ..prove.proof import Proof
from ..repair.job import Repaired
from ..rewrite.rewrite import Rewritten
from ..trace.groups import Group
from ..trace.labels import BoolArray
from ..trace.types import Trace
from .evaluate import Agreement
from .inspection import wall_infos

SCHEMA = 1

REQUESTED = (
    *("target", "allocate", "align", "ratio", "percentile"),
    *("exclude", "keep", "max_cut", "min_channels", "strict_inputs"),
)
"""Options of a plan that say what was asked for."""

CALIBRATED = ", with those that calibrated: optimistic"
"""Said of samples that judge, where the data has none apart for that."""


@dataclass(frozen=True)
class Told:
    """What only the steps before the rewrite know. reachable: see `report.reach`. asked: the repair that was asked for,
    repair: the one that was made. tried: the cuts of a search, by target. choice: how the criterion was chosen, where
    that was asked for."""

    reachable: Mapping[str, Any]
    asked: str
    repair: str
    tried: Mapping[str, Any] = field(default_factory=dict)
    choice: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Outcome:
    """One finished run. timings: seconds per stage; reused: what was measured before it; distillation: what it did,
    where there was one."""

    loaded: LoadedModel
    trace: Trace
    groups: tuple[Group, ...]
    samples: Samples
    plan: Plan
    rewritten: Rewritten
    proof: Proof
    agreement: Agreement | None
    timings: Mapping[str, float]
    told: Told
    repaired: Repaired = field(default_factory=Repaired)
    reused: Sequence[str] = ()
    distillation: Mapping[str, Any] | None = None

    def _judged_on(self) -> str:
        """The samples of the agreement: the data's own test part; else all, or those that a distillation held out."""
        if self.samples.evaluation is not None:
            return self.samples.evaluation.source
        if self.distillation is not None:
            return f"the {self.distillation['held_out']} held out"
        return self.samples.source + (CALIBRATED if self.samples.real else "")

    def to_json(self, version: str) -> dict[str, Any]:
        """The dictionary of report.json."""
        trace, batch, plan, rewritten = self.trace, self.trace.shapes.batch, self.plan, self.rewritten
        cut = not rewritten.kept.keep.all()
        small = Graph(rewritten.model if cut else trace.graph.proto)
        before = {
            "params": cost.parameters(trace.graph, trace.constants),
            "macs": sum(cost.macs(trace.graph, trace.shapes.shape).values()) // batch,
            "bytes": self.loaded.bytes,
        }
        after = {
            "params": cost.parameters(
                small,
                Constants(small, rewritten.shapes, trace.constants.runtime, None, trace.shapes.dtype),
                trace.constants.live,
            ),
            "macs": sum(cost.macs(small, rewritten.shapes).values()) // batch,
            "bytes": rewritten.model.ByteSize(),
        }
        groups = [_group_row(trace, g, rewritten.kept.keep) for g in self.groups]
        units = sum(g["units"] for g in groups)
        removed = sum(g["removed"] for g in groups)
        requested = {k: v for k, v in plan.options.items() if k in REQUESTED}
        layers = self.repaired.layers
        return {
            "schema": SCHEMA,
            "tool": f"ocnna-onnx {version}",
            "model": {"sha256": self.loaded.sha256, "name": self.loaded.name},
            "criterion": plan.criterion,
            "criterion_choice": self.told.choice,
            "seed": plan.seed,
            "data": {
                "source": self.samples.source,
                "preprocessing": self.samples.preprocessing,
                "samples": self.samples.count,
                "real": self.samples.real,
                "evaluated_on": self._judged_on(),
            },
            "before": before,
            "after": after,
            "requested": {**requested, "repair": self.told.asked},
            "reachable": dict(self.told.reachable),
            "obtained": {
                "targets": plan.measured.get("targets", []),
                "tried": dict(self.told.tried),
                "alignment": _alignment(plan, groups),
                "repair": {
                    "method": self.told.repair if cut else "none",
                    "weights": len(self.repaired.values),
                    "layers": len(layers) if self.repaired.values else 0,
                },
                "units": units,
                "removable": sum(g["removable"] for g in groups),
                "removed": removed,
                "params_ratio": after["params"] / max(1, before["params"]),
                "macs_ratio": after["macs"] / max(1, before["macs"]),
            },
            "proof": self.proof.to_json(),
            "agreement": None if self.agreement is None else self.agreement.to_json(),
            "accuracy": None if self.agreement is None else self.agreement.accuracy_json(),
            "groups": groups,
            "walls": [
                {"node": w.node, "op": w.op, "tensor": w.tensor, "reason": w.reason}
                for w in wall_infos(trace, self.groups)
            ],
            "cuts": [c.to_json() for c in rewritten.cuts],
            "rewrites": list(rewritten.rewrites),
            "repaired": sorted(self.repaired.values),
            "layers_repaired": {n: {"before": a, "after": b} for n, (a, b) in layers.items()},
            "pairs_repaired": {n: {"with": f, "left": share} for n, (f, share) in self.repaired.pairs.items()},
            "distillation": None if self.distillation is None else dict(self.distillation),
            "warnings": self.warnings(),
            "reused": list(self.reused),
            "timings": {k: round(v, 4) for k, v in self.timings.items()},
        }

    def warnings(self) -> list[str]:
        """What a person should know about this run."""
        found = [*self.samples.notes, *self.repaired.notes]
        if not self.samples.real:
            found.append(
                f"no samples of yours (--data): calibrated and compared on {self.samples.source} "
                f"({self.samples.preprocessing}); not measured on your data, not repaired: real samples score better"
            )
        inputs = {i.name for i in self.loaded.proto.graph.input}
        overridable = sorted({c.tensor for c in self.rewritten.cuts} & inputs)
        if overridable:
            found.append(
                f"{len(overridable)} weights that were cut are also graph inputs ('{overridable[0]}', …): their input "
                "shapes were cut too, and the proof holds for the default values"
                + (" (--strict-inputs leaves them alone)" if self.trace.graph.overridable else "")
            )
        for row in self.plan.measured.get("targets", ()):
            seen = row.get("measured", {})
            asked = row["asked"].partition("=")[2].rstrip("%p ")
            if row["kind"] == "drop" and seen.get("floor", 0.0) * 100 > float(asked or 0):
                found.append(
                    f"{seen['samples']} held-out samples cannot show a drop below {100 * seen['floor']:.2f} pp, so "
                    f"nothing can go for {row['asked']}: give more samples (--samples)"
                )
        edits = self.trace.unfolded.edits if not self.rewritten.kept.keep.all() else ()
        if edits:
            found.append(
                f"{len(edits)} function calls or branches that are always taken ('{edits[0]['node']}', …) were written "
                "as nodes of the main graph, so that channels in them could go; their layers go by their names there"
            )
        names, operators = self.trace.graph.names, {n.op_type for n in self.trace.graph.nodes}
        for option in ("exclude", "keep", "max_cut"):
            for pattern in self.plan.options.get(option, ()):
                by_operator = option == "exclude" and pattern.startswith("op:")
                hit = pattern[3:] in operators if by_operator else any(matches(n, pattern) for n in names)
                if not hit:
                    found.append(f"--{option.replace('_', '-')} '{pattern}' matches nothing in this model")
        if self.proof.twin:
            found.append(
                "the model computes in bfloat16, which onnxruntime cannot run here: scored, compared and proven as its "
                f"{self.proof.twin} twin (the same weights, nothing rounded between the layers)"
            )
        if self.proof.ill_conditioned:
            found.append(
                f"{len(self.proof.ill_conditioned)} tensors are ill-conditioned: onnxruntime differs from itself there "
                "by more than a tenth of the tolerance, which followed that rounding noise"
            )
        return found


def _alignment(plan: Plan, groups: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What was asked of channel counts, and on which multiple (a power of two, at most that) those of the groups end
    that were cut: multiple -> groups. None where nothing was asked."""
    if "align" not in plan.options:
        return None
    measured = plan.measured.get("alignment")
    asked = Alignment(int(plan.options["align"]), adaptive=measured is not None)
    ends: dict[int, int] = {}
    met = 0
    for group in (g for g in groups if g["removed"]):
        wanted, count = asked.of(group["channels"]), group["channels_after"]
        ends[math.gcd(count, asked.multiple)] = ends.get(math.gcd(count, asked.multiple), 0) + 1
        met += count % wanted == 0
    return {
        "asked": asked.multiple,
        "measured": measured is not None,
        "groups": sum(ends.values()),
        "met": met,
        "multiples": {str(m): ends[m] for m in sorted(ends, reverse=True)},
    }


def _group_row(trace: Trace, group: Group, keep: BoolArray) -> dict[str, Any]:
    members = [trace.sources[s] for s in group.sources]
    largest = max(members, key=lambda s: len(s.units))
    gone = np.unique(trace.unit_class[np.concatenate([s.units[~keep[s.units]] for s in members])])
    return {
        "id": group.id,
        "members": [trace.graph.names[s.node] for s in members],
        "consumers": [trace.graph.names[n] for n in group.consumers],
        "channels": len(largest.units),
        "channels_after": int(keep[largest.units].sum()),
        "units": len(group.classes),
        "removable": len(group.free),
        "removed": len(gone),
    }
