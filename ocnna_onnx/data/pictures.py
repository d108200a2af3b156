"""Picture files, whatever their kind, as bytes: grey, RGB or RGBA, the right way up."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = frozenset(
    ".png .jpg .jpeg .jpe .jfif .bmp .dib .gif .webp .tif .tiff .ppm .pgm .pbm .pnm .jp2 .j2k .avif .tga .ico".split()
)

TAIL = 1 << 16
"""A whole JPEG ends with its end marker; behind it cameras and editors put at most about so much."""


def is_picture(path: Path) -> bool:
    """Whether the name is that of a picture file. Hidden files are none."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def damage(path: Path) -> str:
    """Why the file is no whole picture, or "". Cheap: the header is read, and what tells that the end is missing; all
    of it is decoded only where that leaves doubt."""
    try:
        with _opened(path) as picture:
            kind = picture.format
            _mode(picture)
            if kind == "PNG":
                picture.verify()  # the checksums of all parts, no pixels
                return ""
        if kind in ("JPEG", "MPO"):
            with path.open("rb") as stream:
                size = stream.seek(0, 2)
                stream.seek(max(0, size - TAIL))
                if b"\xff\xd9" in stream.read():
                    return ""
        with _opened(path) as picture:
            picture.load()
    except DataError as error:
        return str(error)
    return ""


def decode(path: Path, mode: str) -> Image.Image:
    """The first frame as `L` (grey), `RGB` or `RGBA`, 8 bits each. Rotated as its EXIF data says; alpha is dropped
    unless the mode has it, as training code does; CMYK is converted by Pillow; 16-bit grey is scaled (x / 257).

    Raises DataError, naming the file, where it cannot be decoded, or holds more pixels than Pillow deems safe.
    """
    from PIL import Image, ImageOps

    with _opened(path) as picture:
        kind = _mode(picture)
        picture.load()
        turned = ImageOps.exif_transpose(picture)
        if kind == "deep":
            turned = Image.fromarray(np.round(np.asarray(turned).clip(0, 65535) / 257).astype(np.uint8))
        elif kind == "palette":
            turned = turned.convert("RGBA")
        return turned.convert(mode)


def _mode(picture: Image.Image) -> str:
    """How the pixels are to be read: `deep` (16-bit grey), `palette`, or `plain`."""
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in ("PNG", "PPM")):
        return "deep"
    if picture.mode in ("I", "F"):
        raise DataError(f"{picture.mode} pixels (32 bits) have no known range; save them as .npy")
    return "palette" if picture.mode in ("P", "PA") or "transparency" in picture.info else "plain"


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The file as Pillow sees it; its dozen kinds of errors, here and while it is open, as DataError."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                yield picture
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: too many pixels to be decoded safely (over {Image.MAX_IMAGE_PIXELS:,})") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: not a picture, or damaged from its first bytes on") from error
    except Exception as error:  # struct.error, SyntaxError, EOFError, ValueError, OSError: by format
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise DataError(f"{path}: cannot be decoded ({reason})") from error
