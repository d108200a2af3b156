"""A search on disk: everything that was evaluated, written whole after each generation, so that a run that was cut off
goes on where it was."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, UsageError
from ..model.save import write_atomically
from .evolve import Archive, Worth

SCHEMA = 1

NAME = "search.npz"

BROKEN = (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error)
"""What numpy and json raise of files that are no state."""


def save_state(path: Path, about: Mapping[str, Any], archive: Archive) -> None:
    """about: what the run depends on. Raises UsageError where the folder cannot be written."""
    header = json.dumps({"schema": SCHEMA, "about": about, "bits": archive.masks.shape[1], "done": archive.done})

    def write(stream: Any) -> None:
        np.savez_compressed(
            stream,
            header=np.array(header),
            masks=np.packbits(archive.masks, axis=1),
            error=archive.worth.error,
            cost=archive.worth.cost,
            stopped=archive.worth.stopped,
            generation=archive.generation,
        )

    write_atomically(path, write)


def begun_with(path: Path) -> Mapping[str, Any]:
    """What the run depends on that the file is of; nothing where it cannot be read (`load_state` says why)."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as found:
            return dict(json.loads(str(found["header"]))["about"])
    except BROKEN:
        return {}


def load_state(path: Path, about: Mapping[str, Any]) -> Archive:
    """Raises UsageError where there is none, or where it is a run of something else; DataError where it is broken."""
    if not path.exists():
        raise UsageError(f"{path}: there is no search to resume; leave --resume out to begin one")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as found:
            header = json.loads(str(found["header"]))
            bits = int(header["bits"])
            masks = np.unpackbits(found["masks"], axis=1, count=bits).astype(bool)
            worth = Worth(found["error"], found["cost"], found["stopped"])
            archive = Archive(masks, worth, found["generation"], int(header["done"]))
            schema, then = header["schema"], dict(header["about"])
    except BROKEN as error:
        raise DataError(f"{path}: not the state of a search ({error})") from error
    if schema != SCHEMA:
        raise DataError(f"{path}: schema {schema!r} is not known to this version (it knows {SCHEMA})")
    now = json.loads(json.dumps(about))
    differs = [f"{k} was {then.get(k)!r}, is {now.get(k)!r}" for k in {**then, **now} if then.get(k) != now.get(k)]
    if differs:
        raise UsageError(f"{path}: the search was begun otherwise ({'; '.join(differs[:3])}): resume it as it was")
    return archive
