"""Rows of benchmarks in a file of JSON lines: what was measured is not measured again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def read(file: Path) -> list[Row]:
    """All rows that were measured so far."""
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []


def append(file: Path, rows: Iterable[Row]) -> None:
    """Add rows at the end."""
    with file.open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def matching(rows: Iterable[Row], about: Row) -> list[Row]:
    """The rows that say the same for everything in `about`."""
    return [r for r in rows if about.items() <= r.items()]


def resumed(file: Path, abouts: Sequence[Row], make: Callable[[], Iterable[Row]]) -> list[Row]:
    """The rows about these things, one each; where one is missing, those of `make` are added to the file, each with
    what it is about in front."""
    known = read(file)
    found = [matching(known, about)[-1:] for about in abouts]
    if all(found):
        return [row for rows in found for row in rows]
    made = [{**about, **row} for about, row in zip(abouts, make(), strict=True)]
    append(file, made)
    return made


def spread(values: Sequence[float], places: int = 2) -> str:
    """The mean, and the range where there are several."""
    mean = f"{sum(values) / len(values):+.{places}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):+.{places}f} … {max(values):+.{places}f})"


def share(values: Sequence[float]) -> str:
    """The mean of shares, in per cent."""
    return f"{sum(values) / len(values):.1%}"


def short(net: str) -> str:
    """A net's name without what all have in front."""
    return net.replace("cifar10_", "").replace("imagenet_", "").replace("pascal_", "")


def grouped(rows: Iterable[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    """Rows by their values of these keys, in the order in which they appear."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row.get(k) for k in keys), []).append(row)
    return found
