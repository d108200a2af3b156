"""Rows: samples of one input that need not be in memory; what is asked for is made, batch by batch."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt

from ..model.graph import AnyArray

IntArray = npt.NDArray[np.int64]

IN_MEMORY = 1 << 26
"""Rows that are made from something small stay in memory up to this many bytes."""

ON_DISK = 4 << 30
"""Rows that took work (decoded pictures) are kept in a temporary file up to this many bytes."""

BLOCK = 1 << 24
"""How many bytes of an array are looked at in one go."""


class Rows(Protocol):
    """Samples [n, …] of one input. Indexing by an integer array or a slice gives a numpy array [m, …]. Numpy arrays and
    memmaps are rows."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> AnyArray: ...


@dataclass(frozen=True, eq=False)
class Lazy:
    """Rows that are made when they are asked for. make: sample numbers [m] -> [m, …] of this dtype."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    make: Callable[[IntArray], AnyArray]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any, /) -> AnyArray:
        return self.make(np.atleast_1d(np.arange(len(self))[index]))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> AnyArray:
        whole = self[:]
        return whole if dtype is None else whole.astype(dtype)


def row_bytes(rows: Rows) -> int:
    """Bytes of one sample."""
    return int(prod(rows.shape[1:])) * rows.dtype.itemsize


def blocks(rows: Rows) -> Iterator[IntArray]:
    """Sample numbers in portions of about BLOCK bytes."""
    step = max(1, BLOCK // max(1, row_bytes(rows)))
    for start in range(0, len(rows), step):
        yield np.arange(start, min(start + step, len(rows)))


def is_in_memory(rows: Rows) -> bool:
    """Whether these are plain arrays: not made on demand, and no part of a mapped file."""
    base: Any = rows
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap):
            return False
        base = base.base
    return isinstance(rows, np.ndarray)


def subset(rows: Rows, indices: IntArray) -> Rows:
    """The rows of these numbers, in this order: a copy of what is in memory, a view of what is not."""
    if is_in_memory(rows):
        return rows[indices]
    return Lazy((len(indices), *rows.shape[1:]), rows.dtype, lambda numbers: rows[indices[numbers]])


def settled(rows: Lazy) -> Rows:
    """Small ones in memory at once; others are made when needed, and then kept in a temporary file."""
    return rows[:] if len(rows) * row_bytes(rows) <= IN_MEMORY else remembered(rows)


def remembered(rows: Lazy) -> Rows:
    """The same rows, each made once: they are kept in a temporary file without a name. As they are where that would
    take more than ON_DISK bytes."""
    if len(rows) * row_bytes(rows) > ON_DISK:
        return rows
    return Lazy(rows.shape, rows.dtype, _Shelf(rows).get)


class _Shelf:
    """Rows with a file beside them that holds those that were made already."""

    def __init__(self, rows: Lazy) -> None:
        self.rows = rows
        self.kept = np.zeros(len(rows), np.bool_)
        self.file: IO[bytes] | None = None
        self.full = False

    def get(self, numbers: IntArray) -> AnyArray:
        found = np.empty((len(numbers), *self.rows.shape[1:]), self.rows.dtype)
        known = self.kept[numbers]
        for place in np.flatnonzero(known):
            found[place] = self._read(int(numbers[place]))
        if not known.all():
            found[~known] = made = self.rows[numbers[~known]]
            for number, row in zip(numbers[~known], made, strict=True):
                self._keep(int(number), row)
        return found

    def _read(self, number: int) -> AnyArray:
        assert self.file is not None
        size = row_bytes(self.rows)
        self.file.seek(number * size)
        return np.frombuffer(self.file.read(size), self.rows.dtype).reshape(self.rows.shape[1:])

    def _keep(self, number: int, row: AnyArray) -> None:
        if self.full:
            return
        try:
            if self.file is None:
                self.file = tempfile.TemporaryFile(prefix="ocnna-")  # noqa: SIM115  closed with this object
                weakref.finalize(self, self.file.close)
            self.file.seek(number * row_bytes(self.rows))
            self.file.write(row.tobytes())
            self.file.flush()
        except OSError:  # no room left: the row is made again when it is needed
            self.full = True
            return
        self.kept[number] = True
