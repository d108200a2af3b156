"""Inputs to prove on: seeded random ones at the probe shapes, next to whatever samples the user has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ..data.samples import Samples
from ..model.graph import AnyArray, Graph
from ..model.shapes import Shapes
from ..model.twin import fed_type

SCALES = (1.0, 1e3, 1e6, 1e9)
"""Nets at PyTorch's default initialisation let the signal die out over their depth; larger inputs revive it."""


@dataclass(frozen=True)
class Feed:
    """One batch at the probe shapes. A feed that is not decisive (extreme inputs, where fp32 may be ill-conditioned)
    can show that a group matters; where it shows a difference it is no evidence."""

    values: Mapping[str, AnyArray]
    decisive: bool = True


def sample_feed(graph: Graph, shapes: Shapes, samples: Samples) -> Feed | None:
    """The first samples, as many as the probe's batch; None where they have another shape than the probe."""
    sizes = [shapes.feeds[n][0] for n in samples.arrays if shapes.feeds[n]]
    feed, _ = next(samples.batches(sizes[0] if sizes else 1))
    if any(feed[v.name].shape != shapes.feeds[v.name] for v in graph.inputs):
        return None
    return Feed(feed)


def random_feeds(
    graph: Graph, shapes: Shapes, seed: int, given: Mapping[str, AnyArray] | None = None
) -> Iterator[Feed]:
    """One feed per scale: normal floats; integers and booleans as in `given`, else 0 (they may be indices or flags)."""
    rng = np.random.default_rng(seed)
    for scale in SCALES:
        feed: dict[str, AnyArray] = {}
        for value in graph.inputs:
            shape = shapes.feeds[value.name]
            dtype = fed_type(value.type.tensor_type.elem_type)
            if dtype.kind in "iub":
                high = 256 if dtype == np.uint8 and len(shape) == 4 else 1
                drawn = np.asarray(rng.integers(0, high, shape), dtype)
                feed[value.name] = (given or {}).get(value.name, drawn) if high == 1 else drawn
            else:
                limit = min(scale, 1e3) if dtype.itemsize == 2 else scale
                feed[value.name] = np.asarray(rng.standard_normal(shape) * limit, dtype)
        yield Feed(feed, decisive=scale == 1.0)
