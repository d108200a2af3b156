"""The proof must be able to fail: sabotaged files, broken rules, comparisons that could show nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support import RUNTIME, Array, Proven, build, prove_half, removed, removed_at_random, tensors

import ocnna_onnx
from ocnna_onnx.errors import OcnnaError, ProofFailed
from ocnna_onnx.prove.compare import QUANTIZED, relative_error, without_flips
from ocnna_onnx.prove.inputs import random_feeds
from ocnna_onnx.prove.proof import Proof, prove
from ocnna_onnx.rewrite.rewrite import rewrite
from ocnna_onnx.trace import labels as lb
from ocnna_onnx.trace.context import NodeTrace
from ocnna_onnx.trace.groups import find_groups
from ocnna_onnx.trace.kept import Kept
from ocnna_onnx.trace.rules import RULES, Rule
from ocnna_onnx.trace.tracer import trace as trace_model
from ocnna_onnx.trace.types import Trace

Arrays = dict[str, Array]

NET = """g (float[N,3,8,8] x) => (float[N,4] y)
    <float[8,3,3,3] w1, float[8] b1, float[8] gamma, float[8] beta, float[8] mean, float[8] var,
    float[6,8,3,3] w2, float[6] b2, float[4,6] w3, float[4] b3>
    { [conv1] a = Conv<pads=[1,1,1,1]>(x, w1, b1)
      [norm1] n = BatchNormalization(a, gamma, beta, mean, var)
      [act1] r = Relu(n)
      [conv2] c = Conv(r, w2, b2)
      [act2] s = Relu(c)
      [pool] p = GlobalAveragePool(s)
      [flat] f = Flatten(p)
      [fc] y = Gemm<transB=1>(f, w3, b3) }"""


def proof_of(trace: Trace, kept: Kept, model: onnx.ModelProto) -> Proof:
    return prove(kept, model, find_groups(trace), random_feeds(trace.graph, trace.shapes, 0), RUNTIME)


def set_tensors(model: onnx.ModelProto, arrays: Arrays) -> None:
    for tensor in model.graph.initializer:
        if tensor.name in arrays:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(arrays[tensor.name]), tensor.name))


def sabotaged(text: str, edit: Callable[[Arrays, Arrays], None]) -> Proof:
    """Prune, spoil the pruned file's constants (edit gets them and the original's), prove again."""
    original = build(text)
    result = prove_half(original)
    arrays = {name: np.array(a) for name, a in tensors(result.rewritten.model).items()}
    edit(arrays, tensors(original))
    set_tensors(result.rewritten.model, arrays)
    return proof_of(result.trace, result.rewritten.kept, result.rewritten.model)


def keep_only(trace: Trace, layer: str, gone: list[int]) -> Kept:
    """These channels of one layer go, and what is coupled with them."""
    source = next(s for s in trace.sources if trace.graph.names[s.node] == layer)
    return Kept(trace, trace.keep_units(trace.unit_class[source.units[gone]]))


def proven_without(model: onnx.ModelProto, layer: str, gone: list[int]) -> Proof:
    trace = trace_model(model, None, RUNTIME)
    rewritten = rewrite(trace, keep_only(trace, layer, gone).keep)
    return proof_of(trace, rewritten.kept, rewritten.model)


# --- sabotage of the file ---


def permute_columns(new: Arrays, old: Arrays) -> None:
    new["w2"] = new["w2"][:, ::-1]


def scale_norm(new: Arrays, old: Arrays) -> None:
    new["gamma"][2] *= 1.01


def shift_mean(new: Arrays, old: Arrays) -> None:
    new["mean"][0] += 0.01


def swap_biases(new: Arrays, old: Arrays) -> None:
    new["b1"][[0, 1]] = new["b1"][[1, 0]]


def other_rows(new: Arrays, old: Arrays) -> None:
    kept = [k for k in range(8) if any(np.array_equal(old["w1"][k], w) for w in new["w1"])]
    other = next(k for k in range(8) if k not in kept)
    new["w1"][0], new["b1"][0] = old["w1"][other], old["b1"][other]


def scale_a_weight(new: Arrays, old: Arrays) -> None:
    new["w3"][1] *= 1.2


def drop_a_bias(new: Arrays, old: Arrays) -> None:
    new["b2"][0] = 0


@pytest.mark.parametrize(
    ("edit", "nodes"),
    [
        (permute_columns, {"conv2"}),
        (scale_norm, {"norm1", "conv2"}),  # the first compared tensor behind the fault
        (shift_mean, {"norm1", "conv2"}),
        (swap_biases, {"conv1"}),
        (other_rows, {"conv1"}),
        (drop_a_bias, {"conv2"}),
        (scale_a_weight, {"fc"}),
    ],
)
def test_a_spoilt_constant_is_found_and_its_node_named(edit: Callable[[Arrays, Arrays], None], nodes: set[str]) -> None:
    proof = sabotaged(NET, edit)
    assert not proof.passed
    assert proof.node in nodes
    assert proof.node in proof.reason
    assert proof.max_relative_error > proof.tolerance


def test_rounding_is_no_fault() -> None:
    def round_weights(new: Arrays, old: Arrays) -> None:
        new["w1"] *= np.float32(1 + 1e-6)

    assert sabotaged(NET, round_weights).passed


@pytest.mark.parametrize(("size", "bias"), [(1, 0.0), (640, 0.0), (640, -9.0)])
def test_a_wrong_score_does_not_hide_beside_boxes_in_pixels(size: int, bias: float) -> None:
    text = f"""g (float[N,3,8,8] x) => (float[N,64,6] y)
    <float[8,3,1,1] w1, float[6,8,1,1] w2, float[6,1,1] b2 = {{0,0,0,0,{bias},{bias}}}, int64[3] to = {{0,6,64}},
    float[6] scale = {{{size},{size},{size},{size},1,1}}>
    {{ a = Conv(x, w1)
       r = Relu(a)
       c = Conv(r, w2)
       b = Add(c, b2)
       s = Sigmoid(b)
       m = Reshape(s, to)
       t = Transpose<perm=[0,2,1]>(m)
       y = Mul(t, scale) }}"""

    def wrong_score(new: Arrays, old: Arrays) -> None:
        new["scale"][5] *= 1.18

    proof = sabotaged(text, wrong_score)
    assert not proof.passed
    assert proof.node == "y"


def test_other_channels_than_planned_are_found() -> None:
    trace = trace_model(build(NET), None, RUNTIME)
    planned = keep_only(trace, "conv1", [0, 3, 5])
    cut = rewrite(trace, keep_only(trace, "conv1", [0, 3, 6]).keep)
    proof = proof_of(trace, planned, cut.model)
    assert not proof.passed
    assert proof.node == "conv1"


def test_channels_that_were_not_cut_are_found() -> None:
    model = build(NET)
    trace = trace_model(model, None, RUNTIME)
    proof = proof_of(trace, keep_only(trace, "conv1", [0, 3, 5]), model)
    assert not proof.passed
    assert proof.node == "conv1"
    assert "shape" in proof.reason


def spoilt_graph(edit: Callable[[onnx.ModelProto], None]) -> Proof:
    result = prove_half(build(NET))
    edit(result.rewritten.model)
    return proof_of(result.trace, result.rewritten.kept, result.rewritten.model)


def leak(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if n.name == "act1")
    node.op_type = "LeakyRelu"


def other_epsilon(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if n.name == "norm1")
    node.attribute.append(onnx.helper.make_attribute("epsilon", 0.01))


def other_pool(model: onnx.ModelProto) -> None:
    next(n for n in model.graph.node if n.name == "pool").op_type = "GlobalMaxPool"


def one_side_padded(model: onnx.ModelProto) -> None:
    node = next(n for n in model.graph.node if n.name == "conv1")
    node.attribute[0].CopyFrom(onnx.helper.make_attribute("pads", [2, 1, 0, 1]))


@pytest.mark.parametrize(
    ("edit", "node"), [(leak, "conv2"), (other_epsilon, "conv2"), (other_pool, "fc"), (one_side_padded, "conv1")]
)
def test_a_spoilt_node_is_found(edit: Callable[[onnx.ModelProto], None], node: str) -> None:
    proof = spoilt_graph(edit)
    assert not proof.passed
    assert proof.node == node


# --- broken rules ---


def pruned(model: onnx.ModelProto, ratio: float = 0.5) -> ocnna_onnx.Result:
    shape = [d.dim_value or 1 for d in model.graph.input[0].type.tensor_type.shape.dim]
    data = np.random.default_rng(3).standard_normal((8, *shape[1:])).astype(np.float32)
    return ocnna_onnx.prune(model, data=data, criterion="random", ratio=ratio, seed=1)


TWO_BRANCHES = """g (float[N,3,8,8] x) => (float[N,5,H,W] y)
    <float[8,3,1,1] wa, float[8] ba, float[8,3,1,1] wb, float[8] bb, float[5,{into},1,1] wy{more}>
    {{ a = Conv(x, wa, ba)
       b = Conv(x, wb, bb)
       {middle}
       y = Conv(m, wy) }}"""


def two_branches(middle: str, into: int = 8, more: str = "") -> onnx.ModelProto:
    return build(TWO_BRANCHES.format(middle=middle, into=into, more=more))


def add_that_couples_nothing(n: NodeTrace) -> None:
    n.emit(n.labels(0))


def add_that_forgets_its_constant(n: NodeTrace) -> None:
    n.emit(n.labels(0) or n.labels(1))


def concat_in_the_wrong_order(n: NodeTrace) -> None:
    parts = [lb.vector(n.labels(i)[0], 1) for i in range(len(n.node.input))]
    n.emit([lb.along(np.concatenate(parts[::-1]), 1, n.out_shape())])


def reshape_that_takes_positions_for_channels(n: NodeTrace) -> None:
    vector = lb.vector(n.labels(0)[0], 1)
    n.emit([lb.along(np.tile(vector, n.out_shape()[1] // len(vector)), 1, n.out_shape())])


def mean_over_channels_as_if_exact(n: NodeTrace) -> None:
    n.mask(0)


def mean_over_channels_that_consumes_nothing(n: NodeTrace) -> None:
    n.emit([])


def norm_over_channels_as_if_exact(n: NodeTrace) -> None:
    for x in n.labels(0):
        n.cut(1, 0, x, x.axes[0])
    n.emit(n.labels(0))


def softmax_as_if_exact(n: NodeTrace) -> None:
    n.mask(0)
    n.emit(n.labels(0))


def norm_that_cuts_one_vector_from_the_back(n: NodeTrace) -> None:
    for x in n.labels(0):
        for i in (1, 2, 4):
            n.cut(i, 0, x, 1)
        n.cut(3, 0, lb.along(lb.vector(x, 1)[::-1].copy(), 1, x.shape), 1)
    n.emit(n.labels(0))


def split_that_swaps_its_parts(n: NodeTrace) -> None:
    vector = lb.vector(n.labels(0)[0], 1)
    half = len(vector) // 2
    n.emit([lb.along(vector[half:], 1, n.out_shape(0))], 0)
    n.emit([lb.along(vector[:half], 1, n.out_shape(1))], 1)


def transpose_that_forgets(n: NodeTrace) -> None:
    """Claims that nothing labelled comes out, and walls nothing."""


BROKEN: dict[str, tuple[str, Callable[[NodeTrace], None], onnx.ModelProto]] = {
    "Add, nothing coupled": ("Add", add_that_couples_nothing, two_branches("m = Add(a, b)")),
    "Concat, wrong order": ("Concat", concat_in_the_wrong_order, two_branches("m = Concat<axis=1>(a, b)", 16)),
    "Flatten, wrong layout": (
        "Flatten",
        reshape_that_takes_positions_for_channels,
        build(
            """g (float[N,3,4,4] x) => (float[N,5] y) <float[8,3,1,1] wa, float[128,5] wy>
            { a = Conv(x, wa)
              f = Flatten(a)
              y = Gemm(f, wy) }"""
        ),
    ),
    "ReduceMean, consumes nothing": (
        "ReduceMean",
        mean_over_channels_that_consumes_nothing,
        two_branches("r = Sigmoid(a) c = ReduceMean<axes=[1]>(r) m = Mul(b, c)"),
    ),
    "LayerNormalization over channels": (
        "LayerNormalization",
        norm_over_channels_as_if_exact,
        two_branches(
            """u = Add(a, b) t = Transpose<perm=[0,2,3,1]>(u) v = LayerNormalization(t, s)
            m = Transpose<perm=[0,3,1,2]>(v)""",
            more=", float[8] s",
        ),
    ),
    "Softmax over channels": ("Softmax", softmax_as_if_exact, two_branches("u = Add(a, b) m = Softmax<axis=1>(u)")),
    "BatchNormalization, one vector reversed": (
        "BatchNormalization",
        norm_that_cuts_one_vector_from_the_back,
        two_branches(
            "u = Add(a, b) m = BatchNormalization(u, s, o, mean, var)",
            more=", float[8] s, float[8] o, float[8] mean, float[8] var",
        ),
    ),
    "Split, parts swapped": (
        "Split",
        split_that_swaps_its_parts,
        two_branches("u = Add(a, b) p, q = Split<axis=1>(u) g = Sigmoid(q) m = Concat<axis=1>(p, g)"),
    ),
}
BREAKS_THE_FILE: dict[str, tuple[str, Callable[[NodeTrace], None], onnx.ModelProto]] = {
    "Add, constant forgotten": (
        "Add",
        add_that_forgets_its_constant,
        build(
            """g (float[N,3,8,8] x) => (float[N,5,H,W] y) <float[8,3,1,1] wa, float[8,1,1] c, float[5,8,1,1] wy>
            { a = Conv(x, wa)
              m = Add(a, c)
              y = Conv(m, wy) }"""
        ),
    ),
    "Transpose, forgotten": (
        "Transpose",
        transpose_that_forgets,
        build(
            """g (float[N,3,8,8] x) => (float[N,8,8,5] y) <float[8,3,1,1] wa, float[8,5] wy>
            { a = Conv(x, wa)
              m = Transpose<perm=[0,2,3,1]>(a)
              y = MatMul(m, wy) }"""
        ),
    ),
}


@pytest.mark.parametrize("name", [*BROKEN, *BREAKS_THE_FILE])
def test_a_broken_rule_is_refused_by_the_proof(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    op, broken, model = {**BROKEN, **BREAKS_THE_FILE}[name]
    pruned_or_walled(model)  # with the true rule nothing is refused
    right = RULES[op]
    monkeypatch.setitem(RULES, op, replace(right, trace=broken))
    with pytest.raises(ProofFailed) as caught:
        pruned(model)
    assert caught.value.exit_code == 7
    assert caught.value.node in str(caught.value)
    assert caught.value.node or name in BREAKS_THE_FILE  # onnxruntime does not say which node it cannot run


def pruned_or_walled(model: onnx.ModelProto) -> None:
    with suppress(ocnna_onnx.NothingFree):
        pruned(model)


def test_a_reduction_with_a_wrong_denominator_names_the_reduction_or_its_reader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = two_branches("r = Sigmoid(a) c = ReduceMean<axes=[1]>(r) m = Mul(b, c)")
    pruned(model)  # with the true rule nothing is refused
    monkeypatch.setitem(RULES, "ReduceMean", Rule(mean_over_channels_as_if_exact))
    with pytest.raises(ProofFailed) as caught:
        pruned(model)
    assert caught.value.node in {"c", "m", "y"}
    assert caught.value.error > 1e-4


# --- comparisons that could show nothing ---

PLAIN = """g (float[N,3,8,8] x) => (float[N,5,H,W] y) <float[8,3,1,1] wa, float[8] ba, float[5,8,1,1] wy, float[5] by>
    { a = Conv(x, wa, ba)
      r = Relu(a)
      y = Conv(r, wy, by) }"""


def test_prune_refuses_what_is_inconclusive() -> None:
    model = build(
        """g (float[2,3,8,8] x) => (float[2,5,H,W] y) <float[8,3,1,1] wa, float[5,8,1,1] wy> {
          a = Conv(x, wa)  r = Relu(a)  c = Conv(r, wy)  m = Abs(c)  n = Neg(m)  y = Log(n) }"""
    )
    with pytest.raises(ProofFailed, match="inconclusive"):
        pruned(model)


GATED = """g (float[2,3,8,8] x, int64[1] flag) => (float[2,5,H,W] y)
    <float[8,3,1,1] wa, float[8] ba, float[5,8,1,1] wy, float[5] by>
    { a = Conv(x, wa, ba)
      g = Cast<to=1>(flag)
      m = Mul(a, g)
      y = Conv(m, wy, by) }"""


def test_behind_a_gate_that_is_zero_on_all_inputs_the_consumer_is_proven_alone() -> None:
    """Integers are drawn as 0, so that nothing reaches the last Conv: numbers of our own do."""
    assert proven_without(build(GATED), "a", [1, 4]).passed


def test_behind_a_gate_that_is_zero_a_wrong_cut_shows() -> None:
    def swap(new: Arrays, old: Arrays) -> None:
        new["wy"][:, [0, 1]] = new["wy"][:, [1, 0]]

    assert not sabotaged(GATED, swap).passed


def dead(model: onnx.ModelProto, channels: list[int]) -> onnx.ModelProto:
    arrays = {name: np.array(a) for name, a in tensors(model).items()}
    arrays["wa"][channels] = 0
    arrays["ba"][channels] = 0
    set_tensors(model, arrays)
    return model


def test_dead_channels_may_go() -> None:
    model = dead(build(PLAIN), [1, 4])
    assert proven_without(model, "a", [1, 4]).passed


def test_dead_channels_beside_living_ones_may_go() -> None:
    model = dead(build(PLAIN), [1, 4])
    assert proven_without(model, "a", [0, 1, 4]).passed


def test_dead_channels_that_are_read_with_next_to_nothing_may_go() -> None:
    """Weight decay leaves 1e-20 there: no input can show it, and yet it is no zero."""
    model = dead(build(PLAIN), [1, 4])
    arrays = {name: np.array(a) for name, a in tensors(model).items()}
    arrays["wy"][:, [1, 4]] *= np.float32(1e-20)
    set_tensors(model, arrays)
    assert proven_without(model, "a", [1, 4]).passed


def test_a_wrong_cut_of_dead_channels_is_still_found() -> None:
    trace = trace_model(dead(build(PLAIN), [1, 4]), None, RUNTIME)
    rewritten = rewrite(trace, keep_only(trace, "a", [1, 4]).keep)
    arrays = {name: np.array(a) for name, a in tensors(rewritten.model).items()}
    arrays["wy"] = arrays["wy"][:, ::-1]
    set_tensors(rewritten.model, arrays)
    proof = proof_of(trace, rewritten.kept, rewritten.model)
    assert not proof.passed
    assert proof.node == "y"


def test_an_output_that_is_never_finite_proves_nothing() -> None:
    model = build(
        """g (float[N,3,8,8] x) => (float[N,5,H,W] y, float[N,5,H,W] z)
        <float[8,3,1,1] wa, float[5,8,1,1] wy>
        { a = Conv(x, wa)
          r = Relu(a)
          y = Conv(r, wy)
          e = Exp(y)
          n = Neg(e)
          z = Log(n) }"""
    )
    assert not proven_without(model, "a", [1, 4]).passed


def test_a_model_that_makes_nan_is_refused() -> None:
    model = build(
        """g (float[N,3,8,8] x) => (float[N,5,H,W] y) <float[8,3,1,1] wa, float[5,8,1,1] wy>
        { a = Conv(x, wa)
          s = Neg(a)
          q = Abs(s)
          n = Neg(q)
          l = Log(n)
          y = Conv(l, wy) }"""
    )
    with pytest.raises(ProofFailed, match="finite"):
        pruned(model)


def test_a_pruned_file_that_makes_nan_fails() -> None:
    def poison(new: Arrays, old: Arrays) -> None:
        new["b1"][0] = np.nan

    proof = sabotaged(NET, poison)
    assert not proof.passed
    assert proof.node == "conv1"


# --- random operators ---


@pytest.mark.parametrize(
    ("call", "op"),
    [
        ("RandomNormalLike<scale=0.0>(x)", "RandomNormalLike"),
        ("RandomUniformLike(x)", "RandomUniformLike"),
        ("RandomNormal<shape=[1,3,1,1]>()", "RandomNormal"),
        ("Bernoulli(half)", "Bernoulli"),
    ],
)
def test_random_operators_are_refused_by_name(call: str, op: str) -> None:
    model = build(
        f"""g (float[N,3,8,8] x) => (float[N,5,H,W] y)
        <float[8,3,1,1] wa, float[5,8,1,1] wy, float[1,3,1,1] half = {{0.5,0.5,0.5}}>
        {{ [noise] r = {call}
           n = Add(x, r)
           a = Conv(n, wa)
           y = Conv(a, wy) }}"""
    )
    with pytest.raises(ProofFailed, match="noise") as caught:
        pruned(model)
    assert op in str(caught.value)
    assert caught.value.node == "noise"


def test_a_random_operator_in_a_body_is_refused() -> None:
    model = build(
        """g (float[2,3,8,8] x) => (float[2,5,H,W] y) <float[8,3,1,1] wa, float[5,8,1,1] wy>
        { a = Conv(x, wa)
          y0 = Conv(a, wy)
          k = ReduceMax<keepdims=0>(x)
          c = Equal(k, k)
          [body] e = If(c) <
            then_branch = t () => (float[1] p) { p = RandomNormal<shape=[1]>() },
            else_branch = f () => (float[1] q) { q = RandomUniform<shape=[1]>() }
          >
          y = Add(y0, e) }"""
    )
    with pytest.raises(ProofFailed, match="body"):
        pruned(model)


# --- the caller's model ---


def test_a_refused_prune_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    op, broken, model = BROKEN["Add, nothing coupled"]
    before = model.SerializeToString(deterministic=True)
    monkeypatch.setitem(RULES, op, Rule(broken))
    with pytest.raises(OcnnaError):
        pruned(model)
    assert model.SerializeToString(deterministic=True) == before


def test_a_looser_tolerance_is_the_callers_wish() -> None:
    original = build(NET)
    result: Proven = prove_half(original)
    arrays = {name: np.array(a) for name, a in tensors(result.rewritten.model).items()}
    arrays["w3"][1] *= np.float32(1.001)
    set_tensors(result.rewritten.model, arrays)
    trace, kept = result.trace, result.rewritten.kept
    verdicts = [
        prove(kept, result.rewritten.model, find_groups(trace), random_feeds(trace.graph, trace.shapes, 0), RUNTIME, r)
        for r in (1e-2, 1e-5)
    ]
    assert [v.passed for v in verdicts] == [True, False]


def test_nothing_removed_is_proven_too() -> None:
    model = build(NET)
    trace = trace_model(model, None, RUNTIME)
    rewritten = rewrite(trace, removed_at_random(trace, 0.0, 0))
    assert rewritten.model == model
    assert proof_of(trace, rewritten.kept, rewritten.model).passed


def test_a_layer_that_starts_as_zero_proves() -> None:
    """A fresh head, Fixup, zero gains: nothing that arrives can matter, and nothing is refused for it."""
    model = build(
        """g (float[N,3,8,8] x) => (float[N,6,H,W] y)
        <float[6,3,1,1] w0, float[8,3,3,3] w1, float[6,8,1,1] w2> {
          s = Conv(x, w0)  c = Conv<pads=[1,1,1,1]>(x, w1)  r = Relu(c)  b = Conv(r, w2)  y = Add(s, b) }""",
        w2=np.zeros((6, 8, 1, 1)),
    )
    assert removed(prove_half(model)) == {"c": 4}


def test_a_turned_code_is_no_wrong_cut_and_a_wrong_cut_is() -> None:
    """A rounding tie that falls the other way moves one footprint; a wrong cut moves a channel."""
    rng = np.random.default_rng(0)
    whole = rng.standard_normal((2, 8, 20, 20)).astype(np.float32)
    turned, wrong = whole.copy(), whole.copy()
    turned[0, :, 5:8, 5:8] += 0.2
    wrong[:, 3] += 0.2
    assert relative_error(turned, whole, (1, -1)) > QUANTIZED
    assert without_flips(turned, whole, (1,)) == 0
    assert without_flips(wrong, whole, (1,)) > QUANTIZED
