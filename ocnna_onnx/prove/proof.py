"""The proof: the pruned model computes what the masked original computes, and the comparison could have failed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from ..errors import ModelError, ProofFailed
from ..model.constants import RANDOM_OPS
from ..model.graph import AnyArray, bodies, first_output
from ..model.light import Light, light
from ..model.session import Runtime
from ..model.twin import has_bfloat16
from ..trace.groups import Group
from ..trace.kept import Kept
from ..trace.types import Trace
from .compare import (
    FINE_FLOOR,
    FINE_LIMIT,
    FLIPS_CAP,
    QUANTIZED,
    QUANTIZERS,
    TOLERANCE,
    relative_error,
    without_flips,
)
from .inputs import Feed
from .local import LocalProver, local_prover
from .masked import masked_original
from .taps import chunks, failing_node, group_taps, run_taps, wrong_shape

CLEARLY = 10.0
"""The masked original must differ from the original by this many tolerances, or the proof could not have failed."""

NOISE = 10.0
"""Where the oracle run in two ways (operators as written, and fused) differs from itself by more than a tenth of the
tolerance, rounding is what limits the comparison, and this many times that difference is allowed."""

NOISE_CAP = 0.05

LOCAL_SCALES = (1.0, 1e6, 1e12, 1e18)
BOOSTS = (1.0, 1e8, 1e16, 1e24)
"""Numbers in the channels that go may be so many times larger: weight decay leaves readers of dead channels weights of
1e-20, which are no zeros and yet change nothing."""

FLOAT, FLOAT16, INT64, BOOL = (int(getattr(onnx.TensorProto, n)) for n in ("FLOAT", "FLOAT16", "INT64", "BOOL"))


@dataclass(frozen=True)
class Proof:
    """Verdict on one pruned model.

    max_relative_error: the largest over all compared tensors; tolerance: the largest that was allowed. samples: how
    many were run; compared: how many tensors. reason, node: why it failed and where first. equal: share of equal
    elements in outputs that are no floats. ill_conditioned: tensors whose tolerance had to follow rounding noise.
    twin: the type it was proven in, where onnxruntime cannot run the model's own.
    """

    passed: bool
    max_relative_error: float
    tolerance: float
    samples: int
    compared: int
    reason: str = ""
    node: str = ""
    equal: float | None = None
    ill_conditioned: tuple[str, ...] = ()
    twin: str = ""

    def to_json(self) -> dict[str, Any]:
        """As in report.json."""
        return {
            "passed": self.passed,
            "max_relative_error": self.max_relative_error,
            "tolerance": self.tolerance,
            "samples": self.samples,
            "compared": self.compared,
            **({"reason": self.reason, "node": self.node} if self.reason else {}),
            **({} if self.equal is None else {"equal_share_of_other_outputs": self.equal}),
            **({"ill_conditioned": list(self.ill_conditioned)} if self.ill_conditioned else {}),
            **({"twin": self.twin} if self.twin else {}),
        }


@dataclass
class _Findings:
    progress: Callable[[int, int], None]
    error: float = 0.0
    tolerance: float = 0.0
    samples: int = 0
    compared: set[str] = field(default_factory=set)
    effect: dict[int, float] = field(default_factory=dict)
    equal: list[float] = field(default_factory=list)
    noisy: dict[str, None] = field(default_factory=dict)
    twin: str = ""
    pieces: int = 0

    def verdict(self, reason: str = "", node: str = "") -> Proof:
        equal = float(np.mean(self.equal)) if self.equal else None
        found = (self.error, self.tolerance, self.samples, len(self.compared))
        return Proof(not reason, *found, reason, node, equal, tuple(self.noisy), self.twin)


@dataclass(frozen=True)
class _Models:
    """The three that are compared, and what they are compared at."""

    kept: Kept
    original: Light
    oracle: Light
    pruned: Light
    runtime: Runtime
    rtol: float | None
    taps: Mapping[str, Sequence[int]]
    quantized: frozenset[str]
    halved: frozenset[str]

    def node_of(self, tensor: str) -> str:
        graph = self.kept.trace.graph
        return graph.names[graph.producer[tensor]]

    def tolerance(self, tensor: str) -> float | None:
        """None for what is neither numbers nor codes (indices, masks)."""
        own = TOLERANCE.get(self.kept.trace.shapes.dtype.get(tensor, 0))
        if tensor in self.quantized:
            own = max(own or 0.0, QUANTIZED)
        if tensor in self.halved and own is not None:
            own = max(own, TOLERANCE[FLOAT16])
        return own if own is None or self.rtol is None else self.rtol


def _behind_quantizers(trace: Trace) -> frozenset[str]:
    """Tensors that depend on quantized activations."""
    found: set[str] = set()
    for i in trace.graph.order:
        node = trace.graph.nodes[i]
        if any(o in trace.constants.ahead for o in node.output):
            continue
        if node.op_type in QUANTIZERS or any(n in found for n in node.input):
            found.update(o for o in node.output if o and trace.shapes.dtype.get(o) not in (INT64, BOOL))
    return frozenset(found)


def _behind_halves(trace: Trace) -> frozenset[str]:
    """Tensors of another type that depend on activations in fp16: they were rounded before."""
    found: set[str] = set()
    for i in trace.graph.order:
        node = trace.graph.nodes[i]
        if any(o in trace.constants.ahead for o in node.output):
            continue
        read = [n for n in node.input if n and n not in trace.constants.ahead]
        if any(n in found or trace.shapes.dtype.get(n) == FLOAT16 for n in read):
            found.update(o for o in node.output if o)
    return frozenset(found)


def prove(
    kept: Kept,
    pruned: onnx.ModelProto | Light,
    groups: Sequence[Group],
    feeds: Iterable[Feed],
    runtime: Runtime = Runtime(),
    rtol: float | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Proof:
    """Run original, masked original and pruned model on the same inputs and compare every group, per channel.

    feeds: at the probe shapes; all decisive ones are compared, the others are drawn until every group was exercised.
    rtol: the tolerance, instead of the one that follows from each tensor's type.
    Raises ProofFailed for random operators, ModelError where onnxruntime refuses the pruned model.
    """
    trace = kept.trace
    if (random := _random_node(trace)) is not None:
        raise ProofFailed(f"node '{random[0]}': {random[1]}, so nothing can be proven", random[0])
    cut = [g for g in groups if any(not kept.keep[trace.sources[s].units].all() for s in g.sources)]
    original = light(trace.graph.model)
    oracle = masked_original(trace, kept.keep, original)
    taps, quantized, halved = group_taps(trace, cut), _behind_quantizers(trace), _behind_halves(trace)
    models = _Models(kept, original, oracle, light(pruned), runtime, rtol, taps, quantized, halved)
    found = _Findings(progress, twin="fp32" if has_bfloat16(trace.graph.proto) else "")
    silent = {g.id for g in cut}
    used: list[Feed] = []
    for feed in feeds:
        if not feed.decisive and not silent:
            break
        if not used and (refusal := _runs_in_shape(models, feed, found)) is not None:
            return refusal
        try:
            failure = _unlike_original(models, feed, found) or _compare_on(models, feed, found)
        except ModelError:
            if not used:
                raise
            continue  # a random input may be out of the model's domain
        if failure is not None:
            return failure
        used.append(feed)
        silent = {g for g in silent if found.effect.get(g, 0.0) <= CLEARLY * found.tolerance}
    mute = _unproven_locally(models, [g for g in cut if g.id in silent], next(iter(used), None)) if silent else None
    if mute is not None:
        name = trace.graph.names[trace.sources[mute.sources[0]].node]
        text = f"silencing channels of '{name}' changes nothing (or nothing finite) on these inputs"
        return found.verdict(f"inconclusive: {text}", name)
    for name in trace.graph.outputs:
        if name in models.taps and models.tolerance(name) is not None and name not in found.compared:
            text = f"output '{name}' of node '{models.node_of(name)}' is not finite on any of these inputs"
            return found.verdict(f"inconclusive: {text}", models.node_of(name))
    return found.verdict()


def _random_node(trace: Trace) -> tuple[str, str] | None:
    """(node, what it does) where a random operator is in the graph, in a node's body, or in a local function."""
    model = trace.graph.proto
    for node in (*model.graph.node, *(n for f in model.functions for n in f.node)):
        name = node.name or next(iter(node.output), "")
        stack = [n for body in bodies(node) for n in body.node]
        if node.op_type in RANDOM_OPS:
            return name, f"{node.op_type} is random"
        if _drops(trace, node):
            return name, "Dropout in training mode is random"
        while stack:
            inner = stack.pop()
            if inner.op_type in RANDOM_OPS:
                return name, f"{inner.op_type} in its body is random"
            stack.extend(n for body in bodies(inner) for n in body.node)
    return None


def _drops(trace: Trace, node: onnx.NodeProto) -> bool:
    """Whether a node is a Dropout that may be in training mode, with a ratio that is not 0."""
    if node.op_type != "Dropout" or len(node.input) < 3 or not node.input[2]:
        return False
    mode, ratio = trace.constants.value(node.input[2]), trace.constants.value(node.input[1])
    return (mode is None or bool(mode.any())) and (ratio is None or bool(ratio.any()))


def _runs_in_shape(models: _Models, feed: Feed, found: _Findings) -> Proof | None:
    """A failed Proof where the pruned model does not run, or some tensor has not the predicted shape."""
    try:
        wrong = wrong_shape(models.kept, models.original, models.pruned, feed.values, models.runtime)
    except ModelError as error:
        found.error = float("inf")
        node = failing_node(models.pruned, feed.values, models.runtime)
        return found.verdict(f"node '{node}': the pruned model does not run: {error}", node)
    if wrong is None:
        return None
    name, expected, actual = wrong
    found.error = float("inf")
    text = f"'{name}' should have shape {list(expected)} and has {list(actual)}"
    return found.verdict(f"node '{models.node_of(name)}': {text}", models.node_of(name))


def _unlike_original(models: _Models, feed: Feed, found: _Findings) -> Proof | None:
    """A failed Proof where the model with functions and branches laid out is not the model that was given."""
    trace = models.kept.trace
    if trace.unfolded.model is trace.original or not feed.decisive:
        return None
    names = [n for n in trace.graph.outputs if n in trace.graph.producer and n in trace.shapes.shape]
    given, laid_out = (run_taps(m, names, feed.values, models.runtime) for m in (trace.original, models.original))
    for name in names:
        a, b = laid_out[name], given[name]
        if np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
            continue
        error, tolerance = relative_error(a, b, (1, -1)), models.tolerance(name) or 0.0
        if not error <= tolerance:
            found.error = max(found.error, error)
            text = "the model with its functions and branches laid out differs from the model that was given"
            return found.verdict(f"'{name}': {text} by {error:.3g} (limit {tolerance:g})", models.node_of(name))
    return None


def _compare_on(models: _Models, feed: Feed, found: _Findings) -> Proof | None:
    """Compare all taps on one feed; a failed Proof, or None."""
    trace, kept = models.kept.trace, models.kept
    found.samples += trace.shapes.batch
    pieces = list(chunks(trace, list(models.taps)))
    total = found.pieces + len(pieces)  # how many inputs it takes is known at the end
    for names in pieces:
        found.progress(found.pieces, total)
        found.pieces += 1
        plain = run_taps(models.original, names, feed.values, models.runtime)
        masked = run_taps(models.oracle, names, feed.values, models.runtime)
        small = run_taps(models.pruned, names, feed.values, models.runtime)
        fused: dict[str, AnyArray] = {}
        for name in names:
            reference = kept.slice(name, masked[name])
            tolerance = models.tolerance(name)
            if tolerance is None:
                same = reference.shape == small[name].shape and (reference == small[name])
                found.equal.append(float(np.mean(same)))
                continue
            if not np.isfinite(reference.astype(np.float64)).all():
                continue  # no evidence; other inputs may give some
            error = relative_error(small[name], reference, (1, -1))
            if error > tolerance and not feed.decisive:
                continue
            fine = relative_error(small[name], reference, (1, -1), FINE_FLOOR)
            exact = name not in models.quantized
            if exact and models.rtol is None and (tolerance < error <= NOISE_CAP or fine > FINE_LIMIT):
                fused = fused or run_taps(models.oracle, names, feed.values, models.runtime, optimize=True)
                noise = relative_error(fused[name], masked[name], (1, -1))
                fine_noise = relative_error(fused[name], masked[name], (1, -1), FINE_FLOOR)
                if error > tolerance:
                    tolerance = max(tolerance, min(NOISE * noise, NOISE_CAP))
                    found.noisy[name] = None
                if fine > max(FINE_LIMIT, NOISE * fine_noise) and feed.decisive:
                    error = max(error, fine)
            flipped = not exact and models.rtol is None and tolerance < error <= FLIPS_CAP
            if flipped and without_flips(small[name], reference, (1, -1)) <= tolerance:
                tolerance, found.noisy[name] = error, None
            found.compared.add(name)
            found.error = max(found.error, error)
            found.tolerance = max(found.tolerance, tolerance)
            if error > tolerance:
                node = models.node_of(name)
                text = f"'{name}' differs from the masked original by {error:.3g} (limit {tolerance:g})"
                return found.verdict(f"node '{node}': {text}", node)
            for group in models.taps[name]:
                effect = relative_error(masked[name], plain[name], (1,))
                found.effect[group] = max(found.effect.get(group, 0.0), effect if np.isfinite(effect) else 0.0)
    return None


def _unproven_locally(models: _Models, groups: Sequence[Group], feed: Feed | None) -> Group | None:
    """Groups that the inputs cannot tell about: the first whose consumers cannot be proven one by one either, on
    numbers of our own. Channels that change nothing there however large they are, where the kept ones do, are dead."""
    trace = models.kept.trace
    places = {g.id: [(n, i) for n, i in trace.masks if n in g.consumers] for g in groups}
    nodes = sorted({n for group in places.values() for n, _ in group})
    if not nodes:
        return None  # nothing reads them
    if feed is None:
        return groups[0]
    prover = local_prover(models.kept, models.original, models.pruned, nodes, feed.values, models.runtime)
    for group in groups:
        for node, i in places[group.id]:
            tolerance = models.tolerance(first_output(trace.graph.nodes[node]))
            if (
                tolerance is not None
                and not _has_no_weight(trace, node, i)
                and not _answers(prover, node, i, tolerance)
            ):
                return group
    return None


def _has_no_weight(trace: Trace, node: int, i: int) -> bool:
    """Whether a contraction multiplies by nothing but zeros (a layer that starts as zero): no input can matter."""
    proto = trace.graph.nodes[node]
    if proto.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return False
    weight = trace.constants.value(proto.input[1 - i])
    return weight is not None and not weight.any()


def _answers(prover: LocalProver, node: int, i: int, tolerance: float) -> bool:
    trace = prover.kept.trace
    effect, kept_matter = 0.0, False
    wide = trace.shapes.dtype[trace.graph.nodes[node].input[i]] == FLOAT
    for scale, boost in ((s, b) for b in BOOSTS for s in LOCAL_SCALES) if wide else ((1.0, 1.0),):
        error, effect, response = prover.error(node, i, scale, boost)
        if error > tolerance:
            return False
        kept_matter = kept_matter or response > CLEARLY * tolerance
        if effect > CLEARLY * tolerance:
            return True
    return effect == 0 and kept_matter
