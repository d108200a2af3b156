"""Every operator with a rule: what must go really goes and is proven; what must stay is a wall with its reason."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper
from rule_cases import Table, chain, codes, dense_pair, fixed_batch, head, tokens
from support import (
    RUNTIME,
    assert_wall,
    build,
    prove_half,
    removed,
    tensors,
    walls_at,
)

from ocnna_onnx.errors import ModelError
from ocnna_onnx.trace.tracer import trace as trace_model

INT_MAX = 2**63 - 1


TABLE = Table()
CASES, WALLS, case, wall = TABLE.cases, TABLE.walls, TABLE.case, TABLE.wall


# --- convolutions ---

case("conv", {"a": 4, "m": 3}, chain("m = Conv(a, w, b)", "float[6,8,1,1] w, float[6] b", into=6))
case("conv grouped", {"a": 4, "m": 4}, chain("m = Conv<group=2>(a, w, b)", "float[8,4,1,1] w, float[8] b"))
case(
    "conv grouped, more groups than columns",
    {"a": 4, "m": 8},
    chain("m = Conv<group=4>(a, w, b)", "float[16,2,1,1] w, float[16] b", into=16),
)
case(
    "conv depthwise",
    {"a": 4, "m": 4},
    chain("m = Conv<group=8, pads=[1,1,1,1]>(a, w, b)", "float[8,1,3,3] w, float[8] b"),
)
case(
    "conv depthwise, multiplier 2",
    {"a": 4, "m": 8},
    chain("m = Conv<group=8>(a, w, b)", "float[16,1,1,1] w, float[16] b", into=16),
)
case(
    "conv 1-D",
    {"a": 4, "d": 4},
    build(
        """g (float[N,3,16] x) => (float[N,K,L] y)
        <float[8,3,3] wa, float[8] ba, float[8,1,3] wd, float[5,8,1] wy>
        { a = Conv(x, wa, ba)
          r = Relu(a)
          d = Conv<group=8>(r, wd)
          y = Conv(d, wy) }"""
    ),
)
case(
    "conv 3-D",
    {"a": 4},
    build(
        """g (float[N,2,4,4,4] x) => (float[N,K,D,H,W] y)
        <float[8,2,3,3,3] wa, float[8] ba, float[8] s, float[8] b, float[8] mean, float[8] var, float[5,8,1,1,1] wy>
        { a = Conv(x, wa, ba)
          n = BatchNormalization(a, s, b, mean, var)
          r = Relu(n)
          p = MaxPool<kernel_shape=[2,2,2]>(r)
          y = Conv(p, wy) }"""
    ),
)
case(
    "conv transpose",
    {"a": 4, "m": 3},
    chain("m = ConvTranspose<strides=[2,2]>(a, w, b)", "float[8,6,2,2] w, float[6] b", into=6),
)
case(
    "conv transpose, grouped",
    {"a": 4, "m": 4},
    chain("m = ConvTranspose<group=2, strides=[2,2]>(a, w, b)", "float[8,4,2,2] w, float[8] b"),
)
case(
    "conv transpose, grouped, more channels out",
    {"a": 4, "m": 6},
    chain("m = ConvTranspose<group=2>(a, w, b)", "float[8,6,2,2] w, float[12] b", into=12),
)
case(
    "conv transpose, depthwise",
    {"a": 4, "m": 4},
    chain("m = ConvTranspose<group=8, strides=[2,2]>(a, w, b)", "float[8,1,2,2] w, float[8] b"),
)
wall(
    "conv with a computed weight",
    "Conv",
    "computed weight",
    build(
        """g (float[2,3,4,4] x, float[5,8,1,1] k) => (float[2,5,H,W] y) <float[8,3,3,3] wa>
        { a = Conv(x, wa)
          y = Conv(a, k) }"""
    ),
    node="y",
)


# --- Gemm and MatMul ---

for trans_b in (0, 1):
    shapes = ("float[10,6] w1, float[3,10] w2", "float[6,10] w1, float[10,3] w2")[1 - trans_b]
    case(
        f"gemm transB={trans_b}",
        {"h": 5},
        dense_pair(
            f"""h = Gemm<transB={trans_b}>(x, w1, b1) r = Relu(h)
            y = Gemm<transB={trans_b}, alpha=0.5, beta=2.0>(r, w2, b2)""",
            f"{shapes}, float[10] b1, float[3] b2",
        ),
    )
for form, shape in {"vector": "10", "row": "1,10", "column": "4,1", "matrix": "4,10", "one": "1", "scalar": ""}.items():
    declared = f"float[{shape}] c" if shape else "float c = {1.5}"
    case(
        f"gemm C {form}",
        {"h": 5},
        dense_pair(
            "h = Gemm<beta=0.5>(x, w1, c) r = Relu(h) y = Gemm(r, w2)", f"float[6,10] w1, float[10,3] w2, {declared}"
        ),
    )
case(
    "gemm C absent",
    {"h": 5},
    dense_pair("h = Gemm(x, w1) r = Relu(h) y = Gemm(r, w2)", "float[6,10] w1, float[10,3] w2"),
)
case(
    "gemm C is an activation",
    {"h": 5, "k": 5},
    dense_pair("k = Gemm(x, w0) h = Gemm(x, w1, k) y = Gemm(h, w2)", "float[6,10] w0, float[6,10] w1, float[10,3] w2"),
)
case(
    "gemm transA",
    {"h": 5},
    dense_pair(
        "h = Gemm(x, w1) r = Relu(h) t = Transpose<perm=[1,0]>(r) y = Gemm<transA=1>(t, w2, b2)",
        "float[6,10] w1, float[10,3] w2, float[3] b2",
    ),
)
case(
    "gemm transA and transB",
    {"h": 5},
    dense_pair(
        "h = Gemm(x, w1) t = Transpose(h) y = Gemm<transA=1, transB=1>(t, w2)",
        "float[6,10] w1, float[3,10] w2",
    ),
)
case(
    "gemm rows",  # the channels lie along M of the Gemm, which passes them on
    {"h": 5},
    dense_pair(
        "h = Gemm(x, w1) t = Transpose(h) g = Gemm(t, w2, c) u = Transpose(g) y = Gemm(u, w3)",
        "float[6,10] w1, float[4,4] w2, float[10,1] c, float[10,3] w3",
    ),
)
wall(
    "gemm C fixed activation",
    "Gemm",
    "adds an activation that is fixed",
    dense_pair(
        "s = Slice(x, zero, five, one) h = Gemm(s, w1, x) y = Gemm(h, w2)",
        "float[5,6] w1, float[6,3] w2, int64[1] zero = {0}, int64[1] five = {5}, int64[1] one = {1}",
    ),
    layer="h",
    node="h",
)
case(
    "matmul, weight on the right",
    {"h": 5},
    tokens(
        "h = MatMul(x, w1) b = Add(h, b1) r = Relu(b) y = MatMul(r, w2)", "float[6,10] w1, float[10] b1, float[10,3] w2"
    ),
)
case(
    "matmul, weight of rank 3",
    {"h": 5},
    tokens("h = MatMul(x, w1) r = Relu(h) y = MatMul(r, w2)", "float[1,6,10] w1, float[1,10,3] w2"),
)
case(
    "matmul, weight on the left",
    {"h": 5},
    tokens(
        "h = MatMul(w1, x) b = Add(h, b1) r = Relu(b) y = MatMul(w2, r)",
        "float[10,5] w1, float[10,1] b1, float[3,10] w2",
    ),
)
case(
    "matmul, weight on the left mixes tokens, features pass",
    {"h": 5},
    tokens("h = MatMul(x, w1) t = MatMul(wt, h) y = MatMul(t, w2)", "float[6,10] w1, float[1,5] wt, float[10,3] w2"),
)
case(
    "matmul, q·kᵀ and ·v",
    {"q": 5, "k": 5, "v": 4},
    tokens(
        """q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv)
        kt = Transpose<perm=[0,2,1]>(k) s = MatMul(q, kt) p = Softmax<axis=-1>(s) o = MatMul(p, v) y = MatMul(o, wo)""",
        "float[6,10] wq, float[6,10] wk, float[6,8] wv, float[8,3] wo",
    ),
)
case(
    "matmul, heads",  # 3 heads of 4: whole heads or the same columns of every head
    {"q": 6, "k": 6, "v": 6},
    tokens(
        """q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv)
        q4 = Reshape(q, split) qh = Transpose<perm=[0,2,1,3]>(q4)
        k4 = Reshape(k, split) kh = Transpose<perm=[0,2,3,1]>(k4)
        v4 = Reshape(v, split) vh = Transpose<perm=[0,2,1,3]>(v4)
        s = MatMul(qh, kh) p = Softmax<axis=-1>(s) o = MatMul(p, vh)
        ot = Transpose<perm=[0,2,1,3]>(o) om = Reshape(ot, merge) y = MatMul(om, wo)""",
        """float[6,12] wq, float[6,12] wk, float[6,12] wv, float[12,3] wo,
        int64[4] split = {0,0,3,4}, int64[3] merge = {0,0,12}""",
    ),
)
case(
    "matmul, channel attention (C × C)",
    {"q": 5, "k": 5},
    tokens(
        """q = MatMul(x, wq) k = MatMul(x, wk) qt = Transpose<perm=[0,2,1]>(q)
        s = MatMul(qt, k) h = MatMul(s, wo) g = MatMul(wl, h) y = Relu(g)""",
        "float[6,10] wq, float[6,10] wk, float[10,4] wo, float[3,10] wl",
    ),
)
wall(
    "matmul with a fixed activation",
    "MatMul",
    "fixed activation",
    tokens("h = MatMul(x, w) m = MatMul(h, x) y = Relu(m)", "float[6,5] w"),
    layer="h",
)


case(
    "matmul, head dimension scaled by its own size, read from Shape",  # the scale must stay that of the original
    {"q": 5, "k": 5},
    tokens(
        """q = MatMul(x, wq) k = MatMul(x, wk) sh = Shape(q) d = Gather(sh, two) f = Cast<to=1>(d) r = Sqrt(f)
        kt = Transpose<perm=[0,2,1]>(k) s = MatMul(q, kt) z = Div(s, r) y = Softmax<axis=-1>(z)""",
        "float[6,10] wq, float[6,10] wk, int64 two = {2}",
    ),
)
case(
    "matmul, rows of a batch merged with channels",
    {"a": 4},
    chain(
        "f = Reshape(a, to) h = MatMul(f, wh) r = Relu(h) m = Reshape(r, back)",
        "int64[2] to = {-1,64}, float[64,6] wh, int64[4] back = {-1,8,6,1}",
    ),
)
case(
    "gemm, rows of a batch merged with channels",
    {"a": 4},
    chain(
        "f = Reshape(a, to) h = Gemm(f, wh, bh) r = Relu(h) m = Reshape(r, back)",
        "int64[2] to = {-1,64}, float[64,6] wh, float[6] bh, int64[4] back = {-1,8,6,1}",
    ),
)
case(
    "matmul, one matrix there and back",
    {"h": 5},
    dense_pair("h = MatMul(x, w) r = Relu(h) y = Gemm<transB=1>(r, w)", "float[6,10] w"),
)


# --- normalisations ---

case(
    "batch normalization",
    {"a": 4},
    chain(
        "n = BatchNormalization(a, s, b, mean, var) m = Relu(n)", "float[8] s, float[8] b, float[8] mean, float[8] var"
    ),
)
case("instance normalization", {"a": 4}, chain("m = InstanceNormalization(a, s, b)", "float[8] s, float[8] b"))
for name, back in {"literal": "back", "Shape": "sh"}.items():
    case(
        f"group normalization, decomposed, {name}",  # whole groups of 2
        {"a": 4},
        chain(
            f"""sh = Shape(a) r = Reshape(a, to) n = InstanceNormalization(r, s, b) u = Reshape(n, {back})
            v = Mul(u, gamma) m = Add(v, beta)""",
            """float[4] s, float[4] b, float[8,1,1] gamma, float[1,8,1,1] beta, int64[3] to = {0,4,-1},
            int64[4] back = {0,8,8,8}""",
        ),
    )
case(
    "group normalization, opset 21",
    {"a": 4},
    chain("m = GroupNormalization<num_groups=4>(a, s, b)", "float[8] s, float[8] b", opset=21, ir=10),
)
case(
    "group normalization, opset 18",
    {"a": 4},
    chain("m = GroupNormalization<num_groups=4>(a, s, b)", "float[4] s, float[4] b", opset=18),
)
case(
    "group normalization, groups of one",
    {"a": 4},
    chain("m = GroupNormalization<num_groups=8>(a, s, b)", "float[8] s, float[8] b", opset=21, ir=10),
)
wall(
    "group normalization, one group",
    "GroupNormalization",
    "over all channels",
    chain("m = GroupNormalization<num_groups=1>(a, s, b)", "float[8] s, float[8] b", opset=21, ir=10),
)
wall(
    "layer normalization over channels",
    "LayerNormalization",
    "over channels",
    chain(
        "t = Transpose<perm=[0,2,3,1]>(a) n = LayerNormalization<axis=-1>(t, s, b) m = Transpose<perm=[0,3,1,2]>(n)",
        "float[8] s, float[8] b",
    ),
    node="n",
)
case(
    "layer normalization over positions",
    {"a": 4},
    chain("m = LayerNormalization<axis=2>(a, s)", "float[8,8] s"),
)
wall("LRN", "LRN", "over channels", chain("m = LRN<size=3>(a)"))
case("LpNormalization over channels", {"a": 4}, chain("m = LpNormalization<axis=1, p=2>(a)"))
case("LpNormalization over positions", {"a": 4}, chain("m = LpNormalization<axis=3, p=1>(a)"))
case("MeanVarianceNormalization", {"a": 4}, chain("m = MeanVarianceNormalization<axes=[0,2,3]>(a)"))
wall(
    "MeanVarianceNormalization over channels",
    "MeanVarianceNormalization",
    "over channels",
    chain("m = MeanVarianceNormalization<axes=[1,2,3]>(a)"),
)
for op in ("Softmax", "LogSoftmax", "Hardmax"):
    wall(f"{op} over channels", op, "over channels", chain(f"m = {op}<axis=1>(a)"))
    case(f"{op} over positions", {"a": 4}, chain(f"m = {op}<axis=3>(a)"))
wall("Softmax, opset 11, flattens from axis 1", "Softmax", "over channels", chain("m = Softmax<axis=1>(a)", opset=11))
case("Softmax, opset 11, from axis 2", {"a": 4}, chain("m = Softmax<axis=2>(a)", opset=11))


case(
    "batch normalization of a matrix",
    {"h": 5},
    dense_pair(
        "h = Gemm(x, w1) n = BatchNormalization(h, s, b, mean, var) y = Gemm(n, w2)",
        "float[6,10] w1, float[10] s, float[10] b, float[10] mean, float[10] var, float[10,3] w2",
    ),
)


# --- elementwise ---

ANYWHERE = (
    "Abs Atan Asinh Ceil Celu Cos Elu Erf Exp Floor HardSigmoid Identity LeakyRelu Neg Relu Round Selu Shrink Sigmoid "
    "Sign Sin Sinh Softplus Softsign Tan Tanh ThresholdedRelu Cosh Dropout"
).split()
for op in ANYWHERE:
    case(f"unary {op}", {"a": 4}, chain(f"m = {op}(a)"))
for op in ("Log", "Sqrt", "Reciprocal", "Acosh"):
    case(f"unary {op}", {"a": 4}, chain(f"e = Exp(a) s = Add(e, one) m = {op}(s)", "float[1] one = {1.0}"))
for op in ("Acos", "Asin", "Atanh"):
    case(f"unary {op}", {"a": 4}, chain(f"t = Sin(a) s = Mul(t, half) m = {op}(s)", "float[1] half = {0.5}"))
for op, opset, ir in (("HardSwish", 14, 8), ("Mish", 18, 8), ("Gelu", 20, 9), ("Swish", 24, 11)):
    case(f"unary {op}", {"a": 4}, chain(f"m = {op}(a)", opset=opset, ir=ir))
case("unary Cast", {"a": 4}, chain("d = Cast<to=11>(a) e = Exp(d) m = Cast<to=1>(e)"))
for op in ("IsInf", "IsNaN"):
    case(f"unary {op}, Not", {"a": 4}, chain(f"i = {op}(a) j = Not(i) f = Cast<to=1>(j) m = Mul(a, f)"))
case(
    "unary BitwiseNot",
    {"a": 4},
    chain("i = Cast<to=6>(a) j = BitwiseNot(i) k = Cast<to=1>(j) m = Add(a, k)", opset=18),
)
case("diamond SiLU", {"a": 4}, chain("s = Sigmoid(a) m = Mul(a, s)"))
case(
    "diamond hard-swish",
    {"a": 4},
    chain("p = Add(a, t) c = Clip(p, z, s) q = Mul(a, c) m = Div(q, s)", "float t = {3}, float z = {0}, float s = {6}"),
)
case(
    "diamond GELU",
    {"a": 4},
    chain(
        "d = Div(a, r) e = Erf(d) p = Add(e, o) q = Mul(a, p) m = Mul(q, h)",
        "float r = {1.414}, float o = {1}, float h = {0.5}",
    ),
)
case("diamond CReLU", {"a": 4}, chain("r = Relu(a) n = Neg(a) s = Relu(n) m = Concat<axis=1>(r, s)", into=16))
case("Clip, attributes", {"a": 4}, chain("m = Clip<min=0.0, max=6.0>(a)", opset=7))
case("Clip, bounds from scalars", {"a": 4}, chain("m = Clip(a, , s)", "float s = {0.4}"))
for shape in ("8,1,1", "1", "1,8,1,1"):
    case(f"PRelu [{shape}]", {"a": 4}, chain("m = PRelu(a, s)", f"float[{shape}] s"))

NARY = "Add Sub Mul Max Min Sum Mean"
for op in NARY.split():
    for shape in ("1,8,1,1", "8,1,1", "1", "1,1,8,8", "8,8,8"):
        case(f"{op} constant [{shape}]", {"a": 4}, chain(f"m = {op}(a, c)", f"float[{shape}] c"))
    case(f"{op} scalar on the left", {"a": 4}, chain(f"m = {op}(c, a)", "float c = {0.7}"))
    case(
        f"{op} of two branches",
        {"a": 4, "b": 4},
        chain(f"b = Conv<pads=[1,1,1,1]>(x, wb) m = {op}(a, b)", "float[8,3,3,3] wb"),
    )
case("Div by a vector", {"a": 4}, chain("m = Div(a, c)", "float[1,8,1,1] c"))
case("Pow by a vector", {"a": 4}, chain("e = Sigmoid(a) m = Pow(e, c)", "float[8,1,1] c"))
case("Mod by a vector", {"a": 4}, chain("m = Mod<fmod=1>(a, c)", "float[8,1,1] c"))
for op in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"):
    case(
        f"{op} and Where",
        {"a": 4},
        chain(f"r = Relu(a) g = {op}(r, c) m = Where(g, a, d)", "float[8,1,1] c, float[8,1,1] d"),
    )
for op in ("And", "Or", "Xor"):
    case(
        f"{op} of conditions",
        {"a": 4},
        chain(
            f"g = Greater(a, c) h = Less(a, d) i = {op}(g, h) m = Where(i, a, z)",
            "float[8,1,1] c, float d = {0.5}, float z = {0}",
        ),
    )
for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor"):
    case(
        f"{op} of integers",
        {"a": 4},
        chain(
            f"i = Cast<to=6>(a) j = {op}(i, c) k = Cast<to=1>(j) m = Add(a, k)",
            "int32[8,1,1] c = {1,2,3,4,5,6,7,8}",
            opset=18,
        ),
    )
case(
    "BitShift",
    {"a": 4},
    chain(
        """p = Abs(a) q = Ceil(p) i = Cast<to=13>(q)
        j = BitShift<direction="LEFT">(i, c) k = Cast<to=1>(j) m = Add(a, k)""",
        "uint64[8,1,1] c = {1,2,3,1,2,3,1,2}",
    ),
)
case("CastLike", {"a": 4}, chain("d = CastLike(a, c) m = Cast<to=1>(d)", "double[1] c = {1.0}"))
case(
    "Where, constant condition",
    {"a": 4},
    chain("m = Where(k, a, d)", "bool[1,8,1,1] k = {1,0,1,1,0,1,0,1}, float[8,1,1] d"),
)
case(
    "Where, two branches",
    {"a": 4, "b": 4},
    chain("b = Conv<pads=[1,1,1,1]>(x, wb) g = Greater(a, z) m = Where(g, a, b)", "float[8,3,3,3] wb, float z = {0.1}"),
)
case(
    "a gate of one channel joins nothing",
    {"a": 4},
    chain("g = Conv(x, wg) s = Sigmoid(g) m = Mul(a, s)", "float[1,3,1,1] wg"),
)
wall(
    "Add of a fixed activation",
    "Add",
    "fixed",
    build(
        """g (float[N,8,8,8] x) => (float[N,K,H,W] y) <float[8,8,1,1] wa, float[5,8,1,1] wy>
        { a = Conv(x, wa)
          m = Add(a, x)
          y = Conv(m, wy) }"""
    ),
)
wall(
    "Dropout whose mask is used",
    "Dropout",
    "mask",
    chain("d, k = Dropout(a) f = Cast<to=1>(k) m = Mul(d, f)"),
    node="d",
)
case(
    "a constant made to the channels' own shape",
    {"a": 4},
    chain("sh = Shape(a) o = ConstantOfShape<value = float[1] {0.5}>(sh) m = Add(a, o)"),
)
case(
    "a mean divided by the number of channels, read from Shape",
    {"a": 4},
    chain("sh = Shape(a) c = Gather(sh, one) f = Cast<to=1>(c) m = Div(a, f)", "int64 one = {1}"),
)
case(
    "one vector that two layers add",
    {"a": 4, "b": 4},
    chain("p = Add(a, v) b = Conv(p, wb) m = Mul(b, v)", "float[8,1,1] v, float[8,8,1,1] wb"),
)
case(
    "residual, identity",
    {"a": 4, "c": 4, "b": 3},
    chain(
        "r = Relu(a) b = Conv<pads=[1,1,1,1]>(r, wb) s = Relu(b) c = Conv(s, wc, bc) t = Add(c, r) m = Relu(t)",
        "float[6,8,3,3] wb, float[8,6,1,1] wc, float[8] bc",
    ),
)
case(
    "residual, projection",
    {"a": 4, "p": 4, "c": 4, "b": 3},
    chain(
        "r = Relu(a) b = Conv(r, wb) s = Relu(b) c = Conv(s, wc) p = Conv(r, wp) t = Add(c, p) m = Relu(t)",
        "float[6,8,1,1] wb, float[8,6,1,1] wc, float[8,8,1,1] wp",
    ),
)


# --- Concat, Split, Slice, Gather ---

case("Concat, twice the same tensor", {"a": 4}, chain("m = Concat<axis=1>(a, a)", into=16))
case(
    "Concat, axis -3",
    {"a": 4, "b": 2},
    chain("b = Conv<pads=[1,1,1,1]>(x, wb) m = Concat<axis=-3>(a, x, b)", "float[4,3,3,3] wb", into=15),
)
case(
    "Concat, dense block",
    {"a": 4, "b": 2, "c": 2},
    chain(
        """r = Relu(a) b = Conv(r, wb) d = Concat<axis=1>(a, b) n = BatchNormalization(d, s, o, mean, var) e = Relu(n)
        c = Conv(e, wc) m = Concat<axis=1>(d, c)""",
        "float[4,8,1,1] wb, float[12] s, float[12] o, float[12] mean, float[12] var, float[4,12,1,1] wc",
        into=16,
    ),
)
case("Concat with a constant", {"a": 4}, fixed_batch("m = Concat<axis=1>(a, c)", "float[2,4,8,8] c", into=12))
case(
    "Concat with a constant that meets channels",  # c is made up: its positions go with those of b that they meet
    {"a": 4, "b": 6},
    fixed_batch(
        "b = Conv<pads=[1,1,1,1]>(x, wb) d = Concat<axis=1>(a, c) m = Add(d, b)",
        "float[2,4,8,8] c, float[12,3,3,3] wb",
        into=12,
    ),
)
case("Concat along H", {"a": 4}, chain("m = Concat<axis=2>(a, a)"))
case(
    "Concat along H, coordinate attention",
    {"a": 4, "q": 2, "u": 4, "v": 4},
    chain(
        """h = ReduceMean<axes=[3]>(a) w0 = ReduceMean<axes=[2]>(a) w = Transpose<perm=[0,1,3,2]>(w0)
        j = Concat<axis=2>(h, w) q = Conv(j, wq) r = Relu(q) rh, rw0 = Split<axis=2>(r, halves)
        rw = Transpose<perm=[0,1,3,2]>(rw0) u = Conv(rh, wu) v = Conv(rw, wv) su = Sigmoid(u) sv = Sigmoid(v)
        k = Mul(a, su) m = Mul(k, sv)""",
        "float[4,8,1,1] wq, float[8,4,1,1] wu, float[8,4,1,1] wv, int64[2] halves = {8,8}",
    ),
)
case(
    "Concat with coordinates",
    {"a": 4},
    fixed_batch("m = Concat<axis=1>(a, u, v)", "float[2,1,8,8] u, float[2,1,8,8] v", into=10),
)
wall(
    "Concat along H with a fixed activation",
    "Concat",
    "fixed",
    build(
        """g (float[N,8,8,8] x) => (float[N,K,H,W] y) <float[8,8,1,1] wa, float[5,8,1,1] wy>
        { a = Conv(x, wa)
          m = Concat<axis=2>(a, x)
          y = Conv(m, wy) }"""
    ),
)
for name, spelling, weights, opset in (
    ("attribute, opset 11", "Split<axis=1, split=[3,5]>(a)", "", 11),
    ("input, opset 13", "Split<axis=1>(a, sizes)", "int64[2] sizes = {3,5}", 13),
    ("equal, opset 11", "Split<axis=1>(a)", "", 11),
    ("equal, opset 13", "Split<axis=1>(a)", "", 13),
    ("num_outputs, opset 18", "Split<axis=1, num_outputs=2>(a)", "", 18),
):
    case(
        f"Split, {name}",
        {"a": 4},
        chain(f"p, q = {spelling} s = Sigmoid(q) t = Relu(p) m = Concat<axis=1>(s, t)", weights, opset=opset),
    )
case(
    "Split, num_outputs uneven",
    {"a": 4},
    chain("p, q, r = Split<axis=1, num_outputs=3>(a) m = Concat<axis=1>(r, q, p)", opset=18),
)
case("Split, only one part is used", {"a": 4}, chain("m, rest = Split<axis=1, split=[5,3]>(a)", into=5, opset=11))
for opset, spelling in (
    (11, "Split<axis=1>(a)"),
    (13, "Split<axis=1>(a, sizes)"),
    (18, "Split<axis=1, num_outputs=2>(a)"),
):
    case(
        f"GLU, opset {opset}",
        {"a": 4},
        chain(f"p, q = {spelling} s = Sigmoid(q) m = Mul(p, s)", "int64[2] sizes = {4,4}", into=4, opset=opset),
    )
case("Split along H", {"a": 4}, chain("p, q = Split<axis=2>(a, s) m = Add(p, q)", "int64[2] s = {4,4}"))

SLICE = ("start", "end", "axis", "step")
for name, axis, start, end, step, left in (
    ("channels", 1, 2, 7, 1, 5),
    ("negative ends", 1, -6, -1, 1, 5),
    ("INT_MAX", 1, 3, INT_MAX, 1, 5),
    ("negative axis", -3, 1, 6, 1, 5),
    ("step 2", 1, 0, 8, 2, 4),
    ("step 2, odd", 1, 1, INT_MAX, 2, 4),
    ("step 3", 1, 0, INT_MAX, 3, 3),
    ("step -1", 1, -1, -INT_MAX, -1, 8),
    ("step -2", 1, -1, -INT_MAX, -2, 4),
    ("H", 2, 1, 5, 1, 8),
    ("H, step 2", 2, 0, INT_MAX, 2, 8),
    ("H, step -1", 2, -1, -INT_MAX, -1, 8),
):
    case(
        f"Slice, {name}",
        {"a": 4},
        chain(
            "m = Slice(a, start, end, axis, step)",
            ", ".join(f"int64[1] {k} = {{{v}}}" for k, v in zip(SLICE, (start, end, axis, step), strict=True)),
            into=left,
        ),
    )
case(
    "Slice, attributes",
    {"a": 4},
    chain("m = Slice<axes=[1], starts=[2], ends=[9223372036854775807]>(a)", into=6, opset=9),
)
case("Slice, attributes without axes", {"a": 4}, chain("m = Slice<starts=[0,2], ends=[1000,-1]>(a)", into=5, opset=9))
case(
    "Slice, without axes",
    {"a": 4},
    chain("m = Slice(a, s, e)", "int64[2] s = {0,2}, int64[2] e = {1000,-1}", into=5),
)
case(
    "Slice, halves computed from Shape",  # a GLU as PyTorch's chunk is exported
    {"a": 4},
    chain(
        """sh = Shape(a) c = Gather(sh, one) h = Div(c, two) z = Slice(a, zero, h, one)
        e = Mul(h, two) w = Slice(a, h, e, one) s = Sigmoid(w) m = Mul(z, s)""",
        "int64[1] one = {1}, int64[1] two = {2}, int64[1] zero = {0}",
        into=4,
    ),
)
case(
    "Slice, halves computed from Shape, cut differently",
    {"a": 4},
    chain(
        """sh = Shape(a) c = Gather(sh, one) h = Div(c, two) z = Slice(a, zero, h, one)
        e = Mul(h, two) w = Slice(a, h, e, one) s = Sigmoid(w) m = Concat<axis=1>(s, z)""",
        "int64[1] one = {1}, int64[1] two = {2}, int64[1] zero = {0}",
    ),
)
case("Gather, permutation", {"a": 4}, chain("m = Gather<axis=1>(a, i)", "int64[8] i = {3,1,0,2,7,6,5,4}"))
case(
    "Gather, subset, repeated and negative",
    {"a": 4},
    chain("m = Gather<axis=1>(a, i)", "int64[5] i = {6,0,-1,0,3}", into=5),
)
case("Gather along H", {"a": 4}, chain("m = Gather<axis=2>(a, i)", "int64[3] i = {3,1,-1}"))
case(
    "Gather, scalar along H",
    {"a": 4},
    chain("t = Gather<axis=2>(a, i) m = Unsqueeze(t, two)", "int64 i = {3}, int64[1] two = {2}"),
)
case(
    "Gather, BGR flip of the image",
    {"a": 4},
    build(
        """g (float[N,3,8,8] x) => (float[N,K,H,W] y) <float[8,3,1,1] wa, float[5,8,1,1] wy, int64[3] i = {2,1,0}>
        { f = Gather<axis=1>(x, i)
          a = Conv(f, wa)
          y = Conv(a, wy) }"""
    ),
)
case(
    "Gather, indices of rank 2",
    {"a": 4},
    chain(
        "t = Gather<axis=1>(a, i) m = Reshape(t, back)", "int64[2,4] i = {3,1,0,2,7,6,5,4}, int64[4] back = {0,-1,8,8}"
    ),
)
wall(
    "Gather, computed indices",
    "Gather",
    "computed indices",
    build(
        """g (float[2,3,4,4] x, int64[4] i) => (float[2,K,H,W] y) <float[8,3,1,1] wa, float[5,4,1,1] wy>
        { a = Conv(x, wa)
          m = Gather<axis=1>(a, i)
          y = Conv(m, wy) }"""
    ),
)


# --- Pad, Transpose, Reshape and kin ---

case("Pad of channels that meet nothing", {"a": 4}, chain("m = Pad(a, p)", "int64[8] p = {0,1,0,0,0,3,0,0}", into=12))
case("Pad, negative, crops channels", {"a": 4}, chain("m = Pad(a, p)", "int64[8] p = {0,-2,0,0,0,-1,0,0}", into=5))
for mode in ("reflect", "edge", "constant"):
    case(f"Pad, spatial, {mode}", {"a": 4}, chain(f'm = Pad<mode="{mode}">(a, p)', "int64[8] p = {0,0,1,2,0,0,2,1}"))
wall(
    "Pad, channels, reflect",
    "Pad",
    "reflect",
    chain('m = Pad<mode="reflect">(a, p)', "int64[8] p = {0,1,0,0,0,1,0,0}", into=10),
)

case(
    "Transpose, NHWC sandwich",
    {"a": 4},
    chain(
        "t = Transpose<perm=[0,2,3,1]>(a) u = Mul(t, g) v = Add(u, b) w = Relu(v) m = Transpose<perm=[0,3,1,2]>(w)",
        "float[8] g, float[8] b",
    ),
)
case(
    "Transpose, NHWC MatMul as 1 × 1 convolution",
    {"a": 4, "h": 3},
    chain(
        "t = Transpose<perm=[0,2,3,1]>(a) h = MatMul(t, wh) r = Relu(h) m = Transpose<perm=[0,3,1,2]>(r)",
        "float[8,6] wh",
        into=6,
    ),
)
for target in ("0,-1", "-1,128"):
    case(
        f"Reshape [{target}] to Gemm",
        {"a": 4, "h": 3},
        head(
            "f = Reshape(a, to) h = Gemm<transB=1>(f, wh, bh) r = Relu(h) y = Gemm(r, wy)",
            f"float[6,128] wh, float[6] bh, float[6,4] wy, int64[2] to = {{{target}}}",
        ),
    )
case(
    "Reshape with the batch from Shape to Gemm",
    {"a": 4},
    head(
        "sh = Shape(a) n = Gather(sh, zero) to = Concat<axis=0>(n, rest) f = Reshape(a, to) y = Gemm(f, wy)",
        "float[128,4] wy, int64[1] zero = {0}, int64[1] rest = {-1}",
    ),
)
case(
    "Reshape with the product of sizes from Shape to Gemm",
    {"a": 4},
    head(
        """sh = Shape(a) n = Gather(sh, zero) c = Gather(sh, one) h = Gather(sh, two) w = Gather(sh, three)
        ch = Mul(c, h) chw = Mul(ch, w) to = Concat<axis=0>(n, chw) f = Reshape(a, to) y = Gemm(f, wy)""",
        """float[128,4] wy, int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] three = {3}""",
    ),
)
case(
    "Reshape merges the batch with groups",
    {"a": 4},
    chain(
        "f = Reshape(a, to) r = Relu(f) p = MaxPool<kernel_shape=[2,2]>(r) m = Reshape(p, back)",
        "int64[4] to = {-1,4,8,8}, int64[4] back = {-1,8,7,7}",
    ),
)
case(
    "Reshape, literal batch, to Gemm",
    {"a": 4},
    build(
        """g (float[2,3,4,4] x) => (float[2,4] y) <float[8,3,1,1] wa, float[128,4] wy, int64[2] to = {2,128}>
        { a = Conv(x, wa)
          f = Reshape(a, to)
          y = Gemm(f, wy) }"""
    ),
)
case(
    "Reshape, tokens and back",
    {"a": 4, "h": 4},
    chain(
        """f = Reshape(a, to) t = Transpose<perm=[0,2,1]>(f) h = MatMul(t, wh) u = Transpose<perm=[0,2,1]>(h)
        m = Reshape(u, back)""",
        "int64[3] to = {0,8,64}, float[8,8] wh, int64[4] back = {-1,8,8,8}",
    ),
)
case("Flatten to Gemm", {"a": 4}, head("f = Flatten(a) y = Gemm(f, wy)", "float[128,4] wy"))
case(
    "Flatten, NHWC, to Gemm",
    {"a": 4},
    head("t = Transpose<perm=[0,2,3,1]>(a) f = Flatten<axis=1>(t) y = Gemm(f, wy)", "float[128,4] wy"),
)
case(
    "Flatten after Relu and pool to MatMul",
    {"a": 4},
    head(
        "r = Relu(a) p = AveragePool<kernel_shape=[2,2], strides=[2,2]>(r) f = Flatten(p) y = MatMul(f, wy)",
        "float[32,4] wy",
    ),
)
case(
    "Squeeze and Unsqueeze",
    {"a": 4, "h": 3},
    chain(
        "p = GlobalAveragePool(a) s = Squeeze(p, hw) h = Gemm(s, wh) m = Unsqueeze(h, hw)",
        "int64[2] hw = {2,3}, float[8,6] wh",
        into=6,
    ),
)
case(
    "Squeeze and Unsqueeze, attributes",
    {"a": 4},
    chain("p = GlobalAveragePool(a) s = Squeeze<axes=[2,3]>(p) m = Unsqueeze<axes=[2,3]>(s)", opset=11),
)
case(
    "Squeeze without axes",
    {"a": 4},
    fixed_batch("p = GlobalAveragePool(a) s = Squeeze(p) m = Unsqueeze(s, hw)", "int64[2] hw = {2,3}"),
)
case("Expand, positions", {"a": 4}, chain("p = GlobalAveragePool(a) m = Expand(p, to)", "int64[4] to = {1,1,4,4}"))
case(
    "Expand spells the channels",
    {"a": 4},
    chain("p = GlobalAveragePool(a) m = Expand(p, to)", "int64[4] to = {1,8,4,4}"),
)
case(
    "Expand to a Shape",
    {"a": 4},
    chain("sh = Shape(a) p = GlobalAveragePool(a) e = Expand(p, sh) m = Sub(a, e)"),
)
case(
    "Expand to the Shape of the channels",
    {"a": 4},
    chain("sh = Shape(a) g = Conv<pads=[1,1,1,1]>(x, wg) e = Expand(g, sh) m = Mul(a, e)", "float[1,3,3,3] wg"),
)
case(
    "Expand makes the channels up",
    {"a": 4},
    chain(
        "g = Conv<pads=[1,1,1,1]>(x, wg) e = Expand(g, to) m = Mul(a, e)", "float[1,3,3,3] wg, int64[4] to = {1,8,1,1}"
    ),
)
case("Tile, positions", {"a": 4}, chain("m = Tile(a, r)", "int64[4] r = {1,1,2,3}"))
case("Tile, channels", {"a": 4}, chain("m = Tile(a, r)", "int64[4] r = {1,2,1,1}", into=16))
for mode in ("DCR", "CRD"):
    case(
        f"DepthToSpace {mode}",  # 2 channels remain, each of 4
        {"a": 4},
        chain(f'm = DepthToSpace<blocksize=2, mode="{mode}">(a)', into=2),
    )
for mode in ("DCR", "CRD"):
    case(
        f"DepthToSpace {mode}, more positions than channels",  # what goes is channels, never every other row of pixels
        {"a": 4, "c": 16},
        head(
            f'c = Conv(a, wc) d = DepthToSpace<blocksize=4, mode="{mode}">(c) f = Flatten(d) y = Gemm(f, wy)',
            "float[32,8,1,1] wc, float[512,4] wy",
        ),
    )
case("SpaceToDepth", {"a": 4}, chain("m = SpaceToDepth<blocksize=2>(a)", into=32))
case(
    "SpaceToDepth, decomposed (focus)",
    {"a": 4},
    chain(
        "r = Reshape(a, six) t = Transpose<perm=[0,3,5,1,2,4]>(r) m = Reshape(t, four)",
        "int64[6] six = {0,8,4,2,4,2}, int64[4] four = {0,32,4,4}",
        into=32,
    ),
)
case(
    "pixel shuffle, decomposed",
    {"a": 4},
    chain(
        "r = Reshape(a, six) t = Transpose<perm=[0,1,4,2,5,3]>(r) m = Reshape(t, four)",
        "int64[6] six = {-1,2,2,2,8,8}, int64[4] four = {-1,2,16,16}",
        into=2,
    ),
)
case(
    "channel shuffle between grouped convolutions",
    {"a": 4, "g": 4, "h": 4},
    chain(
        """g = Conv<group=2>(a, wg) r = Reshape(g, five) t = Transpose<perm=[0,2,1,3,4]>(r) s = Reshape(t, four)
        h = Conv<group=2>(s, wh) m = Relu(h)""",
        "float[8,4,1,1] wg, float[8,4,1,1] wh, int64[5] five = {0,2,4,8,8}, int64[4] four = {0,8,8,8}",
    ),
)
case(
    "channel shuffle, plain convolutions",  # whole groups or the same column of each
    {"a": 4},
    chain(
        "r = Reshape(a, five) t = Transpose<perm=[0,2,1,3,4]>(r) m = Reshape(t, four)",
        "int64[5] five = {-1,2,4,8,8}, int64[4] four = {-1,8,8,8}",
    ),
)
case(
    "channel shuffle, depthwise (ShuffleNet v2 unit)",
    {"a": 4, "b": 2, "d": 2, "e": 2},
    chain(
        """p, q = Split<axis=1>(a, halves) b = Conv(q, wb) rb = Relu(b) d = Conv<group=4, pads=[1,1,1,1]>(rb, wd)
        e = Conv(d, we) re = Relu(e) c = Concat<axis=1>(p, re)
        r = Reshape(c, five) t = Transpose<perm=[0,2,1,3,4]>(r) m = Reshape(t, four)""",
        """float[4,4,1,1] wb, float[4,1,3,3] wd, float[4,4,1,1] we, int64[2] halves = {4,4},
        int64[5] five = {0,2,4,8,8}, int64[4] four = {0,-1,8,8}""",
    ),
)


# --- spatial ---

for name, spelling, weights in (
    ("scales", "Resize(a, , scales)", "float[4] scales = {1,1,2,2}"),
    ("sizes", "Resize(a, , , sizes)", "int64[4] sizes = {2,8,5,11}"),
):
    case(
        f"Resize, {name}",
        {"a": 4},
        fixed_batch(
            f"m = {spelling.replace('(', chr(60) + 'mode=' + chr(34) + 'nearest' + chr(34) + '>(', 1)}", weights
        ),
    )
case(
    "Resize, sizes computed from Shape",
    {"a": 4, "b": 3},
    chain(
        """b = Conv<strides=[2,2]>(x, wb) sb = Shape(b) sa = Shape(a) nc = Slice(sb, zero, two)
        hw = Slice(sa, two, four)
        to = Concat<axis=0>(nc, hw) u = Resize<mode="linear">(b, , , to) m = Concat<axis=1>(a, u)""",
        "float[6,3,2,2] wb, int64[1] zero = {0}, int64[1] two = {2}, int64[1] four = {4}",
        into=14,
    ),
)
case(
    "Resize, sizes with literal channels in an otherwise computed shape",
    {"a": 4},
    chain(
        """sa = Shape(a) n = Slice(sa, zero, one) to = Concat<axis=0>(n, rest)
        m = Resize<mode="nearest">(a, , , to)""",
        "int64[1] zero = {0}, int64[1] one = {1}, int64[3] rest = {8,16,16}",
    ),
)
case(
    "Resize, axes", {"a": 4}, chain('m = Resize<mode="linear", axes=[2,3]>(a, , , s)', "int64[2] s = {12,12}", opset=18)
)
case("Upsample, opset 9", {"a": 4}, chain('m = Upsample<mode="nearest">(a, s)', "float[4] s = {1,1,2,2}", opset=9))
case("Upsample, opset 7", {"a": 4}, chain('m = Upsample<mode="nearest", scales=[1.0,1.0,2.0,2.0]>(a)', opset=8))
case("MaxPool", {"a": 4}, chain("m = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(a)"))
case("AveragePool", {"a": 4}, chain("m = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(a)"))
case("LpPool", {"a": 4}, chain("m = LpPool<kernel_shape=[2,2]>(a)"))
for op in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"):
    case(op, {"a": 4}, chain(f"m = {op}(a)"))
wall(
    "MaxPool with indices",
    "MaxPool",
    "indices",
    chain("m, i = MaxPool<kernel_shape=[2,2]>(a) f = Cast<to=1>(i) z = Relu(f)"),
)


# --- reductions ---

AXES = {
    "attribute": ("<axes=[2,3], keepdims=1>(a)", "", 17),
    "input": ("<keepdims=1>(a, hw)", "int64[2] hw = {2,3}", 18),
}
for op in "ReduceMean ReduceMax ReduceMin ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSumExp".split():
    for name, (spelling, weights, opset) in AXES.items():
        case(f"{op} over positions, {name}", {"a": 4}, chain(f"m = {op}{spelling}", weights, opset=opset))
case("ReduceLogSum over positions", {"a": 4}, chain("e = Exp(a) m = ReduceLogSum<axes=[2,3]>(e)"))
case("ReduceProd over positions", {"a": 4}, chain("s = Sigmoid(a) m = ReduceProd<axes=[3]>(s)"))
case("ReduceSum over positions", {"a": 4}, chain("m = ReduceSum(a, hw)", "int64[2] hw = {-1,-2}"))
case(
    "ReduceMean without keepdims to Gemm",
    {"a": 4},
    head("p = ReduceMean<axes=[2,3], keepdims=0>(a) y = Gemm(p, wy)", "float[8,4] wy"),
)
for op, spelling, weights in (
    ("ReduceSum", "ReduceSum(r, one)", ", int64[1] one = {1}"),
    ("ReduceL1", "ReduceL1<axes=[1]>(r)", ""),
    ("ReduceL2", "ReduceL2<axes=[-3]>(r)", ""),
    ("ReduceSumSquare", "ReduceSumSquare<axes=[1,2,3]>(r)", ""),
):
    case(
        f"{op} over channels",
        {"a": 4},
        build(
            f"""g (float[N,3,8,8] x) => (float[N,K,H,W] y) <float[8,3,3,3] wa, float[8] ba{weights}>
            {{ a = Conv(x, wa, ba)
               r = Sigmoid(a)
               y = {spelling} }}"""
        ),
    )
for op in ("ArgMax", "ArgMin"):
    wall(f"{op} over channels", op, "over channels", chain(f"i = {op}<axis=1>(a) m = Cast<to=1>(i)", into=1), node="i")
    case(f"{op} over positions", {"a": 4}, chain(f"i = {op}<axis=2>(a) f = Cast<to=1>(i) m = Add(a, f)"))
case(
    "squeeze and excite, Conv",
    {"a": 4, "s": 2, "e": 4},
    chain(
        "p = GlobalAveragePool(a) s = Conv(p, ws, bs) r = Relu(s) e = Conv(r, we, be) g = HardSigmoid(e) m = Mul(a, g)",
        "float[4,8,1,1] ws, float[4] bs, float[8,4,1,1] we, float[8] be",
    ),
)
case(
    "squeeze and excite, Gemm",
    {"a": 4, "s": 2, "e": 4},
    chain(
        """p = ReduceMean<axes=[2,3], keepdims=0>(a) s = Gemm<transB=1>(p, ws, bs) r = Relu(s)
        e = Gemm<transB=1>(r, we, be) g = Sigmoid(e) u = Reshape(g, to) m = Mul(a, u)""",
        "float[4,8] ws, float[4] bs, float[8,4] we, float[8] be, int64[4] to = {-1,8,1,1}",
    ),
)


# --- the tables above ---


# --- quantized activations and weights ---

case(
    "quantized activations, per tensor, and dequantized weights, per channel",
    {"a": 4, "c": 4},
    chain(
        """q = QuantizeLinear(a, s, z) d = DequantizeLinear(q, s, z) wd = DequantizeLinear<axis=0>(w, ws, wz)
        c = Conv(d, wd, b) qc = QuantizeLinear(c, s, z) m = DequantizeLinear(qc, s, z)""",
        """float s = {0.05}, uint8 z = {120}, int8[8,8,1,1] w, float[8] ws, int8[8] wz, float[8] b""",
        w=codes(8, 8, 1, 1),
        ws=np.linspace(0.002, 0.01, 8),
        wz=np.zeros(8),
    ),
)
case(
    "quantized activations, per channel",
    {"a": 4},
    chain(
        "q = QuantizeLinear<axis=1>(a, s, z) m = DequantizeLinear<axis=1>(q, s, z)",
        "float[8] s, uint8[8] z",
        s=np.linspace(0.03, 0.08, 8),
        z=np.arange(120, 128),
    ),
)
case(
    "QLinearConv, zero points, scales per channel",
    {"a": 4, "c": 4},
    chain(
        """q = QuantizeLinear(a, s, z) c = QLinearConv(q, s, z, w, ws, wz, s, z, bq) m = DequantizeLinear(c, s, z)""",
        "float s = {0.05}, uint8 z = {120}, int8[8,8,1,1] w, float[8] ws, int8[8] wz, int32[8] bq",
        w=codes(8, 8, 1, 1),
        ws=np.linspace(0.002, 0.01, 8),
        wz=np.zeros(8),
        bq=codes(8, low=-500, high=500, kind=np.int32),
    ),
)
case(
    "QLinearConv, depthwise",
    {"a": 4, "c": 4},
    chain(
        """q = QuantizeLinear(a, s, z)
        c = QLinearConv<group=8>(q, s, z, w, ws, wz, s, z) m = DequantizeLinear(c, s, z)""",
        "float s = {0.05}, uint8 z = {120}, int8[8,1,1,1] w, float ws = {0.01}, int8 wz = {0}",
        w=codes(8, 1, 1, 1),
    ),
)
case(
    "ConvInteger behind a dynamic quantization",
    {"a": 4, "c": 4},
    chain(
        """q, s, z = DynamicQuantizeLinear(a) c = ConvInteger(q, w, z) f = Cast<to=1>(c) k = Mul(f, small)
        m = Relu(k)""",
        "uint8[8,8,1,1] w, float small = {0.0001}",
        w=codes(8, 8, 1, 1, low=0, high=255, kind=np.uint8),
    ),
)


@pytest.mark.parametrize("name", CASES)
def test_what_is_free_goes_and_is_proven(name: str) -> None:
    model, gone = CASES[name]
    assert removed(prove_half(model)) == gone


@pytest.mark.parametrize("name", WALLS)
def test_what_cannot_go_is_a_wall_that_says_why(name: str) -> None:
    assert_wall(*WALLS[name])


@pytest.mark.parametrize("seed", range(1, 4))
@pytest.mark.parametrize("share", [0.25, 0.9])
@pytest.mark.parametrize(
    "name",
    [
        "conv grouped",
        "conv depthwise, multiplier 2",
        "matmul, heads",
        "Slice, step 2",
        "Reshape merges the batch with groups",
        "Slice, halves computed from Shape, cut differently",
        "Gather, indices of rank 2",
        "channel shuffle between grouped convolutions",
        "channel shuffle, depthwise (ShuffleNet v2 unit)",
        "DepthToSpace DCR",
        "group normalization, opset 21",
        "Concat, dense block",
        "Split, num_outputs uneven",
    ],
)
def test_other_shares_and_seeds_are_proven(name: str, share: float, seed: int) -> None:
    prove_half(CASES[name].model, share, seed)


# --- option-A shortcuts: the zeros of a Pad go with the channels that they meet ---

SHORTCUT = """s = MaxPool<kernel_shape=[1,1], strides=[2,2]>(a) p = {pad}
    c = Conv<strides=[2,2], pads=[1,1,1,1]>(a, wc) m = Add(c, p)"""


@pytest.mark.parametrize(
    ("pad", "weights", "opset", "front"),
    [
        ("Pad(s, pads)", ", int64[8] pads = {0,4,0,0,0,4,0,0}", 11, 4),
        ("Pad(s, pads)", ", int64[8] pads = {0,8,0,0,0,0,0,0}", 13, 8),
        ("Pad<pads=[0,4,0,0,0,4,0,0]>(s)", "", 9, 4),
        ("Pad(s, pads, v, axes)", ", int64[2] pads = {0,8}, float v = {0.5}, int64[1] axes = {1}", 18, 0),
    ],
)
def test_an_option_a_shortcut_shrinks_with_both_sides(pad: str, weights: str, opset: int, front: int) -> None:
    model = chain(SHORTCUT.format(pad=pad), f"float[16,8,3,3] wc{weights}", into=16, opset=opset)
    for seed in range(3):
        result = prove_half(model, seed=seed)
        kept = next(c.kept for c in result.rewritten.cuts if c.tensor == "wc" and c.axis == 0)
        middle = [k - front for k in kept if front <= k < front + 8]
        assert removed(result) == {"a": 8 - len(middle), "c": 8}
        assert next(c.kept for c in result.rewritten.cuts if c.tensor == "wa") == tuple(middle)


@pytest.mark.parametrize("index", ["int64 i = {3}", "int64[1] i = {3}"])
def test_a_single_index_keeps_that_channel_and_lets_the_others_go(index: str) -> None:
    lift = "u = Unsqueeze(t, one)" if "[" not in index else "u = Identity(t)"
    model = chain(f"t = Gather<axis=1>(a, i) {lift} m = Mul(a, u)", f"{index}, int64[1] one = {{1}}")
    for seed in range(3):
        result = prove_half(model, seed=seed)
        assert removed(result) == {"a": 3}  # 7 are free, half of them rounded down go
        assert any(op == "Gather" and "alone" in why for _, op, why in walls_at(result.trace, "a"))


# --- batch normalization stays a node ---


def test_batch_normalization_is_kept_and_its_vectors_cut() -> None:
    result = prove_half(CASES["batch normalization"].model)
    cut = tensors(result.rewritten.model)
    assert [n.op_type for n in result.rewritten.model.graph.node] == ["Conv", "BatchNormalization", "Relu", "Conv"]
    assert {cut[n].shape for n in ("s", "b", "mean", "var")} == {(4,)}


# --- what several nodes share ---


def test_one_zero_bias_for_three_layers_gets_a_copy_per_reader() -> None:
    model = chain(
        "b = Conv(a, wb, ba) c = Conv(b, wc, ba) m = Relu(c)",
        "float[8,8,1,1] wb, float[8,8,1,1] wc",
        ba=np.zeros(8),
    )
    result = prove_half(model)
    assert removed(result) == {"a": 4, "b": 4, "c": 4}
    kept = {c.node: c.kept for c in result.rewritten.cuts if c.tensor == "ba"}
    assert set(kept) == {"a", "b", "c"}
    assert len(set(kept.values())) > 1, "the layers lost the same channels: the test shows nothing"


TWICE = """g (float[N,3,8,8] x, float[N,3,8,8] z) => (float[N,K,H,W] y)
    <float[8,3,3,3] wa, float[8] ba, float[5,8,1,1] wy, float[6,8,1,1] wb, float[6,8,1,1] wc, float[4,6,1,1] wd>
    {{ a = Conv<pads=[1,1,1,1]>(x, wa, ba)
       {identity}
       b = Conv<pads=[1,1,1,1]>(z, {weight}, ba)
       ra = Relu(a)
       rb = Relu(b)
       p = Conv(ra, wb)
       q = Conv(rb, wc)
       m = Add(p, q)
       y = Conv(m, wd) }}"""


def test_one_kernel_used_on_two_inputs_stays_one_tensor() -> None:
    result = prove_half(build(TWICE.format(identity="", weight="wa")))
    assert removed(result) == {"a": 4, "b": 4, "p": 3, "q": 3}
    cut = tensors(result.rewritten.model)
    assert cut["wa"].shape == (4, 3, 3, 3)
    assert {c.new_tensor for c in result.rewritten.cuts if c.tensor == "wa"} == {"wa"}
    assert not [name for name in cut if name.startswith("wa") and name != "wa"]


def test_a_kernel_behind_identity_is_the_kernel() -> None:
    result = prove_half(build(TWICE.format(identity="v = Identity(wa)", weight="v")))
    assert removed(result) == {"a": 4, "b": 4, "p": 3, "q": 3}
    kernels = [a for a in tensors(result.rewritten.model).values() if a.shape[1:] == (3, 3, 3)]
    assert [k.shape for k in kernels] == [(4, 3, 3, 3)], "the shared kernel became several tensors"


def test_a_head_shared_by_two_levels_stays_one_tensor() -> None:
    model = build(
        """g (float[N,3,8,8] x) => (float[N,5,H,W] y, float[N,5,V,U] z)
        <float[8,3,3,3] wa, float[8] ba, float[8,8,3,3] wb, float[8,8,1,1] wh, float[8] bh, float[5,8,1,1] wo>
        { a = Conv<pads=[1,1,1,1]>(x, wa, ba)
          b = Conv<strides=[2,2], pads=[1,1,1,1]>(a, wb)
          h = Conv(a, wh, bh)
          k = Conv(b, wh, bh)
          y = Conv(h, wo)
          z = Conv(k, wo) }"""
    )
    result = prove_half(model)
    assert removed(result) == {"a": 4, "b": 4, "h": 4, "k": 4}
    cut = tensors(result.rewritten.model)
    assert cut["wh"].shape == (4, 4, 1, 1)
    assert cut["wo"].shape == (5, 4, 1, 1)


def test_a_kernel_shared_with_an_output_layer_stays_whole() -> None:
    model = build(
        """g (float[N,3,8,8] x) => (float[N,6,H,W] y, float[N,6,H,W] z)
        <float[8,3,1,1] wa, float[8,3,1,1] wb, float[6,8,1,1] wh, float[6,6,1,1] wo>
        { a = Conv(x, wa)
          b = Conv(x, wb)
          h = Conv(a, wh)
          y = Conv(h, wo)
          z = Conv(b, wh) }"""
    )
    result = prove_half(model)
    assert removed(result) == {"a": 4, "b": 4}
    assert tensors(result.rewritten.model)["wh"].shape == (6, 4, 1, 1)
    assert walls_at(result.trace, "h")


def test_a_dequantized_constant_is_a_weight() -> None:
    model = build(
        """g (float[N,3,8,8] x) => (float[N,K,H,W] y)
        <int8[8,3,3,3] q, float[8] s, int8[8] z, float[5,8,1,1] wy>
        { wa = DequantizeLinear<axis=0>(q, s, z)
          a = Conv(x, wa)
          y = Conv(a, wy) }""",
        q=np.random.default_rng(0).integers(-128, 128, (8, 3, 3, 3)),
        z=np.zeros(8),
    )
    assert removed(prove_half(model)) == {"a": 4}


def test_half_precision() -> None:
    result = prove_half(
        build(
            """g (float16[N,3,8,8] x) => (float16[N,K,H,W] y) <float16[8,3,3,3] wa, float16[8] ba, float16[5,8,1,1] wy>
            { a = Conv(x, wa, ba)
              m = Relu(a)
              y = Conv(m, wy) }"""
        )
    )
    assert removed(result) == {"a": 4}
    assert tensors(result.rewritten.model)["wa"].dtype == np.float16


def test_double_precision() -> None:
    result = prove_half(
        build(
            """g (double[4,6] x) => (double[4,K] y) <double[6,10] w1, double[10] b1, double[10,3] w2>
            { h = Gemm(x, w1, b1)
              r = Relu(h)
              y = Gemm(r, w2) }"""
        )
    )
    assert removed(result) == {"h": 5}
    assert result.proof.max_relative_error < 1e-12


def test_a_transposed_constant_is_a_weight() -> None:
    model = dense_pair("t = Transpose(w1) h = Gemm(x, t) r = Relu(h) y = Gemm(r, w2)", "float[10,6] w1, float[10,3] w2")
    assert removed(prove_half(model)) == {"h": 5}


def test_weights_in_constant_nodes() -> None:
    model = build(
        """g (float[N,2] x) => (float[N,K] y)
        { w1 = Constant<value = float[2,4] {1,2,3,4,5,6,7,8}>()
          w2 = Constant<value = float[4,2] {1,-2,3,4,-5,6,7,8}>()
          c = Constant<value_floats = [0.5,1.5,-1.0,2.0]>()
          h = MatMul(x, w1)
          b = Add(h, c)
          y = MatMul(b, w2) }"""
    )
    result = prove_half(model)
    assert removed(result) == {"h": 2}
    assert {k: v.shape for k, v in tensors(result.rewritten.model).items()} == {"w1": (2, 2), "w2": (2, 2), "c": (2,)}


def test_weights_that_are_graph_inputs_stay_inputs_and_shrink() -> None:
    model = chain("m = Relu(a)", ir=3, opset=8)
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    result = prove_half(model)
    assert removed(result) == {"a": 4}
    declared = {
        i.name: tuple(d.dim_value for d in i.type.tensor_type.shape.dim) for i in result.rewritten.model.graph.input
    }
    assert declared["wa"] == (4, 3, 3, 3)
    assert declared["ba"] == (4,)
    assert declared["wy"] == (5, 4, 1, 1)
    assert len(declared) == 4


def test_a_vector_that_is_also_an_output_stays_whole_there() -> None:
    model = build(
        """g (float[2,3,8,8] x) => (float[2,5,8,8] y, float[8] ba)
        <float[8,3,1,1] wa, float[8] ba, float[5,8,1,1] wy>
        { a = Conv(x, wa, ba)
          y = Conv(a, wy) }"""
    )
    result = prove_half(model)
    assert removed(result) == {"a": 4}
    assert tensors(result.rewritten.model)["ba"].shape == (8,)


def test_a_kernel_that_a_body_reads_too_is_copied() -> None:
    model = build(
        """g (float[2,3,8,8] x, bool c) => (float[2,5,8,8] y) <float[8,3,1,1] wa, float[8] ba, float[5,8,1,1] wy>
        { a = Conv(x, wa, ba)
          k = If(c) <
            then_branch = t () => (float p) { p = ReduceMax<keepdims=0>(ba) },
            else_branch = e () => (float q) { q = ReduceMin<keepdims=0>(wa) }
          >
          m = Mul(a, k)
          y = Conv(m, wy) }"""
    )
    result = prove_half(model)
    assert removed(result) == {"a": 4}
    cut = tensors(result.rewritten.model)
    assert cut["wa"].shape == (8, 3, 1, 1)
    assert cut["ba"].shape == (8,)


# --- where channels reach the outside ---


def test_an_interior_tensor_that_is_also_an_output_is_a_wall() -> None:
    model = build(
        """g (float[N,3,8,8] x) => (float[N,K,H,W] y, float[N,8,H,W] r)
        <float[8,3,3,3] wa, float[6,8,1,1] wb, float[5,6,1,1] wy>
        { a = Conv(x, wa)
          r = Relu(a)
          b = Conv(r, wb)
          y = Conv(b, wy) }"""
    )
    assert_wall(model, "a", "r", "Relu", "output")
    assert removed(prove_half(model)) == {"b": 3}


def test_an_operator_of_another_domain_is_a_wall() -> None:
    model = chain("s = com.microsoft.Inverse(a) m = Relu(s)")
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert_wall(model, "a", "s", "Inverse", "no rule for the operator com.microsoft.Inverse")


def test_a_function_of_the_model_that_mixes_channels_is_a_wall() -> None:
    text = """<ir_version: 8, opset_import: ["": 17, "acme": 1]>
        g (float[N,3,8,8] x) => (float[N,K,H,W] y) <float[8,3,3,3] wa, float[6,8,1,1] wb, float[5,6,1,1] wy>
        { a = Conv(x, wa)
          b = Conv(a, wb)
          m = acme.Mix(b)
          y = Conv(m, wy) }
        <domain: "acme", opset_import: ["": 17]>
        Mix (t) => (u)
        { s = Softmax<axis=1>(t)
          u = Mul(s, t) }"""
    model = build(text)
    assert_wall(model, "b", "s__1", "Softmax", "over channels")
    assert removed(prove_half(model)) == {"a": 4}


def test_an_operator_that_nobody_can_run_is_named() -> None:
    model = chain("m = acme.Mix(a)")
    model.opset_import.append(helper.make_opsetid("acme", 1))
    with pytest.raises(ModelError, match="acme"):
        trace_model(model, None, RUNTIME)


def test_an_opset_that_onnxruntime_no_longer_runs_is_refused_by_name() -> None:
    model = chain("f = Reshape<shape=[0,8,64]>(a) m = Reshape<shape=[0,8,8,8]>(f)", opset=4, ir=3)
    with pytest.raises(ModelError, match="opset"):
        prove_half(model)


def test_a_value_computed_from_the_batch_and_the_channels_follows_the_batch() -> None:
    model = chain("n = Size(a) f = Cast<to=1>(n) d = Div(f, thousand) m = Mul(a, d)", "float thousand = {1000.0}")
    prove_half(model)  # also runs at another batch than the probe's: a frozen literal would show


def test_a_body_that_captures_a_tensor_is_a_wall() -> None:
    model = build(
        """g (float[N,3,8,8] x, bool c) => (float[N,K,H,W] y)
        <float[8,3,3,3] wa, float[6,8,1,1] wb, float[5,6,1,1] wy>
        { a = Conv(x, wa)
          b = Conv(a, wb)
          m = If(c) <
            then_branch = t () => (float[N,6,6,6] p) { p = Relu(b) },
            else_branch = e () => (float[N,6,6,6] q) { q = Neg(b) }
          >
          y = Conv(m, wy) }"""
    )
    assert_wall(model, "b", "m", "If", "body")
    assert removed(prove_half(model)) == {"a": 4}
