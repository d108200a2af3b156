"""Network slimming (Liu et al. 2017, arXiv 1708.06519): the scale of the BatchNormalization behind a channel."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from ..trace.types import Source, Trace
from .magnitude import filters, l2
from .reading import free_layers
from .request import Criterion, Options, Request, Subject

FloatArray = npt.NDArray[np.float64]

CHANNEL = 1


def gamma(trace: Trace, source: Source) -> FloatArray | None:
    """The scale of a BatchNormalization that reads the layer's output, whoever else does, [channels]; None without one
    (the first, where there are several)."""
    if source.axis != CHANNEL:
        return None
    for i, k in trace.graph.consumers.get(source.tensor, []):
        node = trace.graph.nodes[i]
        if k == 0 and node.op_type == "BatchNormalization" and node.input[1] in trace.constants.fixed:
            value = trace.constants.value(node.input[1])
            return None if value is None else np.asarray(value, np.float64).reshape(-1)
    return None


def bn_scale(trace: Trace, source: Source) -> FloatArray:
    """|γ_c|, [channels]; 0 where the filter in front is all zero (its channel is a constant).

    A layer without a BatchNormalization of its own scores its L2 norms instead: what γ is part of once it is folded.
    """
    scale = gamma(trace, source)
    if scale is None:
        return l2(trace, source)
    return np.where(filters(trace, source).any(axis=1), np.abs(scale), 0.0)


def request(subject: Subject, options: Options) -> Request:
    """|γ| of every layer. Raises UsageError where no layer of the model has a BatchNormalization of its own."""
    trace = subject.trace
    layers = free_layers(trace)
    if all(gamma(trace, s) is None for s in layers):
        name = trace.graph.names[layers[0].node] if layers else ""
        raise UsageError(
            f"bn-scale: no layer of this model is followed by a BatchNormalization (the first is '{name}'; exporters "
            "fold it into the weights); choose l2, which sees what was folded"
        )
    return Request((), lambda: [bn_scale(trace, s) for s in subject.layers])


BN_SCALE = Criterion(request, "Liu 2017", images=False)
