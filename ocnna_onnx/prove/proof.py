"""The proof: the pruned model computes what the masked original computes, and the comparison could have failed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from ..errors import ModelError, ProofFailed
from ..model.constants import RANDOM_OPS
from ..model.graph import AnyArray
from ..model.session import Runtime
from ..trace.groups import Group
from ..trace.kept import Kept
from .compare import TOLERANCE, relative_error
from .inputs import Feed
from .masked import keep_mask, masked_original
from .taps import chunks, group_taps, run_taps, wrong_shape

CLEARLY = 10.0
"""The masked original must differ from the original by this many tolerances, or the proof could not have failed."""

NOISE = 10.0
"""Where the oracle run in two ways (operators as written, and fused) differs from itself by more than a tenth of the
tolerance, rounding is what limits the comparison, and this many times that difference is allowed."""

NOISE_CAP = 0.05


@dataclass(frozen=True)
class Proof:
    """Verdict on one pruned model.

    max_relative_error: the largest over all compared tensors; tolerance: the largest that was allowed. samples: how
    many were run; compared: how many tensors. reason, node: why it failed and where first. equal: share of equal
    elements in outputs that are no floats. ill_conditioned: tensors whose tolerance had to follow rounding noise.
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
        }


@dataclass
class _Findings:
    error: float = 0.0
    tolerance: float = 0.0
    samples: int = 0
    compared: set[str] = field(default_factory=set)
    effect: dict[int, float] = field(default_factory=dict)
    equal: list[float] = field(default_factory=list)
    noisy: dict[str, None] = field(default_factory=dict)

    def verdict(self, reason: str = "", node: str = "") -> Proof:
        equal = float(np.mean(self.equal)) if self.equal else None
        found = (self.error, self.tolerance, self.samples, len(self.compared))
        return Proof(not reason, *found, reason, node, equal, tuple(self.noisy))


@dataclass(frozen=True)
class _Models:
    """The three that are compared, and what they are compared at."""

    kept: Kept
    oracle: onnx.ModelProto
    pruned: onnx.ModelProto
    runtime: Runtime
    rtol: float | None
    taps: Mapping[str, Sequence[int]]

    def node_of(self, tensor: str) -> str:
        graph = self.kept.trace.graph
        return graph.names[graph.producer[tensor]]

    def tolerance(self, tensor: str) -> float | None:
        """None for what is no float tensor."""
        own = TOLERANCE.get(self.kept.trace.shapes.dtype.get(tensor, 0))
        return own if own is None or self.rtol is None else self.rtol


def prove(
    kept: Kept,
    pruned: onnx.ModelProto,
    groups: Sequence[Group],
    feeds: Iterable[Feed],
    runtime: Runtime = Runtime(),
    rtol: float | None = None,
) -> Proof:
    """Run original, masked original and pruned model on the same inputs and compare every group, per channel.

    feeds: at the probe shapes; all decisive ones are compared, the others are drawn until every group was exercised.
    rtol: the tolerance, instead of the one that follows from each tensor's type.
    Raises ProofFailed for random operators, ModelError where onnxruntime refuses the pruned model.
    """
    trace = kept.trace
    for i, node in enumerate(trace.graph.nodes):
        if node.op_type in RANDOM_OPS:
            name = trace.graph.names[i]
            raise ProofFailed(f"node '{name}': {node.op_type} is random, so nothing can be proven", name)
    cut = [g for g in groups if any(not kept.keep[trace.sources[s].units].all() for s in g.sources)]
    models = _Models(kept, masked_original(trace, kept.keep), pruned, runtime, rtol, group_taps(trace, cut))
    found = _Findings()
    silent = {g.id for g in cut}
    first: Feed | None = None
    for feed in feeds:
        if not feed.decisive and not silent:
            break
        if first is None:
            first = feed
            try:
                wrong = wrong_shape(kept, pruned, feed.values, runtime)
            except ModelError as error:
                found.error = float("inf")
                return found.verdict(f"the pruned model does not run: {error}")
            if wrong is not None:
                name, expected, actual = wrong
                found.error = float("inf")
                text = f"'{name}' should have shape {list(expected)} and has {list(actual)}"
                return found.verdict(f"node '{models.node_of(name)}': {text}", models.node_of(name))
        try:
            failure = _compare_on(models, feed, found)
        except ModelError:
            if feed is first:
                raise
            continue  # a random input may be out of the model's domain
        if failure is not None:
            return failure
        silent = {g for g in silent if found.effect.get(g, 0.0) <= CLEARLY * found.tolerance}
    for group in cut:
        if group.id in silent and not (first is not None and _is_dead(models, group, first)):
            name = trace.graph.names[trace.sources[group.sources[0]].node]
            text = f"silencing channels of '{name}' changes nothing (or nothing finite) on these inputs"
            return found.verdict(f"inconclusive: {text}", name)
    return found.verdict()


def _compare_on(models: _Models, feed: Feed, found: _Findings) -> Proof | None:
    """Compare all taps on one feed; a failed Proof, or None."""
    trace, kept = models.kept.trace, models.kept
    found.samples += trace.shapes.batch
    for names in chunks(trace, list(models.taps)):
        plain = run_taps(trace.graph.proto, names, feed.values, models.runtime)
        masked = run_taps(models.oracle, names, feed.values, models.runtime)
        small = run_taps(models.pruned, names, feed.values, models.runtime)
        fused: dict[str, AnyArray] = {}
        for name in names:
            reference = masked[name][np.ix_(*kept.indices(name))] if masked[name].ndim else masked[name]
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
            if tolerance < error <= NOISE_CAP and models.rtol is None:
                fused = fused or run_taps(models.oracle, names, feed.values, models.runtime, optimize=True)
                tolerance = max(tolerance, min(NOISE * relative_error(fused[name], masked[name], (1, -1)), NOISE_CAP))
                found.noisy[name] = None
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


def _is_dead(models: _Models, group: Group, feed: Feed) -> bool:
    """Whether the removed units of a group are 0 wherever they would be mixed into others."""
    trace = models.kept.trace
    names = [trace.graph.nodes[n].input[i] for n, i in trace.masks if n in group.consumers]
    if not names:
        return True  # nothing reads them
    names = list(dict.fromkeys(names))
    values = run_taps(models.oracle, names, feed.values, models.runtime)
    for name in names:
        mask = keep_mask(trace, name, models.kept.keep)
        if mask is not None and np.abs(np.where(mask, 0, values[name])).max() > 0:
            return False
    return True
