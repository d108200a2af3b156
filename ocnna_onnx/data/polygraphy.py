"""Inputs that `polygraphy run --save-inputs` wrote: JSON, a list of feeds with arrays as base64 of .npy files.

The format is that of polygraphy 0.53 (polygraphy/json/serde.py), and its older spellings.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, UsageError
from ..model.graph import AnyArray

MARKER = "polygraphy_class"
OLD_MARKER, OLD_VALUE = "__polygraphy_encoded_", "polygraphy_serialized_json_type"


def polygraphy_feeds(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """The feeds of each file (one, or a list of them); a file is read whole, as polygraphy does. Raises DataError."""
    for path in files:
        try:
            content = json.loads(path.read_bytes(), object_hook=_decoded)
        except OSError as error:
            raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: not readable as saved inputs ({(str(error).splitlines() or [''])[0]})") from error
        for number, feed in enumerate(content if isinstance(content, list) else [content]):
            if not isinstance(feed, dict):
                raise DataError(
                    f"{path}: item {number} is no feed; expected what `polygraphy run --save-inputs` writes, a list of "
                    "{input: array}"
                )
            yield feed


def _decoded(entry: dict[str, Any]) -> Any:
    """An object of the JSON, as an array where it is a marked one."""
    kind = entry.get(MARKER)
    if kind is None:
        old = [key for key, value in entry.items() if key.startswith(OLD_MARKER) and value == OLD_VALUE]
        if not old:
            return entry
        kind = old[0].removeprefix(OLD_MARKER)
    if kind == "ndarray":
        return _array(entry.get("array", ""))
    if kind == "FormattedArray":
        return np.asarray(entry["array"]).reshape([int(s) for s in entry["shape"]])
    if kind in ("LazyArray", "LazyNumpyArray"):
        return entry.get("values", entry.get("arr"))
    if kind == "Tensor":
        raise DataError("it holds PyTorch tensors, which need PyTorch to read; save numpy arrays instead")
    raise DataError(f"it holds '{kind}' objects, which are no inputs (is it what --save-inputs wrote?)")


def _array(text: str) -> AnyArray:
    try:
        data = base64.b64decode(text.encode(), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        data = text.encode("latin-1")  # very old files
    try:
        with io.BytesIO(data) as stream:
            found = np.load(stream, allow_pickle=False)
            return found if isinstance(found, np.ndarray) else np.asarray(next(iter(found.values())))
    except (ValueError, EOFError, OSError, StopIteration, zipfile.BadZipFile) as error:
        raise DataError("an array in it is damaged") from error
