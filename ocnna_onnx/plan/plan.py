"""A plan: which output channels of which node go. Stable as plan.json, replayed by `apply`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..model.jsonfile import read_json
from ..trace.coupling import pair
from ..trace.labels import IntArray
from ..trace.types import Trace

SCHEMA = 1


@dataclass(frozen=True)
class Plan:
    """remove: node name -> channels of its output that go, ascending; every member of a group is listed.

    sha256, name: the model that the plan belongs to. options: how it came about. measured: what was timed.
    """

    sha256: str
    name: str
    criterion: str
    options: Mapping[str, Any]
    seed: int
    remove: Mapping[str, tuple[int, ...]]
    measured: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As in plan.json."""
        return {
            "schema": SCHEMA,
            "model": {"sha256": self.sha256, "name": self.name},
            "criterion": self.criterion,
            "options": dict(self.options),
            "seed": self.seed,
            "measured": dict(self.measured),
            "remove": {node: list(channels) for node, channels in self.remove.items()},
        }


def read_plan(path: Path) -> Plan:
    """Raises UsageError for a missing file, DataError for one that is no plan."""
    return plan_from_json(read_json(path, "not a plan"), str(path))


def plan_from_json(content: Any, what: str = "the plan") -> Plan:
    """A plan from its JSON form. Raises DataError where that is not a plan of a schema that we know."""
    if not isinstance(content, dict) or not isinstance(content.get("remove"), dict):
        raise DataError(f"{what}: not a plan (no 'remove')")
    if content.get("schema") != SCHEMA:
        raise DataError(f"{what}: schema {content.get('schema')!r} is not known to this version (it knows {SCHEMA})")
    try:
        remove = {str(node): _channels(node, listed) for node, listed in content["remove"].items()}
        model = content["model"]
        return Plan(
            sha256=str(model["sha256"]),
            name=str(model.get("name", "")),
            criterion=str(content.get("criterion", "")),
            options=dict(content.get("options", {})),
            seed=int(content.get("seed", 0)),
            remove=remove,
            measured=dict(content.get("measured", {})),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{what}: not a plan ({error})") from error


def _channels(node: str, listed: Any) -> tuple[int, ...]:
    if not isinstance(listed, list) or any(type(c) is not int for c in listed):
        raise ValueError(f"the channels of node '{node}' are no list of integers")
    if len(set(listed)) != len(listed):
        raise ValueError(f"node '{node}' has a channel twice")
    return tuple(sorted(listed))


def removed_channels(trace: Trace, keep: np.ndarray[Any, np.dtype[np.bool_]]) -> dict[str, tuple[int, ...]]:
    """The `remove` table of a plan, from the units that stay (bool [units + 1])."""
    found: dict[str, tuple[int, ...]] = {}
    for source in trace.sources:
        gone = np.flatnonzero(~keep[source.units])
        if len(gone):
            found[trace.graph.names[source.node]] = tuple(gone.tolist())
    return found


def planned(plan: Plan, trace: Trace) -> tuple[Trace, IntArray]:
    """The trace with channels of grouped Convs paired as the plan has them, and the decisions that it stands for.

    Raises DataError where the plan does not fit the model's coupling.
    """
    by_node = {trace.graph.names[s.node]: s for s in trace.sources}
    asked: list[IntArray] = [np.zeros(0, np.int64)]
    for node, channels in plan.remove.items():
        source = by_node.get(node)
        if source is None:
            raise DataError(f"the plan names node '{node}', which makes no channels in this model")
        if channels and not 0 <= min(channels) <= max(channels) < len(source.units):
            stray = min(channels) if min(channels) < 0 else max(channels)
            raise DataError(f"the plan removes channel {stray} of node '{node}', which has {len(source.units)}")
        asked.append(source.units[list(channels)])
    units = np.concatenate(asked)
    stays = np.ones(len(trace.pairing.base))
    stays[np.isin(trace.pairing.base, trace.pairing.base[units])] = 0
    trace = pair(trace, stays)
    classes = np.unique(trace.unit_class[units])
    walled = classes[~trace.free[classes]]
    listed = removed_channels(trace, trace.keep_units(classes))
    for node in listed:
        if set(listed[node]) != set(plan.remove.get(node, ())):
            raise DataError(
                f"the plan breaks a coupling: node '{node}' must lose channels {_some(listed[node])} with others"
            )
    gone = np.zeros(len(trace.free), bool)
    gone[classes] = True
    for together in trace.axis_classes().values():
        if gone[together].all():
            source = next(s for s in trace.sources if np.isin(trace.unit_class[s.units], together).any())
            raise DataError(
                f"the plan leaves no channel of node '{trace.graph.names[source.node]}' where one is needed"
            )
    if len(walled):
        source = next(s for s in trace.sources if np.isin(trace.unit_class[s.units], walled).any())
        raise DataError(f"the plan removes channels of node '{trace.graph.names[source.node]}' that cannot go")
    return trace, classes


def _some(channels: tuple[int, ...]) -> str:
    return ", ".join(map(str, channels[:5])) + (", …" if len(channels) > 5 else "")
