"""What a trace finds: plain records that planning, rewriting and proving read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..model.constants import Constants
from ..model.graph import Graph
from ..model.light import Light
from ..model.shapes import Shapes
from ..model.unfold import Unfolded
from .labels import BoolArray, IntArray, Labels


@dataclass(frozen=True)
class Source:
    """A node that makes fresh channels. units: int64 [channels], the unit of each channel of `tensor` along `axis`."""

    node: int
    tensor: str
    axis: int
    units: IntArray


@dataclass(frozen=True)
class Cut:
    """A constant operand that shrinks: position p along `axis` goes with position p along `along` of `labels`.

    Where the labels vary along further axes (the groups of a grouped Conv), a position goes when all its labels go.
    """

    node: int
    input: int
    axis: int
    labels: Labels
    along: int


@dataclass(frozen=True)
class Wall:
    """Units that cannot go, and why: the node, the tensor that reaches it, the reason in words."""

    node: int
    tensor: str
    reason: str
    units: IntArray


@dataclass(frozen=True)
class Option:
    """One way to keep a grid dense. rows: [n, m] matrices; units of one row go together, a 0 among them walls it.

    by_count: the units of a column may change places, since only their number counts (the channels of one group of a
    grouped Conv): which of them go together is settled when scores are known.
    """

    name: str
    rows: tuple[IntArray, ...]
    by_count: bool = False


@dataclass(frozen=True)
class Choice:
    """A grid of units and the ways to keep it dense; the coupling takes the way that leaves more choices."""

    node: int
    tensor: str
    options: tuple[Option, ...]


@dataclass(frozen=True)
class Pairing:
    """What is open until scores are known: grids that lose an equal count in every group, whichever channels these are.

    base: int64 [units + 1], the classes before channels of different groups are paired. walls: those that hold however
    they are paired.
    """

    base: IntArray
    grids: tuple[tuple[Choice, Option], ...]
    walls: tuple[Wall, ...]


@dataclass(frozen=True)
class Trace:
    """Everything the trace of one model found.

    original: the model as it was given. unfolded: what was laid out of it to be traced; its graph is `graph`.
    labels: tensor -> its label arrays (none: fixed). unit_class: int64 [units + 1], the class (one decision) of each
    unit. free: bool per class, whether no wall touches it. masks: (node, input) places where the proof's oracle
    silences removed units, because the node mixes them into values that stay -> the input that holds what silence is
    (a zero point), None for 0. pairing: how classes may be formed anew (`coupling.pair`).
    """

    original: Light
    unfolded: Unfolded
    graph: Graph
    shapes: Shapes
    constants: Constants
    labels: Mapping[str, tuple[Labels, ...]]
    sources: tuple[Source, ...]
    cuts: tuple[Cut, ...]
    walls: tuple[Wall, ...]
    masks: Mapping[tuple[int, int], int | None]
    chosen: tuple[tuple[Choice, str], ...]
    unit_class: IntArray
    free: BoolArray
    pairing: Pairing

    def axis_classes(self) -> dict[bytes, IntArray]:
        """The distinct sets of classes that some label array consists of; of each, one class at least must stay."""
        found: dict[bytes, IntArray] = {}
        for arrays in self.labels.values():
            for x in arrays:
                classes = np.unique(self.unit_class[x.array])
                found[classes.tobytes()] = classes
        return found

    def free_sources(self) -> tuple[int, ...]:
        """Numbers of the sources of which something can go."""
        return tuple(k for k, s in enumerate(self.sources) if self.free[self.unit_class[s.units]].any())

    def keep_units(self, removed_classes: IntArray) -> BoolArray:
        """bool [units + 1]: which units stay when these classes go (entry 0, "no unit", always stays)."""
        gone = np.zeros(len(self.free), bool)
        gone[removed_classes] = True
        keep = ~gone[self.unit_class]
        keep[0] = True
        return keep
