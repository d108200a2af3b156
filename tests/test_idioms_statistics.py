"""Rows 19 to 32 of the idioms: means, extremes, norms and normalizations over channels."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import test_rules
import test_rules_more
import test_rules_rewrites
from idioms import Held, Idioms, check, label, silenced_at_source
from rule_cases import chain, fixed_batch
from support import build, first_feed, prove_half, run_model

IDIOMS = Idioms()
row, see = IDIOMS.row, IDIOMS.see
RULES, MORE, REWRITES = test_rules.CASES, test_rules_more.CASES, test_rules_rewrites.CASES
WALLS = test_rules.WALLS

ZEROS: dict[tuple[int, str], onnx.ModelProto] = {}
"""Nets in which a removed channel is zero wherever channels are mixed, if its filter is."""


def silent(number: int, name: str, gone: dict[str, int], model: onnx.ModelProto) -> None:
    """A row in which a filter of zeros says what silence is."""
    row(number, name, gone, model)
    ZEROS[number, name] = model


# --- 19, 20: spatial attention ---

see(19, REWRITES["spatial attention (CBAM)"], REWRITES["ReduceMean over everything"])
MAPS = "j = Concat<axis=1>({order}) k = Conv<pads=[3,3,3,3]>(j, wk) g = Sigmoid(k) m = Mul(r, g)"
for name, opset, body, weights in (
    (
        "keepdims=0 and Unsqueeze",
        13,
        "ReduceMean<axes=[-3], keepdims=0>(r) p = Unsqueeze(v, one)",
        ", int64[1] one = {1}",
    ),
    ("axes as operand", 18, "ReduceMean(r, one) p = Identity(v)", ", int64[1] one = {1}"),
    ("as a sum", 13, "ReduceSum(r, one) p = Div(v, eight)", ", int64[1] one = {1}, float eight = {8}"),
):
    silent(
        19,
        f"mean alone, {name}",
        {"a": 4},
        chain(
            f"r = Relu(a) v = {body} k = Conv<pads=[3,3,3,3]>(p, wk) g = Sigmoid(k) m = Mul(r, g)",
            f"float[1,1,7,7] wk{weights}",
            opset=opset,
        ),
    )
silent(
    19,
    "a gate per pixel of another layer",
    {"a": 4, "b": 3},
    chain(
        "r = Relu(a) p = ReduceMean<axes=[1]>(r) b = Conv<pads=[1,1,1,1]>(x, wb) m = Mul(b, p)",
        "float[6,3,3,3] wb",
        into=6,
    ),
)
silent(
    19,
    "over channels and positions",
    {"a": 4},
    chain("r = Relu(a) p = ReduceMean<axes=[1,2,3]>(r) m = Mul(r, p)"),
)

see(20, *(REWRITES[f"{op} over channels, of one sign"] for op in ("ReduceMax", "ReduceMin")))
for opset, reduction, weights in ((13, "<axes=[-3]>(r)", ""), (18, "(r, c)", ", int64[1] c = {1}")):
    for op in ("ReduceMax", "ReduceMin"):
        for act in ("Relu", "Identity", "LeakyRelu"):
            silent(
                20,
                f"{op} of {act}, opset {opset}",
                {"a": 4},
                chain(
                    f"r = {act}(a) p = {op}{reduction} k = Conv<pads=[1,1,1,1]>(p, wk) g = Sigmoid(k) m = Mul(r, g)",
                    f"float[1,1,3,3] wk{weights}",
                    opset=opset,
                ),
            )

# --- 21, 22 ---

see(21, *(RULES[f"{op} over channels"] for op in ("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare")))
for op in ("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare"):
    silent(
        21,
        f"{op} as a gate, opset 18",
        {"a": 4},
        chain(
            f"r = Relu(a) p = {op}<keepdims=0>(r, c) u = Unsqueeze(p, c) m = Mul(r, u)", "int64[1] c = {1}", opset=18
        ),
    )
silent(
    21,
    "ReduceSum to vectors",
    {"a": 4},
    build(
        """g (float[N,3,8,8] x) => (float[N,K] y) <float[8,3,1,1] wa, float[8,5] wy, int64[2] c = {-3,-2}>
        { a = Conv(x, wa)
          s = ReduceSum<keepdims=0>(a, c)
          y = MatMul(s, wy) }"""
    ),
)

see(
    22,
    test_rules_rewrites.WALLS["ReduceProd over channels"],
    test_rules_rewrites.WALLS["ReduceLogSumExp over channels"],
)
row(
    21,
    "terms of sums that all stay",
    {"h": 6},
    build(
        """g (float[4,6] x) => (float[4,3] y) <float[6,12] wh, int64[3] to = {0,3,4}, int64[1] last = {2}>
        { h = MatMul(x, wh)
          r = Relu(h)
          f = Reshape(r, to)
          y = ReduceSum<keepdims=0>(f, last) }"""
    ),
)
row(
    21,
    "whole sums",
    {"h": 6},
    build(
        """g (float[4,6] x) => (float[4,5] y)
        <float[6,12] wh, int64[3] to = {0,4,3}, int64[1] last = {2}, float[4,5] wy>
        { h = MatMul(x, wh)
          f = Reshape(h, to)
          e = Exp(f)
          p = Softmax(f)
          q = Mul(e, p)
          s = ReduceSum<keepdims=0>(q, last)
          y = MatMul(s, wy) }"""
    ),
)

see(22, WALLS["ArgMax over channels"], WALLS["ArgMin over channels"], MORE["CumSum over channels"])
for name, body, node, op in (
    ("TopK", "e, i = TopK<axis=-3>(b, two) m = Concat<axis=1>(e, e)", "e", "TopK"),
    ("ReduceProd", "e = ReduceProd<axes=[-3]>(b) m = Concat<axis=1>(e, e, e, e)", "e", "ReduceProd"),
    ("ReduceLogSumExp", "e = ReduceLogSumExp<axes=[1]>(b) m = Concat<axis=1>(e, e, e, e)", "e", "ReduceLogSumExp"),
    ("ArgMax", "e = ArgMax<axis=-3>(b) f = Cast<to=1>(e) m = Concat<axis=1>(f, f, f, f)", "e", "ArgMax"),
):
    row(
        22,
        name,
        {"a": 4},
        chain(f"b = Conv(a, wb) {body}", "float[6,8,1,1] wb, int64[1] two = {2}", into=4),
        Held("b", node, op, "over channels"),
    )
row(22, "CumSum, axis -3", {"a": 4}, chain("r = Relu(a) m = CumSum(r, c)", "int64 c = {-3}"))

# --- 23, 24: Softmax ---

see(
    23,
    WALLS["Softmax over channels"],
    WALLS["Softmax, opset 11, flattens from axis 1"],
    RULES["Softmax over positions"],
)
for name, body, opset in (
    ("axis -3", "s = Softmax<axis=-3>(b)", 13),
    ("opset 11, default axis", "s = Softmax(b)", 11),
    ("NHWC, default axis", "t = Transpose<perm=[0,2,3,1]>(b) u = Softmax(t) s = Transpose<perm=[0,3,1,2]>(u)", 13),
    ("LogSoftmax", "s = LogSoftmax<axis=1>(b)", 13),
):
    node, op = ("u" if "NHWC" in name else "s"), ("LogSoftmax" if "Log" in name else "Softmax")
    row(
        23,
        name,
        {"a": 4},
        chain(f"b = Conv(a, wb) {body} m = Mul(b, s)", "float[6,8,1,1] wb", into=6, opset=opset),
        Held("b", node, op, "over channels"),
    )
row(23, "over rows and columns, C = H = W", {"a": 4}, chain("h = Softmax<axis=-2>(a) w = Softmax(a) m = Mul(h, w)"))

SELECT = """p = GlobalAveragePool(u) s = Conv(p, ws) r = Relu(s) e = Conv(r, we)"""
row(
    24,
    "selective kernels, stacked branches",
    {"a": 4, "b": 4, "s": 2, "e": 8},
    chain(
        f"""b = Conv<pads=[2,2,2,2], dilations=[2,2]>(x, wb) u = Add(a, b) {SELECT} f = Reshape(e, to)
        z = Softmax<axis=1>(f) a5 = Unsqueeze(a, one) b5 = Unsqueeze(b, one) v = Concat<axis=1>(a5, b5) w = Mul(v, z)
        m = ReduceSum<keepdims=0>(w, one)""",
        """float[8,3,3,3] wb, float[4,8,1,1] ws, float[16,4,1,1] we, int64[5] to = {-1,2,8,1,1},
        int64[1] one = {1}""",
    ),
)
row(
    24,
    "selective kernels, one layer per branch",
    {"a": 4, "b": 4, "s": 2, "e": 4, "f": 4},
    chain(
        f"""b = Conv<pads=[1,1,1,1]>(x, wb) u = Add(a, b) {SELECT} f = Conv(r, wf) e5 = Unsqueeze(e, one)
        f5 = Unsqueeze(f, one) c = Concat<axis=1>(e5, f5) z = Softmax<axis=1>(c) za, zb = Split<axis=1>(z, ones)
        ga = Squeeze(za, one) gb = Squeeze(zb, one) ka = Mul(a, ga) kb = Mul(b, gb) m = Add(ka, kb)""",
        """float[8,3,3,3] wb, float[4,8,1,1] ws, float[8,4,1,1] we, float[8,4,1,1] wf, int64[1] one = {1},
        int64[2] ones = {1,1}""",
    ),
)
row(
    24,
    "split attention, radix 2",
    {"a": 4, "b": 8, "s": 2, "e": 8},
    chain(
        f"""b = Conv<group=2>(a, wb) b5 = Reshape(b, five) u = ReduceSum<keepdims=0>(b5, one) {SELECT}
        f = Reshape(e, four) t = Transpose<perm=[0,2,1,3]>(f) z = Softmax<axis=1>(t) k = Reshape(z, gate)
        w = Mul(b5, k) m = ReduceSum<keepdims=0>(w, one)""",
        """float[16,4,1,1] wb, float[4,8,1,1] ws, float[16,4,1,1] we, int64[5] five = {0,2,8,8,8}, int64[1] one = {1},
        int64[4] four = {0,1,2,8}, int64[5] gate = {0,2,8,1,1}""",
    ),
)

# --- 25 to 28 ---

see(25, WALLS["layer normalization over channels"], RULES["layer normalization over positions"])
see(25, *(test_rules_rewrites.WALLS[f"layer normalization, decomposed, {n}"] for n in ("through shapes", "as a sum")))
ERF = "d = Div(h, r) e = Erf(d) p = Add(e, one) q = Mul(h, p) u = Mul(q, half)"
NEXT = """float[8,1,7,7] wd, float[8] bd, float[8] s, float[8] o, float[8,32] wh, float[32] bh, float[32,8] wo,
float[8] bo,
    float[8] gamma, float r = {1.41421}, float one = {1}, float half = {0.5}"""
row(
    25,
    "ConvNeXt block",
    {"h0": 16},
    chain(
        f"""c = Conv<group=8, pads=[3,3,3,3]>(a, wd, bd) t = Transpose<perm=[0,2,3,1]>(c)
        n = LayerNormalization<axis=-1>(t, s, o) h0 = MatMul(n, wh) h = Add(h0, bh) {ERF} v0 = MatMul(u, wo)
        v = Add(v0, bo) w = Mul(gamma, v) z = Transpose<perm=[0,3,1,2]>(w) m = Add(z, a)""",
        NEXT,
    ),
    *(Held(layer, "n", "LayerNormalization", "over channels") for layer in ("a", "c", "v0")),
)
MEAN = (
    "v = ReduceMean<axes=[1]>(b) d = Sub(b, v) q = Pow(d, two) w = ReduceMean<axes=[1]>(q) e = Add(w, eps) s = Sqrt(e)"
)
row(
    25,
    "written out (LayerNorm2d)",
    {"a": 4},
    chain(
        f"b = Conv(a, wb) {MEAN} n = Div(d, s) k = Mul(n, gamma) m = Add(k, beta)",
        "float[6,8,1,1] wb, float[6,1,1] gamma, float[6,1,1] beta, float two = {2}, float eps = {0.001}",
        into=6,
    ),
    Held("b", "v", "ReduceMean", "a decomposed LayerNormalization over channels"),
)

see(26, REWRITES["RMSNormalization over channels"], REWRITES["RMSNorm, decomposed"])
silent(
    26,
    "written out, x·x and Reciprocal",
    {"a": 4},
    chain(
        """q = Mul(a, a) v = ReduceMean<axes=[-3]>(q) e = Add(v, eps) r = Sqrt(e) i = Reciprocal(r) n = Mul(a, i)
        m = Mul(gamma, n)""",
        "float eps = {0.3}, float[1,8,1,1] gamma",
    ),
)
silent(
    26,
    "written out, Pow by −½, C = H = W",
    {"a": 4},
    chain(
        """t = Transpose<perm=[0,2,3,1]>(a) q = Pow(t, two) v = ReduceMean(q, last) e = Add(eps, v) i = Pow(e, minus)
        n = Mul(i, t) k = Mul(n, gamma) m = Transpose<perm=[0,3,1,2]>(k)""",
        "float two = {2}, float minus = {-0.5}, float[1] eps = {0.2}, float[8] gamma, int64[1] last = {-1}",
        opset=18,
    ),
)
silent(
    26,
    "fused, NHWC",
    {"a": 4},
    build(
        """g (float[N,3,8,8] x) => (float[N,K,H,W] y) <float[8,3,3,3] wa, float[8] s, float[5,8,1,1] wy>
        { a = Conv(x, wa)
          t = Transpose<perm=[0,2,3,1]>(a)
          n = RMSNormalization<axis=-1, epsilon=0.4>(t, s)
          m = Transpose<perm=[0,3,1,2]>(n)
          y = Conv(m, wy) }""",
        23,
        11,
    ),
)

see(27, RULES["LpNormalization over channels"], RULES["LpNormalization over positions"])
silent(27, "L1, axis -3", {"a": 4}, chain("m = LpNormalization<axis=-3, p=1>(a)"))
silent(
    27,
    "F.normalize",
    {"a": 4},
    chain(
        "l = ReduceL2<axes=[1]>(a) c = Clip(l, tiny) sh = Shape(a) e = Expand(c, sh) m = Div(a, e)",
        "float tiny = {0.00001}",
    ),
)
silent(
    27,
    "Mul, ReduceSum, Sqrt, Max",
    {"a": 4},
    chain(
        "q = Mul(a, a) t = ReduceSum(q, c) r = Sqrt(t) k = Max(r, tiny) m = Div(a, k)",
        "int64[1] c = {-3}, float tiny = {0.00001}",
    ),
)

see(28, REWRITES["global response normalization (ConvNeXt-V2)"])
silent(
    28,
    "NCHW",
    {"a": 4},
    chain(
        """r = Relu(a) g = ReduceL2(r, hw) v = ReduceMean(g, c) e = Add(v, eps) d = Div(g, e) k = Mul(r, d)
        l = Mul(k, gamma) m = Add(r, l)""",
        "int64[2] hw = {-2,-1}, int64[1] c = {1}, float eps = {0.01}, float[1,8,1,1] gamma",
        opset=18,
    ),
)

# --- 29 to 32 ---

see(29, RULES["group normalization, opset 21"], RULES["group normalization, opset 18"])
see(29, RULES["group normalization, groups of one"], WALLS["group normalization, one group"])
for opset, sizes in ((18, "4"), (21, "8")):
    row(
        29,
        f"residual, opset {opset}",
        {"a": 4, "b": 4},
        chain(
            "n = GroupNormalization<num_groups=4>(a, s, o) r = Relu(n) b = Conv(r, wb) m = Add(r, b)",
            f"float[{sizes}] s, float[{sizes}] o, float[8,8,1,1] wb",
            opset=opset,
            ir=10,
        ),
    )
row(
    29,
    "one group",
    {"a": 4},
    chain(
        "b = Conv(a, wb) m = GroupNormalization<num_groups=1>(b, s, o)",
        "float[6,8,1,1] wb, float[6] s, float[6] o",
        into=6,
        opset=21,
        ir=10,
    ),
    Held("b", "m", "GroupNormalization", "over all channels"),
)

see(30, *(RULES[f"group normalization, decomposed, {n}"] for n in ("literal", "Shape")))
see(30, REWRITES["decomposed group normalization"])
GROUPS = """r = Reshape(a, to) n = InstanceNormalization(r, one, zero) u = Reshape(n, back) v = Mul(u, gamma)
    m = Add(v, beta)"""
AFFINE = "float[4] one = {1,1,1,1}, float[4] zero = {0,0,0,0}, float[8,1,1] gamma, float[8,1,1] beta"
for name, target, back in (
    ("literal sizes", "2,4,128", "2,8,8,8"),
    ("inferred groups", "0,-1,128", "0,-1,8,8"),
    ("copied batch", "0,4,-1", "0,8,8,-1"),
):
    row(
        30,
        name,
        {"a": 4},
        fixed_batch(GROUPS, f"{AFFINE}, int64[3] to = {{{target}}}, int64[4] back = {{{back}}}"),
    )
row(
    30,
    "InstanceNormalization over maps of groups",
    {"a": 4},
    chain(GROUPS, f"{AFFINE}, int64[4] to = {{0,4,-1,8}}, int64[4] back = {{-1,8,8,8}}"),
)
row(
    30,
    "a group for everything",
    {"b": 3},
    chain(
        """r = Reshape(a, to) n = InstanceNormalization(r, one, zero) sh = Shape(a) u = Reshape(n, sh)
        b = Conv(u, wb) m = Relu(b)""",
        "float[1] one = {1}, float[1] zero = {0}, int64[3] to = {0,1,-1}, float[6,8,1,1] wb",
        into=6,
    ),
    Held("a", "n", "InstanceNormalization", "over channels"),
)

see(31, RULES["instance normalization"])
for dims in ("8", "8,8,8"):
    kernel = ",".join("1" for _ in dims.split(","))
    row(
        31,
        f"{len(dims.split(','))}-D",
        {"a": 4},
        build(
            f"""g (float[N,3,{dims}] x) => (y)
            <float[8,3,{kernel}] wa, float[8] s, float[8] o, float[5,8,{kernel}] wy>
            {{ a = Conv(x, wa)
               n = InstanceNormalization(a, s, o)
               m = Relu(n)
               y = Conv(m, wy) }}"""
        ),
    )
row(31, "one vector as scale and bias", {"a": 4}, chain("m = InstanceNormalization(a, s, s)", "float[8] s"))

see(32, WALLS["LRN"])
row(
    32,
    "between layers",
    {"a": 4},
    chain("b = Conv(a, wb) r = Relu(b) m = LRN<size=5, alpha=0.1>(r)", "float[6,8,1,1] wb", into=6),
    Held("b", "m", "LRN", "over channels"),
)


@pytest.mark.parametrize("key", IDIOMS.names, ids=label)
def test_idiom(key: tuple[int, str]) -> None:
    check(IDIOMS.own[key])


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("key", list(ZEROS), ids=label)
def test_silence_is_a_filter_of_zeros(key: tuple[int, str], seed: int) -> None:
    """Against the plain definition, without the package's oracle, on inputs that the proof has not seen."""
    result = prove_half(ZEROS[key], seed=seed)
    original = silenced_at_source(result)
    for other in (seed + 100, seed + 101):
        feed = first_feed(result.trace, other)
        wanted, actual = run_model(original, feed)["y"], run_model(result.rewritten.model, feed)["y"]
        np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-4 * float(np.abs(wanted).max()))
