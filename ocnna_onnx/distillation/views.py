"""Views of pictures: shifted, flipped where that makes another picture of the same kind, blended with each other. Both
nets see the same view, so none of this needs to keep a label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..data.inputs import ImageInput
from ..errors import UsageError

if TYPE_CHECKING:
    import torch

WAYS = ("shift", "flip", "mix")
REACH = 16
"""Pictures are shifted by up to side / REACH pixels, either way."""


@dataclass(frozen=True)
class Views:
    """ways: which of WAYS. image: the input that takes the pictures."""

    image: ImageInput
    ways: frozenset[str]

    def __call__(self, pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """float [n, C, H, W] ([n, H, W, C] where the input has channels last) -> the same shape. Edges are repeated
        where a shift uncovers something: what black or zero is depends on the preprocessing, which is not ours to
        know."""
        import torch

        x = pictures.permute(0, 3, 1, 2) if self.image.channels_last else pictures
        count, _, height, width = x.shape
        columns, rows = (
            _shifted(width, count, generator, "shift" in self.ways),
            _shifted(height, count, generator, "shift" in self.ways),
        )
        if "flip" in self.ways:
            flipped = torch.rand(count, generator=generator) < 0.5
            columns = torch.where(flipped[:, None], columns.flip(1), columns)
        each = torch.arange(count)[:, None, None]
        x = x.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]]  # [n, H, W, C]
        if "mix" in self.ways:
            share = torch.rand(count, 1, 1, 1, generator=generator)
            x = torch.lerp(x, x[torch.randperm(count, generator=generator)], share / 2)
        return x.contiguous() if self.image.channels_last else x.permute(0, 3, 1, 2).contiguous()


def _shifted(size: int, count: int, generator: torch.Generator, moves: bool) -> torch.Tensor:
    """int64 [count, size]: from which position along an axis each one comes."""
    import torch

    reach = size // REACH if moves else 0
    by = torch.randint(-reach, reach + 1, (count, 1), generator=generator)
    return (torch.arange(size)[None] + by).clamp(0, size - 1)


def is_auto(asked: str | Sequence[str]) -> bool:
    """Whether the choice is left to us."""
    return [n.strip() for n in ([asked] if isinstance(asked, str) else asked)] == ["auto"]


def ways_of(asked: str | Sequence[str], default: frozenset[str]) -> frozenset[str]:
    """The ways that the user names (`auto`: these), with commas in between or as a sequence. Raises UsageError."""
    names = [n.strip() for n in asked.split(",")] if isinstance(asked, str) else list(asked)
    if is_auto(asked):
        return default
    if names in ([], ["none"], [""]):
        return frozenset()
    wrong = next((n for n in names if n not in WAYS), None)
    if wrong is not None:
        raise UsageError(f"augment '{wrong}' is unknown; choose auto, none, or some of {', '.join(WAYS)}")
    return frozenset(names)
