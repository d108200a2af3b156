"""One streamed pass over the samples: tapped tensors come in batches, and go as soon as statistics are taken."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from ..data.samples import Samples
from ..errors import DataError
from ..model.graph import AnyArray, Graph
from ..model.light import light
from ..model.session import Runtime, open_session, run
from ..model.shapes import Shapes

FloatArray = npt.NDArray[np.float64]

MAX_BATCH = 16

BATCH_BYTES = 1 << 27
"""All taps of one batch should fit in this: larger batches gain nothing on a CPU. It does not follow the memory at
hand, since the batch has a say in rounding."""


@dataclass(frozen=True)
class Tap:
    """A tensor to watch.

    take(output, batch, valid) is called with every batch, in order: the tensor as onnxruntime gave it for a feed of
    `batch` samples, of which the first `valid` count (the rest repeat the last one). Taps may be called at the
    same time. held: bytes that its statistics hold at the end.
    """

    tensor: str
    take: Callable[[AnyArray, int, int], None]
    held: int = 0


def stream(
    graph: Graph,
    shapes: Shapes,
    taps: Sequence[Tap],
    samples: Samples,
    runtime: Runtime,
    memory: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Run the samples through the graph and hand every tapped tensor to its taps, in as few passes as `memory` (bytes)
    allows.

    onnxruntime and the taps take turns, each with all threads: onnxruntime's workers stop spinning when a run ends, and
    BLAS has one thread in each tap. Raises DataError where a tapped tensor is not finite.
    """
    names = list(dict.fromkeys(t.tensor for t in taps))
    batch = tapped_batch(shapes, names, samples)
    passes = _passes(shapes, taps, batch, memory)
    total = len(passes) * -(-samples.count // batch)
    done = 0
    progress(done, total)
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(workers(runtime)) as pool:
        for chosen in passes:
            wanted = list(dict.fromkeys(t.tensor for t in chosen))
            with open_session(light(graph.model, wanted), runtime, optimize=True, shared=True) as session:
                for feed, valid in samples.batches(batch):
                    outputs = run(session, wanted, feed)
                    for future in [pool.submit(_finite, samples, graph, name, outputs[name]) for name in wanted]:
                        future.result()
                    for future in [pool.submit(t.take, outputs[t.tensor], batch, valid) for t in chosen]:
                        future.result()
                    done += 1
                    progress(done, total)


def workers(runtime: Runtime) -> int:
    """Threads for what we compute ourselves: as many as onnxruntime has."""
    return runtime.threads or os.cpu_count() or 1


def batch_size(shapes: Shapes, samples: Samples) -> int:
    """The batch that the model's inputs allow: fixed by the model, or as many samples as fit BATCH_BYTES with room for
    a few tensors of the largest size."""
    largest = max((prod(s) for s in shapes.shape.values()), default=0)
    return _fitting(shapes, samples, 16 * largest)


def tapped_batch(shapes: Shapes, tensors: Sequence[str], samples: Samples) -> int:
    """The batch of a pass that keeps these tensors: fixed by the model, or as many as fit BATCH_BYTES."""
    return _fitting(shapes, samples, sum(4 * prod(shapes.shape[t]) for t in tensors))


def _fitting(shapes: Shapes, samples: Samples, size: int) -> int:
    """size: bytes of one batch at the probe's shapes."""
    fixed = [shapes.feeds[n][0] for n in samples.arrays if 0 not in shapes.dynamic.get(n, ()) and shapes.feeds[n]]
    if fixed:
        return fixed[0]
    batch = MAX_BATCH
    while batch > 1 and size // max(shapes.batch, 1) * batch > BATCH_BYTES:
        batch //= 2
    return min(batch, max(1, samples.count))


def _passes(shapes: Shapes, taps: Sequence[Tap], batch: int, memory: int) -> list[list[Tap]]:
    """The taps in runs that fit the memory: tensors (twice, for what is computed from them) and statistics."""
    passes: list[list[Tap]] = [[]]
    size = 0
    counted: set[str] = set()
    for tap in taps:
        tensor = 8 * prod(shapes.shape[tap.tensor]) * batch // max(shapes.batch, 1)
        own = tap.held + (0 if tap.tensor in counted else tensor)
        if passes[-1] and size + own > memory:
            passes.append([])
            counted, size, own = set(), 0, tap.held + tensor
        passes[-1].append(tap)
        counted.add(tap.tensor)
        size += own
    return passes if taps else []


def _finite(samples: Samples, graph: Graph, name: str, output: AnyArray) -> None:
    """Raises DataError."""
    if output.dtype.kind != "f" or not output.size:
        return
    flat = output.reshape(-1)
    with np.errstate(all="ignore"):
        squares = np.dot(flat, flat)  # one pass that keeps NaN and infinity
    if not np.isfinite(squares) and not np.isfinite(output).all():
        node = graph.names[graph.producer[name]] if name in graph.producer else name
        raise DataError(f"{samples.source}: the output of node '{node}' is not finite on these samples")
