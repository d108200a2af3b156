"""What a search hands back, and the files that it is written to."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..finishing import Result
from ..model.save import write_atomically
from ..plan.plan import Plan
from .evolve import Archive, Rules

SCHEMA = 1

THREE = ("heavy", "knee", "light")

COLUMNS = ("number", "name", "error", "selection_error", "cost", "macs_ratio", "params_ratio", "removed", "generation")


@dataclass(frozen=True)
class Member:
    """A candidate that nothing beats. error: on the samples of the search; selection_error: on those that chose. cost:
    share of the original's that the search minimised; macs, params: shares left. removed: units. generation: in which
    it was found (0: a seed)."""

    plan: Plan
    error: float
    selection_error: float
    cost: float
    macs: float
    params: float
    removed: int
    generation: int

    def to_json(self) -> dict[str, Any]:
        """A row of front.json, without its name."""
        return {
            "error": self.error,
            "selection_error": self.selection_error,
            "cost": self.cost,
            "macs_ratio": self.macs,
            "params_ratio": self.params,
            "removed": self.removed,
            "generation": self.generation,
            "plan": self.plan.to_json(),
        }


@dataclass(frozen=True)
class Search:
    """results: `heavy`, `knee`, `light` -> the net, proven, with its plan and report; chosen: -> its position in the
    front (two names may share one where the front is short). front: cost ascending. archive, rules: everything that
    was evaluated. told: what was asked and how it went, as in front.json. interrupted: whether it was cut short."""

    results: Mapping[str, Result]
    chosen: Mapping[str, int]
    front: tuple[Member, ...]
    archive: Archive
    rules: Rules
    told: Mapping[str, Any]
    interrupted: bool = False

    @property
    def heavy(self) -> Result:
        """The least error."""
        return self.results["heavy"]

    @property
    def knee(self) -> Result:
        """The best of both: the least Manhattan distance to the ideal point."""
        return self.results["knee"]

    @property
    def light(self) -> Result:
        """The least cost."""
        return self.results["light"]

    def names(self, position: int) -> list[str]:
        """What a member of the front is called."""
        return [name for name in THREE if self.chosen[name] == position]

    def to_json(self) -> dict[str, Any]:
        """As in front.json."""
        rows = [{"number": k, "names": self.names(k), **m.to_json()} for k, m in enumerate(self.front)]
        return {
            "schema": SCHEMA,
            **self.told,
            "interrupted": self.interrupted,
            "named": {name: {"number": k, **_figures(self.results[name])} for name, k in self.chosen.items()},
            "front": rows,
        }

    def to_csv(self) -> str:
        """As in front.csv: the front without the plans."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for k, m in enumerate(self.front):
            name = "+".join(self.names(k))
            shares = (m.error, m.selection_error, m.cost, m.macs, m.params)
            writer.writerow((k, name, *(f"{s:.6g}" for s in shares), m.removed, m.generation))
        return text.getvalue()

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write the three nets, each with plan and report, the front, and its picture; each file whole or not at all.
        Returns the paths. Raises UsageError."""
        from ..report.frontplot import front_picture, picture_bytes

        target = made(folder)
        written = []
        for name in THREE:
            result = self.results[name]
            path = target / f"{name}.onnx"
            result.report["after"]["bytes"] = result.save(path)
            plan, report = target / f"{name}.plan.json", target / f"{name}.report.json"
            _write(plan, _json(result.plan.to_json()))
            _write(report, _json(result.report))
            written += [path, plan, report]
        rest = {
            "front.json": _json(self.to_json()),
            "front.csv": self.to_csv().encode(),
            "front.svg": picture_bytes(front_picture(self)),
        }
        for name, data in rest.items():
            _write(target / name, data)
            written.append(target / name)
        return written


def made(folder: str | os.PathLike[str]) -> Path:
    """The folder, made where it is missing. Raises UsageError."""
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{target}: no folder to write to ({error.strerror or error})") from error
    if not os.access(target, os.W_OK):
        raise UsageError(f"{target}: no folder to write to (permission denied)")
    return target


def _figures(result: Result) -> dict[str, Any]:
    """The final figures of a net, on samples that had no say in it."""
    report = result.report
    return {
        "macs": report["after"]["macs"],
        "macs_ratio": report["obtained"]["macs_ratio"],
        "params": report["after"]["params"],
        "params_ratio": report["obtained"]["params_ratio"],
        "accuracy": report["accuracy"],
        "agreement": report["agreement"],
    }


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, allow_nan=False, default=str) + "\n").encode()


def _write(path: Path, data: bytes) -> None:
    write_atomically(path, lambda stream: stream.write(data))
