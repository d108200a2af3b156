"""What an iterable, a data loader or a reader brings, one item after the other, as arrays by input name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ..errors import DataError
from ..model.graph import AnyArray, Graph, dims
from .arrays import as_array, only_input, split_labels


def reader_feeds(reader: Any) -> Iterator[Any]:
    """The feeds of an onnxruntime CalibrationDataReader: `get_next()` until it gives None. Rewound before and after,
    where it can be."""
    rewind: Callable[[], object] = getattr(reader, "rewind", lambda: None)
    rewind()
    try:
        while (feed := reader.get_next()) is not None:
            yield feed
    finally:
        rewind()


def arrays_of(item: Any, graph: Graph, what: str) -> tuple[dict[str, AnyArray], AnyArray | None, str]:
    """(input -> [b, …], labels [b] or None, what was renamed) of one item: a dict by input name (labels in `y` or
    `labels`), an array, or a tuple of arrays in the order of the inputs, labels last where there is one more (targets
    that are no class numbers are left out). A single sample gets its axis 0. what: names the item in a DataError."""
    labels, ignored = None, False
    parts = list(item) if isinstance(item, (tuple, list)) else [item]
    if isinstance(item, (tuple, list)) and not any(isinstance(p, Mapping) or _rank(p) for p in item):
        parts = [item]  # a sample written as a list of numbers
    if isinstance(parts[0] if parts else None, Mapping):
        if len(parts) > 2:
            raise DataError(f"{what} has {len(parts)} parts; expected a dict, or a dict and labels")
        given = {str(k): as_array(v, f"{what}, '{k}'") for k, v in parts[0].items()}
        rows, labels = split_labels(given, graph)
        found = {name: np.asarray(array) for name, array in rows.items()}
        if len(parts) == 2 and labels is None:
            labels = _class_numbers(parts[1])
            ignored = labels is None
    else:
        names = [v.name for v in graph.inputs]
        if len(parts) not in (len(names), len(names) + 1):
            raise DataError(f"{what} has {len(parts)} arrays; the model has {len(names)} inputs ({', '.join(names)})")
        found = {n: as_array(p, f"{what}, part {k}") for k, (n, p) in enumerate(zip(names, parts, strict=False))}
        if len(parts) > len(names):
            labels = _class_numbers(parts[-1])
            ignored = labels is None
    renamed, note = only_input(dict(found), graph)
    found = {name: np.asarray(rows) for name, rows in renamed.items()}
    for value in graph.inputs:
        declared, array = dims(value), found.get(value.name)
        if array is not None and declared and array.ndim == len(declared) - 1:
            found[value.name] = array[None]
    note += " (targets, which are no class numbers, left out)" if ignored else ""
    return found, np.atleast_1d(labels) if labels is not None else None, note


def _class_numbers(part: Any) -> AnyArray | None:
    """Labels [b], [b, 1] or a single one; None for boxes, masks, regression targets and the like."""
    try:
        labels = as_array(part, "")
    except DataError:
        return None
    return labels if labels.dtype.kind in "iu" and labels.size == (len(labels) if labels.ndim else 1) else None


def _rank(part: Any) -> int:
    shape = getattr(part, "shape", None)
    if shape is not None:
        return len(shape)
    return 1 + max((_rank(p) for p in part), default=0) if isinstance(part, (tuple, list)) else 0
