"""Layer outputs in one form: [images, channels, rows, columns], whatever the layer's rank and layout."""

from __future__ import annotations

import numpy as np

from ..model.graph import AnyArray


def as_maps(output: AnyArray, axis: int, batch: int) -> AnyArray:
    """A layer's output as float32 or float64 [batch, channels, rows, columns].

    axis: the channel axis. A spatial volume D × H × W becomes (D·H) × W, a sequence of T a T × 1 column, a vector
    1 × 1. Axis 0 counts images where its size is a multiple of `batch` (windows folded into it become rows);
    otherwise the whole tensor is one image. Maps with one row are transposed: their positions are the samples.
    """
    dtype = np.float64 if output.dtype == np.float64 else np.float32
    output = np.asarray(output, dtype)
    moved = output[None] if axis == 0 else np.moveaxis(output, axis, 1)  # channels first: no axis counts images
    images = batch if axis != 0 and moved.shape[0] % batch == 0 else 1
    windows = moved.shape[0] // images
    channels, rest = moved.shape[1], moved.shape[2:]
    maps = moved.reshape(images, windows, channels, *rest)
    maps = np.moveaxis(maps, 2, 1)  # [images, channels, windows, …]
    rows = windows * int(np.prod(rest[:-1], dtype=np.int64)) if len(rest) > 1 else windows
    columns = rest[-1] if rest else 1
    maps = maps.reshape(images, channels, rows, columns)
    return maps if rows > 1 else maps.transpose(0, 1, 3, 2)
