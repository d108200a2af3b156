"""Rows 50 to 62 of the idioms: where weights come from, matrices, attention."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import test_grouped
import test_rules
import test_rules_more
import test_semantics
from idioms import Held, Idioms, check, label
from onnx import helper
from rule_cases import chain, codes, dense_pair, tokens
from support import build

IDIOMS = Idioms()
row, see = IDIOMS.row, IDIOMS.see
RULES, MORE = test_rules.CASES, test_rules_more.CASES

# --- 50 to 53: where weights are stored ---

see(50, test_rules.test_one_zero_bias_for_three_layers_gets_a_copy_per_reader, RULES["one vector that two layers add"])
row(
    50,
    "one vector of ones for a scale, a variance, a bias and a gate",
    {"a": 4, "b": 4},
    chain(
        """n = BatchNormalization(a, v, w, w, v) r = Relu(n) b = Conv(r, wb, v) k = Mul(b, u) u2 = Add(k, u)
        m = Relu(u2)""",
        "float[8] v, float[8] w, float[8,8,1,1] wb, float[8,1,1] u",
        v=np.ones(8),
        w=np.zeros(8),
    ),
)
row(
    50,
    "one bias for layers that do not lose alike",
    {"a": 4},
    chain("b = Conv(a, wb, ba) m = Softmax<axis=1>(b)", "float[8,8,1,1] wb"),
    Held("b", "m", "Softmax", "over channels"),
)
row(
    50,
    "one Constant node for a shape and a size",
    {"a": 4},
    chain(
        "k = Constant<value_ints = [8]>() z = Constant<value_ints = [0]>() n = Constant<value_ints = [-1]>() "
        """to = Concat<axis=0>(z, k, n) f = Reshape(a, to) r = Relu(f) back = Concat<axis=0>(z, k, k, n)
        m = Reshape(r, back)""",
    ),
)

see(51, test_rules.test_one_kernel_used_on_two_inputs_stays_one_tensor)
see(51, test_rules.test_a_head_shared_by_two_levels_stays_one_tensor)
see(51, test_rules.test_a_kernel_shared_with_an_output_layer_stays_whole)
row(
    51,
    "RetinaNet's towers",
    {"a": 4, "b": 4, "p": 4, "q": 4, "t0": 4, "u0": 4},
    build(
        """g (float[N,3,8,8] x) => (float[N,K,H,W] y, float[N,K,V,U] z)
        <float[8,3,3,3] wa, float[8,8,3,3] wb, float[8,8,1,1] wp, float[8,8,1,1] wq, float[8,8,3,3] wt, float[8] bt,
         float[5,8,1,1] wo, float[5] bo>
        { a = Conv<pads=[1,1,1,1]>(x, wa)
          b = Conv<strides=[2,2], pads=[1,1,1,1]>(a, wb)
          p = Conv(a, wp)
          q = Conv(b, wq)
          t0 = Conv<pads=[1,1,1,1]>(p, wt, bt)
          u0 = Conv<pads=[1,1,1,1]>(q, wt, bt)
          t = Relu(t0)
          u = Relu(u0)
          y = Conv(t, wo, bo)
          z = Conv(u, wo, bo) }"""
    ),
)
row(
    51,
    "a layer applied twice in a row",
    {"a": 4, "b": 4, "c": 4},
    chain(
        "b = Conv<pads=[1,1,1,1]>(a, wb, ba) r = Relu(b) c = Conv<pads=[1,1,1,1]>(r, wb, ba) m = Relu(c)",
        "float[8,8,3,3] wb",
    ),
)
row(
    51,
    "siamese, one kernel behind Identity",
    {"a": 4, "b": 4},
    build(
        """g (float[N,3,8,8] x, float[N,3,8,8] z) => (float[N,K,H,W] y) <float[8,3,3,3] wa, float[5,8,1,1] wy>
        { a = Conv(x, wa)
          wb = Identity(wa)
          b = Conv(z, wb)
          d = Sub(a, b)
          e = Abs(d)
          y = Conv(e, wy) }"""
    ),
)
row(
    51,
    "tied weights, there and back (autoencoder)",
    {"h": 5},
    dense_pair("h = Gemm(x, w, b) r = Relu(h) y = Gemm<transB=1>(r, w)", "float[6,10] w, float[10] b"),
)
row(
    51,
    "on tensors that are cut differently",
    {"a": 4, "b": 4, "c": 3, "d": 3},
    chain(
        "b = Conv<pads=[1,1,1,1]>(x, wb) c = Conv(a, wc) d = Conv(b, wc) m = Concat<axis=1>(c, d)",
        "float[8,3,3,3] wb, float[6,8,1,1] wc",
        into=12,
    ),
)


def listed(model: onnx.ModelProto) -> onnx.ModelProto:
    """All initializers among the inputs, too."""
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return model


see(52, test_rules.test_weights_that_are_graph_inputs_stay_inputs_and_shrink)
see(52, test_semantics.test_overridable_weights_are_cut_with_their_inputs)
for ir in (3, 8):
    row(
        52,
        f"with shapes and axes, IR {ir}",
        {"a": 4},
        listed(
            chain(
                "f = Reshape(a, to) r = Relu(f) t = Reshape(r, back) m = Mul(t, s)",
                "int64[3] to = {-1,8,64}, int64[4] back = {0,8,8,-1}, float[1,8,1,1] s",
                ir=ir,
                opset=8,
            )
        ),
    )

see(53, test_rules.test_a_transposed_constant_is_a_weight, test_rules.test_weights_in_constant_nodes)
see(53, test_rules.test_a_dequantized_constant_is_a_weight)
for name, body, weights in (
    ("Identity, twice", "i = Identity(w) k = Identity(i)", "float[6,8,1,1] w"),
    ("Cast", "k = Cast<to=1>(w)", "float16[6,8,1,1] w"),
    ("Transpose", "k = Transpose<perm=[3,2,0,1]>(w)", "float[1,1,8,6] w"),
    ("Reshape", "k = Reshape(w, to)", "float[6,8] w, int64[4] to = {6,8,1,1}"),
    ("Reshape of a vector", "k = Reshape(w, to)", "float[48] w, int64[4] to = {6,-1,1,1}"),
    ("Unsqueeze", "k = Unsqueeze(w, hw)", "float[6,8] w, int64[2] hw = {2,3}"),
    (
        "Mul by a scale (weight normalization)",
        "n = ReduceL2<axes=[1,2,3]>(w) d = Div(w, n) k = Mul(d, s)",
        "float[6,8,1,1] w, float[6,1,1,1] s",
    ),
    ("standardization", "v = ReduceMean<axes=[1,2,3]>(w) k = Sub(w, v)", "float[6,8,1,1] w"),
    ("ConstantOfShape", "k = ConstantOfShape<value = float[1] {0.125}>(to)", "int64[4] to = {6,8,1,1}"),
    ("Concat", "k = Concat<axis=0>(w, v)", "float[4,8,1,1] w, float[2,8,1,1] v"),
    ("Slice", "k = Slice(w, two, end)", "float[8,8,1,1] w, int64[1] two = {2}, int64[1] end = {100}"),
):
    row(
        53,
        name,
        {"a": 4, "b": 3},
        chain(f"{body} b = Conv(a, k) m = Relu(b)", weights, into=6),
    )
row(
    53,
    "Constant nodes everywhere",
    {"h": 2},
    build(
        """g (float[N,2] x) => (float[N,1] y)
        { w1 = Constant<value = float[4,2] {1,2,3,4,5,6,7,8}>()
          b1 = Constant<value_floats = [0.5,1.5,-1.0,2.0]>()
          w2 = Constant<value = float[1,4] {1,-2,3,-4}>()
          h = Gemm<transB=1>(x, w1, b1)
          r = Relu(h)
          y = Gemm<transB=1>(r, w2) }"""
    ),
)

# --- 54: quantized ---

see(54, RULES["quantized activations, per tensor, and dequantized weights, per channel"])
see(54, RULES["QLinearConv, zero points, scales per channel"], RULES["QLinearConv, depthwise"])
see(54, RULES["ConvInteger behind a dynamic quantization"])
see(54, test_grouped.test_quantized_weights_of_a_grouped_layer_are_cut_per_group)
row(
    54,
    "QDQ residual block, int32 bias, C = H = W",
    {"a": 4, "b": 3, "c": 4},
    chain(
        """qa = QuantizeLinear(a, s, z) da = DequantizeLinear(qa, s, z)
        kb = DequantizeLinear<axis=0>(wb, sb, zb) bb = DequantizeLinear<axis=0>(ib, sb2)
        b = Conv<pads=[1,1,1,1]>(da, kb, bb) r = Relu(b) qb = QuantizeLinear(r, s, z) db = DequantizeLinear(qb, s, z)
        kc = DequantizeLinear<axis=-4>(wc, sc, zc) c = Conv(db, kc) t = Add(da, c)
        qt = QuantizeLinear(t, s, z) m = DequantizeLinear(qt, s, z)""",
        """float s = {0.05}, uint8 z = {128}, int8[6,8,3,3] wb, float[6] sb, int8[6] zb, int32[6] ib, float[6] sb2,
        int8[8,6,1,1] wc, float[8] sc, int8[8] zc""",
        wb=codes(6, 8, 3, 3),
        sb=np.linspace(0.001, 0.002, 6),
        zb=np.zeros(6),
        ib=codes(6, low=-500, high=500, kind=np.int32),
        sb2=np.linspace(0.0005, 0.001, 6),
        wc=codes(8, 6, 1, 1),
        sc=np.linspace(0.001, 0.002, 8),
        zc=np.zeros(8),
    ),
)
row(
    54,
    "QDQ dense layer, scales along the columns",
    {"h": 5},
    dense_pair(
        """w1 = DequantizeLinear<axis=1>(q1, s1, z1) w2 = DequantizeLinear<axis=-2>(q2, s2, z2) h = MatMul(x, w1)
        r = Relu(h) y = MatMul(r, w2)""",
        "int8[6,10] q1, float[10] s1, int8[10] z1, int8[10,3] q2, float[10] s2, int8[10] z2",
        q1=codes(6, 10),
        q2=codes(10, 3),
        s1=np.linspace(0.01, 0.02, 10),
        s2=np.linspace(0.01, 0.02, 10),
        z1=np.zeros(10),
        z2=np.zeros(10),
    ),
)

# --- 55 to 57: matrices ---

see(55, *(RULES[f"gemm transB={b}"] for b in (0, 1)), RULES["gemm transA and transB"], RULES["gemm C row"])
see(55, RULES["matmul, weight on the left"], RULES["matmul, weight of rank 3"], RULES["gemm rows"])
row(
    55,
    "every letter at once",
    {"h": 5, "k": 4},
    dense_pair(
        """h = Gemm<alpha=0.5, beta=2.0>(x, w1, c1) t = Transpose<perm=[1,0]>(h)
        k = Gemm<transA=1, transB=1, alpha=3.0, beta=-1.0>(t, w2, c2) y = Gemm(k, w3)""",
        "float[6,10] w1, float[1,10] c1, float[8,10] w2, float[1,1] c2, float[8,3] w3",
    ),
)
row(
    55,
    "square matrices",
    {"h": 3, "k": 3},
    dense_pair(
        "h = MatMul(x, w1) b = Add(h, b1) k = MatMul(b, w2) y = MatMul(k, w3)",
        "float[6,6] w1, float[6] b1, float[6,6] w2, float[6,6] w3",
    ),
)
row(
    55,
    "a stack of matrices, rank 4",
    {"h": 5},
    tokens(
        "u = Unsqueeze(x, one) h = MatMul(u, w1) r = Relu(h) k = MatMul(r, w2) y = ReduceSum<keepdims=0>(k, one)",
        "int64[1] one = {1}, float[3,6,10] w1, float[3,10,4] w2",
    ),
)
row(
    55,
    "weights on the left, maps as columns",
    {"a": 4, "h": 3},
    chain(
        "f = Reshape(a, to) h = MatMul(wh, f) r = Relu(h) m = Reshape(r, back)",
        "int64[3] to = {0,8,-1}, float[6,8] wh, int64[4] back = {0,-1,8,8}",
        into=6,
    ),
)

see(56, RULES["Transpose, NHWC MatMul as 1 × 1 convolution"])
row(
    56,
    "MLP of a ConvMixer, C = H = W",
    {"a": 4, "h": 8, "k": 4},
    chain(
        """t = Transpose<perm=[0,2,3,1]>(a) h = MatMul(t, wh) g = Add(bh, h) r = Relu(g) k = MatMul(r, wk)
        s = Add(k, t) m = Transpose<perm=[0,3,1,2]>(s)""",
        "float[8,16] wh, float[16] bh, float[16,8] wk",
    ),
)

see(57, RULES["Transpose, NHWC sandwich"])
row(
    57,
    "as tf2onnx writes it",
    {"a0": 4, "b": 3},
    build(
        """g (float[N,8,8,3] x) => (float[N,H,W,5] y)
        <float[8,3,3,3] wa, float[8] ba, float[8] s, float[6,8,1,1] wb, float[1,1,1,6] k, float[5,6,1,1] wy>
        { t = Transpose<perm=[0,3,1,2]>(x)
          a0 = Conv<auto_pad="SAME_UPPER">(t, wa, ba)
          a = Identity(a0)
          a1 = Transpose<perm=[0,2,3,1]>(a)
          a2 = Mul(a1, s)
          a3 = Relu(a2)
          a4 = Transpose<perm=[0,3,1,2]>(a3)
          b = Conv(a4, wb)
          b1 = Transpose<perm=[0,2,3,1]>(b)
          b2 = Add(b1, k)
          p = ReduceMean<axes=[1,2]>(b2)
          b3 = Mul(b2, p)
          c = Transpose<perm=[0,3,1,2]>(b3)
          y0 = Conv(c, wy)
          y = Transpose<perm=[0,2,3,1]>(y0) }"""
    ),
)
row(
    57,
    "Concat and Pad on the last axis, three axes swapped",
    {"a": 4, "b": 3},
    chain(
        """b = Conv<pads=[1,1,1,1]>(x, wb) s = Transpose<perm=[2,3,0,1]>(a) t = Transpose<perm=[2,3,0,1]>(b)
        c = Concat<axis=-1>(s, t) p = Pad(c, pads) m = Transpose<perm=[2,3,0,1]>(p)""",
        "float[6,3,3,3] wb, int64[8] pads = {0,1,0,0,1,0,0,0}",
        into=14,
    ),
)

# --- 58 to 61: attention ---

see(58, RULES["matmul, q·kᵀ and ·v"], RULES["matmul, heads"], RULES["matmul, channel attention (C × C)"])
see(58, RULES["matmul, head dimension scaled by its own size, read from Shape"])
HEADS = """float[6,12] wq, float[6,12] wk, float[6,12] wv, float[12,3] wo, int64[4] split = {0,0,3,4}, int64[3]
merge = {0,0,12}"""
QKV = """q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) q4 = Reshape(q, split) k4 = Reshape(k, split)
    v4 = Reshape(v, split) """
row(
    58,
    "heads, a literal scale on both sides, a mask",
    {"q": 6, "k": 6, "v": 6},
    tokens(
        f"""{QKV} qh = Transpose<perm=[0,2,1,3]>(q4) kh = Transpose<perm=[0,2,3,1]>(k4)
        vh = Transpose<perm=[0,2,1,3]>(v4)
        qs = Mul(qh, root) ks = Mul(kh, root) s = MatMul(qs, ks) sm = Add(s, mask) p = Softmax(sm) o = MatMul(p, vh)
        ot = Transpose<perm=[0,2,1,3]>(o) om = Reshape(ot, merge) y = MatMul(om, wo)""",
        f"{HEADS}, float root = {{0.7071}}, float[1,1,5,5] mask",
    ),
)
row(
    58,
    "heads merged with the batch (nn.MultiheadAttention)",
    {"q": 6, "k": 6, "v": 6},
    build(
        """g (float[5,2,6] x) => (float[5,2,3] y)
        <float[6,12] wq, float[6,12] wk, float[6,12] wv, float[12] bq, float[12,3] wo, int64[3] split = {5,6,4},
         int64[3] merge = {5,2,12}>
        { q = MatMul(x, wq)
          qb = Add(q, bq)
          k = MatMul(x, wk)
          v = MatMul(x, wv)
          q3 = Reshape(qb, split)
          k3 = Reshape(k, split)
          v3 = Reshape(v, split)
          qh = Transpose<perm=[1,0,2]>(q3)
          kh = Transpose<perm=[1,2,0]>(k3)
          vh = Transpose<perm=[1,0,2]>(v3)
          s = MatMul(qh, kh)
          p = Softmax(s)
          o = MatMul(p, vh)
          ot = Transpose<perm=[1,0,2]>(o)
          om = Reshape(ot, merge)
          y = MatMul(om, wo) }"""
    ),
)

PACKED = """h = MatMul(x, wh) hb = Add(h, bh) f = Reshape(hb, five) t = Transpose<perm=[2,0,3,1,4]>(f) {unbind}
    kt = Transpose<perm=[0,1,3,2]>(k) s = MatMul(q, kt) w = Div(s, root) p = Softmax(w) o = MatMul(p, v)
    ot = Transpose<perm=[0,2,1,3]>(o) om = Reshape(ot, merge) y = MatMul(om, wo)"""
PACK = """float[6,36] wh, float[36] bh, int64[5] five = {0,5,3,3,4}, float root = {2}, int64[3] merge = {0,0,12},
    float[12,3] wo"""
for name, unbind, weights in (
    (
        "Gather",
        "q = Gather<axis=0>(t, i0) k = Gather<axis=0>(t, i1) v = Gather<axis=0>(t, i2)",
        "int64 i0 = {0}, int64 i1 = {1}, int64 i2 = {-1}",
    ),
    (
        "Split and Squeeze (unbind)",
        "a, b, c = Split<axis=0>(t, ones) q = Squeeze(a, i0) k = Squeeze(b, i0) v = Squeeze(c, i0)",
        "int64[3] ones = {1,1,1}, int64[1] i0 = {0}",
    ),
    (
        "Slice and Squeeze",
        """a = Slice(t, i0, i1, i0) b = Slice(t, i1, i2, i0) c = Slice(t, i2, i3, i0) q = Squeeze(a, i0)
        k = Squeeze(b, i0) v = Squeeze(c, i0)""",
        "int64[1] i0 = {0}, int64[1] i1 = {1}, int64[1] i2 = {2}, int64[1] i3 = {3}",
    ),
):
    row(59, name, {"h": 18}, tokens(PACKED.format(unbind=unbind), f"{PACK}, {weights}"))
row(
    59,
    "Split of the projection",
    {"h": 19},  # 12 of 24 decisions; those on q and k take two channels
    tokens(
        """h = MatMul(x, wh) q, k, v = Split<axis=-1>(h, third) kt = Transpose<perm=[0,2,1]>(k) s = MatMul(q, kt)
        p = Softmax(s) o = MatMul(p, v) y = MatMul(o, wo)""",
        "float[6,36] wh, int64[3] third = {12,12,12}, float[12,3] wo",
    ),
)

row(
    58,
    "linear attention, normalized by sums",
    {"q": 4, "k": 4, "v": 5},
    tokens(
        """q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) kr = Relu(k) qr = Relu(q)
        kt = Transpose<perm=[0,2,1]>(kr) c = MatMul(kt, v) o = MatMul(qr, c) ks = ReduceSum(kr, one) p = Mul(qr, ks)
        d = ReduceSum(p, two) e = Add(d, eps) n = Div(o, e) y = MatMul(n, wo)""",
        """float[6,8] wq, float[6,8] wk, float[6,10] wv, float[10,3] wo, int64[1] one = {1}, int64[1] two = {-1},
        float eps = {0.1}""",
    ),
)
row(
    58,
    "linear attention, normalized by a column of ones (EfficientViT)",
    {"q": 4, "k": 4, "v": 5},
    tokens(
        """q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) vp = Pad(v, pads, one) kr = Relu(k) qr = Relu(q)
        kt = Transpose<perm=[0,2,1]>(kr) c = MatMul(kt, vp) o = MatMul(qr, c) num = Slice(o, zero, minus, last)
        den = Slice(o, minus, end, last) e = Add(den, eps) n = Div(num, e) y = MatMul(n, wo)""",
        """float[6,8] wq, float[6,8] wk, float[6,10] wv, float[10,3] wo, int64[6] pads = {0,0,0,0,0,1}, float one = {1},
        int64[1] zero = {0}, int64[1] minus = {-1}, int64[1] end = {9223372036854775807}, int64[1] last = {-1},
        float eps = {0.1}""",
    ),
)

see(60, *(MORE[f"Einsum, {n}"] for n in ("a dense layer", "pointwise convolution of maps", "q·kᵀ and ·v")))
see(60, MORE["Einsum of three operands"], test_rules_more.WALLS["Einsum with a fixed activation"])
row(
    60,
    "heads, bhqd,bhkd->bhqk",
    {"q": 6, "k": 6, "v": 6},
    tokens(
        f"""{QKV} s = Einsum<equation="bqhd,bkhd->bhqk">(q4, k4) p = Softmax(s)
        o = Einsum<equation="bhqk,bkhd->bqhd">(p, v4) om = Reshape(o, merge) y = MatMul(om, wo)""",
        HEADS,
    ),
)
row(
    60,
    "a sum over branches",
    {"a": 4, "b": 4},
    chain(
        """b = Conv<pads=[1,1,1,1]>(x, wb) u = Unsqueeze(a, one) v = Unsqueeze(b, one) c = Concat<axis=1>(u, v)
        m = Einsum<equation="nrchw,r->nchw">(c, k)""",
        "float[8,3,3,3] wb, int64[1] one = {1}, float[2] k",
    ),
)
row(
    60,
    "one letter that nobody else has",
    {"a": 4},
    chain(
        """s = Einsum<equation="nchw->nc">(a) u = Unsqueeze(s, hw) m = Mul(a, u)""",
        "int64[2] hw = {2,3}",
    ),
)

LOCAL = """t = Conv(a, wt) p = Conv(a, wp) g = Conv(a, wg) tf = Reshape(t, to) pf = Reshape(p, to) gf = Reshape(g, to)
    tt = Transpose<perm=[0,2,1]>(tf) gt = Transpose<perm=[0,2,1]>(gf) s = MatMul(tt, pf) {norm} o = MatMul(z, gt)
    ot = Transpose<perm=[0,2,1]>(o) of = Reshape(ot, back) w = Conv(of, ww) m = Add(a, w)"""
LOCALS = """float[4,8,1,1] wt, float[4,8,1,1] wp, float[4,8,1,1] wg, float[8,4,1,1] ww, int64[3] to = {0,4,64},
    int64[4] back = {0,4,8,8}"""
for name, norm, weights in (
    ("embedded Gaussian", "z = Softmax(s)", ""),
    ("dot product", "z = Div(s, count)", ", float count = {64}"),
):
    row(
        61,
        name,
        {"a": 4, "t": 2, "p": 2, "g": 2, "w": 4},
        chain(LOCAL.format(norm=norm), f"{LOCALS}{weights}"),
    )
row(
    61,
    "channel attention (DANet)",
    {"b": 3},
    chain(
        """f = Reshape(a, to) t = Transpose<perm=[0,2,1]>(f) s = MatMul(f, t) z = Softmax(s) o = MatMul(z, f)
        of = Reshape(o, back) k = Mul(of, gamma) u = Add(k, a) b = Conv(u, wb) m = Relu(b)""",
        "int64[3] to = {-1,8,64}, int64[4] back = {-1,8,8,8}, float[1] gamma, float[6,8,1,1] wb",
        into=6,
    ),
    Held("a", "z", "Softmax", "over channels"),
)

# --- 62 ---

see(62, RULES["Where, constant condition"], RULES["Where, two branches"], RULES["Greater and Where"])
see(62, RULES["Expand spells the channels"], RULES["Expand to a Shape"], RULES["Expand makes the channels up"])
row(
    62,
    "a mask of positions over channels",
    {"a": 4},
    chain(
        """c = Conv(x, wc) l = Less(c, half) z = ConstantOfShape(one) zf = Reshape(z, one4) e = Equal(a, big)
        n = Not(l) f = Cast<to=1>(n) k = Mul(a, f) m = Where(e, k, a)""",
        "float[1,3,1,1] wc, float half = {0.5}, int64[1] one = {1}, int64[4] one4 = {1,1,1,1}, float big = {9}",
    ),
)
row(
    62,
    "Where with a scalar and -inf, then Softmax over rows",
    {"a": 4},
    chain(
        "g = Greater(a, zero) w = Where(g, a, low) s = Softmax(w) m = Mul(s, a)",
        "float zero = {-0.5}, float low = {-10000.0}",
    ),
)

SHORT = Idioms()
SHORT.row(
    62,
    "a vector expanded to the channels",
    {"a": 4},
    chain(
        "sh = Shape(a) e = Expand(v, sh) k = Add(a, e) f = Expand(s, sh) m = Mul(k, f)",
        "float[8,1,1] v, float s = {0.5}",
    ),
)
SHORT.row(
    62,
    "a learned query expanded to the batch",
    {"h": 5},
    tokens(
        """h = MatMul(x, w1) n = Shape<end=1>(x) to = Concat<axis=0>(n, rest) e = Expand(c, to)
        j = Concat<axis=1>(e, h) y = MatMul(j, w2)""",
        "float[6,10] w1, float[10,3] w2, float[1,1,10] c, int64[2] rest = {1,10}",
    ),
)


@pytest.mark.xfail(
    strict=True, reason="a constant that Expand stretches to a symbolic shape is not cut: a wall says so"
)
@pytest.mark.parametrize("key", SHORT.names, ids=label)
def test_short_of_the_idiom(key: tuple[int, str]) -> None:
    check(SHORT.own[key])


@pytest.mark.parametrize("key", IDIOMS.names, ids=label)
def test_idiom(key: tuple[int, str]) -> None:
    check(IDIOMS.own[key])
