"""One streamed pass over the samples: tapped layer outputs come in batches and leave as one number per image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ..data.samples import Samples
from ..errors import DataError
from ..model.graph import AnyArray
from ..model.light import light
from ..model.session import Runtime, open_session, run
from ..trace.types import Source, Trace
from .maps import as_maps

FloatArray = npt.NDArray[np.float64]

TAP_BYTES = 1 << 29
"""Tapped outputs of one batch in one session; more layers than fit are tapped in further passes."""

MAX_BATCH = 16


def per_image(
    trace: Trace,
    sources: Sequence[Source],
    samples: Samples,
    measure: Callable[[AnyArray], FloatArray],
    runtime: Runtime,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[FloatArray]:
    """measure(maps) of every image, [images, channels] per source, in the order of `sources`.

    Raises DataError where a layer's output is not finite.
    """
    batch, chunks = _layout(trace, sources, samples)
    found: dict[str, FloatArray] = {}
    total = len(chunks) * -(-samples.count // batch)
    done = 0
    for chunk in chunks:
        parts: Mapping[str, list[FloatArray]] = {s.tensor: [] for s in chunk}
        names = list(parts)
        with open_session(light(trace.graph.model, names), runtime, optimize=True) as session:
            for feed, valid in samples.batches(batch):
                outputs = run(session, names, feed)
                for source in chunk:
                    output = outputs[source.tensor]
                    if not np.isfinite(output).all():
                        node = trace.graph.names[source.node]
                        raise DataError(f"{samples.source}: the output of node '{node}' is not finite on these samples")
                    parts[source.tensor].append(measure(as_maps(output, source.axis, batch))[:valid])
                done += 1
                progress(done, total)
        found.update({name: np.concatenate(rows) for name, rows in parts.items()})
    return [found[s.tensor] for s in sources]


def batch_size(trace: Trace, samples: Samples) -> int:
    """The batch that the model's inputs allow: fixed by the model, or MAX_BATCH."""
    fixed = [
        trace.shapes.feeds[n][0]
        for n in samples.arrays
        if 0 not in trace.shapes.dynamic.get(n, ()) and trace.shapes.feeds[n]
    ]
    return fixed[0] if fixed else min(MAX_BATCH, max(1, samples.count))


def _layout(trace: Trace, sources: Sequence[Source], samples: Samples) -> tuple[int, list[list[Source]]]:
    """Batch size, and the sources in chunks whose outputs fit TAP_BYTES."""
    batch = batch_size(trace, samples)
    chunks: list[list[Source]] = [[]]
    size = 0
    for source in sources:
        own = 4 * int(np.prod(trace.shapes.shape[source.tensor], dtype=np.int64)) * batch // trace.shapes.batch
        if chunks[-1] and size + own > TAP_BYTES:
            chunks.append([])
            size = 0
        chunks[-1].append(source)
        size += own
    return batch, chunks
