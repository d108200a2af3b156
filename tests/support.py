"""Small nets from ONNX text, a prune at random that must be proven, and an oracle of its own for what was cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper, parser

from ocnna_onnx.model.session import Runtime
from ocnna_onnx.model.twin import fp32_twin, has_bfloat16
from ocnna_onnx.prove.inputs import random_feeds
from ocnna_onnx.prove.proof import Proof, prove
from ocnna_onnx.rewrite.constants import CutRecord
from ocnna_onnx.rewrite.rewrite import Rewritten, rewrite
from ocnna_onnx.trace.coupling import pair
from ocnna_onnx.trace.groups import find_groups
from ocnna_onnx.trace.tracer import trace as trace_model
from ocnna_onnx.trace.types import Trace, Wall

Array = np.ndarray[Any, Any]
RUNTIME = Runtime(threads=1)


class Proven(NamedTuple):
    """What a prune at random came to."""

    trace: Trace
    rewritten: Rewritten
    proof: Proof


def build(text: str, opset: int = 17, ir: int = 8, seed: int = 0, **arrays: Any) -> onnx.ModelProto:
    """A model from ONNX text: `g (float[N,3,8,8] x) => (float[N,M,H,W] y) <float[8,3,3,3] w> { y = Conv(x, w) }`.

    A tensor that is declared in <…> without a value, and that no node makes, becomes an initializer: from `arrays`, or
    else drawn from a seeded generator. Without a header of its own the text gets one with `opset` and `ir`.
    """
    header = "" if text.lstrip().startswith("<") else f'<ir_version: {ir}, opset_import: ["": {opset}]>\n'
    model = parser.parse_model(header + text)
    graph = model.graph
    made = {o for node in graph.node for o in node.output} | {t.name for t in graph.initializer}
    for tensor in [t for t in graph.initializer if t.name in arrays]:
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(arrays[tensor.name]), tensor.name))
    rng = np.random.default_rng(seed)
    for value in list(graph.value_info):
        kind = value.type.tensor_type
        shape = [d.dim_value for d in kind.shape.dim]
        drawn = _draw(rng, shape, _roles(graph, value.name))
        if value.name in made:
            continue
        array = np.asarray(arrays.get(value.name, drawn), helper.tensor_dtype_to_np_dtype(kind.elem_type))
        graph.initializer.append(numpy_helper.from_array(array, value.name))
        graph.value_info.remove(value)
    return model


def is_valid(model: onnx.ModelProto) -> bool:
    """What onnx's checker says. It refuses some files that run: GroupNormalization of opset 18, custom operators."""
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError:
        return False
    return True


def _roles(graph: onnx.GraphProto, name: str) -> set[tuple[str, int]]:
    return {(node.op_type, i) for node in graph.node for i, n in enumerate(node.input) if n == name}


def _draw(rng: np.random.Generator, shape: Sequence[int], roles: set[tuple[str, int]]) -> Array:
    if ("BatchNormalization", 4) in roles:
        return rng.uniform(0.5, 2.0, shape)
    kernel = any(op in ("Conv", "ConvTranspose", "Gemm", "MatMul") and i < 2 for op, i in roles)
    fan = int(np.prod(shape[1:])) if kernel and len(shape) > 2 else (shape[0] if kernel and shape else 1)
    return rng.standard_normal(shape) * (2.0 / max(fan, 1)) ** 0.5


def tensors(model: onnx.ModelProto) -> dict[str, Array]:
    """Initializers and values of Constant nodes by name."""
    found = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        for a in node.attribute:
            if node.op_type == "Constant" and a.name == "value":
                found[node.output[0]] = numpy_helper.to_array(a.t)
            elif node.op_type == "Constant":
                found[node.output[0]] = np.asarray(helper.get_attribute_value(a))
    return found


def run_model(model: onnx.ModelProto, feed: Mapping[str, Array], names: Sequence[str] = ()) -> dict[str, Array]:
    """All outputs, or the tensors `names`, with every node as written."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if names:
        known = {o.name: o for o in model.graph.output}
        del copy.graph.output[:]
        copy.graph.output.extend(known.get(n, onnx.ValueInfoProto(name=n)) for n in names)
    if has_bfloat16(copy):
        copy = fp32_twin(copy)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
    wanted = [o.name for o in copy.graph.output]
    return dict(zip(wanted, session.run(wanted, dict(feed)), strict=True))


def first_feed(trace: Trace, seed: int = 0) -> dict[str, Array]:
    """Normal random inputs at the probe shapes."""
    return dict(next(iter(random_feeds(trace.graph, trace.shapes, seed))).values)


def removed_at_random(trace: Trace, share: float, seed: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """bool [units + 1], what stays: a random `share` of every group's free decisions goes, no tensor is emptied."""
    rng = np.random.default_rng(seed)
    gone = np.zeros(len(trace.free), bool)
    for group in find_groups(trace):
        count = min(int(share * len(group.free) + 1e-9), len(group.classes) - 1)
        gone[rng.permutation(group.free)[: max(count, 0)]] = True
    for arrays in trace.labels.values():
        for x in arrays:
            classes = np.unique(trace.unit_class[x.array])
            if gone[classes].all():
                gone[classes[0]] = False
    return trace.keep_units(np.flatnonzero(gone))


def prove_half(model: onnx.ModelProto, share: float = 0.5, seed: int = 0) -> Proven:
    """Trace, remove a random share of every group, rewrite, prove. Everything that is promised must hold."""
    before = model.SerializeToString(deterministic=True)
    trace = trace_model(model, None, RUNTIME)
    score = np.random.default_rng(seed).random(len(trace.pairing.base))
    trace = pair(trace, score[trace.pairing.base])
    rewritten = rewrite(trace, removed_at_random(trace, share, seed))
    assert model.SerializeToString(deterministic=True) == before, "the caller's model was changed"
    assert is_valid(rewritten.model) == is_valid(model)
    proof = prove(
        rewritten.kept, rewritten.model, find_groups(trace), random_feeds(trace.graph, trace.shapes, seed), RUNTIME
    )
    assert proof.passed, proof.reason
    redo_cuts(trace.graph.model.whole(), rewritten.model, [c.to_json() for c in rewritten.cuts], rewritten.rewrites)
    assert_shapes(rewritten, first_feed(trace, seed))
    assert_equals_zeroed(trace, rewritten, seed)
    if not removed(Proven(trace, rewritten, proof)):
        assert rewritten.model.SerializeToString(deterministic=True) == before, "nothing went, yet the file changed"
    return Proven(trace, rewritten, proof)


def removed(result: Proven) -> dict[str, int]:
    """Layer -> how many of its channels are really missing from the pruned file's tensor; layers that lost none are
    left out."""
    trace = result.trace
    names = list(dict.fromkeys(s.tensor for s in trace.sources))
    if not names or result.rewritten.kept.keep.all():
        return {}
    actual = run_model(result.rewritten.model, first_feed(trace), names)
    lost = {
        trace.graph.names[s.node]: len(s.units) - actual[s.tensor].shape[s.axis]
        for s in trace.sources
        if trace.graph.nodes[s.node].op_type != "Expand"
    }
    return {name: count for name, count in lost.items() if count}


def assert_shapes(rewritten: Rewritten, feed: Mapping[str, Array]) -> None:
    """Every float tensor that a node makes has the shape that was predicted for it."""
    made = [o for node in rewritten.model.graph.node for o in node.output if o in rewritten.shapes]
    floats = [n for n in made if rewritten.kept.trace.shapes.dtype.get(n) == TensorProto.FLOAT]
    actual = run_model(rewritten.model, feed, floats) if floats else {}
    for name in floats:
        assert actual[name].shape == rewritten.shapes[name], f"{name}: predicted {rewritten.shapes[name]}"


def redo_cuts(
    original: onnx.ModelProto,
    pruned: onnx.ModelProto,
    cuts: Sequence[Mapping[str, Any]],
    rewrites: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Redo the surgery with numpy from the report's `cuts` and the original's constants alone; compare with the file.

    Constants that no record names must be as they were, and new ones stand in `rewrites` (integers steer the graph).
    """
    old, new = tensors(original), tensors(pruned)
    nodes = {name: node for node in pruned.graph.node for name in node.output}
    nodes |= {node.name: node for node in pruned.graph.node if node.name}
    places: dict[tuple[str, int, str, str], list[Mapping[str, Any]]] = {}
    for cut in cuts:
        places.setdefault((cut["node"], cut["input"], cut["tensor"], cut["new_tensor"]), []).append(cut)
    for (node, i, tensor, new_tensor), records in places.items():
        expected = old[tensor] if tensor in old else _computed(original, tensor)
        assert len({r["axis"] for r in records}) == len(records), f"{tensor}: two records for one axis"
        for record in records:
            kept, axis = record["kept"], record["axis"]
            for listed in kept if isinstance(kept[0], list) else [kept]:
                assert listed == sorted(set(listed)), f"{tensor}: kept indices are no ascending set"
                assert 0 < len(listed) < expected.shape[axis]
            if isinstance(kept[0], list):  # one list per group: equal blocks along axis 0
                blocks = np.split(expected, len(kept))
                expected = np.concatenate([np.take(b, k, axis=axis) for b, k in zip(blocks, kept, strict=True)])
            else:
                expected = np.take(expected, kept, axis=axis)
        np.testing.assert_array_equal(new[new_tensor], expected, err_msg=f"{tensor} -> {new_tensor}")
        assert nodes[node].input[i] == new_tensor, f"{node} does not read {new_tensor}"
    for name in set(new) - {cut["new_tensor"] for cut in cuts}:
        if new[name].dtype.kind == "f" and name not in old:
            values = [np.asarray(r["after"]) for r in rewrites if not isinstance(r["after"], str)]
            assert any(np.array_equal(v, new[name]) for v in values), f"{name} was added without a record"
        elif new[name].dtype.kind == "f":
            np.testing.assert_array_equal(new[name], old[name], err_msg=f"{name} changed without a record")


CONTRACTIONS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def zeroed_original(trace: Trace, rewritten: Rewritten) -> onnx.ModelProto | None:
    """The original in which the weights that read removed channels are zero: an oracle made from the report's cuts
    alone, without masks. None where something else than constant weights mixes channels."""
    model = trace.graph.model.whole()
    stored = tensors(model)
    assert not [w.reason for w in trace.walls if "defect" in w.reason]
    for index, i in trace.masks:
        node = trace.graph.nodes[index]
        if node.op_type not in CONTRACTIONS or trace.constants.root(node.input[1 - i]) not in stored:
            return None
    for number, cut in enumerate(rewritten.cuts):
        node = next(n for n in model.graph.node if cut.node in (n.name, *n.output))
        if node.op_type not in CONTRACTIONS or cut.input > 1 or cut.axis != _inner_axis(node, cut.input, stored, cut):
            continue
        name = node.input[cut.input]
        weight = np.array(stored[name] if name in stored else _computed(model, name))
        per_group = [k if isinstance(k, tuple) else cut.kept for k in cut.kept[: _groups(cut)]]
        for block, kept in zip(np.split(weight, _groups(cut)), per_group, strict=True):  # views
            gone = np.setdiff1d(np.arange(weight.shape[cut.axis]), kept)
            block[(slice(None),) * cut.axis + (gone,)] = 0
        node.input[cut.input] = f"{name}//zeroed{number}"
        model.graph.initializer.append(numpy_helper.from_array(weight, node.input[cut.input]))
    model.ir_version = max(model.ir_version, 8)
    return model


def _groups(cut: CutRecord) -> int:
    return len(cut.kept) if isinstance(cut.kept[0], tuple) else 1


def _inner_axis(node: onnx.NodeProto, i: int, old: Mapping[str, Array], cut: CutRecord) -> int:
    """The axis of a weight that meets the channels it reads."""
    if node.op_type == "MatMul":
        rank = old[cut.tensor].ndim if cut.tensor in old else 2
        return rank - 2 if i == 1 else rank - 1
    if node.op_type == "Gemm":
        return next((a.i for a in node.attribute if a.name == "transB"), 0)
    return 1 if node.op_type == "Conv" else 0


def assert_equals_zeroed(trace: Trace, rewritten: Rewritten, seed: int) -> None:
    """The pruned file computes what `zeroed_original` computes, at the probe's batch and, if symbolic, at 1."""
    oracle = zeroed_original(trace, rewritten)
    if oracle is None:
        return
    feeds = [first_feed(trace, seed)]
    if all(0 in trace.shapes.dynamic.get(v.name, ()) for v in trace.graph.inputs):
        feeds.append({name: array[:1] for name, array in feeds[0].items()})
    for feed in feeds:
        wanted, actual = run_model(oracle, feed), run_model(rewritten.model, feed)
        for name, reference in wanted.items():
            if not isinstance(reference, np.ndarray):
                continue  # a sequence or a map
            limit = 1e-2 if reference.dtype == np.float16 else 2e-4
            assert actual[name].shape == reference.shape
            error = np.abs(actual[name].astype(np.float64) - reference).max()
            assert error <= limit * max(np.abs(reference).max(), 0.1), f"{name}: off by {error}"


def _computed(model: onnx.ModelProto, name: str) -> Array:
    """The value of a tensor that is computed from constants alone."""
    part = onnx.ModelProto()
    part.CopyFrom(model)
    needed, nodes = {name}, []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            nodes.insert(0, node)
    for field in (part.graph.node, part.graph.input, part.graph.output):
        del field[:]
    part.graph.node.extend(nodes)
    part.graph.output.append(onnx.ValueInfoProto(name=name))
    return run_model(part, {})[name]


def walls_at(trace: Trace, layer: str) -> list[tuple[str, str, str]]:
    """(node, operator, reason) of every wall that holds channels of this layer."""
    units = np.concatenate([s.units for s in trace.sources if trace.graph.names[s.node] == layer])
    held = [w for w in trace.walls if _holds(trace, w, units)]
    return [(trace.graph.names[w.node], trace.graph.nodes[w.node].op_type, w.reason) for w in held]


def _holds(trace: Trace, wall: Wall, units: Array) -> bool:
    return bool(np.isin(trace.unit_class[units], trace.unit_class[wall.units]).any())


def assert_wall(model: onnx.ModelProto, layer: str, node: str, op: str, word: str) -> None:
    """The layer loses nothing; a wall at `node` (an `op`) holds it, and the reason says `word`."""
    result = prove_half(model)
    found = walls_at(result.trace, layer)
    assert any(n == node and o == op and word in reason for n, o, reason in found), found
    assert layer not in removed(result)
