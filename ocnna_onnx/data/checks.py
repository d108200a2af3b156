"""Whether values fit an input of the model: its type, its shape, and numbers that are finite."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from ..errors import DataError
from ..model.graph import AnyArray, dims
from ..model.twin import as_fed, fed_type
from .rows import IntArray, Lazy, Rows, blocks, is_in_memory


def checked(rows: Rows, value: onnx.ValueInfoProto, source: str) -> Rows:
    """The rows in the type that the input takes: looked at and converted at once where they are in memory, else batch
    by batch as they are read. Raises DataError, naming the sample."""
    name = f"{source}: input '{value.name}'"
    if isinstance(rows, np.ndarray) and rows.dtype.name == "bfloat16":
        rows = as_fed(rows)
    wanted = fits(rows.shape, rows.dtype, value, source)
    if not rows.shape:
        return conform(np.asarray(rows), wanted, name, None)
    if not is_in_memory(rows):
        return Lazy(rows.shape, wanted, lambda numbers: conform(rows[numbers], wanted, name, numbers))
    if rows.dtype == wanted:
        for numbers in blocks(rows):
            conform(rows[numbers[0] : numbers[-1] + 1], wanted, name, numbers)
        return rows
    cast = np.empty(rows.shape, wanted)
    for numbers in blocks(rows):
        cast[numbers[0] : numbers[-1] + 1] = conform(rows[numbers[0] : numbers[-1] + 1], wanted, name, numbers)
    return cast


def fits(shape: tuple[int, ...], dtype: np.dtype[Any], value: onnx.ValueInfoProto, source: str) -> np.dtype[np.generic]:
    """The type that the input takes. Raises DataError where shape [n, …] or type do not fit."""
    name, wanted = f"{source}: input '{value.name}'", fed_type(value.type.tensor_type.elem_type)
    if dtype != wanted:
        compatible = dtype.kind == wanted.kind == "f" or (dtype.kind in "iu" and wanted.kind in "iu")
        if not compatible:
            raise DataError(f"{name} wants {wanted}, the data is {dtype}; convert it first")
    declared = dims(value)
    if declared is not None:
        if len(shape) != len(declared):
            raise DataError(f"{name} wants {len(declared)} dimensions {text(declared)}, the data has {len(shape)}")
        for axis, size in enumerate(declared):
            if axis and isinstance(size, int) and shape[axis] != size:
                raise DataError(f"{name} wants shape {text(declared)}, the data has {text(shape)}")
    return wanted


def conform(array: AnyArray, wanted: np.dtype[np.generic], name: str, numbers: IntArray | None) -> AnyArray:
    """Values in the type `wanted`. numbers: which samples these are. Raises DataError for NaN, infinite values and such
    as the type cannot hold."""
    if array.dtype.name == "bfloat16":
        array = as_fed(array)
    if array.dtype.kind == "f":
        _refuse(~np.isfinite(array), name, numbers, "values that are NaN or infinite")
    if array.dtype == wanted:
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype(wanted)
    what = f"values ({array.dtype}) that {wanted} cannot hold"
    _refuse(~np.isfinite(cast) if wanted.kind == "f" else cast != array, name, numbers, what)
    return cast


def _refuse(bad: AnyArray, name: str, numbers: IntArray | None, what: str) -> None:
    if not bad.any():
        return
    if numbers is None or bad.ndim == 0:
        raise DataError(f"{name}: the data has {np.count_nonzero(bad)} {what}")
    per_sample = bad.reshape(len(bad), -1).sum(axis=1)
    first = int(np.flatnonzero(per_sample)[0])
    raise DataError(f"{name}: sample {numbers[first]} has {per_sample[first]} {what}; remove it")


def text(shape: tuple[int | str, ...]) -> str:
    """A shape as users read it."""
    return "[" + ", ".join(str(s) or "?" for s in shape) + "]"
