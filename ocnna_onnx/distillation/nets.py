"""Teacher and student as torch modules, seen to compute what onnxruntime does."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np
import onnx

from ..calibrate.stream import batch_size
from ..data.imageoptions import image_options
from ..data.inputs import image_inputs
from ..data.samples import Samples
from ..errors import DataError, ModelError, UsageError
from ..model.graph import AnyArray, Graph
from ..model.light import light
from ..model.probes import Shape
from ..model.session import Runtime, open_session, run
from ..model.shapes import Shapes
from ..report.fidelity import DIFFERENT, kinds_of
from ..settings import Settings
from .bridge import Bridge, cross
from .feeding import Feeding, tensors
from .loop import Nets
from .loss import Loss
from .plain import Plain, plain
from .recipe import BATCH, FEATURES, Recipe
from .split import Split
from .subject import Subject
from .views import Views, is_auto, ways_of

EQUAL = 1e-3
"""How far a torch net may be from onnxruntime, as ‖b − a‖ / ‖a‖ of every output, before the first step."""

LIVE = 3
"""Times the activations of a net that a step holds: the student's, their gradients, the teacher's."""


def nets_of(subject: Subject, split: Split, recipe: Recipe, settings: Settings) -> tuple[Nets, float]:
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
    views = _views(graph, feeds, split, recipe, image_options(settings.image).layout)
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
        off = how_far(wanted[name], found[name].numpy())
        if not off <= EQUAL:
            raise ModelError(
                f"{called} as a PyTorch net differs from onnxruntime at output '{name}' by {off:.1e} "
                f"(limit {EQUAL:g}), and is not distilled (a defect of a converter; please report it)"
            )
        worst = max(worst, off)
    return worst


def how_far(a: AnyArray, b: AnyArray) -> float:
    """‖b − a‖ / ‖a‖; inf where they differ in shape."""
    if a.shape != b.shape:
        return np.inf
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(np.linalg.norm(b - a) / max(float(np.linalg.norm(a)), 1e-30))


def _views(graph: Graph, feeds: Mapping[str, Shape], split: Split, recipe: Recipe, layout: str) -> Views | None:
    """How pictures are augmented; None where the net takes none. Raises UsageError where the user names what cannot be
    done."""
    found = [i for i in image_inputs(graph, feeds, layout) if i.name in split.fit.arrays]
    default = frozenset(("shift", "flip")) if split.flips else frozenset(("shift",))
    ways = ways_of(recipe.augment, default)
    if not ways:
        return None
    if len(found) != 1:
        if is_auto(recipe.augment):
            return None
        takes = "no input takes pictures" if not found else f"{len(found)} inputs take pictures"
        more = "" if found else ", or say how they lie (--layout)"
        raise UsageError(
            f"augment {', '.join(sorted(ways))}: {takes} (pictures of one are augmented); use augment none{more}"
        )
    if "mix" in ways and found[0].dtype.kind != "f":
        raise UsageError(f"augment mix: input '{found[0].name}' takes {found[0].dtype}, which cannot be blended")
    return Views(found[0], ways)
