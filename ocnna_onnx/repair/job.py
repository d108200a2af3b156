"""A repair on its way: both nets, what each layer takes, and the values that were found so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..model.constants import Constants
from ..model.graph import AnyArray, Graph
from ..model.shapes import Shapes
from ..rewrite.rewrite import Rewritten
from ..trace.types import Trace
from .channelmap import Places, is_too_large, places
from .frontier import Frontier, Step
from .layers import Layer
from .residual import Residual, residual
from .together import front_of

FloatArray = npt.NDArray[np.float64]

GROWTH = 10.0
"""A repaired weight may have so many times the norm of the original's: what is larger leans on noise."""


@dataclass
class Repaired:
    """values: initializer of the pruned model -> its new value. layers: node -> (error before, after), relative, on
    held-out samples. pairs: node -> (the one in front of it, with which it was then refitted, share of the held-out
    error that this left). notes: what was left alone, and why."""

    values: dict[str, AnyArray] = field(default_factory=dict)
    layers: dict[str, tuple[float, float]] = field(default_factory=dict)
    pairs: dict[str, tuple[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Job:
    """Both nets on their way, and what repairs came to so far. left: reason -> nodes that are left alone. method: see
    `repair`."""

    trace: Trace
    rewritten: Rewritten
    shapes: Shapes
    constants: Constants
    student: Frontier
    teacher: Frontier
    found: Repaired
    left: dict[str, list[str]]
    method: str

    @property
    def graph(self) -> Graph:
        """The pruned net."""
        return self.student.graph

    def take(self, values: Mapping[str, AnyArray]) -> None:
        """New values of weights, by name, for what runs from now on and for what leaves."""
        self.student.weights.update(values)
        self.found.values.update(values)


@dataclass(frozen=True)
class Site:
    """A layer with what it takes: of the pruned net, and of the original. places: where the features of each channel
    lie, for layers with too many of them."""

    layer: Layer
    total: Residual | None
    places: Places | None
    source: str
    front: Layer | None
    student: Step
    teacher: Step

    @classmethod
    def of(
        cls,
        trace: Trace,
        rewritten: Rewritten,
        graph: Graph,
        shapes: Shapes,
        constants: Constants,
        layer: Layer,
    ) -> Site:
        map_ = layer.map
        total = residual(graph, constants, map_)
        if total is not None and total.total not in trace.graph.producer:
            total = None
        width = constants.shape[map_.tensor][map_.axis] // map_.groups * map_.taps
        source = trace.graph.nodes[trace.graph.producer[map_.output]].input[1 - map_.weight]
        at = places(rewritten.kept, map_, source) if is_too_large(map_, width) else None
        wanted = [map_.output] if total is None else [total.total, *([map_.output] if total.between else [])]
        theirs = Step((*wanted, *([source] if at is not None else [])))
        front = front_of(trace, graph, shapes, constants, layer) if at is None else None
        more = [*([total.other] if total is not None else []), *([front.map.tensor] if front is not None else [])]
        ours = Step((map_.tensor, *more), (layer.node, *([front.node] if front is not None else [])))
        return cls(layer, total, at, source, front, ours, theirs)


def accept(job: Job, layer: Layer, new: AnyArray, shift: FloatArray) -> str:
    """Take new values, unless they are no numbers or have grown out of proportion."""
    student, names = job.student, layer.weight
    values = {names.name: np.ascontiguousarray(names.turned(new))}
    if layer.slot is not None:
        with np.errstate(over="ignore"):
            values[layer.slot.name] = layer.slot.moved(student.weights[layer.slot.name], shift)
    if not all(np.isfinite(v).all() for v in values.values()):
        return "its new weights would not be finite"
    origin = job.trace.graph.nodes[job.trace.graph.producer[layer.map.output]].input[layer.map.weight]
    whole = job.trace.constants.value(origin)
    norms = [np.linalg.norm(a.astype(np.float64)) for a in (new, student.weights[names.name], whole) if a is not None]
    if norms[0] > GROWTH * max(norms[1:]):
        return "its new weights would be out of proportion"
    job.take(values)
    return ""
