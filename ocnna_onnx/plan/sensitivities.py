"""What was measured of every group: how far the net's outputs move when its first channels go. Kept in files, so that
any number of targets can start from one measurement."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..criteria.scores import Scores, scores_from_json
from ..errors import DataError
from ..model.jsonfile import read_json
from ..model.save import write_atomically
from ..trace.groups import Group
from ..trace.labels import IntArray
from ..trace.types import Trace

FloatArray = npt.NDArray[np.float64]

SCHEMA = 1

Cuts = tuple[tuple[int, float], ...]
"""(How many of a group's classes went, damage), ascending; none where nothing can go."""

STAYS = -1
"""The position of a channel that cannot go."""


@dataclass(frozen=True)
class Sensitivity:
    """One coupled group.

    members: its layers. channels: of the widest of them. units: decisions; removable: those that can go, in the order
    of `Sensitivities.goes`. macs: share of the net's multiply–accumulates that runs on these channels. cuts: ascending
    (how many went, damage): the relative squared error of the outputs, above that of the whole net; inf where they
    were no numbers any more.
    """

    members: tuple[str, ...]
    channels: int
    units: int
    removable: int
    macs: float
    cuts: Cuts

    def to_json(self) -> dict[str, Any]:
        """As in sensitivities.json."""
        return {
            "members": list(self.members),
            "channels": self.channels,
            "units": self.units,
            "removable": self.removable,
            "macs": self.macs,
            "cuts": [{"removed": n, "damage": d if np.isfinite(d) else None} for n, d in self.cuts],
        }

    def points(self) -> tuple[list[float], list[float]]:
        """(share of the units that is gone, damage) from nothing on, with damages that never fall: for pictures."""
        counts, damage = zip((0, 0.0), *self.cuts, strict=True)
        return [n / self.units for n in counts], np.maximum.accumulate(np.array(damage)).tolist()


@dataclass(frozen=True)
class Sensitivities:
    """sha256, name: the model that was measured. scores, normalize: which channels go first. goes: node -> for each
    output channel its position (from 0) in its group's order, or STAYS. samples, source: how many judged the outputs,
    and where they come from. groups: those of which something can go."""

    sha256: str
    name: str
    scores: Scores
    normalize: str
    seed: int
    samples: int
    source: str
    goes: Mapping[str, IntArray]
    groups: tuple[Sensitivity, ...]

    def to_json(self) -> dict[str, Any]:
        """As in sensitivities.json; a scores.json, and more."""
        known = self.scores.to_json()
        return {
            "schema": SCHEMA,
            "model": {"sha256": self.sha256, "name": self.name},
            "criterion": known["criterion"],
            "options": known["options"],
            "normalize": self.normalize,
            "seed": self.seed,
            "samples": {"count": self.samples, "source": self.source},
            "groups": [g.to_json() for g in self.groups],
            "goes": {name: [None if p == STAYS else p for p in at.tolist()] for name, at in self.goes.items()},
            "layers": known["layers"],
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file, whole or not at all. Raises UsageError."""
        text = json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n"
        write_atomically(Path(path), lambda stream: stream.write(text.encode()))

    def check_model(self, sha256: str) -> None:
        """Raises DataError where these are another model's."""
        if self.sha256 != sha256:
            raise DataError(
                f"the sensitivities belong to another model ('{self.name}', sha256 {self.sha256[:12]}…; this one has "
                f"{sha256[:12]}…)"
            )

    def cuts_of(self, trace: Trace, groups: Sequence[Group], score: FloatArray) -> list[Cuts]:
        """The cuts of each of these groups; none where nothing can go. score: per class; the lowest go first. Raises
        DataError where a group was not measured, or lost its channels in another order."""
        known = {g.members: g for g in self.groups}
        found: list[Cuts] = []
        for group in groups:
            order = order_of(group, score)
            if not len(order):
                found.append(())
                continue
            members = members_of(trace, group)
            own = known.get(members)
            if own is None:
                raise DataError(f"the sensitivities say nothing of the group of node '{members[0]}': measure it again")
            same = own.units == len(group.classes) and own.removable == len(order)
            now = positions(trace, [group], score) if same else {}
            if not same or any(not np.array_equal(self.goes.get(n, ()), p) for n, p in now.items()):
                raise DataError(
                    f"the sensitivities of the group of node '{members[0]}' were measured with channels going in "
                    "another order, or with others that stay: measure them again with the same --exclude"
                )
            found.append(own.cuts)
        return found


def members_of(trace: Trace, group: Group) -> tuple[str, ...]:
    """The names of a group's layers."""
    return tuple(trace.graph.names[trace.sources[k].node] for k in group.sources)


def order_of(group: Group, score: FloatArray) -> IntArray:
    """The classes of a group that can go, first to go first: the lowest score; of equal ones the later class."""
    return np.asarray(group.free[np.lexsort((-group.free, score[group.free]))])


def positions(trace: Trace, groups: Sequence[Group], score: FloatArray) -> dict[str, IntArray]:
    """Node -> of each output channel the position in its group's order, or STAYS."""
    at = np.full(len(trace.free), STAYS, np.int64)
    for group in groups:
        order = order_of(group, score)
        at[order] = np.arange(len(order))
    layers = [trace.sources[k] for group in groups for k in group.sources]
    return {trace.graph.names[s.node]: at[trace.unit_class[s.units]] for s in layers}


def read_sensitivities(path: str | os.PathLike[str]) -> Sensitivities:
    """Sensitivities from a file. Raises UsageError for one that cannot be read, DataError for one that holds none."""
    return sensitivities_from_json(read_json(path, "no sensitivities"), str(path))


def sensitivities_from_json(content: Any, what: str) -> Sensitivities:
    """Sensitivities from their JSON form. Raises DataError."""
    if not isinstance(content, dict) or not isinstance(content.get("groups"), list):
        raise DataError(f"{what}: no sensitivities (no 'groups')")
    scores = scores_from_json(content, what)  # which looks at the schema, too
    try:
        model, samples = content["model"], content["samples"]
        return Sensitivities(
            sha256=str(model["sha256"]),
            name=str(model.get("name", "")),
            scores=scores,
            normalize=str(content["normalize"]),
            seed=int(content["seed"]),
            samples=int(samples["count"]),
            source=str(samples.get("source", "")),
            goes={str(n): _goes(n, x) for n, x in content["goes"].items()},
            groups=tuple(_group(g) for g in content["groups"]),
        )
    except KeyError as error:
        raise DataError(f"{what}: no sensitivities (no {error})") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{what}: no sensitivities ({error})") from error


def _goes(node: str, listed: Any) -> IntArray:
    if not isinstance(listed, list) or any(p is not None and type(p) is not int for p in listed):
        raise ValueError(f"what goes of node '{node}' is no list of positions")
    return np.array([STAYS if p is None else p for p in listed], np.int64)


def _group(content: Any) -> Sensitivity:
    members = tuple(str(m) for m in content["members"])
    removable = int(content["removable"])
    cuts = tuple((int(c["removed"]), _damage(c["damage"])) for c in content["cuts"])
    counts = [n for n, _ in cuts]
    if not cuts or counts != sorted(set(counts)) or not 0 < counts[0] <= counts[-1] <= removable:
        raise ValueError(f"the cuts of the group of node '{members[0] if members else ''}' do not ascend")
    if not all(d >= 0 for _, d in cuts):
        raise ValueError(f"a damage of the group of node '{members[0]}' is below 0")
    return Sensitivity(
        members, int(content["channels"]), int(content["units"]), removable, float(content.get("macs", 0.0)), cuts
    )


def _damage(value: float | None) -> float:
    """JSON has no infinity."""
    return float("inf") if value is None else float(value)
