"""Which samples the gradient follows, and which judge."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.folder import has_pictures
from ..data.imageoptions import image_options
from ..data.pictures import is_picture
from ..data.samples import Samples, chosen
from ..errors import DataError
from ..settings import Settings

SHOWN = 128
"""Samples that are held out, where there are enough of them."""


@dataclass(frozen=True)
class Split:
    """fit: the samples of the gradient. held: those that judge. flips: whether a mirrored sample is one of the same
    kind."""

    fit: Samples
    held: Samples
    flips: bool


def split_of(samples: Samples, flips: bool) -> Split:
    """One sample of ten is held out; of few more, up to a half, so that there are SHOWN of them."""
    every = max(2, min(10, samples.count // SHOWN))
    index = np.arange(samples.count)
    held = chosen(samples.count, samples.labels, samples.count // every, every)  # not in turns: data may come in turns
    if not len(held):
        raise DataError(
            f"{samples.source}: {samples.count} samples are too few to distil: at least 2, better thousands"
        )
    return Split(samples.take(np.setdiff1d(index, held)), samples.take(held), flips)


def flips_allowed(settings: Settings) -> bool:
    """Whether a mirrored sample is one of the same kind: pictures of a folder, unless the preset is `none` (digits,
    plots, whatever has nothing to do with photographs)."""
    data = settings.data
    if not isinstance(data, (str, os.PathLike)) or not Path(data).exists():
        return False
    path = Path(data)
    pictures = has_pictures(path) if path.is_dir() else is_picture(path)
    return pictures and image_options(settings.image).preset != "none"
