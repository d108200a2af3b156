"""`--target macs=50%`: budgets in the units that people care about."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from ..errors import UsageError

Kind = Literal["macs", "params", "bytes", "latency", "drop"]

COUNTS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9}
COUNTS |= {"kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30}
TIMES = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True)
class Target:
    """value: a share of the original's where `relative` (of `drop`: of everything, 0.01 is one percentage point), else
    a count, bytes, or seconds. text: as the user wrote it."""

    kind: Kind
    value: float
    relative: bool
    text: str

    def limit(self, original: float) -> float:
        """The most that the result may have, where the original has so much."""
        return self.value * original if self.relative else self.value


def parse_targets(given: str | Sequence[str]) -> tuple[Target, ...]:
    """`macs=50%`, `params=1.2M`, `bytes=5MB`, `latency=70%` or `10ms`, `drop=1%`; several with commas, or in a list.
    Raises UsageError."""
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, Sequence) or any(not isinstance(t, str) for t in texts):
        raise UsageError(f"target {given!r} is no budget: give macs=50%, params=…, bytes=…, latency=… or drop=…")
    parts = [p.strip() for text in texts for p in text.split(",") if p.strip()]
    if not parts:
        raise UsageError("target is empty: give macs=50%, params=…, bytes=…, latency=… or drop=…")
    found = [_parsed(p) for p in parts]
    for target in found:
        if sum(t.kind == target.kind for t in found) > 1:
            raise UsageError(f"target {target.kind} is given twice")
    return tuple(found)


def _parsed(text: str) -> Target:
    kind, _, value = (p.strip().lower() for p in text.partition("="))
    if kind not in get_args(Kind):
        raise UsageError(f"target '{text}': '{kind}' is none of {', '.join(get_args(Kind))}")
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(%|pp|[a-zµ]*)", value)
    if match is None:
        raise UsageError(f"target '{text}' is not understood: give {kind}=50% or a number")
    number, unit = float(match[1]), match[2]
    if unit in ("%", "pp") or (kind == "drop" and not unit):
        share = number / 100
    elif not unit and kind != "bytes" and number <= 1:
        share = number  # macs=0.5 means a half; nobody wants half a multiplication
    else:
        units = TIMES if kind == "latency" else COUNTS
        if unit not in units or kind == "drop":
            known = ", ".join(u for u in units if u)
            raise UsageError(f"target '{text}': unit '{unit}' is not understood (of {kind}: %, {known})")
        return Target(cast(Kind, kind), number * units[unit], False, text)
    if kind != "drop" and not 0 < share <= 1:
        raise UsageError(f"target '{text}' is out of range: what is left, more than 0 and at most 100 %")
    if kind == "drop" and not 0 <= share < 1:
        raise UsageError(f"target '{text}' is out of range: 0 ≤ drop < 100 percentage points")
    return Target(cast(Kind, kind), share, True, text)
