"""Samples from arrays, in memory or mapped from a file, checked against the model's inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from ..errors import DataError
from ..model.graph import AnyArray, Graph, dims
from .checks import checked, text
from .rows import IntArray, Rows, is_in_memory
from .samples import Samples

LABEL_NAMES = ("y", "labels")
AS_THEY_ARE = "none (arrays are fed as they are)"


def array_samples(
    arrays: Mapping[str, Rows], graph: Graph, source: str, unsampled: frozenset[str] = frozenset()
) -> Samples:
    """Samples from rows by input name. unsampled: inputs known to have no sample axis. Raises DataError for what does
    not fit the model: at once for what is in memory, else when it is read."""
    given, labels = split_labels(arrays, graph)
    given, renamed = only_input(given, graph)
    names = [v.name for v in graph.inputs]
    missing = [n for n in names if n not in given]
    if missing:
        have = ", ".join(map(repr, arrays)) or "nothing"
        raise DataError(
            f"{source}: input '{missing[0]}' is missing (the file has {have}); name arrays after the inputs"
        )
    extra = sorted(set(given) - set(names))
    if extra:
        raise DataError(f"{source}: '{extra[0]}' is no input of the model ({', '.join(names)})")
    ready = {v.name: checked(given[v.name], v, source) for v in graph.inputs}
    per_sample = {
        v.name: rows
        for v in graph.inputs
        if (rows := ready[v.name]).shape and v.name not in unsampled and not _is_fixed(v, rows, ready)
    }
    fixed = {n: np.asarray(rows) for n, rows in ready.items() if n not in per_sample}
    counts = {n: len(a) for n, a in per_sample.items()}
    if len(set(counts.values())) > 1:
        raise DataError(f"{source}: the inputs have different numbers of samples ({counts})")
    count = next(iter(counts.values()), 1)
    if count == 0:
        raise DataError(f"{source}: there are no samples in it")
    return Samples(
        per_sample,
        fixed,
        checked_labels(labels, count, source),
        source + renamed,
        AS_THEY_ARE,
        batch=_samples_per_run([v for v in graph.inputs if v.name in per_sample], graph.inputs, fixed),
    )


def split_labels(arrays: Mapping[str, Rows], graph: Graph) -> tuple[dict[str, Rows], AnyArray | None]:
    """What belongs to inputs, and the labels: `y` or `labels` where no input is called so."""
    given, names = dict(arrays), {v.name for v in graph.inputs}
    for label in LABEL_NAMES:
        if label in given and label not in names:
            return given, np.array(given.pop(label))
    return given, None


def only_input(given: dict[str, Rows], graph: Graph) -> tuple[dict[str, Rows], str]:
    """The only array is the only input, whatever it is called; what was made of another name, in words."""
    (other, rows), *more = given.items() if given else (("", None),)
    names = [v.name for v in graph.inputs]
    if more or len(names) != 1 or rows is None or other == names[0]:
        return given, ""
    return {names[0]: rows}, f" ('{other}' taken for input '{names[0]}')" if other else ""


def _samples_per_run(
    streamed: Sequence[onnx.ValueInfoProto], inputs: Sequence[onnx.ValueInfoProto], fixed: Mapping[str, AnyArray]
) -> int:
    """The size that inputs without a sample axis have where the model leaves it open, if it may count samples (its
    name is that of a sample axis, or has none): a state [2, N, 128] is one for N samples. 0: they do not say."""
    names = {declared[0] for v in streamed if (declared := dims(v))}
    sizes = {
        fixed[v.name].shape[axis]
        for v in inputs
        if v.name in fixed
        for axis, size in enumerate(dims(v) or ())
        if isinstance(size, str) and (not size or size in names or "" in names)
    }
    return sizes.pop() if len(sizes) == 1 else 0


def _is_fixed(value: onnx.ValueInfoProto, rows: Rows, everything: Mapping[str, Rows]) -> bool:
    """An input whose axis 0 has a fixed size, next to others with another number of samples, has no sample axis (a
    recurrent state [2, N, 128])."""
    declared = dims(value)
    exact = declared is not None and len(declared) > 0 and declared[0] == len(rows)
    return exact and any(len(a) != len(rows) for a in everything.values() if a.shape)


def checked_labels(labels: AnyArray | None, count: int, source: str) -> IntArray | None:
    """Class numbers int64 [count] from labels [count] or [count, 1]. Raises DataError."""
    if labels is None:
        return None
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or len(labels) != count:
        raise DataError(f"{source}: labels have shape {text(labels.shape)}, {count} samples need [{count}]")
    if labels.dtype.kind not in "iu":
        raise DataError(f"{source}: labels must be class numbers (integers), they are {labels.dtype}")
    return labels.astype(np.int64)


def as_array(value: object, what: str) -> AnyArray:
    """Anything that numpy understands, and tensors of frameworks (on whatever device). Raises DataError."""
    for step in ("detach", "cpu"):
        move = getattr(value, step, None)
        value = move() if callable(move) and not isinstance(value, np.ndarray) else value
    try:
        return np.asarray(value)
    except Exception as error:  # ragged lists, types that numpy lacks: every framework raises its own
        raise DataError(
            f"{what} is no array ({type(value).__name__}: {(str(error).splitlines() or [''])[0]})"
        ) from error


def mapped_or_array(value: object, what: str) -> Rows:
    """Arrays and mapped files as they are, anything else as an array."""
    return value if isinstance(value, np.ndarray) and not is_in_memory(value) else as_array(value, what)
