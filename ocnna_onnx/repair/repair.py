"""Least squares from the original's layers to the pruned net's, in topological order (METHODS.md §6): each layer is
fitted on what reaches it now, after all repairs in front of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from ..calibrate.stream import batch_size
from ..data.samples import Samples
from ..errors import ModelError
from ..model.graph import Graph
from ..model.light import light
from ..model.session import Runtime
from ..rewrite.rewrite import Rewritten
from ..trace.types import Trace
from .bychannels import by_channels
from .channelmap import is_too_large
from .frontier import frontier
from .job import Job, Repaired, Site, accept
from .judge import how_much_worse
from .layers import Layer, find_layers, notes_of, pruned_constants, pruned_shapes
from .moments import HELD_OUT, Relaxed, energy_of, pairs_of
from .rectified import Threshold, scale_behind, threshold
from .residual import affine
from .sight import Sight, explains, target_of
from .solve import Fit, Pairs, fit
from .together import Pair, refitted_together
from .transposed import stuffing
from .values import with_values

FloatArray = npt.NDArray[np.float64]

EXACT = 1e-9
"""Relative squared error below which there is nothing to repair."""


def repair(
    trace: Trace,
    rewritten: Rewritten,
    samples: Samples,
    runtime: Runtime,
    memory: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
    method: str = "least-squares",
) -> Repaired:
    """New weights for the pruned model. samples: the original's outputs on them are the targets. method:
    `least-squares`; `moments` (each output channel gets its target's mean and variance) or `bias` (its mean).

    Where onnxruntime refuses a piece of a net, or the net as a whole would get worse on held-out samples, there are no
    new weights, and a note that says why.
    """
    try:
        found = _repaired(trace, rewritten, samples, runtime, memory, progress, method)
        return _if_better(trace, rewritten, samples, runtime, memory, found)
    except (ModelError, OSError, MemoryError) as error:
        why = str(error) or ("not enough memory" if isinstance(error, MemoryError) else type(error).__name__)
        return Repaired(notes=[f"repair left out: {why}"])


def _repaired(
    trace: Trace,
    rewritten: Rewritten,
    samples: Samples,
    runtime: Runtime,
    memory: int,
    progress: Callable[[int, int], None],
    method: str,
) -> Repaired:
    small = light(rewritten.model)
    graph = Graph(small.proto, small.weights)
    shapes = pruned_shapes(trace, rewritten, graph)
    constants = pruned_constants(trace, shapes, graph, runtime)
    layers, left = find_layers(trace, rewritten, graph, shapes, constants)
    sites = [Site.of(trace, rewritten, graph, shapes, constants, layer) for layer in layers]
    batch = batch_size(trace.shapes, samples)
    student = frontier(small, samples, batch, runtime, memory // 2, [s.student for s in sites])
    teacher = frontier(trace.graph.model, samples, batch, runtime, memory // 2, [s.teacher for s in sites])
    job = Job(trace, rewritten, shapes, constants, student, teacher, Repaired(), left, method)
    for k, site in enumerate(sites):
        progress(k, len(sites))
        reason = _repair_layer(job, site)
        if reason:
            left.setdefault(reason, []).append(graph.names[site.layer.node])
        student.done()
        teacher.done()
    progress(len(sites), len(sites))
    job.found.notes.extend(notes_of(left))
    return job.found


def _if_better(
    trace: Trace, rewritten: Rewritten, samples: Samples, runtime: Runtime, memory: int, found: Repaired
) -> Repaired:
    """Nothing but a note where the outputs got worse on held-out samples (on all, where there are few)."""
    if not found.values:
        return found
    late = samples.take(np.arange(samples.count)[HELD_OUT - 1 :: HELD_OUT]) if samples.count >= HELD_OUT else samples
    after = with_values(rewritten.model, found.values)
    worse = how_much_worse(
        trace.graph.model, rewritten.model, after, late, batch_size(trace.shapes, late), runtime, memory
    )
    if worse is None:
        return found
    why = f"repair left out: the outputs would be off by {worse[1]:.3g} instead of {worse[0]:.3g} on held-out samples"
    return Repaired(notes=[*found.notes, why])


def _repair_layer(job: Job, site: Site) -> str:
    """Why the layer is left as it is; '' where it was seen to."""
    layer, map_, student, teacher = site.layer, site.layer.map, job.student, job.teacher
    try:
        teacher.reach(site.teacher.tensors)
        student.reach(site.student.tensors)
    except ValueError:
        return "what it reads differs in shape from batch to batch"
    target, y = target_of(job, site)
    x = student.held[map_.tensor]
    if teacher.rows[y] != student.rows[map_.tensor] or 0 in job.rewritten.kept.changed_axes(y):
        return "its rows are not those of the original"
    count = min(len(x), len(teacher.held[y]))
    view = stuffing(job.graph, map_, x.shape[2:], teacher.held[y].shape[2:]) if map_.stored == "transposed" else None
    sight = Sight(map_, view, x, target, count)
    value = layer.weight.turned(student.weights[layer.weight.name])
    weight = sight.matrix(value)
    old = np.zeros((map_.groups, weight.shape[2]))
    if layer.slot is not None:
        old = old + layer.slot.bias(student.weights[layer.slot.name]).reshape(map_.groups, -1)
    offset = np.broadcast_to(layer.offset.reshape(1, -1), (1, old.size)).reshape(map_.groups, -1)
    if not explains(student, sight, weight, old + offset):
        return "its output is not what its weights say"
    if is_too_large(map_, weight.shape[1]) and job.method == "least-squares":
        return by_channels(job, site, sight, old)
    seen, held_out = pairs_of(student, sight, offset, layer.slot is not None)
    if not np.isfinite(seen.xx).all() or not np.isfinite(seen.yy).all():
        return "values that reach it are not finite"
    with threadpool_limits(1, "blas"):
        result = fit(seen, held_out, weight, old, job.method)
    energy = energy_of(held_out if held_out.rows else seen)
    if result.before <= EXACT * energy:
        return ""
    told = result
    begins = (
        threshold(job.student, job.constants, sight.map)
        if job.method == "least-squares" and sight.view is None
        else None
    )
    if begins is not None and begins.stream is not None and len(begins.stream) < sight.count:
        begins = None
    result = _rectified(job, layer, sight, offset, weight, old, result, begins, (seen, held_out))
    reason = accept(job, layer, sight.stored(result.weight, value), (result.bias - old).reshape(-1))
    if not reason and site.front is not None and job.method == "least-squares":
        _together(job, site, sight, begins, (result.bias - old).reshape(-1))
    job.found.layers[job.graph.names[layer.node]] = _errors(told, energy, bool(reason))
    return reason


def _rectified(
    job: Job,
    layer: Layer,
    sight: Sight,
    offset: FloatArray,
    weight: FloatArray,
    old: FloatArray,
    first: Fit,
    begins: Threshold | None,
    known: tuple[Pairs, Pairs],
) -> Fit:
    """In front of a Relu once more, with targets that ask for nothing where it cuts off: one round takes most of what
    there is to gain. known: moments for the first round."""
    if begins is None or first.ridge is None:
        return first
    relaxed = Relaxed(begins, first.weight, first.bias + offset, known)
    seen, held_out = pairs_of(job.student, sight, offset, layer.slot is not None, relaxed)
    with threadpool_limits(1, "blas"):
        second = fit(seen, held_out, weight, old)
    return second if second.ridge is not None else first


def _together(job: Job, site: Site, sight: Sight, begins: Threshold | None, shift: FloatArray) -> None:
    """The layer and the one in front of it once more, as one problem. shift: of the bias, as it was just repaired."""
    student, front, layer = job.student, site.front, site.layer
    assert front is not None
    if len(student.held[front.map.tensor]) != student.samples or sight.count != student.samples:
        return  # rows that are no samples
    scale = None
    if site.total is not None and site.total.between:
        size = job.constants.shape[layer.map.output][layer.map.out_axis]
        scale = affine(job.graph, job.constants, job.found.values, site.total, size)[0]
    elif site.total is None:
        scale = scale_behind(student, layer.map.output)
    late = student.is_late(front.map.tensor, np.arange(sight.count), HELD_OUT)
    pair = Pair(front, layer, sight.target, scale, begins, sight.count, shift)
    values, left = refitted_together(student, job.shapes, job.constants, pair, late)
    if values:
        names = job.graph.names
        job.found.pairs[names[layer.node]] = (names[front.node], left)
    job.take(values)


def _errors(result: Fit, energy: float, refused: bool) -> tuple[float, float]:
    return result.before / energy, (result.before if refused else result.after) / energy
