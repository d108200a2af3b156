"""What a criterion is: it says which tensors it wants to see, and makes scores of what it saw."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..calibrate.maps import as_maps
from ..calibrate.moments import Moments, merged, moments
from ..calibrate.stream import Tap
from ..model.graph import AnyArray
from ..trace.types import Source, Trace

FloatArray = npt.NDArray[np.float64]

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Subject:
    """What is to be scored. sources: numbers (positions in `trace.sources`) of the layers. samples: how many there will
    be. seed: of everything that is drawn. workers: threads to compute with."""

    trace: Trace
    sources: tuple[int, ...]
    samples: int
    seed: int
    workers: int = 1

    @property
    def layers(self) -> tuple[Source, ...]:
        """The layers themselves, in the order of `sources`."""
        return tuple(self.trace.sources[k] for k in self.sources)


@dataclass(frozen=True)
class Request:
    """taps: what is to be watched in one pass over the samples. finish: afterwards, the scores of every layer of the
    subject in order, float64 [channels] each; higher = keep."""

    taps: tuple[Tap, ...]
    finish: Callable[[], list[FloatArray]]


@dataclass(frozen=True)
class Criterion:
    """request(subject, options): see Request. options: what it can be told, with the default. source: paper, and what
    it takes in a word. images: whether it needs samples."""

    request: Callable[[Subject, Options], Request]
    source: str
    options: Options = field(default_factory=dict)
    images: bool = True


def from_weights(score: Callable[[Trace, Source], FloatArray], source: str) -> Criterion:
    """A criterion that looks at one layer of the model at a time. score(trace, layer): float64 [channels]."""

    def request(subject: Subject, options: Options) -> Request:
        return Request((), lambda: [score(subject.trace, s) for s in subject.layers])

    return Criterion(request, source, images=False)


@dataclass(frozen=True)
class Gather:
    """Maps whose smaller side is at most `side` wait until a layer has so many bytes of them, for what works better on
    many small maps at once. samples: how many there will be, so that the last ones need not wait."""

    samples: int
    bytes: int
    side: int


def from_outputs(
    layers: tuple[Source, ...],
    tensors: tuple[str, ...],
    measure: Callable[[AnyArray], FloatArray],
    finish: Callable[[Moments], FloatArray],
    gather: Gather | None = None,
) -> Request:
    """A request that measures one number per image and channel, and keeps its mean and variance over the images.

    tensors: where each layer is read; channels lie along the layer's own axis. measure: maps [images, channels, rows,
    columns] -> [images, channels]. finish: the moments of a layer -> scores [channels]. gather: see Gather; each
    batch is measured as it comes otherwise.
    """
    found: list[Moments | None] = [None] * len(layers)
    waiting: list[list[AnyArray]] = [[] for _ in layers]
    seen = [0] * len(layers)

    def settle(k: int) -> None:
        if waiting[k]:
            maps = waiting[k][0] if len(waiting[k]) == 1 else np.concatenate(waiting[k])
            waiting[k].clear()
            found[k] = merged(found[k], moments(measure(maps)))

    def watch(k: int) -> Callable[[AnyArray, int, int], None]:
        def take(output: AnyArray, batch: int, valid: int) -> None:
            maps = as_maps(output, layers[k].axis, batch)
            waiting[k].append(maps[: max(1, valid * len(maps) // batch)])
            seen[k] += valid
            size = sum(m.nbytes for m in waiting[k])
            if gather is None or size >= gather.bytes or min(maps.shape[2:]) > gather.side or seen[k] >= gather.samples:
                settle(k)

        return take

    def scores() -> list[FloatArray]:
        for k in range(len(layers)):
            settle(k)
        return [finish(m) for m in found if m is not None]

    return Request(
        tuple(Tap(tensor, watch(k), gather.bytes if gather else 0) for k, tensor in enumerate(tensors)), scores
    )
