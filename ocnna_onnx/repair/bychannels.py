"""The repair of a layer with too many features for a Gram matrix: channel by channel (`channelmap`)."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from ..calibrate.linear import linear, matrix
from ..calibrate.sampling import positions_of, positions_per_image
from ..data.rows import Rows
from ..model.graph import AnyArray
from .channelmap import Places, Residue, channel_rows, composed, start
from .frontier import Frontier
from .job import Job, Site, accept
from .moments import HELD_OUT, WORK, moments_of
from .sight import Sight
from .solve import Pairs, fit

FloatArray = npt.NDArray[np.float64]


def by_channels(job: Job, site: Site, sight: Sight, old: FloatArray) -> str:
    """The repair of a layer with too many features: see `channelmap`."""
    layer, map_, student, at = site.layer, site.layer.map, job.student, site.places
    number = job.trace.graph.producer[map_.output]
    theirs = linear(job.trace.graph, job.trace.shapes, job.trace.constants, number)
    whole = job.trace.constants.value(job.trace.graph.nodes[number].input[map_.weight])
    if at is None or theirs is None or whole is None or theirs.stored != map_.stored:
        return "it has too many inputs for a least squares problem"
    stays = job.rewritten.kept.along(map_.output, map_.out_axis)
    full = matrix(theirs, whole)[:, :, stays]
    source = job.teacher.held[site.source]
    pairs = [_channel_pairs(student, sight, at, source, intercept) for intercept in (True, False)]
    if not all(np.isfinite(p.xx).all() and np.isfinite(p.yy).all() for p, _ in pairs):
        return "values that reach it are not finite"
    before = student.weights[layer.weight.name]
    value = layer.weight.turned(before)
    candidates = [value]
    for seen, held_out in pairs:
        with threadpool_limits(1, "blas"):
            across = fit(seen, held_out, start(at), np.zeros((1, len(at.before)))).weight
            candidates.append(sight.stored(composed(at, across, full), value))
    tried = []
    for new in candidates:
        student.weights[layer.weight.name] = np.ascontiguousarray(layer.weight.turned(new))
        residue = _residue(student, sight)
        some = layer.slot is not None
        shift = residue.shift(0) if some else np.zeros(residue.first.shape[1])
        tried.append((residue.error(shift), residue, residue.shift() if some else shift))
    student.weights[layer.weight.name] = before
    error = tried[0][1].error(np.zeros_like(tried[0][2]))
    best = min(range(len(tried)), key=lambda k: tried[k][0])
    reason = "" if tried[best][0] < error else "nothing better was found"
    if not reason:
        reason = accept(job, layer, candidates[best], tried[best][2])
    residue = tried[0][1]
    energy = max(residue.error(residue.shift(1)), 1e-30)
    job.found.layers[job.graph.names[layer.node]] = (1.0, 1.0 if reason else tried[best][0] / energy)
    return reason


def _channel_pairs(student: Frontier, sight: Sight, at: Places, source: Rows, intercept: bool) -> tuple[Pairs, Pairs]:
    """Moments of the channels that stayed (features) and of all channels (targets)."""
    map_ = sight.map
    total = prod(sight.x.shape[2:]) if map_.stored == "conv" else 1
    each = positions_per_image(sight.count, total, len(at.before), WORK) if map_.stored == "conv" else None

    def rows(part: slice) -> tuple[AnyArray, AnyArray]:
        where = None if each is None else positions_of(part.start, part.stop - part.start, total, each, 0)
        x = channel_rows(map_, at, np.asarray(sight.x[part], np.float32), False, where)
        return x, channel_rows(map_, at, np.asarray(source[part], np.float32), True, where)

    return moments_of(
        student, sight, rows, at.before.shape[1] if each is None and total == 1 else each or total, intercept
    )


def _residue(student: Frontier, sight: Sight) -> Residue:
    """Residuals of the layer as it is now."""
    n = student.rows[sight.map.tensor]

    def part(number: int) -> slice:
        return slice(number * n, min((number + 1) * n, sight.count))

    def runs() -> Iterator[tuple[AnyArray, npt.NDArray[np.bool_]]]:
        for number, y in student.again(sight.map.output, range(student.runs)):
            yield y, student.is_late(sight.map.tensor, np.arange(part(number).start, part(number).stop), HELD_OUT)

    return Residue.of(runs(), sight.map.out_axis, lambda number: sight.target(part(number)))
