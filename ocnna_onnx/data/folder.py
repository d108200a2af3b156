"""A folder of pictures: which files, which labels, and which of them are chosen; nothing is decoded here."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import DataError, UsageError
from .pictures import damage, is_picture
from .rows import IntArray
from .samples import chosen

LABELS_FILE = "labels.csv"
SPLITS = frozenset(("train", "training", "test", "testing", "val", "valid", "validation"))
NAMED = 5
"""So many broken files are named in a note."""


@dataclass(frozen=True)
class Album:
    """Picture files with class numbers int64 [n], where they have some. listed: the labels were given as numbers (else
    they are the places of the sub-folders in the alphabet, of which there are `classes`). source, notes: in words."""

    files: tuple[Path, ...]
    labels: IntArray | None
    listed: bool
    source: str
    notes: tuple[str, ...] = ()
    classes: int = 0


def album(path: Path) -> Album:
    """The pictures below a folder, or the one that the path is. Classes: `labels.csv` (header `file,label`), else the
    names of the sub-folders in alphabetical order. Raises UsageError where there are none, DataError for bad labels."""
    if not path.is_dir():
        return Album((path,), None, False, str(path))
    table = path / LABELS_FILE
    if table.is_file():
        files, labels = _listed(path, table)
        return Album(files, labels, True, f"{path} ({len(files)} pictures, labels of {LABELS_FILE})")
    files = tuple(sorted(_pictures(path)))
    if not files:
        raise UsageError(
            f"--data {path}: a folder without pictures; expected pictures (in one sub-folder per class, or with "
            f"{LABELS_FILE}), or polygraphy's .json files"
        )
    first = [file.relative_to(path).parts for file in files]
    names = sorted({parts[0] for parts in first if len(parts) > 1})
    if len(names) > 1 and {n.lower() for n in names} <= SPLITS:
        raise UsageError(f"--data {path}: holds the parts of a data set ({', '.join(names)}); give one of them")
    if len(names) < 2 or any(len(parts) == 1 for parts in first):
        return Album(files, None, False, f"{path} ({len(files)} pictures)")
    numbers = {name: k for k, name in enumerate(names)}
    found = np.array([numbers[parts[0]] for parts in first], np.int64)
    source = f"{path} ({len(files)} pictures in {len(names)} sub-folders, taken for classes)"
    return Album(files, found, False, source, classes=len(names))


def pick(pictures: Album, count: int, seed: int) -> Album:
    """At most `count` pictures, seeded and class-balanced, without those that are visibly broken (named in a note).

    Raises DataError where more than half of the chosen ones are broken.
    """
    index = chosen(len(pictures.files), pictures.labels, count, seed)
    reasons = {int(k): damage(pictures.files[k]) for k in index}
    broken = [k for k, reason in reasons.items() if reason]
    good = np.array([k for k, reason in reasons.items() if not reason], np.int64)
    notes = pictures.notes
    if broken:
        if len(broken) > len(index) / 2:
            more = f" (and {len(broken) - 1} of {len(index)} more)" if len(broken) > 1 else ""
            raise DataError(f"{reasons[broken[0]]}{more}")
        named = "; ".join(reasons[k] for k in broken[:NAMED]) + ("; …" if len(broken) > NAMED else "")
        notes = (*notes, f"{len(broken)} of {len(index)} pictures were skipped: {named}")
    labels = None if pictures.labels is None else pictures.labels[good]
    return replace(pictures, files=tuple(pictures.files[k] for k in good), labels=labels, notes=notes)


def has_pictures(folder: Path) -> bool:
    """Whether there is a picture anywhere below the folder."""
    return next(_pictures(folder), None) is not None


def saved_feeds(folder: Path) -> list[Path]:
    """The .json files right in a folder, where polygraphy writes one per iteration."""
    return sorted(p for p in folder.glob("*.json") if not p.name.startswith("."))


def _pictures(folder: Path) -> Iterator[Path]:
    """Picture files below a folder; links are followed, hidden folders are not."""
    seen: set[str] = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        folders[:] = sorted(f for f in folders if not f.startswith((".", "__"))) if real not in seen else []
        if real not in seen:
            seen.add(real)
            yield from (p for name in files if is_picture(p := Path(here, name)))


def _listed(folder: Path, table: Path) -> tuple[tuple[Path, ...], IntArray]:
    """Files and labels of a labels.csv, in the order of the file."""
    files, labels = [], []
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True)
            if not {"file", "label"} <= set(reader.fieldnames or ()):
                raise DataError(f"{table}: its first line must name the columns: file,label")
            for row in reader:
                file, label = folder / (row["file"] or ""), (row["label"] or "").strip()
                if not label.isdecimal():
                    raise DataError(f"{table}, line {reader.line_num}: label '{label}' is no class number (0, 1, …)")
                if not row["file"] or not file.is_file():
                    raise DataError(f"{table}, line {reader.line_num}: there is no file '{row['file']}' in the folder")
                files.append(file)
                labels.append(int(label))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: not readable ({error})") from error
    if not files:
        raise DataError(f"{table}: it lists no pictures")
    return tuple(files), np.array(labels, np.int64)
