"""Statistics over channels that stay exact once a small operator, or a number, makes up for what went."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from rule_cases import Table, chain, fixed_batch, tokens
from support import assert_wall, build, first_feed, prove_half, removed, run_model

TABLE = Table()
CASES, WALLS, case, wall = TABLE.cases, TABLE.walls, TABLE.case, TABLE.wall

DECOMPOSED = "a decomposed LayerNormalization over channels"


# --- means ---

for opset, spelling, weights in (
    (13, "ReduceMean<axes=[1]>(e)", ""),
    (18, "ReduceMean(e, c)", "int64[1] c = {-3}"),
    (17, "ReduceMean<axes=[1,2,3]>(e)", ""),
    (17, "ReduceMean<axes=[1], keepdims=0>(e) m = Unsqueeze(s, one)", "int64[1] one = {1}"),
):
    made = spelling if "m =" in spelling else f"{spelling} m = Identity(s)"
    case(
        f"{spelling.split(' m =')[0]}, opset {opset}",
        {"a": 4},
        chain(f"e = Exp(a) s = {made}", weights, into=1, opset=opset),
    )
case("ReduceMean over everything", {"a": 4}, fixed_batch("s = ReduceMean(a) m = Mul(a, s)"))
case(
    "ReduceMean of double precision",
    {"h": 5},
    build(
        """g (double[4,6] x) => (double[4,K] y) <double[6,10] w1, double[1,3] w2>
        { h = MatMul(x, w1) r = Relu(h) s = ReduceMean<axes=[1]>(r) y = MatMul(s, w2) }"""
    ),
)
case(
    "spatial attention (CBAM)",
    {"a": 4},
    chain(
        """r = Relu(a) p = ReduceMean<axes=[1]>(r) q = ReduceMax<axes=[1]>(r) j = Concat<axis=1>(p, q)
        k = Conv<pads=[3,3,3,3]>(j, wk) g = Sigmoid(k) m = Mul(r, g)""",
        "float[1,2,7,7] wk",
    ),
)
case(
    "RMSNorm, decomposed",
    {"a": 4},
    chain(
        """t = Transpose<perm=[0,2,3,1]>(a) q = Pow(t, two) v = ReduceMean<axes=[-1]>(q) e = Add(v, eps) r = Sqrt(e)
        d = Div(t, r) n = Mul(d, gamma) m = Transpose<perm=[0,3,1,2]>(n)""",
        "float two = {2}, float eps = {0.01}, float[8] gamma",
    ),
)
case(
    "global response normalization (ConvNeXt-V2)",
    {"a": 4},
    chain(
        """t = Transpose<perm=[0,2,3,1]>(a) g = ReduceL2<axes=[1,2]>(t) v = ReduceMean<axes=[-1]>(g) e = Add(v, eps)
        d = Div(g, e) k = Mul(t, d) l = Mul(k, gamma) b = Add(l, beta) n = Add(b, t)
        m = Transpose<perm=[0,3,1,2]>(n)""",
        "float eps = {0.000001}, float[1,1,1,8] gamma, float[1,1,1,8] beta",
    ),
)
case(
    "a group's mean that is not subtracted",  # whole groups go
    {"a": 4},
    chain(
        "r = Reshape(a, five) v = ReduceMean<axes=[2]>(r) g = Sigmoid(v) k = Mul(r, g) m = Reshape(k, four)",
        "int64[5] five = {0,4,2,8,8}, int64[4] four = {0,-1,8,8}",
    ),
)
case(
    "decomposed group normalization",  # whole groups go
    {"a": 4},
    chain(
        """r = Reshape(a, to) v = ReduceMean<axes=[2]>(r) d = Sub(r, v) q = Mul(d, d) w = ReduceMean<axes=[2]>(q)
        e = Add(w, eps) s = Sqrt(e) o = Div(d, s) m = Reshape(o, four)""",
        "int64[3] to = {0,4,128}, int64[4] four = {0,-1,8,8}, float eps = {0.001}",
    ),
)
for name, body, weights in (
    ("fused shape", "v = ReduceMean<axes=[1]>(a) d = Sub(a, v)", ""),
    ("the other way round", "v = ReduceMean<axes=[1]>(a) d = Sub(v, a)", ""),
    (
        "through shapes",
        "v = ReduceMean<axes=[1], keepdims=0>(a) u = Unsqueeze(v, one) i = Identity(a) d = Sub(i, u)",
        "int64[1] one = {1}",
    ),
    ("as a sum", "t = ReduceSum(a, one) v = Div(t, eight) d = Sub(a, v)", "int64[1] one = {1}, float eight = {8.0}"),
):
    op, at = ("ReduceSum", "t") if "Sum" in body else ("ReduceMean", "v")
    wall(
        f"layer normalization, decomposed, {name}",
        op,
        DECOMPOSED,
        chain(
            f"{body} q = Mul(d, d) w = ReduceMean<axes=[1]>(q) e = Add(w, eps) s = Sqrt(e) m = Div(d, s)",
            ", ".join(filter(None, (weights, "float eps = {0.001}"))),
        ),
        node=at,
    )
wall(
    "ReduceMean of integers over channels",
    "ReduceMean",
    "over channels",
    chain("i = Cast<to=6>(a) k = ReduceMean<axes=[1]>(i) m = Cast<to=1>(k)", into=1),
    node="k",
)


# --- extremes, logarithms ---

for op in ("ReduceMax", "ReduceMin", "ReduceLogSum"):
    case(f"{op} over channels", {"a": 4}, chain(f"e = Exp(a) m = {op}<axes=[1]>(e)", into=1))
for op, sign in (("ReduceMax", "Neg"), ("ReduceMin", "Abs")):  # the zeros of what went decide
    case(f"{op} over channels, of one sign", {"a": 4}, chain(f"e = Exp(a) s = {sign}(e) m = {op}<axes=[1]>(s)", into=1))
for op in ("ReduceMax", "ReduceMin"):
    case(f"{op} over channels and positions", {"a": 4}, chain(f"g = {op}<axes=[1,2]>(a) m = Mul(a, g)"))
case(
    "ReduceMax to one number",
    {"h": 5},
    build(
        """g (float[4,6] x) => (float y) <float[6,10] w1>
        { h = MatMul(x, w1) n = Neg(h) y = ReduceMax<keepdims=0>(n) }"""
    ),
)
for op in ("ReduceProd", "ReduceLogSumExp"):
    wall(f"{op} over channels", op, "over channels", chain(f"e = Exp(a) m = {op}<axes=[1]>(e)", into=1))
wall("ReduceMin, opset 7", "ReduceMin", "over channels", chain("m = ReduceMin<axes=[1]>(a)", into=1, opset=7))


wall(
    "softmax, decomposed",
    "ReduceMax",
    "a decomposed Softmax over channels",
    chain(
        "x0 = ReduceMax<axes=[1]>(a) d = Sub(a, x0) e = Exp(d) s = ReduceSum(e, one) m = Div(e, s)",
        "int64[1] one = {1}",
    ),
    node="x0",
)


# --- RMSNormalization ---

case(
    "RMS normalization over positions",
    {"a": 4},
    chain("m = RMSNormalization<axis=2>(a, s)", "float[8,8] s", opset=23, ir=11),
)
for name, op, opset in (
    ("RMSNormalization", "RMSNormalization<axis=-1, epsilon=0.3>(h, s)", 23),
    ("RMSNormalization, default ε", "RMSNormalization(h, s)", 23),
    ("SimplifiedLayerNormalization", "SimplifiedLayerNormalization<axis=-1, epsilon=0.3>(h, s)", 17),
):
    case(
        f"{name} over channels",
        {"h": 5},
        tokens(f"h = MatMul(x, w1) n = {op} y = MatMul(n, w2)", "float[6,10] w1, float[10] s, float[10,3] w2", opset),
    )
case(
    "RMSNormalization over channels and positions",
    {"a": 4},
    chain("m = RMSNormalization<axis=1, epsilon=0.2>(a, s)", "float[8,8,8] s", opset=23, ir=11),
)
case(
    "RMSNormalization over channels, one scale",
    {"h": 5},
    tokens(
        "h = MatMul(x, w1) n = RMSNormalization(h, s) y = MatMul(n, w2)",
        "float[6,10] w1, float[1] s, float[10,3] w2",
        23,
    ),
)
wall(
    "RMSNormalization with a computed scale",
    "RMSNormalization",
    "computed",
    build(
        """g (float[2,5,6] x, float[10] s) => (float[2,5,K] y) <float[6,10] w1, float[10,3] w2>
        { a = MatMul(x, w1) m = RMSNormalization(a, s) y = MatMul(m, w2) }""",
        23,
    ),
)


@pytest.mark.parametrize("name", CASES)
def test_what_is_free_goes_and_is_proven(name: str) -> None:
    model, gone = CASES[name]
    assert removed(prove_half(model)) == gone


@pytest.mark.parametrize("name", WALLS)
def test_what_cannot_go_is_a_wall_that_says_why(name: str) -> None:
    assert_wall(*WALLS[name])


@pytest.mark.parametrize("name", ["spatial attention (CBAM)", "RMSNorm, decomposed", "RMSNormalization over channels"])
def test_the_result_is_that_of_zeros(name: str) -> None:
    """Against the plain definition, without the package's oracle: the original with the kernel rows of `a` zero."""
    result = prove_half(CASES[name].model)
    original = onnx.ModelProto()
    original.CopyFrom(CASES[name].model)
    layer = result.trace.graph.nodes[result.trace.sources[0].node].input[1]
    cut = next(c for c in result.rewritten.cuts if c.tensor == layer)
    for tensor in original.graph.initializer:
        if tensor.name in (layer, "ba"):
            array = np.array(onnx.numpy_helper.to_array(tensor))
            axis = cut.axis if tensor.name == layer else 0
            array[(slice(None),) * axis + (np.setdiff1d(np.arange(array.shape[axis]), cut.kept),)] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    feed = first_feed(result.trace)
    wanted, actual = run_model(original, feed)["y"], run_model(result.rewritten.model, feed)["y"]
    np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-5)


def test_a_mean_is_scaled_by_one_operator_and_told() -> None:
    result = prove_half(chain("e = Exp(a) m = ReduceMean<axes=[1]>(e)", into=1))
    added = [r for r in result.rewritten.rewrites if r["what"] == "Mul behind it"]
    assert [(r["node"], r["after"]) for r in added] == [("m", 0.5)]
    assert [n.op_type for n in result.rewritten.model.graph.node] == ["Conv", "Exp", "ReduceMean", "Mul", "Conv"]


def test_a_factor_is_not_rounded_to_bfloat16() -> None:
    text = """g (bfloat16[4,6] x) => (bfloat16[4,3] y) <bfloat16[6,10] w1, bfloat16[10] s, bfloat16[10,3] w2>
        { h = MatMul(x, w1) n = RMSNormalization(h, s) y = MatMul(n, w2) }"""
    result = prove_half(build(text, 23))
    assert removed(result) == {"h": 5}
    assert [n.op_type for n in result.rewritten.model.graph.node][1:-1] == ["RMSNormalization", "Cast", "Mul", "Cast"]


def test_a_mean_that_loses_nothing_stays_as_it_is() -> None:
    model = chain("m = ReduceMean<axes=[2]>(a)")
    assert [n.op_type for n in prove_half(model).rewritten.model.graph.node] == ["Conv", "ReduceMean", "Conv"]


def test_channels_that_are_dead_are_proven_at_the_mean_alone() -> None:
    """No input tells them apart: the consumer and what was put behind it are proven on numbers of our own."""
    model = chain("r = Relu(a) m = ReduceMean<axes=[1]>(r)", into=1, ba=np.full(8, -1e6))
    assert removed(prove_half(model)) == {"a": 4}
