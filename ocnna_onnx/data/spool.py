"""Data that can be read only once, written to a temporary file as it comes, so that it can be read again."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import IO, Any

import numpy as np
import onnx

from ..errors import DataError, UsageError
from ..model.graph import AnyArray, Graph, dims
from .arrays import array_samples, checked_labels
from .checks import conform, fits, text
from .feeds import arrays_of
from .rows import Rows
from .samples import Samples

READ_FACTOR = 16
"""Of a source that can be read only once, this many times the samples that are wanted are read, to choose from."""

READ_BYTES = 4 << 30
"""And no more than this."""


class _Spool:
    """Samples of one input, in a file without a name, of one type and shape."""

    def __init__(self, file: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self.file, self.dtype, self.shape, self.count = file, dtype, shape, 0

    def write(self, rows: AnyArray) -> None:
        try:
            self.file.write(rows.tobytes())
        except OSError as error:
            raise UsageError(
                f"the temporary folder {tempfile.gettempdir()} cannot hold the samples ({error.strerror}); set TMPDIR "
                "to one with more room, or ask for fewer --samples"
            ) from error
        self.count += len(rows)

    def rows(self) -> AnyArray:
        """What was written, mapped: the file lives as long as the result."""
        self.file.flush()
        shape = (self.count, *self.shape)
        size = int(np.prod(shape))
        return np.memmap(self.file, self.dtype, "r", 0, shape) if size else np.empty(shape, self.dtype)


def stream_samples(items: Iterable[Any], graph: Graph, source: str, wanted: int) -> Samples:
    """Samples from items that come one by one, whatever batches they bring: dicts, arrays, tuples (`feeds.arrays_of`).

    At most READ_FACTOR · wanted of them, and READ_BYTES, are read; where there was more, `source` says so. Raises
    DataError, naming the sample, for items that do not fit the model or the first one; UsageError for a full disk.
    """
    values = {v.name: v for v in graph.inputs}
    spools: dict[str, _Spool] = {}
    fixed: dict[str, AnyArray] = {}
    labels: list[AnyArray] = []
    notes: dict[str, None] = {}
    renamed, count, limit, more = "", 0, READ_FACTOR * wanted, False
    with ExitStack() as files:
        for number, item in enumerate(items):
            what = f"{source}: sample {count} (item {number})"
            found, own, renamed = arrays_of(item, graph, what)
            _check_names(found, values, what)
            if not spools:
                constant = _unsampled(found, values)
                fixed = {n: _fitting(found[n], values[n], what) for n in constant}
            rows = {n: a for n, a in found.items() if n not in fixed}
            size = _size(rows, own, bool(labels) if count else own is not None, what)
            if not size and rows:
                continue
            if count >= limit:
                more = True
                break
            for name in fixed:
                if not np.array_equal(found[name], fixed[name]):
                    notes[f"{source}: input '{name}' has no sample axis and changes; its first value is used"] = None
            fitting = {n: _fitting(a[: limit - count], values[n], what, count) for n, a in rows.items()}
            for name, ready in fitting.items():
                if name not in spools:
                    file = files.enter_context(tempfile.TemporaryFile(prefix="ocnna-"))
                    spools[name] = _Spool(file, ready.dtype, ready.shape[1:])
                    limit = min(limit, max(1, READ_BYTES // max(1, ready.nbytes // len(ready))))
                if ready.shape[1:] != spools[name].shape:
                    was, now = text(spools[name].shape), text(ready.shape[1:])
                    raise DataError(f"{what}: input '{name}' has shape {now} a sample, in the first one it is {was}")
            taken = min(size, limit - count)
            more = more or taken < size
            for name, ready in fitting.items():
                spools[name].write(ready[:taken])
            if own is not None:
                labels.append(_whole(own, what)[:taken])
            count += taken
            if more:
                break
        mapped: dict[str, Rows] = {name: spool.rows() for name, spool in spools.items()}
    if not count:
        raise DataError(f"{source}: there are no samples in it")
    cut = f", the first {count} samples of more" if more else ""
    samples = array_samples({**mapped, **fixed}, graph, source, frozenset(fixed))
    classes = checked_labels(np.concatenate(labels), count, source) if labels else None
    return replace(samples, source=f"{source}{renamed}{cut}", labels=classes, notes=tuple(notes))


def _check_names(found: Mapping[str, AnyArray], values: Mapping[str, onnx.ValueInfoProto], what: str) -> None:
    missing, extra = [n for n in values if n not in found], [n for n in found if n not in values]
    if missing:
        have = ", ".join(map(repr, found)) or "nothing"
        raise DataError(f"{what}: input '{missing[0]}' is missing (it has {have}); name arrays after the inputs")
    if extra:
        raise DataError(f"{what}: '{extra[0]}' is no input of the model ({', '.join(values)})")


def _unsampled(found: Mapping[str, AnyArray], values: Mapping[str, onnx.ValueInfoProto]) -> list[str]:
    """Inputs without a sample axis: scalars, and those of a fixed size along axis 0 next to inputs of another."""
    declared = {n: (dims(v) or ("",))[0] if dims(v) != () else 1 for n, v in values.items()}
    lengths = {n: len(a) for n, a in found.items() if a.ndim}
    return [
        n
        for n, a in found.items()
        if not a.ndim
        or (
            declared[n] == len(a)
            and (len({*lengths.values()}) > 1 or (len(a) > 1 and any(d != len(a) for d in declared.values())))
        )
    ]


def _size(rows: Mapping[str, AnyArray], labels: AnyArray | None, labelled: bool, what: str) -> int:
    """How many samples an item brings."""
    sizes = {n: len(a) for n, a in rows.items()}
    if len(set(sizes.values())) > 1:
        raise DataError(f"{what}: the inputs have different numbers of samples ({sizes})")
    size = next(iter(sizes.values()), 1)
    if (labels is not None) != labelled:
        raise DataError(f"{what}: it has {'no ' if labelled else ''}labels, unlike the first one")
    if labels is not None and len(labels) != size:
        raise DataError(f"{what}: {len(labels)} labels for {size} samples")
    return size


def _whole(labels: AnyArray, what: str) -> AnyArray:
    if labels.dtype.kind not in "iu":
        raise DataError(f"{what}: labels must be class numbers (integers), they are {labels.dtype}")
    return labels.reshape(len(labels)) if labels.size == len(labels) else labels


def _fitting(array: AnyArray, value: onnx.ValueInfoProto, what: str, first: int | None = None) -> AnyArray:
    """The array in the input's type. first: the number of its first sample."""
    wanted = fits(array.shape, array.dtype if array.dtype.name != "bfloat16" else np.dtype(np.float32), value, what)
    name = f"{what.partition(': sample')[0]}: input '{value.name}'"
    return conform(array, wanted, name, None if first is None else np.arange(first, first + len(array)))
