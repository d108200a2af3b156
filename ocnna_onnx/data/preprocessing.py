"""Preprocessing of pictures, resolved for one input of the model: which pixels, then which numbers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..errors import DataError, UsageError
from ..model.graph import AnyArray
from .imageoptions import ImageOptions, Size, factor, numbers, sized
from .inputs import ImageInput

if TYPE_CHECKING:
    from PIL import Image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
COVER = 256 / 224
"""The usual ratio of the resized picture to its centre crop."""
GREY = 114
"""What YOLO pads with."""

MODES = {"grey": "L", "rgb": "RGB", "bgr": "RGB", "rgba": "RGBA"}


@dataclass(frozen=True)
class Resize:
    """cover: the smallest size of the same aspect with at least these sides; fit: the largest within them, padded;
    exact: these sides; none: as it is."""

    kind: Literal["cover", "fit", "exact", "none"]
    size: Size = (0, 0)


@dataclass(frozen=True)
class Preprocessing:
    """What is done to a picture for one input: resized (bilinear), cropped around its centre, then per channel
    (x · scale - mean) / std.

    lenient: pictures of the input's size are left alone by resize and crop. color: `rgb`, `bgr`, `rgba` or `grey`.
    mean, std: one number per channel of the input.
    """

    target: ImageInput
    resize: Resize
    crop: Size | None
    lenient: bool
    color: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def mode(self) -> str:
        """Pillow's name of the pixels that `feed` takes."""
        return MODES[self.color]

    @cached_property
    def table(self) -> AnyArray:
        """[channels, 256]: the number that each byte becomes, computed in float64."""
        mean, std = np.reshape(self.mean, (-1, 1)), np.reshape(self.std, (-1, 1))
        return np.asarray((np.arange(256) * self.scale - mean) / std, self.target.dtype)

    def feed(self, picture: Image.Image, name: str) -> AnyArray:
        """A picture in `mode` as one sample in the input's layout and type. Raises DataError where its size cannot be
        made the input's."""
        pixels = np.asarray(self._placed(picture, name))
        if pixels.ndim == 2:
            pixels = pixels[:, :, None]
        if self.color == "bgr":
            pixels = pixels[:, :, ::-1]
        channels = [np.take(row, pixels[:, :, min(k, pixels.shape[2] - 1)]) for k, row in enumerate(self.table)]
        return np.stack(channels, axis=2 if self.target.channels_last else 0)

    def _placed(self, picture: Image.Image, name: str) -> Image.Image:
        from PIL import Image

        wanted = (self.target.width, self.target.height)
        if self.lenient and picture.size == wanted:
            return picture
        size = self._resized(picture.size)
        if size != picture.size:
            picture = picture.resize(size, Image.Resampling.BILINEAR)
        if self.resize.kind == "fit":
            height, width = self.resize.size
            left, top = round((width - size[0]) / 2 - 0.1), round((height - size[1]) / 2 - 0.1)
            padded = Image.new(picture.mode, (width, height), (GREY,) * len(picture.getbands()))
            padded.paste(picture, (left, top))
            picture = padded
        if self.crop is not None:
            left, top = round((picture.width - self.crop[1]) / 2), round((picture.height - self.crop[0]) / 2)
            if min(left, top) < 0:
                size_text = f"{picture.height}×{picture.width}"
                raise DataError(f"{name}: is {size_text} where {self.crop[0]}×{self.crop[1]} are to be cut out")
            picture = picture.crop((left, top, left + self.crop[1], top + self.crop[0]))
        if picture.size != wanted:
            raise DataError(
                f"{name}: is {picture.height}×{picture.width} after resize and crop, input '{self.target.name}' takes "
                f"{wanted[1]}×{wanted[0]}; set --resize or --crop"
            )
        return picture

    def _resized(self, size: Size) -> Size:
        """(width, height) of a picture of (width, height) after the resize, rounded as torchvision does."""
        width, height = size
        tall, wide = self.resize.size
        if self.resize.kind == "none":
            return size
        if self.resize.kind == "exact":
            return wide, tall
        if self.resize.kind == "fit":
            ratio = min(tall / height, wide / width)
            return max(1, min(wide, round(width * ratio))), max(1, min(tall, round(height * ratio)))
        if tall * width >= wide * height:  # the height is the tight side
            return max(wide, int(tall * width / height)), tall
        return wide, max(tall, int(wide * height / width))

    def __str__(self) -> str:
        tall, wide = self.resize.size
        geometry = {
            "cover": f"short side to {tall}" if tall == wide else f"resized to cover {tall}×{wide}",
            "fit": f"letterboxed into {tall}×{wide} on grey {GREY}",
            "exact": f"stretched to {tall}×{wide}",
            "none": "not resized",
        }[self.resize.kind]
        geometry += " (bilinear)" if self.resize.kind != "none" else ""
        geometry += f", centre crop {self.crop[0]}×{self.crop[1]}" if self.crop is not None else ""
        geometry += " (those of the input's size as they are)" if self.lenient and self.resize.kind == "cover" else ""
        return f"{geometry}, {self.numbers}"

    @property
    def numbers(self) -> str:
        """What is done to the pixels' values, and in which order they lie, in words."""
        if self.target.dtype == np.uint8:
            values = "bytes 0 … 255"
        elif (self.scale, set(self.mean), set(self.std)) == (1.0, {0.0}, {1.0}):
            values = "0 … 255"
        else:
            inverse = 1 / self.scale
            scale = f"x/{inverse:g}" if abs(inverse) >= 1 and self.scale != 1 else f"x·{self.scale:g}"
            values = f"{scale}, mean {_text(self.mean)}, std {_text(self.std)}"
        layout = "NHWC" if self.target.channels_last else "NCHW"
        return f"{values}, {self.color.upper() if self.color != 'grey' else 'grey'}, {layout}"


def _text(values: tuple[float, ...]) -> str:
    return ",".join(f"{v:g}" for v in (values if len(set(values)) > 1 else values[:1]))


def resolve(options: ImageOptions, target: ImageInput) -> Preprocessing:
    """What the options mean for this input. Raises UsageError where they do not fit it."""
    color = _color(options, target)
    resize, crop, lenient = _geometry(options, target)
    scale, mean, std = _values(options, target, color)
    return Preprocessing(target, resize, crop, lenient, color, scale, mean, std)


def _color(options: ImageOptions, target: ImageInput) -> str:
    usual = {1: "grey", 3: "rgb", 4: "rgba"}[target.channels]
    wanted = usual if options.color == "auto" else options.color
    if wanted in ("rgb", "bgr") and target.channels != 3:
        raise UsageError(f"color {wanted}: input '{target.name}' has {target.channels} channels")
    return wanted


def _geometry(options: ImageOptions, target: ImageInput) -> tuple[Resize, Size | None, bool]:
    """(resize, crop, lenient)."""
    own: Size = (target.height, target.width)
    resize = sized("resize", options.resize, ("letterbox", "stretch", "none"))
    crop = sized("crop", options.crop, ("none",))
    window = (
        own if crop is None else None if isinstance(crop, str) else crop if isinstance(crop, tuple) else (crop,) * 2
    )
    if window is not None and window != own:
        raise UsageError(
            f"crop {window[0]}×{window[1]}: input '{target.name}' takes {own[0]}×{own[1]}; leave --crop out"
        )
    lenient = options.resize is None and options.crop is None
    if resize is None:
        resize = {"yolo": "letterbox", "none": "stretch"}.get(options.preset or "")
    if resize is None:
        return Resize("cover", (round(own[0] * COVER), round(own[1] * COVER))), own, lenient
    if resize == "letterbox":
        return Resize("fit", own), None, lenient
    if resize == "stretch":
        return Resize("exact", own), None, lenient
    if resize == "none":
        return Resize("none"), window, lenient
    if isinstance(resize, int):
        if window is not None and resize < max(window) and window[0] == window[1]:
            raise UsageError(f"resize {resize}: input '{target.name}' takes {own[0]}×{own[1]}, which is more")
        return Resize("cover", (resize, resize)), window, lenient
    assert isinstance(resize, tuple)
    if (window is None and resize != own) or min(r - o for r, o in zip(resize, own, strict=True)) < 0:
        raise UsageError(f"resize {resize[0]}×{resize[1]}: input '{target.name}' takes {own[0]}×{own[1]}")
    return Resize("exact", resize), window if resize != own else None, lenient


def _values(
    options: ImageOptions, target: ImageInput, color: str
) -> tuple[float, tuple[float, ...], tuple[float, ...]]:
    """(scale, mean, std), the latter one per channel."""
    mean, std, scale = numbers("mean", options.mean), numbers("std", options.std), factor(options.scale)
    named = {"mean": mean, "std": std, "scale": scale}
    asked = next((name for name, value in named.items() if value is not None), None)
    if target.dtype == np.uint8:
        if asked is not None:
            raise UsageError(f"{asked}: input '{target.name}' takes bytes (0 … 255), which go in as they are")
        return 1.0, (0.0,) * target.channels, (1.0,) * target.channels
    preset = options.preset or ("plain" if asked is not None else "imagenet")
    usual = {
        "imagenet": (1 / 255, IMAGENET_MEAN, IMAGENET_STD),
        "tf": (1 / 127.5, (1.0,), (1.0,)),
        "none": (1.0, (0.0,), (1.0,)),
    }.get(preset, (1 / 255, (0.0,), (1.0,)))
    scale = usual[0] if scale is None else scale
    flip = -1 if color == "bgr" else 1  # a preset's numbers are in the order of RGB, the user's in the input's
    found = []
    for name, own, other in (("mean", mean, usual[1][::flip]), ("std", std, usual[2][::flip])):
        row = own
        if row is None:
            row = other if len(other) in (1, target.channels) else (round(sum(other) / len(other), 6),)
        if len(row) not in (1, target.channels):
            raise UsageError(f"{name} has {len(row)} numbers, input '{target.name}' has {target.channels} channels")
        found.append(row if len(row) == target.channels else row * target.channels)
    low, high = sorted((0.0, 255 * scale))
    if mean is not None and not low - 1e-6 <= min(mean) <= max(mean) <= high + 1e-6:
        raise UsageError(
            f"mean {_text(mean)} lies outside {low:g} … {high:g}, where scale {scale:g} puts the pixels; mean and std "
            "are in units after the scale (for those of 0 … 255: --scale 1)"
        )
    return scale, found[0], found[1]
