"""What the user asks of the preprocessing of pictures: a preset, and what overrides it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ..errors import UsageError

PRESETS = ("imagenet", "tf", "yolo", "none")
LAYOUTS = ("auto", "NCHW", "NHWC")
COLORS = ("auto", "rgb", "bgr", "grey")

Size = tuple[int, int]
Numbers = float | str | Sequence[float] | None


@dataclass(frozen=True)
class ImageOptions:
    """How pictures become feeds: y = (x · scale - mean) / std of pixels x in 0 … 255, after resize and crop.

    preset: `imagenet` (resized so that they cover 256/224 of the input's size, centre crop, x / 255, ImageNet's mean
    and deviation), `tf` (the same places, x / 127.5 - 1), `yolo` (letterbox on grey 114, x / 255), `none` (stretched, 0
    … 255), or None: imagenet where the input takes floats; bytes go in as they are in any case.
    mean, std: one number or one per channel in the order of the input's channels, in units after `scale`. scale: a
    factor, also "1/255". Where one of these three is given and no preset, the others are scale 1/255, mean 0, std 1.
    resize: N (the short side), (height, width) or "HxW", "letterbox", "stretch" (to the input's size), "none".
    crop: N or (height, width) or "HxW" around the centre, or "none". layout: `NCHW`, `NHWC`, or `auto` by the input's
    shape. color: `rgb`, `bgr`, `grey` (repeated where the input has three channels), or `auto` by the input's channels.
    """

    preset: str | None = None
    mean: Numbers = None
    std: Numbers = None
    scale: float | str | None = None
    resize: int | Size | str | None = None
    crop: int | Size | str | None = None
    layout: str = "auto"
    color: str = "auto"

    @property
    def given(self) -> list[str]:
        """The names of the options that differ from their default."""
        return [f.name for f in fields(self) if getattr(self, f.name) != f.default]


def image_options(value: ImageOptions | Mapping[str, Any] | str | None) -> ImageOptions:
    """Options as the user may write them: a preset's name, a mapping, the object itself, or None. Raises UsageError."""
    if value is None or isinstance(value, ImageOptions):
        options = value or ImageOptions()
    elif isinstance(value, str):
        options = ImageOptions(value)
    elif isinstance(value, Mapping):
        known = [f.name for f in fields(ImageOptions)]
        unknown = [str(k) for k in value if k not in known]
        if unknown:
            raise UsageError(f"image has no option '{unknown[0]}' ({', '.join(known)})")
        options = ImageOptions(**value)
    else:
        raise UsageError(f"image {value!r} is no preset's name and no mapping of options")
    for name, found, choices in (
        ("preset", options.preset, PRESETS),
        ("layout", options.layout, LAYOUTS),
        ("color", options.color, COLORS),
    ):
        if found is not None and found not in choices:
            raise UsageError(f"{name} '{found}' is unknown; choose one of {', '.join(choices)}")
    numbers("mean", options.mean)
    if any(v == 0 for v in numbers("std", options.std) or ()):
        raise UsageError("std 0: a division by zero")
    factor(options.scale)
    sized("resize", options.resize, ("letterbox", "stretch", "none"))
    sized("crop", options.crop, ("none",))
    return options


def numbers(name: str, value: Numbers) -> tuple[float, ...] | None:
    """One number, several, or text with commas between them. Raises UsageError."""
    if value is None:
        return None
    parts: Sequence[Any] = value.split(",") if isinstance(value, str) else np.ravel(np.asarray(value)).tolist()
    try:
        found = tuple(float(p) for p in parts)
    except (TypeError, ValueError):
        found = ()
    if not found or not np.isfinite(found).all():
        raise UsageError(f"{name} {value!r}: expected numbers, one or one per channel, as 0.485,0.456,0.406")
    return found


def factor(value: float | str | None) -> float | None:
    """A number, or text as `1/255`. Raises UsageError."""
    if value is None:
        return None
    try:
        above, slash, below = str(value).partition("/")
        found = float(above) / (float(below) if slash else 1.0)
    except (ValueError, ZeroDivisionError):
        found = 0.0
    if not found or not np.isfinite(found):
        raise UsageError(f"scale {value!r}: expected a factor, as 1/255 or 0.00392")
    return found


def sized(name: str, value: int | Size | str | None, words: Sequence[str]) -> int | Size | str | None:
    """One of the words, a number N, or (height, width). Raises UsageError."""
    if value is None or value in words:
        return value
    parts: Sequence[Any] = value.split("x") if isinstance(value, str) else np.ravel(np.asarray(value)).tolist()
    try:
        found = tuple(int(p) for p in parts)
    except (TypeError, ValueError):
        found = ()
    if len(found) not in (1, 2) or min(found) < 1:
        raise UsageError(f"{name} {value!r}: expected N, HEIGHTxWIDTH, {', '.join(words)}")
    return found[0] if len(found) == 1 else (found[0], found[1])
