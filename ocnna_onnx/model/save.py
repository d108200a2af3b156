"""Writing a model so that it appears whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from onnx import TensorProto
from onnx.helper import tensor_dtype_to_np_dtype

from ..errors import UsageError
from .light import without_initializers
from .load import external_files

PROTOBUF_LIMIT = 2_000_000_000
"""Bytes of a protobuf message, with room for the graph."""

PAGE = 4096
INLINE_BYTES = 1024
"""Tensors up to this size stay in the model file: onnxruntime refuses shape-like constants in external data."""


def check_target(path: Path, source: Path | None, overwrite: bool, what: str = "OUT") -> None:
    """Refuse a target that cannot be written before any work is done. Raises UsageError."""
    folder = path.parent
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; make it first or choose another {what}")
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; give a file name for {what}")
    if path.exists() and not path.is_file():
        raise UsageError(f"{path}: is no regular file; choose another {what}")
    if source is not None and path.exists() and path.samefile(source) and not overwrite:
        raise UsageError(f"{path}: IN and OUT are the same file; pass --overwrite to replace it")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{folder}: the folder is read-only; choose another {what}")


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write beside the target, fsync, rename; a symbolic link keeps pointing at what is replaced. Raises UsageError
    where the folder refuses."""
    path = path.resolve()
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        with os.fdopen(handle, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def save(model: onnx.ModelProto, path: Path, external: bool = False) -> int:
    """Write the model; external data goes into one file beside it, written first, named after its contents.

    A data file that an earlier model at the same path had from us is removed once nothing needs it.
    Returns the bytes written. `model` is not modified.
    """
    ours = re.compile(re.escape(path.name) + r"\.[0-9a-f]{12}\.data")
    earlier = {name for name in external_files(path) if ours.fullmatch(name)} if path.is_file() else set()
    size = _write(model, path, external)
    for name in earlier - set(external_files(path)):
        path.with_name(name).unlink(missing_ok=True)
    return size


def _write(model: onnx.ModelProto, path: Path, external: bool) -> int:
    if not external and _weight_bytes(model) < PROTOBUF_LIMIT:
        data = model.SerializeToString(deterministic=True)
        write_atomically(path, lambda stream: stream.write(data))
        return len(data)
    copy = without_initializers(model)
    digest, offset = hashlib.sha256(), 0
    moved: dict[int, tuple[int, int]] = {}  # number of the initializer -> where its bytes start and end
    for k, tensor in enumerate(model.graph.initializer):
        data = _raw(tensor)
        if data is not None and len(data) > INLINE_BYTES:
            digest.update(data)
            start = offset + -offset % PAGE
            moved[k] = (start, offset := start + len(data))
    location = f"{path.name}.{digest.hexdigest()[:12]}.data"
    for k, tensor in enumerate(model.graph.initializer):
        if k in moved:
            _point_to(copy.graph.initializer.add(), tensor, location, *moved[k])
        else:
            copy.graph.initializer.append(tensor)
    body = copy.SerializeToString(deterministic=True)
    beside = path.with_name(location)
    existed = beside.exists()
    write_atomically(beside, lambda stream: stream.writelines(_blobs(model, moved)))
    try:
        write_atomically(path, lambda stream: stream.write(body))
    except UsageError:
        if not existed:
            beside.unlink()
        raise
    return offset + len(body)


def _weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of the initializers' data, as an estimate of the serialized size that cannot overflow."""
    return sum(prod(t.dims) * tensor_dtype_to_np_dtype(t.data_type).itemsize for t in model.graph.initializer)


def _blobs(model: onnx.ModelProto, moved: Mapping[int, tuple[int, int]]) -> Iterator[bytes]:
    """The data file piece by piece: every tensor on a page of its own, one in memory at a time."""
    offset = 0
    for k, (start, end) in moved.items():
        yield bytes(start - offset)
        yield _raw(model.graph.initializer[k]) or b""
        offset = end


def _raw(tensor: TensorProto) -> bytes | None:
    if tensor.data_type == TensorProto.STRING:
        return None
    if tensor.HasField("raw_data"):
        return tensor.raw_data
    return np.ascontiguousarray(onnx.numpy_helper.to_array(tensor)).tobytes()


def _point_to(copy: TensorProto, tensor: TensorProto, location: str, start: int, end: int) -> None:
    copy.name, copy.data_type, copy.doc_string = tensor.name, tensor.data_type, tensor.doc_string
    copy.dims.extend(tensor.dims)
    copy.metadata_props.extend(tensor.metadata_props)
    copy.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(start)), ("length", str(end - start))):
        copy.external_data.add(key=key, value=value)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
