"""What goes at one level of a budget: curves of damage, costs, and alignment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from .opened import Opened
from .plan.align import aligned
from .plan.allocate import Curve, allocate
from .plan.costs import CostModel
from .plan.decide import Decided, Ordered
from .plan.select import matches, spare_emptied
from .plan.sensitivities import Cuts, order_of
from .plan.targets import Kind, Target
from .rewrite.rewrite import rewrite
from .sensing import curve
from .trace.groups import Group
from .trace.labels import BoolArray, IntArray
from .trace.types import Trace
from .wishes import Wishes

FloatArray = npt.NDArray[np.float64]

FADING = 0.2
"""What is left of an early group's damage once all layers behind it are repaired, as a share of what its curve says: a
repair refits them one after the other to what the original makes, and the curves know of the first readers only.
Chosen on training images, for ResNets and VGG (0.25 and 0.1 do about as well, 1 does worse)."""

STAMP = 1500
"""Bytes of a stamp without its channels."""

WEIGHINGS = 12
"""Files that are made for a target in bytes, at most."""


@dataclass(frozen=True)
class Ways:
    """Everything that levels of a budget are made from."""

    job: Opened
    decided: Decided
    score: FloatArray
    curves: Sequence[Curve]
    most: Sequence[int]
    costs: CostModel
    wishes: Wishes
    axes: Sequence[IntArray]

    @property
    def trace(self) -> Trace:
        return self.decided.trace


def most_of(trace: Trace, group: Group, wishes: Wishes) -> int:
    """Classes that a group may lose."""
    units = len(group.classes)
    most = min(len(group.free), units - max(1, wishes.min_channels))
    names = [trace.graph.names[trace.sources[k].node] for k in group.sources]
    for pattern, least in wishes.keep.items():
        if any(matches(n, pattern) for n in names):
            most = min(most, units - least)
    for pattern, share in wishes.max_cut.items():
        if any(matches(n, pattern) for n in names):
            most = min(most, int(share * units + 1e-9))
    return max(0, most)


def curves_of(order: Ordered, cuts: Sequence[Cuts] | None, wishes: Wishes) -> list[Curve]:
    """One per group, as its damage counts in the net as it will leave."""
    steps = [wishes.align.of(len(g.classes)) for g in order.groups]
    if wishes.allocate == "uniform":
        return [_uniform(g, order.score, s) for g, s in zip(order.groups, steps, strict=True)]
    assert cuts is not None
    made = [curve(g, order.score, c, s) for g, c, s in zip(order.groups, cuts, steps, strict=True)]
    if not wishes.mended:
        return made
    behind = _behind(order.start.trace, order.groups)
    return [replace(c, damage=c.damage * FADING**share) for c, share in zip(made, behind, strict=True)]


def _behind(trace: Trace, groups: Sequence[Group]) -> list[float]:
    """The share of all layers that come after the last one that reads a group: what they can make up for."""
    layers = np.unique([node for node, _ in trace.masks])
    return [float((layers > max(g.consumers, default=layers[-1])).mean()) if len(layers) else 0.0 for g in groups]


def _uniform(group: Group, score: FloatArray, step: int) -> Curve:
    """A curve whose slope per share of the group is the same everywhere: all groups lose the same share."""
    order = order_of(group, score)
    return Curve(order, np.zeros(len(order) + 1), len(group.classes), step)


def level(ways: Ways, cost: Callable[[BoolArray], float], budget: float) -> IntArray:
    """The classes that go at one budget, aligned."""
    trace, wishes = ways.trace, ways.wishes
    asked = budget
    classes: IntArray = np.zeros(0, np.int64)
    for _ in range(6):
        if wishes.allocate == "uniform":
            taken = _equal_shares(ways, cost, asked)
        else:
            taken = allocate(ways.curves, ways.most, cost, len(trace.free), asked)
        classes = _dense(ways, taken)
        over = cost(gone_of(trace, classes)) - budget
        if over <= 0 or asked <= 0:
            break
        asked -= max(over, 1e-4 * budget)
    return classes


def _dense(ways: Ways, taken: Sequence[int]) -> IntArray:
    """The classes that go when each group loses so many, but those that must stay: where a tensor would be empty, or a
    channel count would not be aligned."""
    together = list(ways.trace.axis_classes().values())
    chosen = [c.order[:n] for c, n in zip(ways.curves, taken, strict=True)]
    removed = np.sort(np.concatenate([np.zeros(0, np.int64), *chosen]))
    return aligned(spare_emptied(removed, together, ways.score), ways.axes, ways.score, ways.wishes.align)


def deepest_cut(ways: Ways) -> IntArray:
    """The classes that go when every group loses all that it may."""
    return _dense(ways, ways.most)


def _equal_shares(ways: Ways, cost: Callable[[BoolArray], float], budget: float) -> list[int]:
    """The smallest share that, taken from every group, meets the budget."""

    def taken(share: float) -> list[int]:
        return [min(m, int(share * c.units + 1e-9)) for c, m in zip(ways.curves, ways.most, strict=True)]

    def spent(share: float) -> float:
        gone = np.zeros(len(ways.trace.free), bool)
        for c, n in zip(ways.curves, taken(share), strict=True):
            gone[c.order[:n]] = True
        return cost(gone)

    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (low, middle) if spent(middle) <= budget else (middle, high)
    return taken(high)


def axis_channels(trace: Trace) -> list[IntArray]:
    """The class of every channel along each source's axis, and along what reads several of them (a Concat)."""
    found: dict[bytes, IntArray] = {}
    for arrays in trace.labels.values():
        for x in arrays:
            if len(x.axes) == 1:
                classes = trace.unit_class[x.array.reshape(-1)]
                found.setdefault(classes.tobytes(), classes)
    return list(found.values())


def gone_of(trace: Trace, classes: IntArray) -> BoolArray:
    """bool per class: whether it goes."""
    gone = np.zeros(len(trace.free), bool)
    gone[classes] = True
    return gone


def whole_cost(ways: Ways, kind: str) -> float:
    """Multiply–accumulates, parameters or bytes of the original."""
    nothing = np.zeros(len(ways.trace.free), bool)
    if kind == "macs":
        return ways.costs.macs_left(nothing)
    if kind == "params":
        return ways.costs.params_left(nothing)
    return float(ways.job.loaded.bytes)


def cost_of(ways: Ways, kind: str) -> Callable[[BoolArray], float]:
    """The same of a net without some classes; bytes are foretold from parameters."""
    if kind == "macs":
        return ways.costs.macs_left
    if kind == "params":
        return ways.costs.params_left
    nothing = np.zeros(len(ways.trace.free), bool)
    params = ways.costs.params_left(nothing)
    graph = ways.trace.graph
    stored = sum(graph.array(n).nbytes for n, t in graph.initializers.items() if t.dims)
    width = min(stored, ways.job.loaded.bytes) / max(1.0, params)  # bytes of a parameter
    return lambda gone: ways.job.loaded.bytes - width * (params - ways.costs.params_left(gone))


def counted_cut(ways: Ways, targets: Sequence[Target]) -> IntArray:
    """What goes so that all counted targets hold. Bytes are foretold from parameters, and then weighed: what a file
    came out too large is asked off what was foretold of this very cut, so that every try goes deeper."""
    limits = {t.kind: t.limit(whole_cost(ways, t.kind)) for t in targets}
    most, foretold = limits.get("bytes"), cost_of(ways, "bytes")
    for _ in range(WEIGHINGS):
        classes = _foretold(ways, limits)
        if most is None or (over := weighed(ways, classes) - most) <= 0:
            break
        limits["bytes"] = foretold(gone_of(ways.trace, classes)) - over
    return classes


def counted_value(ways: Ways, classes: IntArray, kind: str) -> float:
    """The same, bytes as the file has them."""
    return weighed(ways, classes) if kind == "bytes" else cost_of(ways, kind)(gone_of(ways.trace, classes))


def weighed(ways: Ways, classes: IntArray) -> float:
    """Bytes of the file, with room for its stamp (about a byte per channel that goes)."""
    if not len(classes):
        return float(ways.job.loaded.bytes)
    model = rewrite(ways.trace, ways.trace.keep_units(classes)).model
    return float(model.ByteSize() + STAMP + 2 * len(classes))


def _foretold(ways: Ways, limits: Mapping[Kind, float]) -> IntArray:
    """The worst excess is what a step must lower. limits: kind -> what is to be left at most; positive, or out of
    reach."""
    parts = [(cost_of(ways, kind), limit) for kind, limit in limits.items()]
    if len(parts) == 1:
        return level(ways, *parts[0])
    return level(ways, lambda gone: sum(max(1.0, cost(gone) / max(limit, 1.0)) for cost, limit in parts), len(parts))
