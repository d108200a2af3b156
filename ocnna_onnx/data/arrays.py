"""Samples from .npz and .npy files and from arrays in memory, checked against the model's inputs."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from ..errors import DataError, UsageError
from ..model.graph import AnyArray, Graph, dims
from ..model.twin import as_fed, fed_type
from .samples import IntArray, Samples

LABEL_NAMES = ("y", "labels")


def file_samples(path: Path, graph: Graph) -> Samples:
    """Arrays of an .npz (named after the inputs, labels in `y` or `labels`) or an .npy (the only input)."""
    try:
        with path.open("rb") as stream:
            loaded = np.load(stream, allow_pickle=False)
            single = isinstance(loaded, np.ndarray)
            arrays = {"": loaded} if single else {name: loaded[name] for name in loaded.files}
    except PermissionError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: not a readable {path.suffix} file ({_short(error)})") from error
    strangers = [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]
    if strangers:
        raise DataError(f"{path}: not a readable {path.suffix} file ('{strangers[0]}' in it is no array)")
    return array_samples(arrays, graph, str(path))


def array_samples(arrays: Mapping[str, AnyArray], graph: Graph, source: str) -> Samples:
    """Samples from arrays by input name. Raises DataError for what does not fit the model."""
    names = [v.name for v in graph.inputs]
    given = dict(arrays)
    labels = None
    for label in LABEL_NAMES:
        if label in given and label not in names:
            labels = given.pop(label)
            break
    if len(names) == 1 and len(given) == 1 and names[0] not in given:
        given = {names[0]: next(iter(given.values()))}
    missing = [n for n in names if n not in given]
    if missing:
        have = ", ".join(map(repr, arrays)) or "nothing"
        raise DataError(
            f"{source}: input '{missing[0]}' is missing (the file has {have}); name arrays after the inputs"
        )
    extra = sorted(set(given) - set(names))
    if extra:
        raise DataError(f"{source}: '{extra[0]}' is no input of the model ({', '.join(names)})")
    checked = {v.name: _checked(given[v.name], v, source) for v in graph.inputs}
    per_sample = {v.name: a for v in graph.inputs if (a := checked[v.name]).ndim and not _is_fixed(v, a, checked)}
    fixed = {n: a for n, a in checked.items() if n not in per_sample}
    counts = {n: len(a) for n, a in per_sample.items()}
    if len(set(counts.values())) > 1:
        raise DataError(f"{source}: the inputs have different numbers of samples ({counts})")
    count = next(iter(counts.values()), 1)
    if count == 0:
        raise DataError(f"{source}: there are no samples in it")
    return Samples(
        per_sample,
        fixed,
        _labels(labels, count, source),
        source,
        "none (arrays are fed as they are)",
        batch=_samples_per_run([v for v in graph.inputs if v.name in per_sample], graph.inputs, fixed),
    )


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


def _is_fixed(value: onnx.ValueInfoProto, array: AnyArray, everything: Mapping[str, AnyArray]) -> bool:
    """An input whose axis 0 has a fixed size, next to others with another number of samples, has no sample axis (a
    recurrent state [2, N, 128])."""
    declared = dims(value)
    exact = declared is not None and len(declared) > 0 and declared[0] == len(array)
    return exact and any(len(a) != len(array) for a in everything.values() if a.ndim)


def _checked(array: AnyArray, value: onnx.ValueInfoProto, source: str) -> AnyArray:
    wanted, array = fed_type(value.type.tensor_type.elem_type), as_fed(array)
    name = f"{source}: input '{value.name}'"
    if array.dtype != wanted:
        compatible = array.dtype.kind == wanted.kind == "f" or (array.dtype.kind in "iu" and wanted.kind in "iu")
        if not compatible:
            raise DataError(f"{name} wants {wanted}, the data is {array.dtype}; convert it first")
        with np.errstate(over="ignore"):
            cast = array.astype(wanted)
        if wanted.kind in "iu" and (cast != array).any():
            raise DataError(f"{name} wants {wanted}, and some values of the data ({array.dtype}) do not fit")
        if wanted.kind == "f" and np.isfinite(array).all() and not np.isfinite(cast).all():
            raise DataError(f"{name} wants {wanted}, and some values of the data ({array.dtype}) are too large for it")
        array = cast
    declared = dims(value)
    if declared is not None:
        if array.ndim != len(declared):
            raise DataError(f"{name} wants {len(declared)} dimensions {_text(declared)}, the data has {array.ndim}")
        for axis, size in enumerate(declared):
            if axis and isinstance(size, int) and array.shape[axis] != size:
                raise DataError(f"{name} wants shape {_text(declared)}, the data has {_text(array.shape)}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int(np.count_nonzero(~np.isfinite(array)))
        raise DataError(f"{name}: the data has {bad} values that are NaN or infinite; remove those samples")
    return array


def _labels(labels: AnyArray | None, count: int, source: str) -> IntArray | None:
    if labels is None:
        return None
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or len(labels) != count:
        raise DataError(f"{source}: labels have shape {_text(labels.shape)}, {count} samples need [{count}]")
    if labels.dtype.kind not in "iu":
        raise DataError(f"{source}: labels must be class numbers (integers), they are {labels.dtype}")
    return labels.astype(np.int64)


def _text(shape: tuple[int | str, ...]) -> str:
    return "[" + ", ".join(str(s) or "?" for s in shape) + "]"


def _short(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
