"""Rows of a tensor in a temporary file: read block by block, so that they take no memory (a mapped file would count as
resident once it was read)."""

from __future__ import annotations

import tempfile
import weakref
from math import prod
from threading import Lock
from typing import Any

import numpy as np

from ..model.graph import AnyArray


class Shelf:
    """Rows [n, …] in a file without a name, which goes with this object. Raises OSError where the disk is full."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape, self.dtype = shape, dtype
        self._row = prod(shape[1:]) * dtype.itemsize
        self._lock = Lock()
        self._file = tempfile.TemporaryFile(prefix="ocnna-")  # noqa: SIM115  closed with this object
        weakref.finalize(self, self._file.close)

    def __len__(self) -> int:
        return self.shape[0]

    def write(self, start: int, rows: AnyArray) -> None:
        """Put these rows from number `start` on."""
        with self._lock:
            self._file.seek(start * self._row)
            self._file.write(np.ascontiguousarray(rows, self.dtype).tobytes())

    def __getitem__(self, index: Any) -> AnyArray:
        """index: a slice without a step, or an integer array (of rows that lie close together)."""
        if isinstance(index, slice):
            start, stop, _ = index.indices(len(self))
            return self._read(start, max(start, stop))
        numbers = np.asarray(index)
        first = int(numbers.min())
        return np.asarray(self._read(first, int(numbers.max()) + 1)[numbers - first])

    def _read(self, start: int, stop: int) -> AnyArray:
        with self._lock:
            self._file.seek(start * self._row)
            found = self._file.read((stop - start) * self._row)
        return np.asarray(np.frombuffer(found, self.dtype).reshape(stop - start, *self.shape[1:]))

    def first(self, count: int) -> None:
        """Keep this many rows only."""
        self.shape = (count, *self.shape[1:])
