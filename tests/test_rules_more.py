"""Operators of ONNX that nets meet less often: Einsum, recurrent layers, picking and putting by index, sampling."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from rule_cases import Table, chain, fixed_batch, tokens
from support import RUNTIME, assert_wall, build, prove_half, removed

from ocnna_onnx.model.cost import macs
from ocnna_onnx.trace.rules.refused import REASONS, reason_without_rule
from ocnna_onnx.trace.tracer import trace as trace_model

TABLE = Table()
CASES, WALLS, case, wall = TABLE.cases, TABLE.walls, TABLE.case, TABLE.wall


# --- Einsum ---


def einsum(equation: str, *names: str) -> str:
    return f'Einsum<equation="{equation}">({", ".join(names)})'


case(
    "Einsum, a dense layer",
    {"h": 5},
    tokens(
        f"h = {einsum('btf,fh->bth', 'x', 'w1')} r = Relu(h) y = {einsum('bth,hk->btk', 'r', 'w2')}",
        "float[6,10] w1, float[10,3] w2",
    ),
)
case(
    "Einsum, an ellipsis and a transposed weight",
    {"h": 5},
    tokens(
        f"h = {einsum('...f,hf->...h', 'x', 'w1')} r = Relu(h) y = {einsum('...h, hk', 'r', 'w2')}",
        "float[10,6] w1, float[10,3] w2",
    ),
)
case(
    "Einsum, the weight in front",
    {"h": 5},
    tokens(
        f"h = {einsum('hf,btf->bth', 'w1', 'x')} y = {einsum('hk,bth->btk', 'w2', 'h')}",
        "float[10,6] w1, float[10,3] w2",
    ),
)
case(
    "Einsum, pointwise convolution of maps",
    {"a": 4, "h": 3},
    chain(f"h = {einsum('nchw,oc->nohw', 'a', 'w')} m = Relu(h)", "float[6,8] w", into=6),
)
case("Einsum, a scale per channel", {"a": 4}, chain(f"m = {einsum('nchw,c->nchw', 'a', 's')}", "float[8] s"))
case("Einsum, transposed", {"a": 4}, chain(f"t = {einsum('nchw->nhwc', 'a')} m = Transpose<perm=[0,3,1,2]>(t)"))
case(
    "Einsum, a sum over channels",
    {"a": 4},
    chain(f"s = {einsum('nchw->nhw', 'a')} m = Unsqueeze(s, i)", "int64[1] i = {1}", into=1),
)
case(
    "Einsum, a sum over positions",
    {"a": 4},
    chain(f"s = {einsum('nchw->nc', 'a')} m = Unsqueeze(s, i)", "int64[2] i = {2,3}"),
)
case(
    "Einsum, q·kᵀ and ·v",
    {"q": 5, "k": 5, "v": 4},
    tokens(
        f"""q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) s = {einsum("bqd,bkd->bqk", "q", "k")}
        p = Softmax<axis=-1>(s) o = {einsum("bqk,bkd->bqd", "p", "v")} y = MatMul(o, wo)""",
        "float[6,10] wq, float[6,10] wk, float[6,8] wv, float[8,3] wo",
    ),
)
case(
    "Einsum, heads",  # the same columns of every head
    {"q": 6, "k": 6, "v": 6},
    tokens(
        f"""q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv)
        q4 = Reshape(q, split) k4 = Reshape(k, split) v4 = Reshape(v, split)
        s = {einsum("bqhd,bkhd->bhqk", "q4", "k4")} p = Softmax<axis=-1>(s) o = {einsum("bhqk,bkhd->bqhd", "p", "v4")}
        om = Reshape(o, merge) y = MatMul(om, wo)""",
        """float[6,12] wq, float[6,12] wk, float[6,12] wv, float[12,3] wo, int64[4] split = {0,0,3,4},
        int64[3] merge = {0,0,12}""",
    ),
)
case(
    "Einsum, heads and columns contracted at once",  # whole heads, or the same columns of every head
    {"h": 6},
    tokens(
        f"h = MatMul(x, w1) r = Reshape(h, split) y = {einsum('bthd,hdk->btk', 'r', 'w2')}",
        "float[6,12] w1, int64[4] split = {0,0,3,4}, float[3,4,5] w2",
    ),
)
case(
    "Einsum of three operands",
    {"h": 5},
    tokens(
        f"h = MatMul(x, w1) y = {einsum('bth,h,hk->btk', 'h', 's', 'w2')}",
        "float[6,10] w1, float[10] s, float[10,3] w2",
    ),
)
wall(
    "Einsum with a fixed activation",
    "Einsum",
    "fixed along a labelled letter",
    build(
        f"""g (float[2,5,6] x, float[2,5,8] z) => (float[2,5,5] y) <float[6,8] w>
        {{ a = MatMul(x, w) m = {einsum("btd,bsd->bts", "a", "z")} y = Relu(m) }}"""
    ),
)
wall(
    "Einsum, a diagonal",
    "Einsum",
    "diagonal",
    chain(f"s = {einsum('ncii->nci', 'a')} m = Unsqueeze(s, i)", "int64[1] i = {3}"),
    node="s",
)


# --- recurrent layers ---


def recurrent(op: str, gates: int, operands: str = "", weights: str = "") -> onnx.ModelProto:
    """x [N,3,8,8] -> Conv `a` (8 channels) -> columns as a sequence [8, N, 8·8] -> `op` -> y."""
    extra = f", {weights}" if weights else ""
    return build(
        f"""g (float[2,3,8,8] x) => (float[8,1,2,5] y)
        <float[8,3,3,3] wa, float[8] ba, float[1,{5 * gates},64] w, float[1,{5 * gates},5] r, float[1,{10 * gates}] b,
         int64[3] to = {{8,2,64}}{extra}>
        {{ a = Conv<pads=[1,1,1,1]>(x, wa, ba) t = Transpose<perm=[3,0,1,2]>(a) f = Reshape(t, to)
           y = {op}<hidden_size=5>(f, w, r, b{operands}) }}"""
    )


for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
    case(op, {"a": 4}, recurrent(op, gates))
    case(f"{op}, initial state", {"a": 4}, recurrent(op, gates, operands=", , h", weights="float[1,2,5] h"))
case(
    "LSTM, both ways, to a layer",
    {"a": 4},
    build(
        """g (float[2,3,8,8] x) => (float[A,B,C] y)
        <float[8,3,3,3] wa, float[2,20,64] w, float[2,20,5] r, float[10,3] wy, int64[3] to = {8,2,64},
         int64[3] flat = {8,2,10}>
        { a = Conv<pads=[1,1,1,1]>(x, wa) t = Transpose<perm=[3,0,1,2]>(a) f = Reshape(t, to)
          l, lh, lc = LSTM<hidden_size=5, direction="bidirectional">(f, w, r)
          p = Transpose<perm=[0,2,1,3]>(l) q = Reshape(p, flat) y = MatMul(q, wy) }"""
    ),
)
ROWS = """g (float[3,8,8] x) => (float[A,B,C] y)
    <float[8,8] wa, float[1,20,8] w, float[1,20,5] r{weights}, float[3,8] wy, int64[1] one = {{1}}>
    {{ a = MatMul(wa, x) l, lh, lc = LSTM<hidden_size=5>(a, w, r, {operands})
       s = Squeeze(l, one) y = MatMul(wy, s) }}"""
case("LSTM, channels as rows of the batch", {"a": 4}, build(ROWS.format(weights="", operands="")))
case(
    "LSTM, channels as rows of the batch, with constant states and lengths",
    {"a": 4},
    build(
        ROWS.format(weights=", int32[8] n = {3,2,3,1,3,3,2,3}, float[1,8,5] h, float[1,8,5] c", operands=", n, h, c")
    ),
)
case(
    "GRU, the last state only",
    {"a": 4},
    build(
        """g (float[5,2,6] x) => (float[A,B,C] y) <float[6,8] wa, float[1,15,8] w, float[1,15,5] r, float[5,3] wy>
        { a = MatMul(x, wa) , l = GRU<hidden_size=5>(a, w, r) y = MatMul(l, wy) }"""
    ),
)
wall(
    "GRU that runs along the channels",
    "GRU",
    "along a labelled axis",
    build(
        """g (float[2,3,8,8] x) => (float[8,1,2,5] y)
        <float[8,3,3,3] wa, float[1,15,64] w, float[1,15,5] r, int64[3] to = {8,2,64}>
        { a = Conv<pads=[1,1,1,1]>(x, wa) t = Transpose<perm=[1,0,2,3]>(a) f = Reshape(t, to)
          y = GRU<hidden_size=5>(f, w, r) }"""
    ),
    node="y",
)
wall(
    "LSTM with computed weights",
    "LSTM",
    "computed weights",
    build(
        """g (float[4,2,6] x, float[1,20,6] w, float[1,2,6] s) => (float[4,1,2,5] y) <float[6,5] wa, float[1,20,5] r>
        { a = MatMul(s, wa) y = LSTM<hidden_size=5>(x, w, r, , , a) }"""
    ),
    node="y",
)
wall(
    "RNN whose state is made of channels",
    "RNN",
    "hidden units",
    build(
        """g (float[4,2,6] x, float[1,2,6] s) => (float[4,1,2,5] y) <float[6,5] wa, float[1,5,6] w, float[1,5,5] r>
        { a = MatMul(s, wa) y = RNN<hidden_size=5>(x, w, r, , , a) }"""
    ),
    node="y",
)


# --- along one axis ---

case("CumSum over channels", {"a": 4}, chain("m = CumSum(a, i)", "int64 i = {1}"))
case(
    "CumSum over channels, reverse and exclusive",
    {"a": 4},
    chain("m = CumSum<reverse=1, exclusive=1>(a, i)", "int64 i = {-3}"),
)
case("CumSum over positions", {"a": 4}, chain("m = CumSum(a, i)", "int64 i = {3}"))
case("TopK over positions", {"a": 4}, chain("m, i = TopK<axis=3>(a, k)", "int64[1] k = {2}"))
wall("TopK over channels", "TopK", "over channels", chain("m, i = TopK<axis=1>(a, k)", "int64[1] k = {4}", into=4))
case("CumProd over positions", {"a": 4}, chain("s = Sigmoid(a) m = CumProd(s, i)", "int64 i = {3}", opset=26, ir=11))
wall("CumProd over channels", "CumProd", "over channels", chain("m = CumProd(a, i)", "int64 i = {1}", opset=26, ir=11))
for opset, spelling, weights in (
    (17, "DFT<axis={}>(u)", "int64[1] four = {{4}}"),
    (20, "DFT(u, , j)", "int64[1] four = {{4}}, int64 j = {{{}}}"),
):
    body = "u = Unsqueeze(a, four) f = {} m = ReduceSum<keepdims=0>(f, four)"
    case(
        f"DFT over positions, opset {opset}",
        {"a": 4},
        chain(body.format(spelling.format(3)), weights.format(3), opset=opset),
    )
    wall(
        f"DFT over channels, opset {opset}",
        "DFT",
        "over channels",
        chain(body.format(spelling.format(1)), weights.format(1), opset=opset),
        node="f",
    )
for upper in (0, 1):
    case(f"Trilu, upper={upper}", {"a": 4}, chain(f"m = Trilu<upper={upper}>(a)"))
wall(
    "Trilu of channels",
    "Trilu",
    "matrices of channels",
    chain("t = Transpose<perm=[0,2,3,1]>(a) u = Trilu(t) m = Transpose<perm=[0,3,1,2]>(u)"),
    node="u",
)
case("Det of the maps", {"a": 4}, chain("d = Det(a) s = Reshape(d, to) m = Mul(a, s)", "int64[4] to = {-1,8,1,1}"))
case(
    "ReverseSequence over rows",
    {"a": 4},
    fixed_batch(
        """t = Transpose<perm=[0,2,3,1]>(a) u = ReverseSequence<batch_axis=0, time_axis=1>(t, n)
        m = Transpose<perm=[0,3,1,2]>(u)""",
        "int64[2] n = {3,8}",
    ),
)
ROW_WISE = "t = Transpose<perm=[1,2,3,0]>(a) {} m = Transpose<perm=[3,0,1,2]>(u)"
case(
    "ReverseSequence, a length per channel",
    {"a": 4},
    chain(ROW_WISE.format("u = ReverseSequence<batch_axis=0, time_axis=1>(t, n)"), "int64[8] n = {1,2,3,4,5,6,7,8}"),
)
wall(
    "ReverseSequence over channels",
    "ReverseSequence",
    "along a labelled axis",
    fixed_batch("m = ReverseSequence<batch_axis=0, time_axis=1>(a, n)", "int64[2] n = {3,8}"),
)


# --- by index ---

case("Compress of channels", {"a": 4}, chain("m = Compress<axis=1>(a, k)", "bool[8] k = {1,0,1,1,0,1,1,0}", into=5))
case("Compress of rows", {"a": 4}, chain("m = Compress<axis=2>(a, k)", "bool[8] k = {1,0,1,1,0,1,1,0}"))
wall(
    "Compress by a condition that is too short",
    "Compress",
    "too short",
    chain("m = Compress<axis=1>(a, k)", "bool[6] k = {1,0,1,1,0,1}", into=4),
)
INDICES = {"i": np.random.default_rng(3).integers(0, 8, (2, 8, 8, 5))}
case("GatherElements along W", {"a": 4}, fixed_batch("m = GatherElements<axis=3>(a, i)", "int64[2,8,8,5] i", **INDICES))
case(
    "GatherElements by indices of the channels themselves",
    {"a": 4},
    chain("v, i = TopK<axis=3>(a, k) m = GatherElements<axis=3>(a, i)", "int64[1] k = {3}"),
)
wall(
    "GatherElements along channels",
    "GatherElements",
    "along a labelled axis",
    fixed_batch(
        "m = GatherElements<axis=1>(a, i)",
        "int64[2,8,8,8] i",
        i=np.random.default_rng(3).integers(0, 8, (2, 8, 8, 8)),
    ),
)
for op, opset in (("ScatterElements", 17), ("Scatter", 10)):
    case(
        f"{op} along W",
        {"a": 4},
        fixed_batch(
            f"m = {op}<axis=3>(a, i, v)",
            "int64[2,8,8,1] i, float[2,8,8,1] v",
            opset=opset,
            i=np.random.default_rng(3).integers(0, 8, (2, 8, 8, 1)),
        ),
    )
case(
    "ScatterElements of channels into zeros",
    {"a": 4},
    fixed_batch(
        "m = ScatterElements<axis=3>(o, i, a)",
        "int64[2,8,8,8] i, float[2,8,8,9] o",
        i=np.tile(np.arange(8), (2, 8, 8, 1)),
    ),
)
wall(
    "ScatterElements at some channels only",
    "ScatterElements",
    "some positions",
    fixed_batch(
        "m = ScatterElements<axis=3>(a, i, v)",
        "int64[2,5,8,1] i, float[2,5,8,1] v",
        i=np.zeros((2, 5, 8, 1)),
    ),
)
case(
    "GatherND of positions",
    {"a": 4},
    chain(
        "t = Transpose<perm=[2,3,0,1]>(a) g = GatherND(t, i) u = Unsqueeze(g, one) m = Transpose<perm=[2,3,0,1]>(u)",
        "int64[3,2] i = {0,1,5,5,7,0}, int64[1] one = {1}",
    ),
)
wall(
    "GatherND of channels",
    "GatherND",
    "along a labelled axis",
    fixed_batch(
        "g = GatherND(a, i) m = Unsqueeze(g, one)", "int64[5,2] i = {0,1,1,5,0,7,0,0,1,1}, int64[1] one = {0}", into=5
    ),
    node="g",
)
SCATTERED = "t = Transpose<perm=[2,3,0,1]>(a) {} m = Transpose<perm=[2,3,0,1]>(s)"
case(
    "ScatterND into positions",
    {"a": 4},
    fixed_batch(SCATTERED.format("s = ScatterND(t, i, v)"), "int64[2,2] i = {0,1,5,5}, float[2,2,8] v"),
)
case(
    "ScatterND of channels into zeros",
    {"a": 4},
    fixed_batch(
        SCATTERED.format("p = Reshape(t, flat) s = ScatterND(z, i, p)"),
        "int64[3] flat = {64,2,8}, float[9,9,2,8] z, int64[64,2] i",
        i=np.stack(np.meshgrid(range(8), range(8), indexing="ij"), -1).reshape(64, 2),
    ),
)
wall(
    "ScatterND into channels",
    "ScatterND",
    "along a labelled axis",
    fixed_batch("m = ScatterND(a, i, v)", "int64[2,2] i = {0,1,1,5}, float[2,8,8] v"),
)


# --- sampling ---

GRID = {"grid": np.random.default_rng(4).uniform(-1, 1, (2, 5, 5, 2))}
case("GridSample", {"a": 4}, fixed_batch("m = GridSample(a, grid)", "float[2,5,5,2] grid", **GRID))
case(
    "GridSample by a flow that channels make",
    {"a": 4, "f": 4},
    chain(
        """f = Conv<pads=[1,1,1,1]>(x, wf) g = Conv(f, wg) s = Tanh(g) t = Transpose<perm=[0,2,3,1]>(s)
        m = GridSample(a, t)""",
        "float[8,3,3,3] wf, float[2,8,1,1] wg",
    ),
)
BOXES = "float[3,4] boxes = {0,0,3,3,1,1,7,7,2,0,6,5}, int64[3] of = {0,1,1}"
case("RoiAlign", {"a": 4}, fixed_batch("m = RoiAlign<output_height=2, output_width=2>(a, boxes, of)", BOXES))
case(
    "MaxRoiPool",
    {"a": 4},
    fixed_batch("m = MaxRoiPool<pooled_shape=[2,2]>(a, boxes)", "float[2,5] boxes = {0,0,0,3,3,1,1,1,7,7}"),
)
case(
    "Col2Im",
    {"a": 4},
    chain(
        "f = Reshape(a, to) m = Col2Im<strides=[2,2]>(f, image, block)",
        "int64[3] to = {0,8,64}, int64[2] image = {16,16}, int64[2] block = {2,2}",
        into=2,
        opset=18,
    ),
)
case(
    "CenterCropPad of positions",
    {"a": 4},
    chain("m = CenterCropPad<axes=[2,3]>(a, to)", "int64[2] to = {6,10}", opset=18),
)
case(
    "CenterCropPad that spells the channels",
    {"a": 4},
    fixed_batch("m = CenterCropPad(a, to)", "int64[4] to = {2,8,6,6}", opset=18),
)
wall(
    "CenterCropPad of channels",
    "CenterCropPad",
    "crops or pads channels",
    chain("m = CenterCropPad<axes=[1]>(a, to)", "int64[1] to = {6}", into=6, opset=18),
)
DEFORMED = {
    "off": np.random.default_rng(5).uniform(-1, 1, (2, 18, 6, 6)),
    "mask": np.random.default_rng(5).uniform(0, 1, (2, 9, 6, 6)),
}
for group, shape, lost in (1, "6,8,3,3", 3), (2, "6,4,3,3", 2), (8, "8,1,3,3", 4):
    into = int(shape[0])
    case(
        f"DeformConv, group={group}",
        {"a": 4, "m": lost},
        fixed_batch(
            f"m = DeformConv<group={group}>(a, w, off, b, mask)",
            f"float[{shape}] w, float[{into}] b, float[2,18,6,6] off, float[2,9,6,6] mask",
            into=into,
            opset=19,
            **DEFORMED,
        ),
    )
wall(
    "DeformConv with offsets from channels",
    "DeformConv",
    "positions of the kernel",
    chain(
        "o = Conv(x, wo) m = DeformConv(a, w, o)",
        "float[18,3,3,3] wo, float[6,8,3,3] w",
        into=6,
        opset=19,
    ),
    layer="o",
)
wall(
    "DeformConv with groups of offsets",
    "DeformConv",
    "several groups of offsets",
    fixed_batch(
        "m = DeformConv<offset_group=2>(a, w, off)",
        "float[6,8,3,3] w, float[2,36,6,6] off",
        into=6,
        opset=19,
        off=np.zeros((2, 36, 6, 6)),
    ),
)
case("CastLike a tensor of channels", {"a": 4}, chain("i = Cast<to=7>(a) s = CastLike(i, a) m = Mul(a, s)"))


# --- refused in words ---

wall(
    "OneHot",
    "OneHot",
    "positions of values",
    chain(
        "i = Cast<to=7>(a) o = OneHot(i, depth, v) m = ReduceSum<keepdims=0>(o, four)",
        "int64 depth = {3}, float[2] v = {0.0,1.0}, int64[1] four = {4}",
    ),
    node="o",
)
wall(
    "Attention",
    "Attention",
    "split into heads inside",
    build(
        """g (float[2,5,6] x) => (float[A,B,C] y) <float[6,8] w, float[8,3] wy>
        { a = MatMul(x, w) m = Attention<q_num_heads=2, kv_num_heads=2>(a, a, a) y = MatMul(m, wy) }""",
        23,
    ),
)
wall(
    "a sequence",
    "SequenceConstruct",
    "sequences",
    chain("s = SequenceConstruct(a, a) m = ConcatFromSequence<axis=1>(s)", into=16),
    node="s",
)
wall(
    "a body",
    "If",
    "body",
    build(
        """g (float[2,3,4,4] x, bool c) => (float[2,5,4,4] y) <float[8,3,1,1] wa, float[5,8,1,1] wy>
        { a = Conv(x, wa)
          m = If(c) <
            then_branch = t () => (float p) { p = Relu(a) },
            else_branch = e () => (float q) { q = Neg(a) }
          >
          y = Conv(m, wy) }"""
    ),
)


@pytest.mark.parametrize("name", CASES)
def test_what_is_free_goes_and_is_proven(name: str) -> None:
    model, gone = CASES[name]
    assert removed(prove_half(model)) == gone


@pytest.mark.parametrize("name", WALLS)
def test_what_cannot_go_is_a_wall_that_says_why(name: str) -> None:
    assert_wall(*WALLS[name])


def test_every_refused_operator_exists() -> None:
    known = {s.name for s in onnx.defs.get_all_schemas()}
    assert {op for domain, op in REASONS if domain == ""} <= known


def test_an_unknown_operator_is_named() -> None:
    assert reason_without_rule(helper.make_node("Mix", [], [], domain="acme")) == "no rule for the operator acme.Mix"
    assert reason_without_rule(helper.make_node("Mix", [], [])) == "no rule for the operator Mix"


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("Einsum, an ellipsis and a transposed weight", 2 * 5 * 6 * 10 + 2 * 5 * 10 * 3),
        ("LSTM, channels as rows of the batch", 3 * 8 * 8 * 8 + 3 * 8 * 20 * (8 + 5) + 3 * 3 * 8 * 5),
        ("DeformConv, group=1", 2 * 8 * 64 * 27 + 2 * 6 * 36 * 72 + 2 * 5 * 36 * 6),
    ],
)
def test_macs(name: str, wanted: int) -> None:
    found = trace_model(CASES[name].model, None, RUNTIME)
    assert sum(macs(found.graph, found.shapes.shape).values()) == wanted
