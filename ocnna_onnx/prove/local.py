"""A proof for one consumer alone, where the inputs at hand cannot tell: its channels are dead, or nearly, all over.

Numbers of our own take the place of what arrives at the consumer, which runs as a model of one node: the original's
gets them as they are, and with the removed channels silenced; the pruned model's gets those of the kept channels. The
last two must agree, and differ from the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..model.graph import AnyArray, first_output
from ..model.light import Light
from ..model.session import Runtime, open_session, run
from ..trace.kept import Kept
from .compare import relative_error
from .taps import run_taps

LOUDEST = 1e36
"""The largest number that is put into a channel that goes: float32, with room for a weight and a sum."""


@dataclass(frozen=True)
class LocalProver:
    """The consumers of an original and a pruned model, with what arrives at their operands on one feed."""

    kept: Kept
    runtime: Runtime
    arriving: tuple[Mapping[str, AnyArray], Mapping[str, AnyArray]]
    small: Mapping[str, Sequence[onnx.NodeProto]]
    """By output: the pruned model's node, and what was put behind it."""

    def error(self, node: int, i: int, scale: float, boost: float = 1.0) -> tuple[float, float, float]:
        """(relative error of the pruned against the silenced consumer, what silencing changes, what the kept channels
        change), of one node for its input i. scale: of the numbers put in, for consumers whose weights are tiny. boost:
        how much larger those in the channels that go are, for consumers with tiny weights there."""
        graph = self.kept.trace.graph
        original = graph.nodes[node]
        output = first_output(original)
        small = self.small[output]
        noise, mask, few = _numbers(self.kept, original.input[i], scale)
        operand = self.kept.trace.masks[(node, i)]
        before, after = self.arriving
        silence = np.zeros(1, noise.dtype) if operand is None else before[original.input[operand]]

        masked = np.where(mask, noise, silence).astype(noise.dtype)
        silent = np.array(np.broadcast_to(silence, noise.shape), noise.dtype)
        loud = noise
        if boost != 1:
            louder = np.minimum(noise.astype(np.float64) * boost, LOUDEST)  # what is infinite would say nothing
            loud = np.where(mask, noise, louder).astype(noise.dtype)
        plain, silenced, nothing = self._run([original], i, (loud, masked, silent), before)
        (pruned,) = self._run(small, i, (few,), after)
        error = relative_error(pruned, self.kept.slice(output, silenced), (1, -1))
        return error, relative_error(silenced, plain, (1,)), relative_error(nothing, silenced, (1,))

    def _run(
        self, nodes: Sequence[onnx.NodeProto], i: int, values: Sequence[AnyArray], arriving: Mapping[str, AnyArray]
    ) -> list[AnyArray]:
        """The first output of a model of a node and what was put behind it, with each of `values` at the node's input
        i."""
        arrays: dict[str, AnyArray] = {}
        copies: list[onnx.NodeProto] = []
        for place, node in enumerate(nodes):
            own = {k: f"in{place}_{k}" for k, name in enumerate(node.input) if name and (place == 0 or k > 0)}
            arrays.update({own[k]: values[0] if (place, k) == (0, i) else arriving[node.input[k]] for k in own})
            copies.append(onnx.NodeProto())
            copies[-1].CopyFrom(node)
            del copies[-1].input[:], copies[-1].output[:]
            inner = {0: f"out{place - 1}_0"} if place else {}
            copies[-1].input.extend((own | inner).get(k, "") for k in range(len(node.input)))
            copies[-1].output.extend(f"out{place}_{k}" if name else "" for k, name in enumerate(node.output))
        wanted, fed = first_output(copies[-1]), f"in0_{i}"
        proto = self.kept.trace.graph.proto
        model = onnx.ModelProto(ir_version=max(proto.ir_version, 4))
        model.opset_import.extend(proto.opset_import)
        model.functions.extend(proto.functions)
        model.graph.name = "consumer"
        model.graph.node.extend(copies)
        model.graph.output.append(onnx.ValueInfoProto(name=wanted))
        model.graph.input.append(_typed(fed, values[0]))
        model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in arrays.items() if n != fed)
        with open_session(model, self.runtime) as session:
            return [run(session, [wanted], {fed: array})[wanted] for array in values]


def _chain(made: Mapping[str, onnx.NodeProto], original: onnx.NodeProto, output: str) -> list[onnx.NodeProto]:
    """The node of the pruned model that does what `original` does, and those put behind it up to `output`. made: the
    pruned model's nodes by what they make."""
    found = [made[output]]
    while (found[0].op_type, found[0].domain) != (original.op_type, original.domain):
        found.insert(0, made[found[0].input[0]])
    return found


def local_prover(
    kept: Kept, before: Light, after: Light, nodes: list[int], feed: Mapping[str, AnyArray], runtime: Runtime
) -> LocalProver:
    """Run both models once, to know what arrives at all operands of these nodes."""
    graph = kept.trace.graph
    ours = {n for node in nodes for n in graph.nodes[node].input if n}
    outputs = {first_output(graph.nodes[node]): graph.nodes[node] for node in nodes}
    made = {name: node for node in after.proto.graph.node for name in node.output}
    small = {output: _chain(made, original, output) for output, original in outputs.items()}
    theirs = {n for chain in small.values() for k, node in enumerate(chain) for n in node.input[min(k, 1) :] if n}
    arriving = (_arriving(before, ours, feed, runtime), _arriving(after, theirs, feed, runtime))
    return LocalProver(kept, runtime, arriving, small)


def _arriving(model: Light, names: set[str], feed: Mapping[str, AnyArray], runtime: Runtime) -> dict[str, AnyArray]:
    inline = (t for t in model.proto.graph.initializer if t.name in names and t.name not in model.weights)
    stored = {t.name: numpy_helper.to_array(t) for t in inline} | {
        n: model.weights[n] for n in names & model.weights.keys()
    }
    made = [n for n in names if n not in stored and n not in feed]
    return {
        **{n: feed[n] for n in names if n in feed},
        **stored,
        **(run_taps(model, made, feed, runtime) if made else {}),
    }


def _numbers(kept: Kept, tensor: str, scale: float) -> tuple[AnyArray, AnyArray, AnyArray]:
    """(seeded numbers of a tensor's full shape, bool where they stay, those that stay)."""
    shape = kept.trace.shapes.shape[tensor]
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kept.trace.shapes.dtype[tensor]))
    rng = np.random.default_rng(0)
    if dtype.kind in "iu":
        noise = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    else:
        noise = (rng.uniform(1, 10, shape) * scale).astype(dtype)
    mask = np.ones(shape, bool)
    for axis, stays in kept.changed_axes(tensor).items():
        mask &= stays.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return noise, mask, kept.slice(tensor, noise)


def _typed(name: str, array: AnyArray) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
