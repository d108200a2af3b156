"""Rows 1 to 18 of the idioms: layers in a row, flattened heads, residuals, constants, gates."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import test_rules
from idioms import Held, Idioms, check, label
from rule_cases import chain, head
from support import build, prove_half, removed

IDIOMS = Idioms()
row, see = IDIOMS.row, IDIOMS.see
RULES = test_rules.CASES
NORM = "float[8] s, float[8] o, float[8] mean, float[8] var"


def rank(dims: int, middle: str, weights: str = "", opset: int = 17) -> onnx.ModelProto:
    """As `chain`, over `dims` axes of positions, all as long as there are channels."""
    sizes, kernel = ",".join(["8"] * dims), ",".join(["1"] * dims)
    extra = f", {weights}" if weights else ""
    return build(
        f"""g (float[N,3,{sizes}] x) => (y)
        <float[8,3,{kernel}] wa, float[8] ba, float[5,8,{kernel}] wy{extra}>
        {{ a = Conv(x, wa, ba)
           {middle}
           y = Conv(m, wy) }}""",
        opset,
    )


# --- 1 to 3: BatchNormalization ---

see(1, RULES["batch normalization"], test_rules.test_batch_normalization_is_kept_and_its_vectors_cut)
for dims in (1, 3):
    row(
        1,
        f"{dims}-D",
        {"a": 4},
        rank(dims, "n = BatchNormalization<epsilon=0.01>(a, s, o, mean, var) m = LeakyRelu(n)", NORM),
    )
row(
    1,
    "two layers",
    {"a": 4, "b": 3},
    chain(
        """n = BatchNormalization(a, s, o, mean, var) r = Clip<min=0.0, max=6.0>(n) b = Conv<pads=[1,1,1,1]>(r, wb)
        k = BatchNormalization(b, s2, o2, mean2, var2) m = Sigmoid(k)""",
        f"{NORM}, float[6,8,3,3] wb, float[6] s2, float[6] o2, float[6] mean2, float[6] var2",
        into=6,
        opset=9,
    ),
)
row(
    1,
    "one vector for two operands",
    {"a": 4},
    chain("n = BatchNormalization(a, s, s, mean, s) m = Relu(n)", "float[8] s, float[8] mean", s=np.ones(8)),
)

see(2, test_rules.test_one_zero_bias_for_three_layers_gets_a_copy_per_reader)
row(
    2,
    "residual block",
    {"a": 4, "b": 4, "c": 4},
    chain(
        "r = Relu(a) b = Conv<pads=[1,1,1,1]>(r, wb, bb) s = Relu(b) c = Conv(s, wc, bb) t = Add(r, c) m = Relu(t)",
        "float[8,8,3,3] wb, float[8] bb, float[8,8,1,1] wc",
    ),
)

see(3, RULES["Concat, dense block"])
row(
    3,
    "the image first",
    {"a": 4, "b": 3},
    build(
        """g (float[N,3,8,8] x) => (float[N,K,H,W] y)
        <float[3] s, float[3] o, float[3] mean, float[3] var, float[8,3,1,1] wa, float[8] s2, float[8] o2,
         float[8] mean2, float[8] var2, float[6,8,1,1] wb, float[5,6,1,1] wy>
        { n = BatchNormalization(x, s, o, mean, var)
          r = Relu(n)
          a = Conv(r, wa)
          k = BatchNormalization(a, s2, o2, mean2, var2)
          t = Relu(k)
          b = Conv(t, wb)
          y = Conv(b, wy) }"""
    ),
)

# --- 4 to 7: the way to the head ---

see(4, RULES["Flatten to Gemm"], RULES["Flatten after Relu and pool to MatMul"])
row(4, "axis -3, transposed", {"a": 4}, head("f = Flatten<axis=-3>(a) y = Gemm<transB=1>(f, wy)", "float[5,128] wy"))
row(
    4,
    "C = H = W",
    {"a": 4, "h": 4},
    build(
        """g (float[N,3,8,8] x) => (float[N,K] y) <float[8,3,1,1] wa, float[512,8] wh, float[8,5] wy>
        { a = Conv(x, wa)
          f = Flatten(a)
          h = Gemm(f, wh)
          y = Gemm(h, wy) }"""
    ),
)
row(
    4,
    "one channel",
    {"a": 4},
    head("b = Conv(a, wb) f = Flatten(b) y = Gemm(f, wy)", "float[1,8,1,1] wb, float[16,4] wy"),
)
row(
    4,
    "maps of one pixel",
    {"a": 4},
    head("p = GlobalMaxPool(a) f = Flatten(p) y = MatMul(f, wy)", "float[8,4] wy"),
)

see(5, RULES["Reshape [0,-1] to Gemm"], RULES["Reshape, literal batch, to Gemm"])
see(5, RULES["gemm, rows of a batch merged with channels"])
for target in ("1,-1", "1,128", "-1,128"):
    row(
        5,
        f"a batch of one, [{target}]",
        {"a": 4},
        build(
            f"""g (float[1,3,4,4] x) => (float[1,4] y) <float[8,3,1,1] wa, float[128,4] wy, int64[2] to = {{{target}}}>
            {{ a = Conv(x, wa)
               r = Relu(a)
               f = Reshape(r, to)
               y = MatMul(f, wy) }}"""
        ),
    )
row(
    5,
    "1-D, [0,-1]",
    {"a": 4},
    build(
        """g (float[N,3,8] x) => (float[N,4] y) <float[8,3,1] wa, float[64,4] wy, int64[2] to = {0,-1}>
        { a = Conv(x, wa)
          f = Reshape(a, to)
          y = MatMul(f, wy) }"""
    ),
)

see(6, RULES["Flatten, NHWC, to Gemm"])
for target in ("0,-1", "-1,128"):
    row(
        6,
        f"Reshape [{target}]",
        {"a": 4},
        head(
            "t = Transpose<perm=[0,2,3,1]>(a) f = Reshape(t, to) y = Gemm(f, wy)",
            f"float[128,4] wy, int64[2] to = {{{target}}}",
        ),
    )
row(
    6,
    "C = H = W, MatMul",
    {"a": 4},
    build(
        """g (float[N,3,8,8] x) => (float[N,K] y) <float[8,3,1,1] wa, float[512,5] wy>
        { a = Conv(x, wa)
          t = Transpose<perm=[0,3,2,1]>(a)
          f = Flatten<axis=-3>(t)
          y = MatMul(f, wy) }"""
    ),
)

see(7, RULES["ReduceMean without keepdims to Gemm"], RULES["Squeeze and Unsqueeze"])
see(7, RULES["Squeeze and Unsqueeze, attributes"], RULES["Squeeze without axes"])
for spelling, weights, opset in (
    ("ReduceMean<axes=[-1,-2], keepdims=0>(a)", "", 13),
    ("ReduceMean<keepdims=0>(a, hw)", ", int64[2] hw = {-2,-1}", 18),
    ("Flatten(g)", "", 13),
    ("Squeeze<axes=[-1,-2]>(g)", "", 11),
    ("Squeeze(g, hw)", ", int64[2] hw = {-1,-2}", 13),
    ("Reshape(g, to)", ", int64[2] to = {-1,8}", 13),
    ("Reshape(g, to)", ", int64[2] to = {0,8}", 14),
):
    row(
        7,
        f"{spelling}, opset {opset}",
        {"a": 4, "h": 3},
        head(
            f"g = GlobalAveragePool(a) f = {spelling} h = Gemm(f, wh) y = Gemm(h, wy)",
            f"float[8,6] wh, float[6,4] wy{weights}",
            opset,
        ),
    )
row(
    7,
    "one axis after the other",
    {"a": 4},
    head(
        "v = ReduceMean<axes=[-1], keepdims=0>(a) f = ReduceMax<axes=[-1], keepdims=0>(v) y = MatMul(f, wy)",
        "float[8,4] wy",
    ),
)
row(
    7,
    "3-D and back",
    {"a": 4},
    rank(
        3,
        "g = GlobalAveragePool(a) s = Squeeze(g, to) u = Unsqueeze(s, to) m = Mul(a, u)",
        "int64[3] to = {-1,-3,-2}",
    ),
)

# --- 8 to 10: residuals ---

see(8, RULES["residual, identity"])
STAGE = """r = Relu(a) b = Conv<pads=[1,1,1,1]>(r, wb) s = Relu(b) c = Conv(s, wc) t = Add(c, r) u = Relu(t)
    d = Conv(u, wd) e = Relu(d) f = Conv(e, wf) v = Add(u, f)"""
STAGED = "float[6,8,3,3] wb, float[8,6,1,1] wc, float[6,8,1,1] wd, float[8,6,1,1] wf"
STAGES = {"a": 4, "c": 4, "f": 4, "b": 3, "d": 3}
row(8, "two blocks, then a Conv", STAGES, chain(f"{STAGE} m = Relu(v)", STAGED))
row(
    8,
    "two blocks, then the head",
    STAGES,
    head(f"{STAGE} g = GlobalAveragePool(v) k = Flatten(g) y = Gemm(k, wy)", f"{STAGED}, float[8,4] wy"),
)
row(
    8,
    "read by many",
    {"a": 4, "b": 4, "c": 4},
    chain(
        "b = Conv(a, wb) p = Add(a, b) c = Conv(p, wc) q = Add(a, c) r = Add(p, q) m = Add(r, a)",
        "float[8,8,1,1] wb, float[8,8,1,1] wc",
    ),
)

see(9, RULES["residual, projection"])
row(
    9,
    "a stage that feeds both ways of the next",
    {**STAGES, "p": 5, "q": 5},
    chain(
        f"""{STAGE} p = Conv<strides=[2,2]>(v, wp) q = Conv<strides=[2,2], pads=[1,1,1,1]>(v, wq) z = Add(p, q)
        m = Relu(z)""",
        f"{STAGED}, float[10,8,1,1] wp, float[10,8,3,3] wq",
        into=10,
    ),
)

see(10, test_rules.test_an_option_a_shortcut_shrinks_with_both_sides)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("opset", [9, 13])
def test_a_strided_slice_and_a_pad_as_a_shortcut(opset: int, seed: int) -> None:
    """The zeros of the Pad go with the channels that they meet, and so do the channels between them."""
    operands = {
        9: ("Slice<axes=[2,3], starts=[0,0], ends=[4,4]>(a)", "Pad<pads=[0,2,0,0,0,6,0,0]>(s)", ""),
        13: (
            "Slice(a, from, to, hw, two)",
            "Pad(s, pads)",
            """, int64[2] from = {0,0}, int64[2] to = {9223372036854775807,8}, int64[2] hw = {-2,-1},
            int64[2] two = {2,2}, int64[8] pads = {0,2,0,0,0,6,0,0}""",
        ),
    }
    crop, pad, weights = operands[opset]
    model = chain(
        f"s = {crop} p = {pad} c = Conv<strides=[2,2], pads=[1,1,1,1]>(a, wc) m = Add(c, p)",
        f"float[16,8,3,3] wc{weights}",
        into=16,
        opset=opset,
    )
    result = prove_half(model, seed=seed)
    kept = next(c.kept for c in result.rewritten.cuts if c.tensor == "wc" and c.axis == 0)
    middle = [k - 2 for k in kept if 2 <= k < 10]
    assert removed(result) == {"a": 8 - len(middle), "c": 8}


# --- 11 to 15: arithmetic ---

see(11, *(RULES[f"{op} constant [{s}]"] for op in ("Add", "Mul") for s in ("1,8,1,1", "8,1,1", "1")))
row(
    11,
    "NHWC",
    {"a": 4},
    chain(
        "t = Transpose<perm=[0,2,3,1]>(a) u = Sub(c, t) v = Div(u, d) w = Max(v, e) m = Transpose<perm=[0,3,1,2]>(w)",
        "float[8] c, float[1,8] d, float[1,1,1,8] e",
    ),
)
row(
    11,
    "NCHW, scalars of several ranks",
    {"a": 4},
    chain(
        "b = Add(a, s) c = Mul(r, b) d = Sub(c, q) m = Div(d, t)",
        "float s = {2}, float[1] r, float[1,1,1] q, float[1,1,1,1] t",
    ),
)
row(
    11,
    "one channel and eight",
    {"a": 4},
    chain("b = Conv(a, wb) c = Add(b, v) m = Relu(c)", "float[1,8,1,1] wb, float[1,8,1,1] v"),
)
for dims in (1, 3):
    row(11, f"{dims}-D", {"a": 4}, rank(dims, "b = Add(v, a) m = Mul(b, a)", f"float[8{',1' * dims}] v"))

see(12, *(RULES[f"{op} constant [1,1,8,8]"] for op in ("Add", "Mul")), RULES["Add constant [8,8,8]"])
row(
    12,
    "positions as many as channels",
    {"a": 4},
    chain(
        "b = Add(a, u) c = Mul(b, v) d = Sub(c, w) m = PRelu(d, z)",
        "float[8,8] u, float[8] v, float[8,1] w, float[1,8,8] z",
    ),
)
row(
    12,
    "tokens",
    {"a": 4},
    chain(
        """f = Reshape(a, to) t = Transpose<perm=[0,2,1]>(f) p = Add(t, e) q = Mul(p, k)
        u = Transpose<perm=[0,2,1]>(q) m = Reshape(u, back)""",
        "int64[3] to = {0,0,-1}, int64[4] back = {0,-1,8,8}, float[1,64,8] e, float[64,1] k",
    ),
)

for op in ("Sum", "Mean", "Max", "Min"):
    see(13, RULES[f"{op} of two branches"])
    row(
        13,
        f"{op} of three and a constant",
        {"a": 4, "b": 4, "c": 4},
        chain(
            f"b = Conv<pads=[1,1,1,1]>(x, wb) c = Conv(a, wc) m = {op}(v, a, b, a, c)",
            "float[8,3,3,3] wb, float[8,8,1,1] wc, float[8,1,1] v",
        ),
    )
    row(13, f"{op} of one", {"a": 4}, chain(f"m = {op}(a)"))
row(
    13,
    "Sum with maps of one channel",
    {"a": 4},
    chain("b = Conv<pads=[1,1,1,1]>(x, wb) m = Sum(a, b, z)", "float[1,3,3,3] wb, float[1,1,8,8] z"),
)

BRANCH = "b = Conv<pads=[1,1,1,1]>(x, wb)"
for name, body in {
    "Sub": "m = Sub(b, a)",
    "Div": "e = Exp(b) m = Div(a, e)",
    "Div of zeros": "r = Relu(a) e = Softplus(b) m = Div(r, e)",
    "Pow": "s = Sigmoid(a) m = Pow(s, b)",
    "Pow of zeros": "r = Relu(a) e = Sigmoid(b) m = Pow(r, e)",
    "Mod": "e = Exp(b) m = Mod<fmod=1>(a, e)",
}.items():
    row(14, name, {"a": 4, "b": 4}, chain(f"{BRANCH} {body}", "float[8,3,3,3] wb"))
row(
    14,
    "Sub of itself, upside down",
    {"a": 4},
    chain("r = Relu(a) n = Neg(a) s = Sub(r, n) m = Div(s, two)", "float two = {2}"),
)

see(15, RULES["diamond SiLU"], RULES["diamond hard-swish"], RULES["diamond GELU"])
row(15, "Mish", {"a": 4}, chain("s = Softplus(a) t = Tanh(s) m = Mul(t, a)"))
row(
    15,
    "HardSwish with a sixth, NHWC",
    {"a": 4},
    chain(
        """t = Transpose<perm=[0,2,3,1]>(a) p = Add(t, three) c = Clip(p, z, six) q = Mul(t, c) w = Mul(sixth, q)
        m = Transpose<perm=[0,3,1,2]>(w)""",
        "float[1] three = {3}, float z = {0}, float six = {6}, float[1,1,1,1] sixth = {0.16667}",
    ),
)
row(
    15,
    "GELU by tanh",
    {"a": 4},
    chain(
        """c = Pow(a, three) k = Mul(c, u) p = Add(a, k) q = Mul(p, v) t = Tanh(q) o = Add(t, one) s = Mul(a, o)
        m = Mul(s, half)""",
        "float three = {3}, float u = {0.0447}, float v = {0.798}, float one = {1}, float half = {0.5}",
    ),
)

# --- 16 to 18: gates ---

see(16, RULES["squeeze and excite, Conv"], RULES["squeeze and excite, Gemm"])
row(
    16,
    "on a residual branch",
    {"a": 4, "b": 4, "s": 1, "e": 4},
    chain(
        """b = Conv(a, wb) p = ReduceMean<axes=[-2,-1]>(b) s = Conv(p, ws) r = Relu(s) e = Conv(r, we) g = Sigmoid(e)
        k = Mul(g, b) t = Add(a, k) m = Relu(t)""",
        "float[8,8,1,1] wb, float[2,8,1,1] ws, float[8,2,1,1] we",
    ),
)
row(
    16,
    "3-D",
    {"a": 4, "s": 2, "e": 4},
    rank(
        3,
        "p = GlobalAveragePool(a) s = Conv(p, ws) r = Relu(s) e = Conv(r, we) g = HardSigmoid(e) m = Mul(a, g)",
        "float[4,8,1,1,1] ws, float[8,4,1,1,1] we",
    ),
)
row(
    16,
    "a hidden layer of one channel",
    {"a": 4, "e": 4},
    chain(
        "p = GlobalAveragePool(a) s = Conv(p, ws, bs) e = Conv(s, we) g = Sigmoid(e) m = Mul(a, g)",
        "float[1,8,1,1] ws, float[1] bs, float[8,1,1,1] we",
    ),
)

see(17, RULES["Concat along H, coordinate attention"])
row(
    17,
    "Squeeze, MatMul, Unsqueeze",
    {"a": 4, "s": 2, "e": 4},
    chain(
        """p = GlobalAveragePool(a) f = Squeeze(p, hw) s = MatMul(f, ws) sb = Add(s, bs) r = Relu(sb) e = MatMul(r, we)
        g = Sigmoid(e) u = Unsqueeze(g, hw) m = Mul(a, u)""",
        "float[8,4] ws, float[4] bs, float[4,8] we, int64[2] hw = {-1,-2}",
    ),
)
row(
    17,
    "sizes from Shape (view_as)",
    {"a": 4, "s": 2, "e": 4},
    chain(
        """sh = Shape(a) n = Gather(sh, zero) c = Gather(sh, one) p = GlobalAveragePool(a) two = Concat<axis=0>(n, c)
        f = Reshape(p, two) s = Gemm(f, ws) r = Relu(s) e = Gemm(r, we) g = Sigmoid(e)
        four = Concat<axis=0>(n, c, i, i) u = Reshape(g, four) k = Expand(u, sh) m = Mul(a, k)""",
        "float[8,4] ws, float[4,8] we, int64[1] zero = {0}, int64[1] one = {1}, int64[1] i = {1}",
    ),
)
row(
    17,
    "ESE",
    {"a": 4, "e": 4},
    chain(
        "p = ReduceMean<axes=[2,3]>(a) e = Conv(p, we, be) g = HardSigmoid(e) m = Mul(a, g)",
        "float[8,8,1,1] we, float[8] be",
    ),
)
row(
    17,
    "global context",
    {"a": 4, "s": 2, "e": 4},
    chain(
        """f = Reshape(a, to) v = Unsqueeze(f, one) k = Conv(a, wk) kf = Reshape(k, flat) p = Softmax<axis=2>(kf)
        q = Unsqueeze(p, last) c = MatMul(v, q) d = Reshape(c, back) s = Conv(d, ws) r = Relu(s) e = Conv(r, we)
        m = Add(a, e)""",
        """int64[3] to = {0,8,64}, int64[1] one = {1}, float[1,8,1,1] wk, int64[3] flat = {0,1,64},
        int64[1] last = {-1}, int64[4] back = {0,8,1,1}, float[4,8,1,1] ws, float[8,4,1,1] we""",
    ),
)

ECA = "p = GlobalAveragePool(a) f = {squeeze} t = Transpose<perm=[0,2,1]>(f) c = Conv<pads=[1,1]>(t, wc) "
row(
    18,
    "Squeeze, Transpose",
    {"b": 3},
    chain(
        f"""{ECA.format(squeeze="Squeeze(p, last)")} u = Transpose<perm=[0,2,1]>(c) v = Unsqueeze(u, last)
        g = Sigmoid(v) k = Mul(a, g) b = Conv(k, wb) m = Relu(b)""",
        "int64[1] last = {-1}, float[1,1,3] wc, float[6,8,1,1] wb",
        into=6,
    ),
    Held("a", "c", "Conv", "mixes positions along a labelled axis"),
)
row(
    18,
    "Reshape",
    {},
    chain(
        """p = GlobalAveragePool(a) t = Reshape(p, to) c = Conv<pads=[1,1]>(t, wc) u = Reshape(c, back)
        g = Sigmoid(u) m = Mul(a, g)""",
        "int64[3] to = {-1,1,8}, float[1,1,3] wc, int64[4] back = {-1,8,1,1}",
    ),
    Held("a", "c", "Conv", "mixes positions along a labelled axis"),
)


@pytest.mark.parametrize("key", IDIOMS.names, ids=label)
def test_idiom(key: tuple[int, str]) -> None:
    check(IDIOMS.own[key])
