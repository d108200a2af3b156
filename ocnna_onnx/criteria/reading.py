"""What criteria that look at responses share: where each layer is read, and in which numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ..calibrate.stream import Tap
from ..calibrate.where import after_activation, decoder
from ..errors import UsageError
from ..model.graph import AnyArray
from ..trace.types import Source, Trace
from .request import Criterion, Options, Request, Subject, from_outputs

FloatArray = npt.NDArray[np.float64]


def read_at(subject: Subject, options: Options, name: str) -> tuple[str, ...]:
    """The tensor of each layer: its own output (`tap=conv`), or the one behind its activation (`tap=activation`).
    name: the criterion's. Raises UsageError for another tap."""
    tap = options["tap"]
    if tap not in ("conv", "activation"):
        raise UsageError(f"{name}: tap '{tap}' is not known: choose conv (the layer's own output) or activation")
    return tuple(s.tensor if tap == "conv" else after_activation(subject.trace, s) for s in subject.layers)


def in_numbers(trace: Trace, request: Request) -> Request:
    """The same request, to which integer codes come as the numbers that they stand for."""

    def numbers(tap: Tap) -> Tap:
        decode = decoder(trace, tap.tensor)
        return replace(tap, take=lambda output, batch, valid: tap.take(decode(output), batch, valid))

    return Request(tuple(numbers(t) for t in request.taps), request.finish)


def mean_over_images(name: str, source: str, measure: Callable[[AnyArray], FloatArray]) -> Criterion:
    """A criterion that is the mean over the images of one number per map. measure: maps [images, channels, rows,
    columns] -> [images, channels]."""

    def request(subject: Subject, options: Options) -> Request:
        tensors = read_at(subject, options, name)
        return in_numbers(subject.trace, from_outputs(subject.layers, tensors, measure, lambda m: m.mean))

    return Criterion(request, source, {"tap": "activation"})


def free_layers(trace: Trace) -> list[Source]:
    """The layers of which something can go; all of them where there are none."""
    found = [trace.sources[k] for k in trace.free_sources()]
    return found or list(trace.sources)
