"""`--data SOURCE`: the source tells its kind by itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError
from ..model.graph import Graph
from ..model.probes import Shape, input_shapes
from .arrays import array_samples, file_samples
from .builtin import digit_samples, photo_samples
from .samples import Samples, choose

DEFAULT_SAMPLES = 256
PHOTO_SAMPLES = 64


def open_data(
    source: Any, graph: Graph, shapes: Mapping[str, Shape], count: int | None = None, seed: int = 0
) -> Samples:
    """Samples from `digits`, `photos` (or None), an .npz or .npy path, an array, or a dict of arrays.

    shapes: probe shapes that the user gave, for inputs with symbolic dimensions. count: how many to use at most.
    Raises UsageError for a path that is missing or of no known kind, DataError for contents that do not fit.
    """
    limit = count or DEFAULT_SAMPLES
    named = source if isinstance(source, str) else ""
    if source is None or named == "photos":
        wanted = min(limit, count or PHOTO_SAMPLES)
        return photo_samples(graph, input_shapes(graph, shapes), wanted, seed)
    if named == "digits":
        return choose(digit_samples(graph, input_shapes(graph, shapes)), limit, seed)
    if isinstance(source, np.ndarray):
        return choose(array_samples({"": source}, graph, "the array"), limit, seed)
    if isinstance(source, Mapping):
        return choose(
            array_samples({str(k): np.asarray(v) for k, v in source.items()}, graph, "the arrays"), limit, seed
        )
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if not path.exists():
            raise UsageError(f"--data {path}: no such file (nor 'digits' or 'photos')")
        if path.is_dir():
            raise UsageError(f"--data {path}: is a folder; expected .npz, .npy, 'digits' or 'photos'")
        if path.suffix.lower() in (".npz", ".npy"):
            return choose(file_samples(path, graph), limit, seed)
        raise UsageError(f"--data {path}: expected .npz, .npy, 'digits' or 'photos'")
    raise UsageError(
        f"data of type {type(source).__name__} is not understood: give a path, an array or a dict of arrays"
    )
