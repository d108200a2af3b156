"""What a distillation needs to go on where it stopped, as a file that is there whole or not at all."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from ..errors import DataError, UsageError
from ..model.save import write_atomically

SCHEMA = 1


def write(path: Path, about: dict[str, Any], content: dict[str, Any]) -> None:
    """about: what the run is of (JSON), by which it is recognised. content: tensors and plain numbers."""
    import torch

    held = io.BytesIO()
    torch.save({"schema": SCHEMA, "about": json.dumps(about, sort_keys=True), "content": content}, held)
    write_atomically(path, lambda stream: stream.write(held.getbuffer()))


def read(path: Path, about: dict[str, Any]) -> dict[str, Any]:
    """The content. Raises UsageError where there is no such file, DataError where it is no checkpoint of this run."""
    import torch

    if not path.exists():
        raise UsageError(f"{path}: no such checkpoint; nothing to resume")
    try:
        found = torch.load(path, weights_only=True)
        known = json.loads(found["about"])
        schema, content = found["schema"], dict(found["content"])
    except Exception as error:  # torch raises a dozen unrelated types
        raise DataError(f"{path}: not a checkpoint of a distillation") from error
    if schema != SCHEMA:
        raise DataError(f"{path}: schema {schema!r} is not known to this version (it knows {SCHEMA})")
    differs = sorted(k for k in {*known, *about} if known.get(k) != about.get(k))
    if differs:
        raise DataError(f"{path}: the checkpoint of another run (its {', '.join(differs)} differ)")
    return content
