"""The whole step: from an original and a pruned net to the pruned net with weights that a gradient moved."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from .. import __version__
from ..calibrate.stream import batch_size
from ..data.folder import has_pictures
from ..data.imageoptions import image_options
from ..data.inputs import image_inputs
from ..data.pictures import is_picture
from ..data.samples import Samples
from ..errors import DataError, ModelError, ProofFailed
from ..model.graph import AnyArray, Graph
from ..model.light import Light, light
from ..model.probes import Shape
from ..model.session import Runtime, open_session, run
from ..model.shapes import Shapes
from ..model.stamp import add_entry
from ..repair.values import with_values
from ..report.fidelity import DIFFERENT, Closeness, closeness, kinds_of
from ..rewrite.only import only_values
from ..settings import Settings
from . import checkpoint as files
from .bridge import Bridge, cross
from .feeding import Feeding, tensors
from .judging import to_json
from .lineage import Lineage
from .loop import Nets, State, Values, follow, timed
from .loss import Loss
from .optimizing import Optimizer, optimizer_of
from .plain import Plain, plain
from .recipe import BATCH, CHECKS, FEATURES, RATE, Recipe
from .views import Views, ways_of

EQUAL = 1e-3
"""How far a torch net may be from onnxruntime, as ‖b − a‖ / ‖a‖ of every output, before the first step."""

EQUAL_HALF = 3e-2
"""The same at the end, where onnxruntime computes in float16 or bfloat16."""

SHOWN = 128
"""Samples that are held out, where there are enough of them."""

LIVE = 3
"""Times the activations of a net that a step holds: the student's, their gradients, the teacher's."""


@dataclass(frozen=True)
class Subject:
    """What is distilled. original: the teacher. pruned: the student, never modified; sha256: of its file. lineage: how
    the one came from the other."""

    original: Light
    original_sha256: str
    pruned: onnx.ModelProto
    sha256: str
    lineage: Lineage


@dataclass(frozen=True)
class Split:
    """fit: the samples of the gradient. held: those that judge. flips: whether a mirrored sample is one of the same
    kind."""

    fit: Samples
    held: Samples
    flips: bool


def split_of(samples: Samples, flips: bool) -> Split:
    """One sample of ten is held out; of few more, up to a half, so that there are SHOWN of them."""
    every = max(2, min(10, samples.count // SHOWN))
    index = np.arange(samples.count)
    held = index % every == every - 1
    if not held.any():
        raise DataError(
            f"{samples.source}: {samples.count} samples are too few to distil: at least 2, better thousands"
        )
    return Split(samples.take(index[~held]), samples.take(index[held]), flips)


def flips_allowed(settings: Settings) -> bool:
    """Whether a mirrored sample is one of the same kind: pictures of a folder, unless the preset is `none` (digits,
    plots, whatever has nothing to do with photographs)."""
    data = settings.data
    if not isinstance(data, (str, os.PathLike)) or not Path(data).exists():
        return False
    path = Path(data)
    pictures = has_pictures(path) if path.is_dir() else is_picture(path)
    return pictures and image_options(settings.image).preset != "none"


def sha256_of(model: onnx.ModelProto) -> str:
    """Of the file as it would be written in one piece."""
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


def distilled(
    subject: Subject,
    split: Split,
    recipe: Recipe,
    settings: Settings,
    checkpoint: Path | None = None,
    resume: bool = False,
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """(the pruned net with the weights that do best on the samples that are held out, the starting ones included; the
    `distillation` section of a report).

    checkpoint: a file to go on from, written about once a minute; with `resume` it must be there. Ctrl-C ends the
    steps, not this function: what was best so far is returned, and the section says `interrupted`.
    Raises UsageError without the extra, ModelError where a net does not convert or differs from onnxruntime, DataError
    where the two nets do not belong together or the checkpoint is another run's.
    """
    began = time.perf_counter()
    with _threads(settings.runtime):
        nets, error = _nets(subject, split, recipe, settings)
        judged = _judge(subject, nets, split, settings)
        started = time.perf_counter()
        start = judged({})
        judging = time.perf_counter() - started
        about = _about(subject, split, recipe, nets, settings)
        content = files.read(checkpoint, about) if checkpoint is not None and resume else None
        optimizer = optimizer_of(nets.student.weights)
        if content is None:
            state = State(_steps(recipe, nets, judging, time.perf_counter() - began))
        else:
            state = _restored(content, nets, optimizer)
        resumed_at = None if content is None else state.step
        first = state.step
        looped = time.perf_counter()

        def save() -> None:
            if checkpoint is not None:
                files.write(checkpoint, about, _content(state, nets, optimizer))

        settings.progress("distil", first, state.steps)
        follow(nets, state, optimizer, start, split.held.count, judged, save, lambda s: _tell(settings, s))
        took = time.perf_counter() - looped
        final = _final(subject, nets, state, split, settings)
    if state.best is not None:
        entry = {"version": __version__, "source_sha256": subject.sha256}
        add_entry(final, {**entry, "distilled": _stamped(subject, recipe, nets, state)})
    section = {
        **_stamped(subject, recipe, nets, state),
        "seconds": round(time.perf_counter() - began, 3),
        "steps_per_second": round((state.step - first) / took, 4) if took > 0 else None,
        "resumed_at": resumed_at,
        "interrupted": state.interrupted,
        "diverged": state.diverged,
        "samples": split.fit.count,
        "held_out": split.held.count,
        "taps": len(nets.loss.taps),
        "weights": len(nets.student.weights),
        "parameters": int(sum(nets.student.value(n).size for n in nets.student.weights)),
        "bridge_error": error,
        "before": to_json(start),
        "after": to_json(state.verdict or start),
        "checks": state.checks,
    }
    if checkpoint is not None and not state.interrupted:
        checkpoint.unlink(missing_ok=True)
    return final, section


def _nets(subject: Subject, split: Split, recipe: Recipe, settings: Settings) -> tuple[Nets, float]:
    """Both nets as torch modules, seen to compute what onnxruntime does; and how far they are off."""
    trace = subject.lineage.trace
    graph = trace.graph
    original = light(graph.model)
    _same_outputs(original.proto, subject.pruned)
    taps = subject.lineage.taps()
    kinds = kinds_of(original, split.held, batch_size(trace.shapes, split.held), settings.runtime)
    if set(kinds.values()) <= {DIFFERENT}:
        raise ModelError("the model has no output of floats that a gradient could bring closer to the original's")
    batch = _batch(trace.shapes, split.fit, settings.memory)
    feeds = {n: (batch, *s[1:]) if n in split.fit.arrays else s for n, s in trace.shapes.feeds.items()}
    values = {n: a[:1] for n, a in split.fit.arrays.items()} | dict(split.fit.fixed)
    names = [t.tensor for t in taps]
    worst = 0.0
    made: list[Bridge] = []
    for called, model, train in (("ORIGINAL", original, False), ("PRUNED", light(subject.pruned), True)):
        net = plain(model, feeds, settings.runtime, values)
        bridge = cross(net, names, train)
        worst = max(worst, _difference(called, net, bridge, split.held, batch, settings.runtime))
        made.append(bridge)
    teacher, student = made
    if not student.weights:
        raise ModelError("PRUNED has no weights that a gradient could move")
    outputs = tuple(o.name for o in graph.proto.graph.output)
    loss = Loss(kinds, outputs, taps, recipe.temperature, FEATURES)
    views = _views(graph, feeds, split, recipe)
    feeding = Feeding(split.fit, batch, views, recipe.seed)
    return Nets(student, teacher, loss, feeding, max(1, -(-BATCH // batch))), worst


def _same_outputs(original: onnx.ModelProto, pruned: onnx.ModelProto) -> None:
    ours, theirs = [o.name for o in pruned.graph.output], [o.name for o in original.graph.output]
    if ours != theirs:
        raise DataError(f"PRUNED has the outputs {', '.join(ours)}, ORIGINAL has {', '.join(theirs)}")


def _batch(shapes: Shapes, samples: Samples, memory: int) -> int:
    """Samples per run: what the model's inputs fix, else BATCH, or as many as fit half the memory with everything that
    a step holds."""
    fixed = [shapes.feeds[n][0] for n in samples.arrays if 0 not in shapes.dynamic.get(n, ()) and shapes.feeds[n]]
    if fixed:
        return fixed[0]
    each = LIVE * 4 * sum(prod(s) for s in shapes.shape.values()) // max(1, shapes.batch)
    batch = BATCH
    while batch > 1 and batch * each > memory // 2:
        batch //= 2
    return batch


def _difference(called: str, net: Plain, bridge: Bridge, held: Samples, batch: int, runtime: Runtime) -> float:
    """How far the torch net is from onnxruntime on real samples. Raises ModelError where that is too far."""
    import torch

    feed, _ = next(held.batches(batch))
    names = [o.name for o in net.model.graph.output]
    given = {n: a.astype(np.float32) if a.dtype.name in ("float16", "bfloat16") else a for n, a in feed.items()}
    with open_session(light(net.model), runtime) as session:
        wanted = run(session, names, given)
    with torch.no_grad():
        found = dict(zip(bridge.outputs, bridge(tensors(feed)), strict=True))
    worst = 0.0
    for name in names:
        a, b = wanted[name].astype(np.float64), found[name].numpy().astype(np.float64)
        off = float(np.linalg.norm(b - a) / max(float(np.linalg.norm(a)), 1e-30)) if a.shape == b.shape else np.inf
        if not off <= EQUAL:
            raise ModelError(
                f"{called} as a PyTorch net differs from onnxruntime at output '{name}' by {off:.1e} "
                f"(limit {EQUAL:g}), and is not distilled (a defect of a converter; please report it)"
            )
        worst = max(worst, off)
    return worst


def _views(graph: Graph, feeds: Mapping[str, Shape], split: Split, recipe: Recipe) -> Views | None:
    """How pictures are augmented; None where the net takes none."""
    layout = "auto"
    found = [i for i in image_inputs(graph, feeds, layout) if i.name in split.fit.arrays]
    default = frozenset(("shift", "flip")) if split.flips else frozenset(("shift",))
    ways = ways_of(recipe.augment, default)
    if len(found) != 1 or not ways:
        return None
    if found[0].dtype.kind != "f":
        ways -= {"mix"}
    return Views(found[0], ways)


def _judge(subject: Subject, nets: Nets, split: Split, settings: Settings) -> Callable[[Values], Closeness]:
    """Values of weights -> the verdict on the file that would have them."""
    batch = batch_size(subject.lineage.trace.shapes, split.held)
    verdict = closeness(subject.original, split.held, batch, settings.runtime, settings.memory)
    stored = _stored(subject.pruned)

    def judged(values: Values) -> Closeness:
        return verdict(with_values(subject.pruned, _rounded(values, stored)) if values else subject.pruned)

    return judged


def _stored(model: onnx.ModelProto) -> dict[str, np.dtype[Any]]:
    """The type of every float that is stored, by name."""
    graph = Graph(model)
    found = {t.name: onnx.helper.tensor_dtype_to_np_dtype(t.data_type) for t in model.graph.initializer}
    for node in graph.nodes:
        if node.op_type == "Constant":
            value = next((a.t for a in node.attribute if a.name == "value"), None)
            kind = onnx.TensorProto.FLOAT if value is None else value.data_type
            found[node.output[0]] = onnx.helper.tensor_dtype_to_np_dtype(kind)
    return found


def _rounded(values: Values, stored: Mapping[str, np.dtype[Any]]) -> dict[str, AnyArray]:
    with np.errstate(over="ignore"):  # what overflows is judged as it is
        return {name: value.astype(stored[name]) for name, value in values.items()}


def _steps(recipe: Recipe, nets: Nets, judging: float, spent: float) -> int:
    """How many steps the run takes; a time is turned into steps once, by timing a few of them."""
    if recipe.steps is not None:
        return recipe.steps
    assert recipe.seconds is not None
    started = time.perf_counter()
    each = timed(nets)
    left = recipe.seconds - spent - (time.perf_counter() - started) - 2 * CHECKS * judging
    return max(1, int(left / each))


def _final(subject: Subject, nets: Nets, state: State, split: Split, settings: Settings) -> onnx.ModelProto:
    """The file that leaves: only values differ, and onnxruntime computes with it what the student does."""
    import torch

    if state.best is None:
        copy = onnx.ModelProto()
        copy.CopyFrom(subject.pruned)
        return copy
    stored = _stored(subject.pruned)
    final = with_values(subject.pruned, _rounded(state.best, stored))
    only_values(subject.pruned, light(final))
    batch = nets.feeding.batch
    feed, _ = next(split.held.batches(batch))
    with torch.no_grad():
        for name, weight in nets.student.weights.items():
            weight.copy_(nets.student.parameter(name, state.best[name]))
        found = dict(zip(nets.student.outputs, nets.student(tensors(feed)), strict=True))
    names = list(nets.loss.kinds)
    with open_session(final, settings.runtime) as session:
        wanted = run(session, names, feed)
    half = any(stored[name] != np.float32 for name in state.best)
    limit = EQUAL_HALF if half else EQUAL
    for name in names:
        a, b = wanted[name].astype(np.float64), found[name].numpy().astype(np.float64)
        off = float(np.linalg.norm(b - a) / max(float(np.linalg.norm(a)), 1e-30))
        if not off <= limit:
            raise ProofFailed(
                f"the distilled file differs from the student at output '{name}' by {off:.1e} (limit {limit:g}): "
                "nothing was written (a defect; please report it)"
            )
    return final


def _tell(settings: Settings, state: State) -> None:
    told = [f"loss {state.loss:.3f}"]
    last = state.checks[-1].get("averaged") if state.checks else None
    if last is not None and last["agreement"] is not None:
        told.append(f"held-out agreement {last['agreement']:.1%}")
    elif last is not None:
        told.append(f"held-out error {last['error']:.2g}")
    settings.progress(f"distil ({', '.join(told)})", state.step, state.steps)


def _about(subject: Subject, split: Split, recipe: Recipe, nets: Nets, settings: Settings) -> dict[str, Any]:
    """What makes a run this run and no other."""
    return {
        "original": subject.original_sha256,
        "pruned": subject.sha256,
        "samples": [split.fit.count, split.held.count, split.fit.source],
        "seed": recipe.seed,
        "temperature": recipe.temperature,
        "steps": recipe.steps,
        "time": recipe.seconds,
        "augment": _augment(nets),
        "batch": nets.feeding.batch,
    }


def _augment(nets: Nets) -> list[str]:
    return sorted(nets.feeding.views.ways) if nets.feeding.views is not None else []


def _stamped(subject: Subject, recipe: Recipe, nets: Nets, state: State) -> dict[str, Any]:
    """What the stamp says of a distillation: enough to repeat it."""
    return {
        "original_sha256": subject.original_sha256,
        "time": recipe.seconds,
        "steps": state.steps,
        "done": state.step,
        "taken": state.taken,
        "seed": recipe.seed,
        "temperature": recipe.temperature,
        "features": FEATURES,
        "rate": RATE,
        "batch": nets.feeding.batch * nets.runs,
        "augment": _augment(nets),
    }


def _content(state: State, nets: Nets, optimizer: Optimizer) -> dict[str, Any]:
    import torch

    return {
        "weights": {n: w.detach() for n, w in nets.student.weights.items()},
        "averaged": state.averaged,
        "optimizer": optimizer.state(),
        "steps": state.steps,
        "step": state.step,
        "loss": state.loss,
        "best": None if state.best is None else {n: torch.from_numpy(v) for n, v in state.best.items()},
        "verdict": None if state.verdict is None else to_json(state.verdict),
        "taken": state.taken,
        "checks": state.checks,
    }


def _restored(content: Mapping[str, Any], nets: Nets, optimizer: Optimizer) -> State:
    """The state of a checkpoint; weights and optimizer are set to it."""
    import torch

    with torch.no_grad():
        for name, weight in nets.student.weights.items():
            weight.copy_(content["weights"][name])
    optimizer.restore(content["optimizer"])
    best, verdict = content["best"], content["verdict"]
    return State(
        steps=content["steps"],
        step=content["step"],
        averaged=dict(content["averaged"]),
        best=None if best is None else {n: v.numpy() for n, v in best.items()},
        verdict=None if verdict is None else Closeness(**verdict),
        taken=content["taken"],
        checks=list(content["checks"]),
        loss=content["loss"],
    )


@contextmanager
def _threads(runtime: Runtime) -> Iterator[None]:
    """PyTorch with as many threads as onnxruntime was given (0: its own choice), then as before."""
    from .extra import onnx2torch

    onnx2torch()
    import torch

    before = torch.get_num_threads()
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
