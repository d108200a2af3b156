"""What a net costs as a function of what goes, in closed form: fast enough for a search to ask thousands of times."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from ..model import cost
from ..trace.labels import BoolArray, IntArray, vector
from ..trace.types import Trace

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CostModel:
    """A sum of terms: base · product over axes of (positions left / positions).

    macs, params: float64 [terms], of the unpruned net (one sample). term, size: of each axis, [axes]. counts: [axes,
    classes], how many positions of an axis a class has. Exact where a term's axes are cut independently.
    """

    macs: FloatArray
    params: FloatArray
    term: IntArray
    size: FloatArray
    counts: csr_array

    def left(self, gone: BoolArray) -> FloatArray:
        """What share of each term stays, [terms]. gone: bool [classes]."""
        share = 1 - (self.counts @ gone.astype(np.float64)) / self.size
        found = np.ones(len(self.macs))
        np.multiply.at(found, self.term, share)
        return found

    def macs_left(self, gone: BoolArray) -> float:
        """Multiply–accumulates that stay."""
        return float(self.macs @ self.left(gone))

    def params_left(self, gone: BoolArray) -> float:
        """Parameters that stay."""
        return float(self.params @ self.left(gone))


def cost_model(trace: Trace) -> CostModel:
    """Of everything with weights: each node's weight says which of its axes shrink with which classes."""
    macs_of = cost.macs(trace.graph, trace.shapes.shape)
    batch = max(1, trace.shapes.batch)
    users = cost.weights(trace.graph, trace.constants)
    size_of = {name: cost.size_of(trace.graph, trace.constants, name) for name in users}
    by_operand: dict[tuple[int, int], list[IntArray]] = {}
    for cut in trace.cuts:
        classes = trace.unit_class[vector(cut.labels, cut.along)]
        by_operand.setdefault((cut.node, cut.input), []).append(classes)
    macs: list[float] = []
    params: list[float] = []
    axes: list[tuple[int, IntArray]] = []
    counted: set[str] = set()
    for i, node in enumerate(trace.graph.nodes):
        main = max(
            (k for k, n in enumerate(node.input) if n in trace.constants.fixed and (i, k) in by_operand),
            key=lambda k: int(np.prod(trace.shapes.shape.get(node.input[k], (0,)))),
            default=None,
        )
        for k, name in enumerate(node.input):
            stored = cost.origin(trace.graph, name) if name in trace.constants.fixed else ""
            own = size_of.get(stored, 0) if stored not in counted and i in users.get(stored, ()) else 0
            work = macs_of.get(i, 0) / batch if k == main else 0
            if stored:
                counted.add(stored)
            if own or work:
                axes.extend((len(macs), classes) for classes in by_operand.get((i, k), ()))
                macs.append(work)
                params.append(own)
        if main is None and macs_of.get(i):
            macs.append(macs_of[i] / batch)
            params.append(0)
    term = np.array([t for t, _ in axes], np.int64)
    size = np.array([len(c) for _, c in axes], np.float64)
    rows = np.repeat(np.arange(len(axes)), size.astype(np.int64))
    columns = np.concatenate([np.zeros(0, np.int64), *(c for _, c in axes)])
    shape = (len(axes), len(trace.free))
    counts = csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)
    return CostModel(np.array(macs, np.float64), np.array(params, np.float64), term, size, counts)
