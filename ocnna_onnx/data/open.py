"""`--data SOURCE`: the source tells its kind by itself."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError
from ..model.graph import Graph
from ..model.probes import Shape, input_shapes
from .arrays import array_samples, mapped_or_array
from .builtin import digit_samples, photo_samples
from .feeds import reader_feeds
from .files import file_arrays
from .folder import has_pictures, saved_feeds
from .imageoptions import ImageOptions, image_options
from .images import image_samples
from .pictures import is_picture
from .polygraphy import polygraphy_feeds
from .samples import Samples, choose
from .script import script_feeds, script_of
from .spool import stream_samples

DEFAULT_SAMPLES = 256
PHOTO_SAMPLES = 64

KINDS = "a folder of pictures, a picture, .npz, .npy, .json (polygraphy), script.py[:function], 'digits' or 'photos'"


def open_data(
    source: Any,
    graph: Graph,
    shapes: Mapping[str, Shape],
    count: int | None = None,
    seed: int = 0,
    image: ImageOptions | Mapping[str, Any] | str | None = None,
) -> Samples:
    """Samples from whatever `source` is; at most `count`, chosen with `seed`, class-balanced where there are labels.

    source: `digits`, `photos` (or None); a path: .npz, .npy, a folder of pictures, a picture, polygraphy's .json (or a
    folder of them), `script.py[:function]`; an array; a dict of arrays; an object with `get_next()`; an iterable (or
    a function that gives one) of dicts, arrays or tuples. shapes: probe shapes that the user gave, for inputs with
    symbolic dimensions. image: how pictures are prepared (`ImageOptions`).
    Raises UsageError for a path that is missing or of no known kind, DataError for contents that do not fit.
    """
    limit, options = count or DEFAULT_SAMPLES, image_options(image)
    if source is None or (isinstance(source, str) and source == "photos"):
        _no_geometry(options)
        wanted = min(limit, count or PHOTO_SAMPLES)
        return photo_samples(graph, input_shapes(graph, shapes), wanted, seed, options if options.given else None)
    path = None if isinstance(source, str) and source == "digits" else _path(source)
    if path is not None and (path.is_dir() or is_picture(path)) and not (files := _saved(path)):
        return image_samples(path, graph, shapes, options, limit, seed)
    if options.given:
        raise UsageError(f"--{options.given[0]} is for pictures; {_called(source)} is fed as it is")
    if path is None:
        found = _from_object(source, graph, shapes, limit)
    elif files := _saved(path):
        found = stream_samples(polygraphy_feeds(files), graph, str(path), limit)
    elif script := script_of(str(source)):
        with closing(script_feeds(*script)) as feeds:  # the import path is as it was, whatever happens
            found = stream_samples(feeds, graph, str(source), limit)
    elif path.suffix.lower() in (".npz", ".npy"):
        found = array_samples(file_arrays(path), graph, str(path))
    else:
        raise UsageError(f"--data {path}: expected {KINDS}")
    return choose(found, limit, seed)


def _path(source: Any) -> Path | None:
    """The file or folder that the source names; None where it is an object. Raises UsageError where it is not there."""
    if not isinstance(source, (str, os.PathLike)):
        return None
    script = script_of(os.fspath(source))
    path = script[0] if script is not None and not Path(source).is_dir() else Path(source)
    if not path.exists():
        raise UsageError(f"--data {path}: no such file (nor 'digits' or 'photos')")
    return path


def _saved(path: Path) -> list[Path]:
    """The files that polygraphy wrote, where the path is one, or a folder of them without pictures."""
    if not path.is_dir():
        return [path] if path.suffix.lower() == ".json" else []
    return [] if has_pictures(path) else saved_feeds(path)


def _from_object(source: Any, graph: Graph, shapes: Mapping[str, Shape], limit: int) -> Samples:
    if isinstance(source, str):
        return digit_samples(graph, input_shapes(graph, shapes))
    if isinstance(source, Mapping):
        arrays = {str(k): mapped_or_array(v, f"the arrays: '{k}'") for k, v in source.items()}
        return array_samples(arrays, graph, "the arrays")
    if hasattr(source, "get_next"):
        return stream_samples(reader_feeds(source), graph, "the reader", limit)
    if isinstance(source, np.ndarray) or hasattr(source, "__array__"):
        return array_samples({"": mapped_or_array(source, "the data")}, graph, "the array")
    if callable(source) and not isinstance(source, (type, Iterable)):
        source = source()
    if hasattr(source, "__getitem__") and hasattr(source, "__len__") and not isinstance(source, (bytes, Iterable)):
        return stream_samples((source[k] for k in range(len(source))), graph, _called(source), limit)
    if isinstance(source, Iterable) and not isinstance(source, (bytes, bytearray)):
        return stream_samples(source, graph, _called(source), limit)
    raise UsageError(
        f"data of type {type(source).__name__} is not understood: give a path, an array, a dict of arrays, or an "
        "iterable or a reader of them"
    )


def _called(source: Any) -> str:
    return str(source) if isinstance(source, (str, os.PathLike)) else f"the {type(source).__name__}"


def _no_geometry(options: ImageOptions) -> None:
    for name in ("resize", "crop"):
        if name in options.given:
            raise UsageError(f"--{name} is for the user's pictures; crops of the photographs have the input's size")
