"""Arrays of .npz and .npy files, mapped where they lie on disk as they are."""

from __future__ import annotations

import struct
import zipfile
import zlib
from math import prod
from pathlib import Path

import numpy as np

from ..errors import DataError, UsageError
from ..model.graph import AnyArray

LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Of a zip member: the signature, and the lengths of its name and of the extra field, which the data follows."""


def file_arrays(path: Path) -> dict[str, AnyArray]:
    """The arrays of an .npz by name, or that of an .npy under "". Raises UsageError, DataError."""
    try:
        with path.open("rb") as stream:
            magic = stream.read(6)
        if magic == np.lib.format.MAGIC_PREFIX:
            return {"": _mapped(path, 0, path.stat().st_size)}
        with zipfile.ZipFile(path) as archive:
            return {_name(member): _member(path, archive, member) for member in archive.infolist()}
    except PermissionError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, struct.error) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise DataError(f"{path}: not a readable {path.suffix} file ({reason})") from error


def _name(member: zipfile.ZipInfo) -> str:
    return member.filename.removesuffix(".npy")


def _member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> AnyArray:
    """Mapped where the archive stores it plainly; else unpacked into memory."""
    with archive.open(member) as stream:
        if stream.read(6) != np.lib.format.MAGIC_PREFIX:
            raise ValueError(f"'{_name(member)}' in it is no array")
    if member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & 1:
        with path.open("rb") as raw:
            raw.seek(member.header_offset)
            signature, name, extra = LOCAL_HEADER.unpack(raw.read(LOCAL_HEADER.size))
        if signature == b"PK\x03\x04":
            return _mapped(path, member.header_offset + LOCAL_HEADER.size + name + extra, member.file_size)
    with archive.open(member) as stream:
        return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))


def _mapped(path: Path, start: int, length: int) -> AnyArray:
    """The .npy that lies at `start` in a file; its values are read when they are needed."""
    with path.open("rb") as stream:
        stream.seek(start)
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        offset = stream.tell()
    if dtype.hasobject:
        raise ValueError("it holds pickled objects, which are not loaded")
    if offset - start + prod(shape) * dtype.itemsize > length:
        raise ValueError("the file is shorter than its header says")
    if not prod(shape):
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")
