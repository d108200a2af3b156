"""Least squares from the original's layers to the pruned net's, in topological order (METHODS.md §6): each layer is
fitted on what reaches it now, after all repairs in front of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import prod

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from ..calibrate.linear import Linear, features, linear, matrix, out_positions, outputs, stored_weight
from ..calibrate.sampling import positions_of, positions_per_image
from ..calibrate.stream import batch_size, workers
from ..data.rows import Rows
from ..data.samples import Samples
from ..errors import ModelError
from ..model.constants import Constants
from ..model.graph import AnyArray, Graph
from ..model.light import light
from ..model.session import Runtime
from ..model.shapes import Shapes
from ..rewrite.rewrite import Rewritten
from ..trace.types import Trace
from .channelmap import Places, Residue, channel_rows, composed, is_too_large, places, start
from .frontier import Frontier, Step, frontier
from .judge import how_much_worse
from .layers import Layer, find_layers, notes_of, pruned_constants, pruned_shapes
from .rectified import Threshold, predicted, scale_behind, threshold
from .residual import Residual, affine, residual
from .solve import Fit, Pairs, fit, pilot
from .together import Pair, front_of, refitted_together
from .transposed import Stuffing, reversed_kernel, stored_kernel, stuffed, stuffing
from .values import with_values

FloatArray = npt.NDArray[np.float64]
Target = Callable[[slice | npt.NDArray[np.int64]], AnyArray]
"""What a layer's outputs should be, of some samples: [samples, …]."""

HELD_OUT = 8
"""One sample of so many chooses the shrinkage, and says whether a layer's repair helps."""

WORK = 2e11
ROWS = 1 << 13
"""Rows of features at once."""

GROWTH = 10.0
"""A repaired weight may have so many times the norm of the original's: what is larger leans on noise."""

EXACT = 1e-9
"""Relative squared error below which there is nothing to repair."""


@dataclass
class Repaired:
    """values: initializer of the pruned model -> its new value. layers: node -> (error before, after), relative, on
    held-out samples. pairs: node -> (the one in front of it, with which it was then refitted, share of the held-out
    error that this left). notes: what was left alone, and why."""

    values: dict[str, AnyArray] = field(default_factory=dict)
    layers: dict[str, tuple[float, float]] = field(default_factory=dict)
    pairs: dict[str, tuple[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Job:
    """Both nets on their way, and what repairs came to so far. left: reason -> nodes that are left alone. method: see
    `repair`."""

    trace: Trace
    rewritten: Rewritten
    shapes: Shapes
    constants: Constants
    student: Frontier
    teacher: Frontier
    found: Repaired
    left: dict[str, list[str]]
    method: str

    @property
    def graph(self) -> Graph:
        """The pruned net."""
        return self.student.graph


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
    plans = [_Plan.of(trace, rewritten, graph, shapes, constants, layer) for layer in layers]
    batch = batch_size(trace.shapes, samples)
    student = frontier(small, samples, batch, runtime, memory // 2, [p.student for p in plans])
    teacher = frontier(trace.graph.model, samples, batch, runtime, memory // 2, [p.teacher for p in plans])
    job = Job(trace, rewritten, shapes, constants, student, teacher, Repaired(), left, method)
    for k, plan in enumerate(plans):
        progress(k, len(plans))
        reason = _repair_layer(job, plan)
        if reason:
            left.setdefault(reason, []).append(graph.names[plan.layer.node])
        student.done()
        teacher.done()
    progress(len(plans), len(plans))
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


@dataclass(frozen=True)
class _Plan:
    """A layer with what it takes: of the pruned net, and of the original. own: where the features of each channel lie,
    for layers with too many of them."""

    layer: Layer
    total: Residual | None
    places: Places | None
    source: str
    front: Layer | None
    student: Step
    teacher: Step

    @classmethod
    def of(
        cls,
        trace: Trace,
        rewritten: Rewritten,
        graph: Graph,
        shapes: Shapes,
        constants: Constants,
        layer: Layer,
    ) -> _Plan:
        map_ = layer.map
        total = residual(graph, constants, map_)
        if total is not None and total.total not in trace.graph.producer:
            total = None
        width = constants.shape[map_.tensor][map_.axis] // map_.groups * map_.taps
        source = trace.graph.nodes[trace.graph.producer[map_.output]].input[1 - map_.weight]
        at = places(rewritten.kept, map_, source) if is_too_large(map_, width) else None
        wanted = [map_.output] if total is None else [total.total, *([map_.output] if total.between else [])]
        theirs = Step((*wanted, *([source] if at is not None else [])))
        front = front_of(trace, graph, shapes, constants, layer) if at is None else None
        more = [*([total.other] if total is not None else []), *([front.map.tensor] if front is not None else [])]
        ours = Step((map_.tensor, *more), (layer.node, *([front.node] if front is not None else [])))
        return cls(layer, total, at, source, front, ours, theirs)


def _repair_layer(job: Job, plan: _Plan) -> str:
    """Why the layer is left as it is; '' where it was seen to."""
    layer, map_, student, teacher = plan.layer, plan.layer.map, job.student, job.teacher
    try:
        teacher.reach(plan.teacher.tensors)
        student.reach(plan.student.tensors)
    except ValueError:
        return "what it reads differs in shape from batch to batch"
    target, y = _target(job, plan)
    x = student.held[map_.tensor]
    if teacher.rows[y] != student.rows[map_.tensor] or 0 in job.rewritten.kept.changed_axes(y):
        return "its rows are not those of the original"
    count = min(len(x), len(teacher.held[y]))
    view = stuffing(job.graph, map_, x.shape[2:], teacher.held[y].shape[2:]) if map_.stored == "transposed" else None
    sight = _Sight(map_, view, x, target, count)
    value = layer.weight.turned(student.weights[layer.weight.name])
    weight = sight.matrix(value)
    old = np.zeros((map_.groups, weight.shape[2]))
    if layer.slot is not None:
        old = old + layer.slot.bias(student.weights[layer.slot.name]).reshape(map_.groups, -1)
    offset = np.broadcast_to(layer.offset.reshape(1, -1), (1, old.size)).reshape(map_.groups, -1)
    if not _explains(student, sight, weight, old + offset):
        return "its output is not what its weights say"
    if is_too_large(map_, weight.shape[1]) and job.method == "least-squares":
        return _by_channels(job, plan, sight, old)
    seen, held_out = _pairs(student, sight, offset, layer.slot is not None)
    if not np.isfinite(seen.xx).all() or not np.isfinite(seen.yy).all():
        return "values that reach it are not finite"
    with threadpool_limits(1, "blas"):
        result = fit(seen, held_out, weight, old, job.method)
    energy = _energy(held_out if held_out.rows else seen)
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
    reason = _accept(job, layer, sight.stored(result.weight, value), (result.bias - old).reshape(-1))
    if not reason and plan.front is not None and job.method == "least-squares":
        _together(job, plan, sight, begins, (result.bias - old).reshape(-1))
    job.found.layers[job.graph.names[layer.node]] = _errors(told, energy, bool(reason))
    return reason


def _rectified(
    job: Job,
    layer: Layer,
    sight: _Sight,
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
    made = (first.weight, first.bias + offset)
    seen, held_out = _pairs(job.student, sight, offset, layer.slot is not None, (begins, made, known))
    with threadpool_limits(1, "blas"):
        second = fit(seen, held_out, weight, old)
    return second if second.ridge is not None else first


def _together(job: Job, plan: _Plan, sight: _Sight, begins: Threshold | None, shift: FloatArray) -> None:
    """The layer and the one in front of it once more, as one problem. shift: of the bias, as it was just repaired."""
    student, front, layer = job.student, plan.front, plan.layer
    assert front is not None
    if len(student.held[front.map.tensor]) != student.samples or sight.count != student.samples:
        return  # rows that are no samples
    scale = None
    if plan.total is not None and plan.total.between:
        size = job.constants.shape[layer.map.output][layer.map.out_axis]
        scale = affine(job.graph, job.constants, job.found.values, plan.total, size)[0]
    elif plan.total is None:
        scale = scale_behind(student, layer.map.output)
    late = np.arange(sight.count) % HELD_OUT == HELD_OUT - 1
    pair = Pair(front, layer, sight.target, scale, begins, sight.count, shift)
    values, left = refitted_together(student, job.shapes, job.constants, pair, late)
    if values:
        names = job.graph.names
        job.found.pairs[names[layer.node]] = (names[front.node], left)
    for name, value in values.items():
        student.weights[name] = job.found.values[name] = value


@dataclass(frozen=True)
class _Sight:
    """A layer's rows of features and of targets. view: of a ConvTranspose. count: rows of x that have a target."""

    map: Linear
    view: Stuffing | None
    x: Rows
    target: Target
    count: int

    @property
    def places(self) -> int:
        """Output positions of one sample."""
        return prod(out_positions(self.plain, self._seen(slice(0, 1)).shape))

    @property
    def plain(self) -> Linear:
        """The layer as a Conv or a product."""
        return self.map if self.view is None else self.view.map

    def _seen(self, part: slice) -> AnyArray:
        x = np.asarray(self.x[part], np.float32)
        return x if self.view is None else stuffed(x, self.map.strides, self.view.crops)

    def features(self, part: slice, at: npt.NDArray[np.int64] | None) -> AnyArray:
        return features(self.plain, self._seen(part), at)

    def outputs(self, y: AnyArray, at: npt.NDArray[np.int64] | None) -> AnyArray:
        return outputs(self.plain, y, at)

    def matrix(self, value: AnyArray) -> FloatArray:
        """The weight as `features` meet it."""
        return np.asarray(matrix(self.plain, value if self.view is None else reversed_kernel(self.map, value)))

    def stored(self, found: FloatArray, like: AnyArray) -> AnyArray:
        """The inverse, in the shape and type of `like`."""
        with np.errstate(over="ignore"):  # fp16
            if self.view is None:
                return stored_weight(self.plain, found, like)
            return stored_kernel(self.map, stored_weight(self.plain, found, reversed_kernel(self.map, like)))


def _explains(student: Frontier, sight: _Sight, weight: FloatArray, bias: FloatArray) -> bool:
    """Whether features and weights give what onnxruntime makes of the layer, at a few places."""
    _, made = next(iter(student.again(sight.map.output, [0])))
    part = slice(0, min(2, sight.count, len(made)))
    total = sight.places
    at = positions_of(0, part.stop, total, 64, 0) if total > 64 else None
    ours = sight.features(part, at) @ weight + bias[:, None]
    theirs = sight.outputs(made[part].astype(np.float64), at)
    if ours.shape != theirs.shape:
        return False
    limit = 1e-4 if made.dtype != np.float16 else 3e-2
    finite = np.isfinite(theirs)
    scale = max(float(np.abs(theirs[finite]).max(initial=0.0)), 1e-6)
    return bool((np.abs(ours - theirs)[finite] <= 10 * limit * scale).all())


def _accept(job: Job, layer: Layer, new: AnyArray, shift: FloatArray) -> str:
    """Take new values, unless they are no numbers or have grown out of proportion."""
    student, names = job.student, layer.weight
    values = {names.name: np.ascontiguousarray(names.turned(new))}
    if layer.slot is not None:
        with np.errstate(over="ignore"):
            values[layer.slot.name] = layer.slot.moved(student.weights[layer.slot.name], shift)
    if not all(np.isfinite(v).all() for v in values.values()):
        return "its new weights would not be finite"
    origin = job.trace.graph.nodes[job.trace.graph.producer[layer.map.output]].input[layer.map.weight]
    whole = job.trace.constants.value(origin)
    norms = [np.linalg.norm(a.astype(np.float64)) for a in (new, student.weights[names.name], whole) if a is not None]
    if norms[0] > GROWTH * max(norms[1:]):
        return "its new weights would be out of proportion"
    for name, value in values.items():
        student.weights[name] = job.found.values[name] = value
    return ""


def _by_channels(job: Job, plan: _Plan, sight: _Sight, old: FloatArray) -> str:
    """The repair of a layer with too many features: see `channelmap`."""
    layer, map_, student, at = plan.layer, plan.layer.map, job.student, plan.places
    number = job.trace.graph.producer[map_.output]
    theirs = linear(job.trace.graph, job.trace.shapes, job.trace.constants, number)
    whole = job.trace.constants.value(job.trace.graph.nodes[number].input[map_.weight])
    if at is None or theirs is None or whole is None or theirs.stored != map_.stored:
        return "it has too many inputs for a least squares problem"
    stays = job.rewritten.kept.along(map_.output, map_.out_axis)
    full = matrix(theirs, whole)[:, :, stays]
    source = job.teacher.held[plan.source]
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
        reason = _accept(job, layer, candidates[best], tried[best][2])
    residue = tried[0][1]
    energy = max(residue.error(residue.shift(1)), 1e-30)
    job.found.layers[job.graph.names[layer.node]] = (1.0, 1.0 if reason else tried[best][0] / energy)
    return reason


def _channel_pairs(student: Frontier, sight: _Sight, at: Places, source: Rows, intercept: bool) -> tuple[Pairs, Pairs]:
    """Moments of the channels that stayed (features) and of all channels (targets)."""
    map_ = sight.map
    total = prod(sight.x.shape[2:]) if map_.stored == "conv" else 1
    each = positions_per_image(sight.count, total, len(at.before), WORK) if map_.stored == "conv" else None

    def rows(part: slice) -> tuple[AnyArray, AnyArray]:
        where = None if each is None else positions_of(part.start, part.stop - part.start, total, each, 0)
        x = channel_rows(map_, at, np.asarray(sight.x[part], np.float32), False, where)
        return x, channel_rows(map_, at, np.asarray(source[part], np.float32), True, where)

    return _moments(
        student, sight, rows, at.before.shape[1] if each is None and total == 1 else each or total, intercept
    )


def _residue(student: Frontier, sight: _Sight) -> Residue:
    """Residuals of the layer as it is now."""
    n = student.rows[sight.map.tensor]

    def part(number: int) -> slice:
        return slice(number * n, min((number + 1) * n, sight.count))

    def runs() -> Iterator[tuple[AnyArray, npt.NDArray[np.bool_]]]:
        for number, y in student.again(sight.map.output, range(student.runs)):
            yield y, student.is_late(sight.map.tensor, np.arange(part(number).start, part(number).stop), HELD_OUT)

    return Residue.of(runs(), sight.map.out_axis, lambda number: sight.target(part(number)))


def _pairs(
    student: Frontier,
    sight: _Sight,
    offset: FloatArray,
    intercept: bool,
    relax: tuple[Threshold, tuple[FloatArray, FloatArray], tuple[Pairs, Pairs]] | None = None,
) -> tuple[Pairs, Pairs]:
    """Moments of most samples, and of those that are held out. relax: see `rectified`, (weight, bias) so far, and the
    moments without it."""
    places = sight.places
    width = sight.features(slice(0, 1), np.zeros((1, 1), np.int64) if places > 1 else None).shape[2]
    each = positions_per_image(sight.count, places, width, WORK)
    fixed = offset[:, None].astype(np.float32)

    def rows(part: slice) -> tuple[AnyArray, AnyArray]:
        at = None if each is None else positions_of(part.start, part.stop - part.start, places, each, 0)
        inputs = sight.features(part, at)
        wanted = sight.outputs(sight.target(part), at)
        if relax is not None:
            begins, (weight, bias), _ = relax
            wanted = begins.relaxed(wanted, predicted(inputs, weight, bias), part, at)
        return inputs, wanted - fixed

    return _moments(student, sight, rows, places if each is None else each, intercept, relax and relax[2])


def _moments(
    student: Frontier,
    sight: _Sight,
    rows: Callable[[slice], tuple[AnyArray, AnyArray]],
    each: int,
    intercept: bool,
    known: tuple[Pairs, Pairs] | None = None,
) -> tuple[Pairs, Pairs]:
    """each: rows of features per sample. known: those of the same features with other targets."""
    step = max(1, ROWS // each)

    def part(first: int) -> slice:
        return slice(first, min(first + step, sight.count))

    if known is None:
        empty = pilot(*rows(part(0)), intercept)
    else:
        empty = Pairs(0, intercept, known[0].pilot_x, known[0].pilot_y)

    def moments(first: int) -> tuple[Pairs, Pairs]:
        now = part(first)
        inputs, wanted = rows(now)
        samples = student.is_late(sight.map.tensor, np.arange(now.start, now.stop), HELD_OUT)
        late = np.repeat(samples, inputs.shape[1] // len(samples))
        both = [empty.of(inputs[:, m], wanted[:, m], known is None) if m.any() else empty for m in (~late, late)]
        return both[0], both[1]

    seen, held_out = empty, empty
    # products of a few thousand rows: one BLAS thread each, and chunks side by side
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(workers(student.runtime)) as pool:
        for a, b in pool.map(moments, range(0, sight.count, step)):
            seen, held_out = seen.plus(a), held_out.plus(b)
    if known is not None:
        return seen.with_features(known[0]), held_out.with_features(known[1])
    return seen, held_out


def _energy(pairs: Pairs) -> float:
    """Variance of the targets, summed over the channels."""
    my = pairs.y / pairs.rows
    return max(float((pairs.yy / pairs.rows - my**2).sum()), 1e-30)


def _errors(result: Fit, energy: float, refused: bool) -> tuple[float, float]:
    return result.before / energy, (result.before if refused else result.after) / energy


def _target(job: Job, plan: _Plan) -> tuple[Target, str]:
    """The original's output on the kept filters; for the last layer of a residual branch what is missing in the sum.
    And the original's tensor that it is made of."""
    kept, map_, total = job.rewritten.kept, plan.layer.map, plan.total
    if total is None:
        own = job.teacher.held[map_.output]
        return lambda part: kept.slice(map_.output, np.asarray(own[part], np.float32)), map_.output
    name = total.total
    whole, stream = job.teacher.held[name], job.student.held[total.other]
    if not total.between:
        return lambda part: kept.slice(name, np.asarray(whole[part], np.float32)) - stream[part], name
    size = job.constants.shape[map_.output][map_.out_axis]
    scale, shift = affine(job.graph, job.constants, job.found.values, total, size).astype(np.float32)
    usable = np.abs(scale) > 1e-6
    plain = job.teacher.held[map_.output]

    def values(part: slice | npt.NDArray[np.int64]) -> AnyArray:
        missing = kept.slice(name, np.asarray(whole[part], np.float32)) - stream[part]
        form = [-1 if a == map_.out_axis else 1 for a in range(missing.ndim)]
        back = (missing - shift.reshape(form)) / np.where(usable, scale, 1).reshape(form)
        direct = kept.slice(map_.output, np.asarray(plain[part], np.float32))
        return np.asarray(np.where(usable.reshape(form), back, direct), np.float32)

    return values, name


__all__: Sequence[str] = ["Repaired", "repair", "with_values"]
