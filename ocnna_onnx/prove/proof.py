"""The proof: the pruned model computes what the masked original computes, and the comparison could have failed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from ..errors import ModelError, ProofFailed
from ..model.constants import RANDOM_OPS
from ..model.graph import AnyArray
from ..model.session import Runtime, open_session, run
from ..trace.groups import Group
from ..trace.kept import Kept
from ..trace.labels import Shape
from ..trace.types import Trace
from .compare import TOLERANCE, relative_error
from .masked import keep_mask, masked_original

TAP_BYTES = 1 << 30
"""Tapped tensors of one model held at a time."""

CLEARLY = 10.0
"""The masked original must differ from the original by this many tolerances, or the proof could not have failed."""

SHAPE_SUFFIX = "//shape"
FLOATS = frozenset(TOLERANCE)


@dataclass(frozen=True)
class Proof:
    """Verdict on one pruned model.

    max_relative_error: the largest over all compared tensors. samples: input batches × batch size. compared: tensors.
    exercised: share of the pruned groups whose silencing was seen to matter (the others are dead). equal: share of
    equal elements in outputs that are no floats. node: the first node that differs.
    """

    passed: bool
    max_relative_error: float
    tolerance: float
    samples: int
    compared: int
    reason: str = ""
    node: str = ""
    equal: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "max_relative_error": self.max_relative_error,
            "tolerance": self.tolerance,
            "samples": self.samples,
            "compared": self.compared,
            **({"reason": self.reason, "node": self.node} if self.reason else {}),
            **({} if self.equal is None else {"equal_share_of_other_outputs": self.equal}),
        }


@dataclass
class _Findings:
    error: float = 0.0
    ratio: float = 0.0
    tolerance: float = 0.0
    samples: int = 0
    compared: set[str] = field(default_factory=set)
    effect: dict[int, float] = field(default_factory=dict)
    equal: list[float] = field(default_factory=list)


def prove(
    kept: Kept,
    pruned: onnx.ModelProto,
    groups: Sequence[Group],
    feeds: Iterable[Mapping[str, AnyArray]],
    runtime: Runtime = Runtime(),
    rtol: float | None = None,
    check_shapes: bool = True,
) -> Proof:
    """Run original, masked original and pruned model on the same inputs and compare every group.

    feeds: inputs at the probe shapes; drawn until every group was exercised, at least the first two.
    Raises ProofFailed for random operators, ModelError where onnxruntime refuses the pruned model.
    """
    trace = kept.trace
    for node in trace.graph.nodes:
        if node.op_type in RANDOM_OPS and not all(o in trace.constants.fixed for o in node.output):
            raise ProofFailed(f"the model has a random operator ({node.op_type}): nothing can be proven", node.name)
    cut = [g for g in groups if not kept.keep[_units(trace, g)].all()]
    oracle = masked_original(trace, kept.keep)
    found = _Findings()
    silent = {g.id for g in cut}
    for number, feed in enumerate(feeds):
        if number >= 2 and not silent:
            break
        try:
            failure = _compare_on(kept, oracle, pruned, cut, feed, runtime, rtol, found, check_shapes and number == 0)
        except ModelError:
            if number == 0:
                raise
            continue  # an input at an extreme scale may be out of the model's domain; the first is not
        if failure is not None:
            return failure
        tolerance = found.tolerance
        silent = {g for g in silent if found.effect.get(g, 0.0) <= CLEARLY * tolerance}
    dead = {g.id for g in cut if g.id in silent and _is_dead(kept, g, oracle, runtime, feeds)}
    if silent - dead:
        group = next(g for g in cut if g.id in silent - dead)
        name = trace.graph.names[trace.sources[group.sources[0]].node]
        return _verdict(found, False, f"inconclusive: silencing channels of '{name}' changes nothing on these inputs", name)
    return _verdict(found, True)


def _verdict(found: _Findings, passed: bool, reason: str = "", node: str = "") -> Proof:
    equal = float(np.mean(found.equal)) if found.equal else None
    return Proof(passed, found.error, found.tolerance, found.samples, len(found.compared), reason, node, equal)


def _units(trace: Trace, group: Group) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.concatenate([trace.sources[s].units for s in group.sources])


def _compare_on(
    kept: Kept,
    oracle: onnx.ModelProto,
    pruned: onnx.ModelProto,
    cut: Sequence[Group],
    feed: Mapping[str, AnyArray],
    runtime: Runtime,
    rtol: float | None,
    found: _Findings,
    check_shapes: bool,
) -> Proof | None:
    """Compare all taps on one feed; a failed Proof, or None."""
    trace = kept.trace
    taps = _taps(kept, cut)
    if check_shapes:
        wrong = _wrong_shape(kept, pruned, feed, runtime)
        if wrong is not None:
            name, expected, actual = wrong
            node = trace.graph.names[trace.graph.producer[name]]
            found.error = float("inf")
            reason = f"'{name}' of node '{node}' should have shape {list(expected)} and has {list(actual)}"
            return _verdict(found, False, reason, node)
    found.samples += trace.shapes.batch
    for chunk in _chunks(trace, taps):
        names = list(chunk)
        plain = _run(trace.graph.proto, names, feed, runtime)
        masked = _run(oracle, names, feed, runtime)
        small = _run(pruned, names, feed, runtime)
        for name in names:
            found.compared.add(name)
            reference = masked[name][np.ix_(*kept.indices(name))] if masked[name].ndim else masked[name]
            if trace.shapes.dtype.get(name) not in FLOATS:
                same = reference.shape == small[name].shape and (reference == small[name])
                found.equal.append(float(np.mean(same)))
                continue
            if not np.isfinite(reference.astype(np.float64)).all():
                if np.isfinite(plain[name].astype(np.float64)).all():
                    continue
                if found.samples > trace.shapes.batch:
                    continue  # an extreme scale overflowed; other feeds decide
                node = trace.graph.names[trace.graph.producer[name]]
                return _verdict(found, False, f"'{name}' of node '{node}' is not finite on these inputs", node)
            tolerance = rtol if rtol is not None else TOLERANCE[trace.shapes.dtype[name]]
            error = relative_error(small[name], reference, (1, -1))
            found.error = max(found.error, error)
            found.tolerance = max(found.tolerance, tolerance)
            if error > tolerance:
                node = trace.graph.names[trace.graph.producer[name]]
                reason = f"node '{node}': '{name}' differs from the masked original by {error:.3g} (limit {tolerance:g})"
                return _verdict(found, False, reason, node)
            for group in chunk[name]:
                effect = relative_error(masked[name], plain[name], (1,))
                found.effect[group] = max(found.effect.get(group, 0.0), effect if np.isfinite(effect) else 0.0)
    return None


def _run(
    model: onnx.ModelProto, names: Sequence[str], feed: Mapping[str, AnyArray], runtime: Runtime
) -> dict[str, AnyArray]:
    with open_session(with_outputs(model, names), runtime) as session:
        return run(session, names, feed)


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy of the model whose outputs are these tensors."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    known = {o.name: o for o in model.graph.output}
    copy.graph.output.extend(known.get(n, onnx.ValueInfoProto(name=n)) for n in names)
    return copy


def _taps(kept: Kept, cut: Sequence[Group]) -> dict[str, list[int]]:
    """Tensor -> the groups whose silencing it shows, in topological order: outputs of members, of consumers, all
    graph outputs."""
    trace = kept.trace
    wanted: dict[str, list[int]] = {}
    for group in cut:
        for s in group.sources:
            wanted.setdefault(trace.sources[s].tensor, [])
        for node in group.consumers:
            wanted.setdefault(trace.graph.nodes[node].output[0], []).append(group.id)
    for name in trace.graph.outputs:
        if name in trace.graph.producer:
            wanted.setdefault(name, [])
    place = {i: k for k, i in enumerate(trace.graph.order)}
    ordered = sorted(wanted, key=lambda n: place[trace.graph.producer[n]])
    return {name: wanted[name] for name in ordered}


def _chunks(trace: Trace, taps: Mapping[str, list[int]]) -> Iterator[dict[str, list[int]]]:
    chunk: dict[str, list[int]] = {}
    size = 0
    for name, groups in taps.items():
        own = 4 * int(np.prod(trace.shapes.shape.get(name, (1,)), dtype=np.int64))
        if chunk and size + own > TAP_BYTES:
            yield chunk
            chunk, size = {}, 0
        chunk[name] = groups
        size += own
    if chunk:
        yield chunk


def _wrong_shape(
    kept: Kept, pruned: onnx.ModelProto, feed: Mapping[str, AnyArray], runtime: Runtime
) -> tuple[str, Shape, Shape] | None:
    """The first tensor of the pruned model whose actual shape is not the predicted one."""
    made = {o for node in pruned.graph.node for o in node.output if o}
    predicted = kept.shapes()
    names = [n for n in predicted if n in made and n in kept.trace.graph.producer]
    model = with_outputs(pruned, [])
    for name in names:
        model.graph.node.append(helper.make_node("Shape", [name], [name + SHAPE_SUFFIX]))
        model.graph.output.append(helper.make_tensor_value_info(name + SHAPE_SUFFIX, TensorProto.INT64, None))
    with open_session(model, runtime) as session:
        actual = run(session, [n + SHAPE_SUFFIX for n in names], feed)
    for name in names:
        shape = tuple(int(s) for s in actual[name + SHAPE_SUFFIX])
        if shape != predicted[name]:
            return name, predicted[name], shape
    return None


def _is_dead(
    kept: Kept, group: Group, oracle: onnx.ModelProto, runtime: Runtime, feeds: Iterable[Mapping[str, AnyArray]]
) -> bool:
    """Whether the removed units of a group are 0 wherever they would be mixed into others."""
    trace = kept.trace
    places = [(n, i) for n, i in trace.masks if n in group.consumers]
    names = list(dict.fromkeys(trace.graph.nodes[n].input[i] for n, i in places))
    if not names:
        return True  # nothing reads them
    feed = next(iter(feeds), None)
    if feed is None:
        return False
    values = _run(oracle, names, feed, runtime)
    for name in names:
        mask = keep_mask(trace, name, kept.keep)
        if mask is not None and np.abs(np.where(mask, 0, values[name])).max() > 0:
            return False
    return True


__all__ = ["Proof", "prove", "with_outputs"]
