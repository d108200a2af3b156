"""How much is to go: what the user asked for, once it is seen to be in range, or what it is by default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .errors import UsageError
from .heldout import can_show
from .plan.select import Cut
from .plan.targets import Target, parse_targets

DEFAULT_TARGET, BLIND_TARGET = "drop=1%", "macs=90%"
"""With data, and without: then nothing about the user's samples can be measured."""


@dataclass(frozen=True)
class Asked:
    """targets: budgets; where there are none, `cut` says what goes. by_default: nobody asked for anything."""

    targets: tuple[Target, ...]
    cut: Cut
    by_default: bool = False

    @property
    def drops(self) -> bool:
        """Whether a drop is to be measured, for which samples are held out."""
        return any(t.kind == "drop" for t in self.targets)


def asked_for(
    target: str | Sequence[str] | None, ratio: float | None, percentile: float | None, min_channels: int, data: bool
) -> Asked:
    """The user's options, of which one at most says how much goes. data: whether there are samples of the user's own.
    Raises UsageError."""
    cut = Cut(ratio, percentile, min_channels)
    _check(cut)
    by_cut = ratio is not None or percentile is not None
    if target is not None and by_cut:
        raise UsageError("give either a target, a ratio or a percentile")
    if by_cut:
        return Asked((), cut)
    if target is not None:
        return Asked(parse_targets(target), cut)
    return Asked(parse_targets(DEFAULT_TARGET if data else BLIND_TARGET), cut, by_default=True)


def within_sight(asked: Asked, samples: int) -> tuple[Asked, tuple[str, ...]]:
    """What so many samples can show, if nobody insisted on more; and a note where that is less."""
    if not asked.by_default or not asked.drops or can_show(asked.targets[0].value, samples):
        return asked, ()
    note = (
        f"{samples} samples are too few to promise {DEFAULT_TARGET} (by default): cut to {BLIND_TARGET} instead, not "
        "measured on your data"
    )
    return replace(asked, targets=parse_targets(BLIND_TARGET)), (note,)


def _check(cut: Cut) -> None:
    if cut.ratio is not None and cut.percentile is not None:
        raise UsageError("give either a ratio or a percentile, not both")
    for name, number in (("ratio", cut.ratio), ("percentile", cut.percentile)):
        if number is not None and not isinstance(number, (int, float)):
            raise UsageError(f"{name} {number!r} is no number")
    if cut.ratio is not None and not 0 <= cut.ratio < 1:
        raise UsageError(f"ratio {cut.ratio:g} is out of range: 0 ≤ ratio < 1 (the share of every group that goes)")
    if cut.percentile is not None and not 0 <= cut.percentile < 100:
        raise UsageError(f"percentile {cut.percentile:g} is out of range: 0 ≤ percentile < 100")
    if cut.min_channels < 1:
        raise UsageError(f"min_channels {cut.min_channels} is out of range: at least 1")
