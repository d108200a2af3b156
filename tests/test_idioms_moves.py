"""Rows 33 to 49 of the idioms: channels that are joined, split, picked and shuffled, grouped layers, resizing."""

from __future__ import annotations

import pytest
import test_grouped
import test_rules
import test_rules_more
from idioms import Held, Idioms, check, label
from rule_cases import chain, fixed_batch, head
from support import build, prove_half, removed

IDIOMS = Idioms()
row, see = IDIOMS.row, IDIOMS.see
RULES, MORE = test_rules.CASES, test_rules_more.CASES
SIX = "float[6,3,3,3] wb"
BRANCH = "b = Conv<pads=[1,1,1,1]>(x, wb)"

# --- 33, 34: Concat ---

see(33, RULES["Concat, twice the same tensor"], RULES["Concat, axis -3"])
row(
    33,
    "nested, reused, with the image",
    {"a": 4, "b": 3},
    chain(f"{BRANCH} d = Concat<axis=1>(b, x, a) e = Relu(d) m = Concat<axis=-3>(a, e, b, e)", SIX, into=48),
)
row(33, "of one", {"a": 4}, chain("m = Concat<axis=1>(a)"))
row(
    33,
    "of vectors",
    {"a": 4, "b": 3},
    head(
        f"""{BRANCH} p = GlobalAveragePool(a) q = GlobalMaxPool(b) f = Flatten(p) g = Flatten(q)
        c = Concat<axis=-1>(f, g) y = Gemm<transB=1>(c, wy)""",
        f"{SIX}, float[4,14] wy",
    ),
)
row(
    33,
    "before the Flatten",
    {"a": 4, "b": 3},
    head(f"{BRANCH} c = Concat<axis=1>(b, a) f = Flatten(c) y = Gemm(f, wy)", f"{SIX}, float[224,4] wy"),
)

see(34, RULES["Concat, dense block"])
DENSE = """n1 = BatchNormalization(a, s1, o1, s1, v1) r1 = Relu(n1) b = Conv<pads=[1,1,1,1]>(r1, wb)
    c1 = Concat<axis=1>(a, b) n2 = BatchNormalization(c1, s2, o2, s2, v2) r2 = Relu(n2)
    c = Conv<pads=[1,1,1,1]>(r2, wc) c2 = Concat<axis=1>({second}) n3 = BatchNormalization(c2, s3, o3, s3, v3)
    r3 = Relu(n3) d = Conv(r3, wd) m = AveragePool<kernel_shape=[2,2], strides=[2,2]>(d)"""
GROWTH = ", ".join(f"float[{c}] s{i}, float[{c}] o{i}, float[{c}] v{i}" for i, c in ((1, 8), (2, 12), (3, 16)))
for name, second in (("concat of a concat", "c1, c"), ("concat of all", "a, b, c")):
    row(
        34,
        f"DenseNet, {name}",
        {"a": 4, "b": 2, "c": 2, "d": 4},
        chain(DENSE.format(second=second), f"float[4,8,3,3] wb, float[4,12,3,3] wc, float[8,16,1,1] wd, {GROWTH}"),
    )

# --- 35 to 38: Split, Slice, Gather ---

SPELLINGS = ("attribute, opset 11", "input, opset 13", "equal, opset 11", "equal, opset 13", "num_outputs, opset 18")
see(35, *(RULES[f"Split, {name}"] for name in (*SPELLINGS, "num_outputs uneven", "only one part is used")))
for opset, spelling in (
    (11, "Split<axis=-3>(a)"),
    (13, "Split<axis=-3>(a, half)"),
    (18, "Split<axis=1, num_outputs=2>(a)"),
):
    row(
        35,
        f"C2f, opset {opset}",
        {"a": 4, "b": 2, "c": 2, "d": 2, "e": 2},
        chain(
            f"""p, q = {spelling} b = Conv<pads=[1,1,1,1]>(q, wb) s = Sigmoid(b) t = Mul(b, s)
            c = Conv<pads=[1,1,1,1]>(t, wc) u = Add(q, c) d = Conv(u, wd) e = Conv(d, we) v = Add(u, e)
            m = Concat<axis=1>(p, q, u, v)""",
            """int64[2] half = {4,4}, float[4,4,3,3] wb, float[4,4,3,3] wc, float[4,4,1,1] wd, float[4,4,1,1] we""",
            into=16,
            opset=opset,
        ),
    )
row(
    35,
    "CSP, two Convs in place of a Split",
    {"a": 4, "b": 3, "c": 2, "d": 2},
    chain(
        "b = Conv(a, wb) c = Conv(a, wc) d = Conv(c, wd) e = Add(c, d) m = Concat<axis=1>(e, b)",
        "float[6,8,1,1] wb, float[4,8,1,1] wc, float[4,4,1,1] wd",
        into=10,
    ),
)

see(36, *(RULES[f"GLU, opset {opset}"] for opset in (11, 13, 18)), RULES["Slice, halves computed from Shape"])
row(
    36,
    "SimpleGate of a depthwise layer, with its own gate (NAFNet)",
    {"a": 4, "b": 8, "c": 8, "e": 4, "d": 4},
    chain(
        """b = Conv(a, wb) c = Conv<group=16, pads=[1,1,1,1]>(b, wc) p, q = Split<axis=1>(c, half) k = Mul(p, q)
        g = GlobalAveragePool(k) e = Conv(g, we) l = Mul(k, e) d = Conv(l, wd) z = Mul(d, beta) m = Add(a, z)""",
        """float[16,8,1,1] wb, float[16,1,3,3] wc, int64[2] half = {8,8}, float[8,8,1,1] we, float[8,8,1,1] wd,
        float[1,8,1,1] beta""",
    ),
)
row(
    36,
    "NHWC, by Slice",
    {"a": 4, "h": 8},
    chain(
        """t = Transpose<perm=[0,2,3,1]>(a) h = MatMul(t, wh) p = Slice(h, zero, eight, last)
        q = Slice(h, eight, end, last) s = Sigmoid(p) k = Mul(q, s) m = Transpose<perm=[0,3,1,2]>(k)""",
        """float[8,16] wh, int64[1] zero = {0}, int64[1] eight = {8}, int64[1] end = {9223372036854775807},
        int64[1] last = {-1}""",
    ),
)

see(
    37,
    *(RULES[f"Slice, {name}"] for name in ("channels", "negative ends", "INT_MAX", "step 2", "step -1", "attributes")),
)
row(
    37,
    "every other channel, both ways",
    {"a": 4},
    chain(
        "p = Slice(a, zero, end, c, two) q = Slice(a, one, end, c, two) s = Sigmoid(q) m = Concat<axis=1>(p, s)",
        "int64[1] zero = {0}, int64[1] one = {1}, int64[1] end = {100}, int64[1] c = {-3}, int64[1] two = {2}",
    ),
)
row(
    37,
    "channels and positions at once, C = H = W",
    {"a": 4},
    chain(
        "m = Slice(a, from, to, axes, step)",
        """int64[3] from = {-1,1,-9}, int64[3] to = {2,-1,7}, int64[3] axes = {2,1,-1}, int64[3] step = {-2,1,3}""",
        into=6,
    ),
)
row(
    37,
    "ShuffleNet's halves by attributes",
    {"a": 4, "b": 2},
    chain(
        """p = Slice<axes=[1], starts=[0], ends=[4]>(a) q = Slice<axes=[-3], starts=[4], ends=[2147483647]>(a)
        b = Conv(q, wb) m = Concat<axis=1>(p, b)""",
        "float[4,4,1,1] wb",
        opset=9,
    ),
)
row(
    37,
    "int32 bounds",
    {"a": 4},
    chain("m = Slice(a, from, to, c)", "int32[1] from = {-5}, int32[1] to = {-1}, int32[1] c = {1}", into=4),
)

see(38, RULES["Gather, permutation"], RULES["Gather, subset, repeated and negative"])
see(
    38, RULES["Gather, BGR flip of the image"], test_rules.test_a_single_index_keeps_that_channel_and_lets_the_others_go
)
row(
    38,
    "axis -3, int32, some twice",
    {"a": 4},
    chain("m = Gather<axis=-3>(a, i)", "int32[10] i = {7,-8,2,2,1,0,3,-1,5,4}", into=10),
)
row(
    38,
    "a shuffle as two permutations",
    {"a": 4, "b": 4},
    chain(
        """p = Gather<axis=1>(a, i) b = Conv<group=8, pads=[1,1,1,1]>(p, wb) q = Gather<axis=1>(b, j) m = Add(q, a)""",
        "int64[8] i = {0,4,1,5,2,6,3,7}, int64[8] j = {0,2,4,6,1,3,5,7}, float[8,1,3,3] wb",
    ),
)
row(
    38,
    "halves of pairs (indices of rank 2)",
    {"a": 4},
    chain(
        "t = Gather<axis=1>(a, i) m = ReduceSum<keepdims=0>(t, one)",
        "int64[2,4] i = {0,2,4,6,1,3,5,7}, int64[1] one = {1}",
        into=4,
    ),
)

row(
    38,
    "windows by indices of rank 2 (unfold)",
    {"a": 4},
    head(
        """p = Pad(a, pads) g = Gather<axis=2>(p, i) h = Gather<axis=4>(g, i) t = Transpose<perm=[0,1,2,4,3,5]>(h)
        f = Reshape(t, flat) u = Transpose<perm=[0,2,1]>(f) z = MatMul(u, wz)
        y = ReduceMean<axes=[1], keepdims=0>(z)""",
        """int64[8] pads = {0,0,1,1,0,0,1,1}, int64[3,4] i = {0,1,2,3,1,2,3,4,2,3,4,5}, int64[3] flat = {0,72,16},
        float[72,5] wz""",
    ),
)

# --- 39 to 41: shuffles ---

see(39, RULES["channel shuffle between grouped convolutions"], RULES["channel shuffle, plain convolutions"])
see(39, RULES["channel shuffle, depthwise (ShuffleNet v2 unit)"])
UNIT = """g (float[N,3,8,8] x) => (float[N,K,H,W] y)
    <float[12,3,1,1] wa, float[12,{each},1,1] wg, float[12,1,3,3] wd, float[12,{each},1,1] wh, float[5,12,1,1] wy,
     int64[5] five = {{0,{groups},{each},8,8}}, int64[4] four = {{0,-1,8,8}}>
    {{ a = Conv(x, wa)
       g = Conv<group={groups}>(a, wg)
       r = Reshape(g, five)
       t = Transpose<perm=[0,2,1,3,4]>(r)
       s = Reshape(t, four)
       d = Conv<group=12, pads=[1,1,1,1]>(s, wd)
       h = Conv<group={groups}>(d, wh)
       m = Add(a, h)
       y = Conv(m, wy) }}"""
row(39, "ShuffleNet v1 unit, 2 groups", {"a": 6, "g": 4, "d": 4, "h": 6}, build(UNIT.format(groups=2, each=6)))
row(
    39,
    "ShuffleNet v1 unit, 3 groups of 4",  # no way to drop some of every group on both sides of the shuffle
    {"a": 6, "h": 6},
    build(UNIT.format(groups=3, each=4)),
    *(Held(layer, "g", "Conv", "only go all together") for layer in "gd"),
)
row(
    39,
    "sizes from Shape",
    {"a": 4},
    chain(
        """sh = Shape(a) n = Gather(sh, zero) c = Gather(sh, one) h = Gather(sh, two) w = Gather(sh, three)
        cg = Div(c, two) to = Concat<axis=0>(n, two, cg, h, w) back = Concat<axis=0>(n, c, h, w)
        r = Reshape(a, to) t = Transpose<perm=[0,2,1,3,4]>(r) m = Reshape(t, back)""",
        "int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] three = {3}",
    ),
)
row(
    39,
    "batch merged with groups (ShuffleNet v2 of mmcls)",
    {"a": 4},
    chain(
        """r = Reshape(a, to) t = Transpose<perm=[1,0,2]>(r) u = Reshape(t, back) p = Gather<axis=0>(u, zero)
        q = Gather<axis=0>(u, one) m = Concat<axis=1>(q, p)""",
        "int64[3] to = {-1,2,64}, int64[5] back = {2,-1,4,8,8}, int64 zero = {0}, int64 one = {1}",
    ),
)

see(
    40,
    *(
        RULES[f"DepthToSpace {mode}{more}"]
        for mode in ("DCR", "CRD")
        for more in ("", ", more positions than channels")
    ),
)
for mode in ("DCR", "CRD"):
    row(
        40,
        f"{mode}, blocks of 2, a layer behind",
        {"a": 4, "b": 8},
        chain(
            f'b = Conv(a, wb, bb) d = DepthToSpace<blocksize=2, mode="{mode}">(b) m = PRelu(d, s)',
            "float[16,8,1,1] wb, float[16] bb, float[4,1,1] s",
            into=4,
        ),
    )
row(
    40,
    "to a single channel",
    {"a": 4},
    chain("b = Conv(a, wb) m = DepthToSpace<blocksize=2>(b)", "float[4,8,1,1] wb", into=1),
    Held("b", "b", "Conv", "only go all together"),
)
row(
    40,
    "SpaceToDepth and back",
    {"a": 4},
    chain("s = SpaceToDepth<blocksize=4>(a) r = Relu(s) m = DepthToSpace<blocksize=4>(r)"),
)

see(41, RULES["SpaceToDepth, decomposed (focus)"], RULES["pixel shuffle, decomposed"])
row(
    41,
    "Focus by strided slices",
    {"a": 4},
    chain(
        """e = Slice(a, zero, end, h, two) o = Slice(a, one, end, h, two) ee = Slice(e, zero, end, w, two)
        eo = Slice(e, one, end, w, two) oe = Slice(o, zero, end, w, two) oo = Slice(o, one, end, w, two)
        m = Concat<axis=1>(ee, oe, eo, oo)""",
        """int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] end = {9223372036854775807},
        int64[1] h = {-2}, int64[1] w = {3}""",
        into=32,
    ),
)
row(
    41,
    "Focus of the image, attributes",
    {"a": 4},
    build(
        """g (float[N,3,8,8] x) => (float[N,K,H,W] y) <float[8,12,1,1] wa, float[5,8,1,1] wy>
        { e = Slice<axes=[2,3], starts=[0,0], ends=[8,8]>(x)
          s = SpaceToDepth<blocksize=2>(e)
          a = Conv(s, wa)
          y = Conv(a, wy) }""",
        9,
    ),
)
for name, six, perm, four in (
    ("unshuffle", "0,8,4,2,4,2", "0,1,3,5,2,4", "0,-1,4,4"),
    ("shuffle, DCR", "0,2,2,2,8,8", "0,3,4,1,5,2", "0,2,16,-1"),
):
    row(
        41,
        f"pixel {name}",
        {"a": 4},
        chain(
            f"r = Reshape(a, six) t = Transpose<perm=[{perm}]>(r) m = Reshape(t, four)",
            f"int64[6] six = {{{six}}}, int64[4] four = {{{four}}}",
            into=32 if name == "unshuffle" else 2,
        ),
    )
row(
    41,
    "patch merging (Swin), NHWC",
    {"a": 4},
    chain(
        """t = Transpose<perm=[0,2,3,1]>(a) r = Reshape(t, six) u = Transpose<perm=[0,1,3,4,2,5]>(r)
        f = Reshape(u, four) m = Transpose<perm=[0,3,1,2]>(f)""",
        "int64[6] six = {-1,4,2,4,2,8}, int64[4] four = {-1,4,4,32}",
        into=32,
    ),
)

# --- 42 to 46: grouped layers ---

see(42, RULES["conv depthwise"], RULES["conv transpose, depthwise"])
row(
    42,
    "inverted residual",
    {"a": 4, "b": 8, "c": 8, "d": 4},
    chain(
        """b = Conv(a, wb, bb) r = Clip<min=0.0, max=6.0>(b) c = Conv<group=16, pads=[1,1,1,1]>(r, wc, bb)
        s = Clip<min=0.0, max=6.0>(c) d = Conv(s, wd) m = Add(a, d)""",
        "float[16,8,1,1] wb, float[16] bb, float[16,1,3,3] wc, float[8,16,1,1] wd",
        opset=8,
    ),
)
row(
    42,
    "of the image",
    {"c": 4},
    build(
        """g (float[N,3,8,8] x) => (float[N,K,H,W] y) <float[3,1,3,3] wa, float[8,3,1,1] wc, float[5,8,1,1] wy>
    { a = Conv<group=3>(x, wa)
      c = Conv(a, wc)
      y = Conv(c, wy) }"""
    ),
    Held("a", "a", "Conv", "depthwise"),
)
row(
    42,
    "1-D, twice",
    {"a": 4, "b": 4, "c": 4},
    build(
        """g (float[N,3,8] x) => (float[N,K,L] y)
    <float[8,3,1] wa, float[8,1,3] wb, float[8,1,5] wc, float[8] bc, float[5,8,1] wy>
    { a = Conv(x, wa)
      b = Conv<group=8, pads=[1,1]>(a, wb)
      c = Conv<group=8, dilations=[2], pads=[4,4]>(b, wc, bc)
      y = Conv(c, wy) }"""
    ),
)

see(43, RULES["conv depthwise, multiplier 2"])
row(
    43,
    "multiplier 2, residual",
    {"a": 4, "b": 8, "c": 4},
    chain(
        "b = Conv<group=8, pads=[1,1,1,1]>(a, wb, bb) r = Relu(b) c = Conv(r, wc) m = Add(a, c)",
        "float[16,1,3,3] wb, float[16] bb, float[8,16,1,1] wc",
    ),
)
row(
    43,
    "one channel out is not depthwise",
    {"a": 4, "c": 3},
    chain("b = Conv(a, wb) r = Relu(b) c = Conv(r, wc) m = Relu(c)", "float[1,8,1,1] wb, float[6,1,1,1] wc", into=6),
)
row(
    43,
    "one channel in, many out",
    {"a": 4},
    build(
        """g (float[N,1,8,8] x) => (float[N,K,H,W] y) <float[8,1,3,3] wa, float[5,8,1,1] wy>
    { a = Conv<group=1>(x, wa)
      y = Conv(a, wy) }"""
    ),
)

see(44, RULES["conv grouped"], RULES["conv grouped, more groups than columns"])
see(44, test_grouped.test_every_kind_is_cut_and_proven, test_grouped.test_the_kind_that_leaves_more_choices_is_taken)
row(
    44,
    "ResNeXt block",
    {"a": 4, "b": 8, "c": 8, "d": 4},
    chain(
        """b = Conv(a, wb) r = Relu(b) c = Conv<group=4, pads=[1,1,1,1]>(r, wc) s = Relu(c) d = Conv(s, wd)
        m = Add(a, d)""",
        "float[16,8,1,1] wb, float[16,4,3,3] wc, float[8,16,1,1] wd",
    ),
)
row(
    44,
    "groups of the image",
    {"a": 4, "c": 4},
    build(
        """g (float[N,4,8,8] x) => (float[N,K,H,W] y) <float[8,2,3,3] wa, float[8,8,1,1] wc, float[5,8,1,1] wy>
        { a = Conv<group=2>(x, wa)
          c = Conv(a, wc)
          y = Conv(c, wy) }"""
    ),
)

row(
    45,
    "2 and 4 groups",
    {"a": 4, "b": 4, "c": 4},
    chain(
        "b = Conv<group=2>(a, wb) r = Relu(b) c = Conv<group=4>(r, wc) m = Relu(c)",
        "float[8,4,1,1] wb, float[8,2,1,1] wc",
    ),
)
row(
    45,
    "2 and 3 groups of 12",
    {"a": 6, "b": 6, "c": 6},
    build(
        """g (float[N,3,8,8] x) => (float[N,K,H,W] y)
    <float[12,3,1,1] wa, float[12,6,1,1] wb, float[12,4,1,1] wc, float[5,12,1,1] wy>
    { a = Conv(x, wa)
      b = Conv<group=2>(a, wb)
      c = Conv<group=3>(b, wc)
      y = Conv(c, wy) }"""
    ),
)
row(
    45,
    "grouped branches that are added",
    {"a": 4, "b": 4, "c": 4},
    chain("b = Conv<group=2>(a, wb) c = Conv<group=4>(a, wc) m = Add(b, c)", "float[8,4,1,1] wb, float[8,2,1,1] wc"),
)
row(
    45,
    "a grouped and a depthwise layer",
    {"a": 4, "b": 4, "c": 4},
    chain("b = Conv<group=8>(a, wb) c = Conv<group=2>(b, wc) m = Add(a, c)", "float[8,1,1,1] wb, float[8,4,1,1] wc"),
)

see(46, RULES["conv transpose"], RULES["conv transpose, grouped"], RULES["conv transpose, depthwise"])
row(
    46,
    "U-Net",
    {"a": 4, "b": 8, "c": 4, "d": 4},
    chain(
        """r = Relu(a) p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r) b = Conv<pads=[1,1,1,1]>(p, wb) s = Relu(b)
    c = ConvTranspose<kernel_shape=[2,2], strides=[2,2]>(s, wc, bc) e = Concat<axis=1>(r, c)
    d = Conv<pads=[1,1,1,1]>(e, wd) m = Relu(d)""",
        "float[16,8,3,3] wb, float[16,8,2,2] wc, float[8] bc, float[8,16,3,3] wd",
    ),
)
row(
    46,
    "1-D, output_padding",
    {"a": 4, "b": 3},
    build(
        """g (float[N,3,8] x) => (float[N,K,L] y) <float[8,3,1] wa, float[8,6,3] wb, float[6] bb, float[5,6,1] wy>
    { a = Conv(x, wa)
      b = ConvTranspose<strides=[2], pads=[1,1], output_padding=[1]>(a, wb, bb)
      y = Conv(b, wy) }"""
    ),
)
row(
    46,
    "3-D, C = D = H = W",
    {"a": 2, "b": 2},
    build(
        """g (float[N,3,4,4,4] x) => (float[N,K,D,H,W] y) <float[4,3,1,1,1] wa, float[4,4,2,2,2] wb,
        float[5,4,1,1,1] wy>
    { a = Conv(x, wa)
      b = ConvTranspose(a, wb)
      y = Conv(b, wy) }"""
    ),
)
row(
    46,
    "to the output",
    {"a": 4},
    build(
        """g (float[N,3,8,8] x) => (float[N,1,H,W] y) <float[8,3,1,1] wa, float[8,1,2,2] wy, float[1] by>
    { a = Conv(x, wa)
      y = ConvTranspose<strides=[2,2]>(a, wy, by) }"""
    ),
)

# --- 47 to 49 ---

see(
    47,
    *(
        RULES[n]
        for n in ("MaxPool", "AveragePool", "Resize, scales", "Resize, sizes", "Upsample, opset 9", "unary Dropout")
    ),
)
see(
    47,
    RULES["Expand spells the channels"],
    RULES["Tile, positions"],
    RULES["a constant made to the channels' own shape"],
)
row(
    47,
    "one after the other",
    {"a": 4},
    chain(
        """p = Pad<mode="reflect">(a, pads) q = MaxPool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(p)
        d = Dropout(q)
    i = Identity(d) c = Clip(i, zero) e = Cast<to=11>(c) f = Cast<to=1>(e) u = Resize<mode="linear">(f, , scales)
    m = AveragePool<kernel_shape=[2,2], auto_pad="SAME_UPPER">(u)""",
        "int64[8] pads = {0,0,1,1,0,0,1,1}, float zero = {0}, float[4] scales = {1,1,2,2}",
    ),
)
row(
    47,
    "Upsample by a Constant, opset 9",
    {"a": 4},
    chain('k = Constant<value = float[4] {1,1,2,2}>() m = Upsample<mode="linear">(a, k)', opset=9),
)
row(
    47,
    "Resize, literal sizes, C = H = W",
    {"a": 4},
    fixed_batch(
        'm = Resize<mode="linear", coordinate_transformation_mode="align_corners">(a, , , sizes)',
        "int64[4] sizes = {2,8,8,16}",
    ),
)
row(
    47,
    "Resize by a shape that all agree on, with a RoI",
    {"a": 4},
    chain(
        'm = Resize<mode="nearest">(a, roi, scales)',
        "float[8] roi = {0,0,0,0,1,1,1,1}, float[4] scales = {1,1,1.5,0.5}",
        opset=11,
    ),
)
row(
    47,
    "Tile of a vector to maps",
    {"a": 4},
    chain("p = GlobalAveragePool(a) t = Tile(p, r) m = Concat<axis=1>(a, t)", "int64[4] r = {1,1,8,8}", into=16),
)

see(
    48,
    RULES["Resize, sizes computed from Shape"],
    RULES["Resize, sizes with literal channels in an otherwise computed shape"],
)
see(
    48,
    RULES["Reshape with the batch from Shape to Gemm"],
    RULES["Reshape with the product of sizes from Shape to Gemm"],
)
row(
    48,
    "twice as large, by Mul of a slice of Shape",
    {"a": 4},
    chain(
        """sh = Shape(a) hw = Slice(sh, two, four) f = Cast<to=1>(hw) g = Mul(f, k) i = Cast<to=7>(g)
        nc = Slice(sh, zero, two)
    to = Concat<axis=0>(nc, i) m = Resize<mode="nearest">(a, , , to)""",
        "int64[1] zero = {0}, int64[1] two = {2}, int64[1] four = {4}, float k = {2}",
    ),
)
row(
    48,
    "Shape with start and end, C = H = W",
    {"a": 4},
    chain(
        """n = Shape<start=0, end=1>(a) c = Shape<start=1, end=2>(a) hw = Shape<start=-2>(a) p = ReduceProd(hw)
    to = Concat<axis=0>(n, c, p) r = Reshape(a, to) s = Relu(r) back = Concat<axis=0>(n, c, hw) m = Reshape(s, back)"""
    ),
)
row(
    48,
    "ConstantOfShape beside the channels",
    {"a": 4},
    chain(
        """sh = Shape(a) n = Gather(sh, zero) hw = Slice(sh, two, four) to = Concat<axis=0>(n, one, hw)
    z = ConstantOfShape<value = float[1] {0.5}>(to) m = Concat<axis=1>(a, z)""",
        "int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] four = {4}",
        into=9,
    ),
)
row(
    48,
    "ConstantOfShape as channels that meet channels",
    {"a": 4, "b": 4},
    chain(
        """sh = Shape(a) z = ConstantOfShape(sh) d = Concat<axis=1>(a, z) b = Conv<pads=[1,1,1,1]>(x, wb)
        m = Add(d, b)""",
        "float[16,3,3,3] wb",
        into=16,
    ),
)


def test_zeros_like_channels_with_a_fixed_batch_go_with_what_they_meet() -> None:
    """Of a fixed batch the zeros are a constant: they are cut as one, and shrink no further by themselves."""
    model = fixed_batch(
        "sh = Shape(a) z = ConstantOfShape(sh) d = Concat<axis=1>(a, z) b = Conv<pads=[1,1,1,1]>(x, wb) m = Add(d, b)",
        "float[16,3,3,3] wb",
        into=16,
    )
    for seed in range(3):
        result = prove_half(model, seed=seed)
        kept = next(c.kept for c in result.rewritten.cuts if c.tensor == "wb")
        assert removed(result) == {"a": 8 - len([k for k in kept if k < 8]), "b": 8}


see(48, test_zeros_like_channels_with_a_fixed_batch_go_with_what_they_meet)
see(49, *(RULES[f"PRelu [{s}]"] for s in ("8,1,1", "1", "1,8,1,1")))
row(
    49,
    "NHWC and vectors",
    {"a": 4, "h": 3},
    chain(
        """t = Transpose<perm=[0,2,3,1]>(a) p = PRelu(t, s) h = MatMul(p, wh) q = PRelu(h, z)
    m = Transpose<perm=[0,3,1,2]>(q)""",
        "float[8] s, float[8,6] wh, float[6] z",
        into=6,
    ),
)
row(
    49,
    "one slope behind Unsqueeze",
    {"a": 4},
    chain("u = Unsqueeze(s, hw) m = PRelu(a, u)", "float[8] s, int64[2] hw = {1,2}"),
)
row(
    49,
    "one slope behind Unsqueeze, the axes behind Identity",
    {"a": 4},
    chain("i = Identity(hw) u = Unsqueeze(s, i) m = PRelu(a, u)", "float[8] s, int64[2] hw = {1,2}"),
)
row(
    49,
    "a slope for two layers",
    {"a": 4, "b": 4},
    chain("p = PRelu(a, s) b = Conv(p, wb) m = PRelu(b, s)", "float[8,1,1] s, float[8,8,1,1] wb"),
)


@pytest.mark.parametrize("key", IDIOMS.names, ids=label)
def test_idiom(key: tuple[int, str]) -> None:
    check(IDIOMS.own[key])
