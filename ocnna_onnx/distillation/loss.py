"""What the student is to come close to: the teacher's class scores, other outputs, and features.

loss = T² · KL(teacher ‖ student) at temperature T (Hinton, Vinyals, Dean 2015, eq. 1 and 2), or ‖b − a‖² / ‖a‖² of an
output without classes; + β · the mean over taps of ‖student − teacher[kept]‖² / ‖teacher[kept]‖² (METHODS §8).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..report.fidelity import KL, PROBABILITIES
from .lineage import Tap

if TYPE_CHECKING:
    import torch

TINY = 1e-12


@dataclass(frozen=True)
class Loss:
    """kinds: output -> how it is compared (`report.fidelity`). taps: in the order in which both nets return them,
    behind the outputs. temperature: T. features: β."""

    kinds: Mapping[str, str]
    outputs: tuple[str, ...]
    taps: tuple[Tap, ...]
    temperature: float
    features: float

    def __call__(self, student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor]) -> torch.Tensor:
        """One number, differentiable in the student's tensors. Both: outputs, then taps."""
        count = len(self.outputs)
        total: Any = 0.0
        for name, ours, theirs in zip(self.outputs, student[:count], teacher[:count], strict=True):
            if name in self.kinds:
                total = total + self._output(self.kinds[name], ours, theirs) / len(self.kinds)
        if self.taps and self.features:
            pairs = zip(self.taps, student[count:], teacher[count:], strict=True)
            each = [_relative(ours, _picked(theirs, tap)) for tap, ours, theirs in pairs]
            total = total + self.features * sum(each) / len(each)
        return total

    def _output(self, kind: str, ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        if kind not in (KL, PROBABILITIES):
            return _relative(ours, theirs)
        if kind == PROBABILITIES:
            ours, theirs = (x.clamp_min(TINY).log() for x in (ours, theirs))
        ours, theirs = ((x / self.temperature).log_softmax(1) for x in (ours, theirs))
        each = (theirs.exp() * (theirs - ours)).sum(1).mean()
        return each * self.temperature**2


def _picked(theirs: torch.Tensor, tap: Tap) -> torch.Tensor:
    import torch

    if tap.kept is None:
        return theirs
    return theirs.index_select(tap.axis, torch.from_numpy(tap.kept))


def _relative(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    return (ours - theirs).square().sum() / theirs.square().sum().clamp_min(TINY)
