"""How a budget is to be met, and how it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .alignment import measured_alignment
from .errors import UsageError
from .model.session import Runtime
from .plan.align import Alignment
from .plan.decide import Decided
from .plan.targets import Target
from .repair.job import Repaired
from .trace.labels import IntArray


@dataclass(frozen=True)
class Wishes:
    """How a budget is to be met. allocate: `sensitivity` or `uniform`. align: on which multiples channel counts end.
    keep: glob -> channels that its layers keep at least; max_cut: glob -> share that they lose at most. measured: what
    was timed for it. mended: whether what is left will be repaired by least squares."""

    targets: tuple[Target, ...]
    allocate: str = "sensitivity"
    align: Alignment = Alignment()
    min_channels: int = 1
    keep: Mapping[str, int] = field(default_factory=dict)
    max_cut: Mapping[str, float] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)
    mended: bool = False


@dataclass(frozen=True)
class Met:
    """decided: what goes. reached: target -> what the plan comes to, in its own unit. short: targets that are not met.
    told: for the report. reachable: target -> the least that it could come to (None: nobody knows), deepest: what goes
    then. tried: target that can only be measured -> the cuts of its search, in order. repaired: the repair of this very
    cut, where it was made on the way."""

    decided: Decided
    reached: dict[str, float]
    short: tuple[Target, ...]
    told: dict[str, Any]
    reachable: Mapping[str, float | None]
    deepest: IntArray
    tried: Mapping[str, list[dict[str, Any]]]
    repaired: Repaired | None = None

    def describe(self, target: Target) -> str:
        """What was reached, in the target's unit."""
        value = self.reached[target.kind]
        if target.relative:
            return f"{target.kind} {100 * value:.1f}%"
        return f"{target.kind} {value * 1e3:.2f} ms" if target.kind == "latency" else f"{target.kind} {value:,.0f}"

    def to_json(self, targets: Sequence[Target]) -> list[dict[str, Any]]:
        """One row per target: asked, reachable, reached, whether it is met, and what was measured for it."""
        return [
            {
                "asked": t.text,
                "kind": t.kind,
                "reachable": self.reachable[t.kind],
                "reached": self.reached[t.kind],
                "met": t not in self.short,
                **({"measured": self.told[t.kind]} if t.kind in self.told else {}),
            }
            for t in targets
        ]


def wishes_of(
    targets: tuple[Target, ...],
    allocation: str,
    align: int | str,
    min_channels: int,
    keep: Mapping[str, int] | None,
    max_cut: Mapping[str, float] | None,
    runtime: Runtime,
) -> Wishes:
    """The user's options, once they are seen to be in range. Raises UsageError."""
    if allocation not in ("sensitivity", "uniform"):
        raise UsageError(f"unknown allocation '{allocation}'; choose sensitivity or uniform")
    if not targets and (keep or max_cut):
        raise UsageError(
            "keep and max_cut bound what a target takes; a ratio or percentile asks for its share of every group "
            "(exclude leaves layers alone, min_channels holds for all)"
        )
    for pattern, least in (keep or {}).items():
        if not isinstance(least, int) or least < 1:
            raise UsageError(f"keep {pattern}={least}: a number of channels, at least 1")
    for pattern, share in (max_cut or {}).items():
        if not 0 <= share <= 1:
            raise UsageError(f"max_cut {pattern}={share}: a share from 0 to 1")
    if not targets and str(align) not in ("auto", "1"):
        raise UsageError("align rounds what a target takes; a ratio or percentile takes its share of every group")
    measured: dict[str, Any] = {}
    if align == "auto":
        alignment = Alignment()
        if targets:
            multiple = measured_alignment(runtime)
            alignment, measured = Alignment(multiple, adaptive=True), {"alignment": multiple}
    elif str(align) in ("1", "2", "4", "8", "16", "32", "64"):
        alignment = Alignment(int(align))
    else:
        raise UsageError(f"align {align!r}: choose auto, 1, 4, 8, 16 or 32")
    return Wishes(targets, allocation, alignment, min_channels, keep or {}, max_cut or {}, measured)
