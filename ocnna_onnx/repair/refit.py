"""What a layer's weights become when some of its inputs go, from the covariance of all of them alone: a repair that
needs no run, for measuring what a cut would do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve

from ..calibrate.covariance import Covariance, Settled
from ..calibrate.linear import stored_weight
from ..calibrate.readers import Reader
from ..model.graph import AnyArray, Graph
from ..trace.labels import BoolArray
from .slots import bias_slot

FloatArray = npt.NDArray[np.float64]

DAMPING = 0.01


def refitted(
    graph: Graph,
    reader: Reader,
    covariance: Covariance | Settled,
    gone: BoolArray,
    weights: Mapping[str, AnyArray],
    weightless: bool = False,
) -> dict[str, AnyArray]:
    """Initializers with new values, in their full shapes: features that go have zero weights, the others (and the bias,
    where there is one) make up for them as well as they can.

    gone: bool [units + 1]. weights: present values by name. weightless: the bias alone makes up for what went.
    """
    node = graph.nodes[reader.map.node]
    name = node.input[reader.map.weight]
    centred, means = covariance.centred(), covariance.mean()
    new = np.zeros_like(reader.matrix)
    shift = np.zeros((len(centred), reader.matrix.shape[2]))
    for g in range(len(centred)):
        out = gone[reader.units[g]]
        old = reader.matrix[g]
        h = centred[g]
        if out.all():
            shift[g] = means[g] @ old
            continue
        if weightless:
            new[g, ~out], shift[g] = old[~out], means[g, out] @ old[out]
            continue
        kept = h[np.ix_(~out, ~out)]
        kept[np.diag_indices(len(kept))] += max(DAMPING * float(np.trace(h)) / len(h), 1e-12)
        moved = cho_solve(cho_factor(kept, lower=True), h[np.ix_(~out, out)] @ old[out])
        new[g, ~out] = old[~out] + moved
        shift[g] = means[g, out] @ old[out] - means[g, ~out] @ moved
    value = weights[name]
    outputs = value.shape[1] if reader.map.stored == "io" else value.shape[0] // len(centred)
    if reader.map.stored == "transposed":
        return {name: stored_weight(reader.map, new, value)}
    found = {name: stored_weight(reader.map, new.reshape(len(centred), -1, outputs), value)}
    slot = bias_slot(graph, reader.map)
    if slot is not None and slot.name in weights:
        bias = weights[slot.name]
        per_output = shift.reshape(len(centred), -1, outputs).sum(axis=1)  # of all taps, where they are apart
        found[slot.name] = slot.moved(bias, per_output)
    return found


def all_refitted(
    graph: Graph,
    readers: Sequence[Reader],
    covariances: Sequence[Covariance | Settled],
    gone: BoolArray,
    weightless: bool = False,
) -> dict[str, AnyArray]:
    """The same for every reader of what goes, whose weight is stored; one that several read is refitted one after the
    other."""
    changed: dict[str, AnyArray] = {}
    stored = _Stored(graph, changed)
    for reader, covariance in zip(readers, covariances, strict=True):
        if gone[reader.units].any() and graph.nodes[reader.map.node].input[reader.map.weight] in stored:
            changed.update(refitted(graph, reader, covariance, gone, stored, weightless))
    return changed


class _Stored(Mapping[str, AnyArray]):
    """Initializers by name, as they are by now; read from the model only when they are asked for."""

    def __init__(self, graph: Graph, changed: Mapping[str, AnyArray]) -> None:
        self._graph, self._changed = graph, changed

    def __getitem__(self, name: str) -> AnyArray:
        return self._changed[name] if name in self._changed else self._graph.array(name)

    def __contains__(self, name: object) -> bool:
        return name in self._graph.initializers

    def __iter__(self) -> Iterator[str]:
        return iter(self._graph.initializers)

    def __len__(self) -> int:
        return len(self._graph.initializers)
