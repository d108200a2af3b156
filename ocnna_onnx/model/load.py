"""Whatever the caller has (a path, bytes, a ModelProto, an export result) -> a model in memory that is ours alone."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_tensor, uses_external_data
from onnx.helper import tensor_dtype_to_np_dtype

from ..errors import ModelError, UsageError
from .graph import AnyArray, bodies
from .light import Light, is_apart


@dataclass(frozen=True)
class LoadedModel:
    """A model that can be run.

    proto: with all weights, but for those in `weights`: large external ones, mapped from their files.
    sha256: of the file's bytes (external data files follow in the order of their names), or of the serialized proto.
    external: whether weights came from files beside the model, so that the output is written the same way. files: where
    it was read from, which nothing of ours may write over.
    """

    proto: onnx.ModelProto
    weights: Mapping[str, AnyArray]
    sha256: str
    name: str
    external: bool
    bytes: int
    files: tuple[Path, ...] = ()

    @property
    def model(self) -> Light:
        """What a session is opened on."""
        return Light(self.proto, self.weights)


def load(model: Any, base_folder: str | os.PathLike[str] | None = None) -> LoadedModel:
    """Read a model: a path, bytes, a ModelProto, or an object with `.model_proto` (PyTorch's export result).

    base_folder: where a ModelProto's external data lies. Nothing of the caller's is modified.
    Raises UsageError for a path that is missing, ModelError for contents that are no ONNX model.
    """
    if isinstance(model, (str, os.PathLike)):
        return _from_path(Path(model))
    folder = Path(base_folder) if base_folder is not None else None
    if isinstance(model, (bytes, bytearray)):
        return _finish(_parse(bytes(model), "the bytes given"), bytes(model), folder, "model")
    proto = getattr(model, "model_proto", model)
    if not isinstance(proto, onnx.ModelProto):
        raise UsageError(f"expected a path, bytes or an onnx.ModelProto, got {type(model).__name__}")
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return _finish(copy, None, folder, proto.graph.name or "model")


def _from_path(path: Path) -> LoadedModel:
    if not path.exists():
        raise UsageError(f"{path}: no such file")
    if path.is_dir():
        raise UsageError(f"{path}: is a folder, not an ONNX file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    loaded = _finish(_parse(data, str(path)), data, path.parent, path.name)
    return replace(loaded, files=(path, *loaded.files))


def _parse(data: bytes, what: str) -> onnx.ModelProto:
    if not data:
        raise ModelError(f"{what}: the file is empty")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError lives in different modules by version
        raise ModelError(f"{what}: not an ONNX model, or truncated (protobuf cannot parse it)") from error
    if not proto.graph.node and not proto.graph.output:
        raise ModelError(f"{what}: not an ONNX model (it has no graph)")
    return proto


def _finish(proto: onnx.ModelProto, data: bytes | None, folder: Path | None, name: str) -> LoadedModel:
    if data is None:
        data = proto.SerializeToString()
    digest = hashlib.sha256(data)
    size = len(data)
    files = _external_files(proto)
    if files:
        if folder is None:
            raise UsageError("the model keeps weights in external files: give base_folder, the folder they lie in")
        for file in files:
            part = folder / file
            if not part.is_file():
                raise ModelError(f"{name}: its weights are in '{file}', which is not beside it")
            size += part.stat().st_size
            with part.open("rb") as stream:
                while block := stream.read(1 << 24):
                    digest.update(block)
    weights: dict[str, AnyArray] = {}
    try:
        for tensor in proto.graph.initializer:
            if folder is not None and uses_external_data(tensor) and is_apart(tensor):
                weights[tensor.name] = _mapped(tensor, folder)
        for tensor in _stored_tensors(proto.graph):
            if uses_external_data(tensor) and tensor.name not in weights:
                load_external_data_for_tensor(tensor, str(folder))
                tensor.data_location = onnx.TensorProto.DEFAULT
                del tensor.external_data[:]
    except Exception as error:
        raise ModelError(f"{name}: cannot read its external weights ({error})") from error
    beside = tuple(folder / file for file in files) if folder is not None else ()
    return LoadedModel(proto, weights, digest.hexdigest(), name, bool(files), size, beside)


def _mapped(tensor: onnx.TensorProto, folder: Path) -> AnyArray:
    """An external tensor as a read-only view of its file, of which only what is used takes memory."""
    entry = ExternalDataInfo(tensor)
    path = (folder / entry.location).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"'{entry.location}' lies outside the model's folder")
    dtype = tensor_dtype_to_np_dtype(tensor.data_type)
    size = prod(tensor.dims) * dtype.itemsize
    if entry.length is not None and entry.length != size:
        raise ValueError(f"'{tensor.name}' has {entry.length} bytes in '{entry.location}', its shape takes {size}")
    return np.memmap(path, dtype, "r", entry.offset or 0, tuple(tensor.dims))


def _external_files(proto: onnx.ModelProto) -> list[str]:
    tensors = list(_stored_tensors(proto.graph))
    places = {e.value for t in tensors if uses_external_data(t) for e in t.external_data if e.key == "location"}
    return sorted(places)


def _stored_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Initializers and constants, in bodies too."""
    yield from graph.initializer
    for node in graph.node:
        yield from (a.t for a in node.attribute if a.HasField("t"))
        for body in bodies(node):
            yield from _stored_tensors(body)


def external_files(path: Path) -> list[str]:
    """The names of the external data files of a model on disk; none where it is no model."""
    try:
        return _external_files(_parse(path.read_bytes(), str(path)))
    except (ModelError, OSError):
        return []
