"""The reverse: samples for onnxruntime's quantizer, which asks a reader for one feed after the other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import UsageError
from ..model.graph import AnyArray, Graph, dims
from ..model.load import load
from ..model.probes import Shape
from .imageoptions import ImageOptions
from .open import open_data
from .samples import Samples


class CalibrationReader:
    """A CalibrationDataReader as onnxruntime.quantization takes it: `get_next()` gives a feed, then None at the end.

    Feeds hold `batch` samples each; the last one fewer, or repeats of its last sample where the model fixes the batch.
    """

    def __init__(self, samples: Samples, batch: int, fixed_batch: bool) -> None:
        self.samples = samples
        self._batch, self._fixed_batch = batch, fixed_batch
        self._span = (0, len(self))
        self._position = 0

    def get_next(self) -> dict[str, AnyArray] | None:
        """The next feed, input -> [batch, …]; None behind the last one. Raises DataError for a broken sample."""
        if self._position >= self._span[1]:
            return None
        start = self._position * self._batch
        self._position += 1
        last = min(start + self._batch, self.samples.count)
        part = {n: rows[start:last] for n, rows in self.samples.arrays.items()}
        feed, valid = next(Samples(part, self.samples.fixed).batches(self._batch))
        return feed if self._fixed_batch else {n: a[:valid] if n in part else a for n, a in feed.items()}

    def rewind(self) -> None:
        """Start again with the first feed."""
        self._position = self._span[0]

    def set_range(self, start_index: int, end_index: int) -> None:
        """Restrict to the feeds from one number up to another (onnxruntime's CalibStridedMinMax)."""
        self._span = (max(0, start_index), min(end_index, len(self)))
        self.rewind()

    def __iter__(self) -> Iterator[dict[str, AnyArray]]:
        """All feeds from the first on."""
        self.rewind()
        while (feed := self.get_next()) is not None:
            yield feed

    def __len__(self) -> int:
        """Number of feeds."""
        return -(-self.samples.count // self._batch)

    def __deepcopy__(self, memo: dict[int, Any]) -> CalibrationReader:
        """A reader of its own over the same samples (onnxruntime's SmoothQuant asks for it)."""
        copy = CalibrationReader(self.samples, self._batch, self._fixed_batch)
        copy._span, copy._position = self._span, self._position
        return copy


def calibration_reader(
    model: Any,
    *,
    data: Any = None,
    samples: int | None = None,
    seed: int = 0,
    batch: int = 1,
    image: ImageOptions | Mapping[str, Any] | str | None = None,
    input_shapes: Mapping[str, Shape] | None = None,
    base_folder: str | os.PathLike[str] | None = None,
) -> CalibrationReader:
    """The samples that `prune` would calibrate with, as a reader for `onnxruntime.quantization.quantize_static`.

    model: as for `prune`. data, samples, seed, image, input_shapes: as for `prune`. batch: samples in a feed, where the
    model does not fix it. Raises UsageError, ModelError, DataError.
    """
    for name, number, least in (("samples", samples, 1), ("seed", seed, 0), ("batch", batch, 1)):
        if number is not None and (not isinstance(number, int) or number < least):
            raise UsageError(f"{name} {number!r} is out of range: a whole number of at least {least}")
    graph = Graph(load(model, base_folder).proto)
    found = open_data(data, graph, dict(input_shapes or {}), samples, seed, image)
    declared = {v.name: dims(v) for v in graph.inputs}
    sizes = {d[0] for n in found.arrays if (d := declared[n]) and isinstance(d[0], int)}
    return CalibrationReader(found, min(sizes) if sizes else found.batch or batch, bool(sizes or found.batch))
