"""Writing a model so that it appears whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from onnx import TensorProto

from ..errors import UsageError
from .load import external_files
from .session import PROTOBUF_LIMIT, weight_bytes

INLINE_BYTES = 1024
"""Tensors up to this size stay in the model file: onnxruntime refuses shape-like constants in external data."""


def check_target(path: Path, source: Path | None, overwrite: bool) -> None:
    """Refuse a target that cannot be written before any work is done. Raises UsageError."""
    folder = path.parent
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; make it first or choose another OUT")
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; give a file name for OUT")
    if path.exists() and not path.is_file():
        raise UsageError(f"{path}: is no regular file; choose another OUT")
    if source is not None and path.exists() and path.samefile(source) and not overwrite:
        raise UsageError(f"{path}: IN and OUT are the same file; pass --overwrite to replace it")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{folder}: the folder is read-only; choose another OUT")


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
    if not external and weight_bytes(model) < PROTOBUF_LIMIT:
        data = model.SerializeToString(deterministic=True)
        write_atomically(path, lambda stream: stream.write(data))
        return len(data)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    blobs: list[bytes] = []
    digest, offset = hashlib.sha256(), 0
    moved: list[tuple[TensorProto, int, int]] = []
    for tensor in copy.graph.initializer:
        data = _raw(tensor)
        if data is None or len(data) <= INLINE_BYTES:
            continue
        gap = -offset % 4096
        blobs.extend((bytes(gap), data))
        digest.update(data)
        moved.append((tensor, offset + gap, len(data)))
        offset += gap + len(data)
    location = f"{path.name}.{digest.hexdigest()[:12]}.data"
    for tensor, start, length in moved:
        _point_to(tensor, location, start, length)
    body = copy.SerializeToString(deterministic=True)
    beside = path.with_name(location)
    existed = beside.exists()
    write_atomically(beside, lambda stream: stream.writelines(blobs))
    try:
        write_atomically(path, lambda stream: stream.write(body))
    except UsageError:
        if not existed:
            beside.unlink()
        raise
    return offset + len(body)


def _raw(tensor: TensorProto) -> bytes | None:
    if tensor.data_type == TensorProto.STRING:
        return None
    if tensor.HasField("raw_data"):
        return tensor.raw_data
    return np.ascontiguousarray(onnx.numpy_helper.to_array(tensor)).tobytes()


def _point_to(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    kept = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, doc_string=tensor.doc_string)
    kept.metadata_props.extend(tensor.metadata_props)
    kept.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        kept.external_data.add(key=key, value=value)
    tensor.CopyFrom(kept)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
