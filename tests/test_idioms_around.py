"""Rows 63 to 78 of the idioms: heads, bodies, functions, inputs and outputs, whole blocks, sizes, types."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import test_files
import test_rules
import test_rules_more
import test_scale
import test_semantics
import test_types
import test_unfold
from idioms import Held, Idioms, check, label
from rule_cases import chain, head
from support import RUNTIME, build, prove_half, removed, tensors, walls_at

from ocnna_onnx.errors import ShapeNeeded
from ocnna_onnx.trace.tracer import trace as trace_model

IDIOMS = Idioms()
row, see = IDIOMS.row, IDIOMS.see
RULES, MORE, WALLS, MORE_WALLS = test_rules.CASES, test_rules_more.CASES, test_rules.WALLS, test_rules_more.WALLS
MAX = "9223372036854775807"

# --- 63, 64: detection ---

YOLO = """g (float[2,3,8,8] x) => (float[2,N,7] y)
    <float[8,3,3,3] wa, float[14,8,1,1] wh, float[14] bh, int64[5] to = {{2,2,7,8,8}}, float[1,1,8,8,2] grid,
     float[1,2,1,1,2] anchors, float two = {{2}}, float half = {{0.5}}, int64[3] flat = {{2,-1,7}}{more}>
    {{ a = Conv<pads=[1,1,1,1]>(x, wa)
       r = LeakyRelu(a)
       h = Conv(r, wh, bh)
       f = Reshape(h, to)
       t = Transpose<perm=[0,1,3,4,2]>(f)
       s = Sigmoid(t)
       {decode}
       y = Reshape(d, flat) }}"""
row(
    63,
    "Split and Concat (YOLOv5)",
    {"a": 4},
    build(
        YOLO.format(
            decode="""xy, wh2, c = Split<axis=4>(s, sizes)
            p = Mul(xy, two) q = Sub(p, half) o = Add(q, grid) u = Mul(wh2, two) v = Mul(u, u) w = Mul(v, anchors)
            d = Concat<axis=-1>(o, w, c)""",
            more=", int64[3] sizes = {2,2,3}",
        )
    ),
    Held("h", "y", "Reshape", "output"),
)
row(
    63,
    "Slice and ScatterND",
    {"a": 4},
    build(
        YOLO.format(
            decode="""xy = Slice(s, zero, pair, last) p = Mul(xy, two) o = Add(p, grid)
            rank = Transpose<perm=[4,0,1,2,3]>(s) oo = Transpose<perm=[4,0,1,2,3]>(o)
            k = ScatterND(rank, idx, oo) d = Transpose<perm=[1,2,3,4,0]>(k)""",
            more=""", int64[1] zero = {0}, int64[1] pair = {2}, int64[1] last = {4}, int64[2,1] idx = {0,1}""",
        )
    ),
    Held("h", "y", "Reshape", "output"),
)
row(
    63,
    "three levels, one after the other",
    {"a": 4, "b": 4, "u": 4},
    build(
        """g (float[2,3,8,8] x) => (float[2,N,7] y)
        <float[8,3,3,3] wa, float[8,8,3,3] wb, float[8,16,1,1] wu, float[7,8,1,1] wp, float[7,8,1,1] wq,
         int64[3] flat = {2,7,-1}, float[4] twice = {1,1,2,2}>
        { a = Conv<pads=[1,1,1,1]>(x, wa)
          b = Conv<strides=[2,2], pads=[1,1,1,1]>(a, wb)
          k = Resize<mode="nearest">(b, , twice)
          c = Concat<axis=1>(k, a)
          u = Conv(c, wu)
          p = Conv(u, wp)
          q = Conv(b, wq)
          pf = Reshape(p, flat)
          qf = Reshape(q, flat)
          j = Concat<axis=-1>(pf, qf)
          s = Sigmoid(j)
          y = Transpose<perm=[0,2,1]>(s) }"""
    ),
    Held("p", "y", "Transpose", "output"),
    Held("q", "y", "Transpose", "output"),
)

see(64, MORE["GridSample"], MORE["RoiAlign"], MORE["MaxRoiPool"], MORE["GridSample by a flow that channels make"])
row(
    64,
    "boxes, scores, NMS",
    {"a": 4},
    build(
        """g (float[1,3,4,4] x) => (int64[M,3] y)
        <float[8,3,1,1] wa, float[4,8,1,1] wb, float[3,8,1,1] ws, int64[3] flat = {1,4,16}, int64[3] three = {1,3,16},
         int64[1] most = {5}, float[1] iou = {0.5}, float[1] least = {0.1}>
        { a = Conv(x, wa)
          b = Conv(a, wb)
          s = Conv(a, ws)
          bf = Reshape(b, flat)
          bt = Transpose<perm=[0,2,1]>(bf)
          sf = Reshape(s, three)
          p = Sigmoid(sf)
          y = NonMaxSuppression(bt, p, most, iou, least) }"""
    ),
    Held("b", "y", "NonMaxSuppression", "NonMaxSuppression"),
    Held("s", "y", "NonMaxSuppression", "NonMaxSuppression"),
)
row(
    64,
    "RoiAlign on a pyramid level, the head behind",
    {"a": 4, "h": 3},
    build(
        """g (float[1,3,8,8] x) => (float[R,4] y)
        <float[8,3,1,1] wa, float[2,4] boxes = {0,0,4,4,1,1,7,7}, int64[2] of = {0,0}, float[72,6] wh, float[6,4] wy>
        { a = Conv(x, wa)
          p = RoiAlign<output_height=3, output_width=3, sampling_ratio=2>(a, boxes, of)
          f = Flatten(p)
          h = Gemm(f, wh)
          y = Gemm(h, wy) }""",
        16,
    ),
)
row(
    64,
    "boxes made of channels",
    {"a": 4},
    build(
        """g (float[1,3,8,8] x) => (float[R,5,H,W] y)
        <float[8,3,1,1] wa, float[4,8,1,1] wb, int64[2] of = {0,0}, float[5,8,1,1] wy, int64[2] to = {2,4}>
        { a = Conv(x, wa)
          b = Conv<strides=[7,8]>(a, wb)
          s = Sigmoid(b)
          p = GlobalAveragePool(s)
          c = Concat<axis=0>(p, p)
          f = Reshape(c, to)
          m = RoiAlign<output_height=2, output_width=2>(a, f, of)
          y = Conv(m, wy) }""",
        16,
    ),
    Held("b", "m", "RoiAlign", "operand 1"),
)

# --- 65, 66 ---

see(65, MORE["DeformConv, group=1"], MORE_WALLS["DeformConv with offsets from channels"])
row(
    65,
    "modulated, offsets from the same features",
    {"a": 4, "b": 3},
    chain(
        """o = Conv<pads=[1,1,1,1]>(a, wo, bo) k = Conv<pads=[1,1,1,1]>(a, wk) s = Sigmoid(k)
        b = DeformConv<pads=[1,1,1,1]>(a, wb, o, bb, s) m = Relu(b)""",
        "float[18,8,3,3] wo, float[18] bo, float[9,8,3,3] wk, float[6,8,3,3] wb, float[6] bb",
        into=6,
        opset=19,
    ),
    Held("o", "b", "DeformConv", "positions of the kernel"),
    Held("k", "b", "DeformConv", "positions of the kernel"),
)

see(66, MORE["LSTM"], MORE["GRU"], MORE["LSTM, both ways, to a layer"])
CRNN = """g (float[N,3,4,8] x) => (float[L,N,K] y)
    <float[8,3,3,3] wa, float[8,8,4,1] wb, int64[1] two = {{2}}, float[{d},{rows},8] w, float[{d},{rows},5] r,
     float[{d},{twice}] b, float[{outs},4] wy, int64[3] merge = {{0,0,-1}}>
    {{ a = Conv<pads=[1,1,1,1]>(x, wa)
       e = Relu(a)
       b0 = Conv(e, wb)
       s = Squeeze(b0, two)
       t = Transpose<perm=[2,0,1]>(s)
       h = {op}<hidden_size=5{more}>(t, w, r, b)
       u = Transpose<perm=[0,2,1,3]>(h)
       f = Reshape(u, merge)
       y = MatMul(f, wy) }}"""
for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
    for d in (1, 2):
        more = ', direction="bidirectional"' if d == 2 else ""
        text = CRNN.format(op=op, d=d, rows=5 * gates, twice=10 * gates, outs=5 * d, more=more)
        row(66, f"{op}, {d} directions", {"a": 4, "b0": 4}, build(text))

# --- 67, 68: bodies, functions, domains ---

see(67, test_rules.test_a_body_that_captures_a_tensor_is_a_wall, MORE_WALLS["a body"])
see(67, test_semantics.test_a_loop_that_counts_pixels, test_semantics.test_layers_in_a_scan_are_named)
see(67, test_unfold.test_channels_run_through_a_branch_that_is_always_taken)
row(
    67,
    "a Loop that adds a captured tensor",
    {"a": 4},
    build(
        """g (float[2,3,4,4] x) => (float[2,5,H,W] y)
        <float[8,3,1,1] wa, float[6,8,1,1] wb, float[5,6,1,1] wy, int64 n = {3}, bool go = {1}, float zero = {0}>
        { a = Conv(x, wa)
          b = Conv(a, wb)
          z = Mul(b, zero)
          m = Loop(n, go, z) <body = body (int64 i, bool c, float[2,6,4,4] s) => (bool d, float[2,6,4,4] t) {
            d = Identity(c)
            t = Add(s, b)
          }>
          y = Conv(m, wy) }"""
    ),
    Held("b", "m", "Loop", "body"),
)

see(
    68,
    test_rules.test_an_operator_of_another_domain_is_a_wall,
    test_rules.test_an_operator_that_nobody_can_run_is_named,
)
see(68, test_rules.test_a_function_of_the_model_that_mixes_channels_is_a_wall)
see(68, test_unfold.test_layers_in_functions_are_pruned)
FUNCTION = """<ir_version: 8, opset_import: ["": 17, "acme": 1]>
    g (float[N,3,8,8] x) => (float[N,K,H,W] y) <float[8,3,3,3] wa, float[8,8,1,1] wb, float[5,8,1,1] wy>
    {{ a = Conv(x, wa)
       b = acme.Block(a, wb)
       y = Conv(b, wy) }}
    <domain: "acme", opset_import: ["": 17, "acme": 1]>
    Block (t, w) => (u) {{ {body} }}
    <domain: "acme", opset_import: ["": 17]>
    Swish (t) => (u)
    {{ s = Sigmoid(t)
       u = Mul(s, t) }}"""
row(
    68,
    "a function in a function, with a layer",
    {"a": 4, "c__1": 4},
    build(FUNCTION.format(body="c = Conv(t, w) d = acme.Swish(c) u = Add(d, t)")),
)

# --- 69, 70: what the model is given and gives ---

see(69, test_rules.test_an_interior_tensor_that_is_also_an_output_is_a_wall)
see(69, test_rules.test_a_vector_that_is_also_an_output_stays_whole_there)
row(
    69,
    "a pyramid whose levels are outputs",
    {"a": 4, "b": 4},
    build(
        """g (float[N,3,8,8] x) => (float[N,8,H,W] p, float[N,8,V,U] q)
        <float[8,3,3,3] wa, float[8,8,3,3] wb, float[8,8,1,1] wl, float[8,8,1,1] wm, float[4] twice = {1,1,2,2},
         float[8,8,3,3] wp>
        { a = Conv<pads=[1,1,1,1]>(x, wa)
          b = Conv<strides=[2,2], pads=[1,1,1,1]>(a, wb)
          q = Conv(b, wl)
          l = Conv(a, wm)
          u = Resize<mode="nearest">(q, , twice)
          s = Add(u, l)
          p = Conv<pads=[1,1,1,1]>(s, wp) }"""
    ),
    Held("q", "q", "Conv", "output"),
    Held("l", "q", "Conv", "output"),
    Held("p", "p", "Conv", "output"),
)
row(
    69,
    "half of a tensor is an output",
    {"a": 2},
    build(
        """g (float[N,3,8,8] x) => (float[N,4,H,W] z, float[N,K,H,W] y)
        <float[8,3,3,3] wa, float[5,8,1,1] wy, int64[2] half = {4,4}>
        { a = Conv(x, wa)
          z, t = Split<axis=1>(a, half)
          r = Relu(a)
          y = Conv(r, wy) }"""
    ),
)
row(
    69,
    "maps beside the logits",
    {"a": 4},
    build(
        """g (float[N,3,8,8] x) => (float[N,4] y, float[N,6,H,W] m)
        <float[8,3,3,3] wa, float[6,8,1,1] wm, float[6,4] wy>
        { a = Conv(x, wa)
          m = Conv(a, wm)
          p = ReduceMean<axes=[2,3], keepdims=0>(m)
          y = MatMul(p, wy) }"""
    ),
    Held("m", "m", "Conv", "output"),
)

see(70, WALLS["Add of a fixed activation"], WALLS["Concat along H with a fixed activation"])
row(
    70,
    "super-resolution: the image is added at the end",
    {"a": 4, "b": 4},
    build(
        """g (float[N,3,8,8] x) => (float[N,3,H,W] y) <float[8,3,3,3] wa, float[8,8,3,3] wb, float[12,8,3,3] wc>
        { a = Conv<pads=[1,1,1,1]>(x, wa)
          r = Relu(a)
          b = Conv<pads=[1,1,1,1]>(r, wb)
          s = Add(b, r)
          c = Conv<pads=[1,1,1,1]>(s, wc)
          d = DepthToSpace<blocksize=2, mode="CRD">(c)
          k = Constant<value = float[4] {1,1,2,2}>()
          u = Resize<mode="nearest">(x, , k)
          y = Add(d, u) }"""
    ),
    Held("c", "y", "Add", "fixed"),
)
row(
    70,
    "the image among the features",
    {"b": 3},
    build(
        """g (float[N,8,8,8] x) => (float[N,K,H,W] y) <float[8,8,3,3] wa, float[6,8,1,1] wb, float[5,6,1,1] wy>
        { a = Conv<pads=[1,1,1,1]>(x, wa)
          s = Add(x, a)
          b = Conv(s, wb)
          y = Conv(b, wy) }"""
    ),
    Held("a", "s", "Add", "fixed"),
)

# --- 71 to 73: blocks ---

NORM = "float[8] s{0}, float[8] o{0}, float[8] e{0}, float[8] v{0}"
row(
    71,
    "three branches with BatchNormalization",
    {"a": 4, "b": 4, "c": 4},
    chain(
        """b = Conv<pads=[1,1,1,1]>(a, wb) c = Conv(a, wc) p = BatchNormalization(b, s1, o1, e1, v1)
        q = BatchNormalization(c, s2, o2, e2, v2) i = BatchNormalization(a, s3, o3, e3, v3) t = Add(p, q)
        u = Add(t, i) m = Relu(u)""",
        "float[8,8,3,3] wb, float[8,8,1,1] wc, " + ", ".join(NORM.format(i) for i in (1, 2, 3)),
    ),
)
row(
    71,
    "MobileOne: depthwise branches, a scale alone",
    {"a": 4, "b": 4, "c": 4},
    chain(
        """b = Conv<group=8, pads=[1,1,1,1]>(a, wb) c = Conv<group=8>(a, wc) i = BatchNormalization(a, s1, o1, e1, v1)
        u = Sum(i, c, b) m = Relu(u)""",
        "float[8,1,3,3] wb, float[8,1,1,1] wc, " + NORM.format(1),
    ),
)

for name, outs in (("as many as wanted", 8), ("some are dropped", 7)):
    row(
        72,
        name,
        {"a": 4, "p": 2, "d": 2},
        chain(
            """p = Conv(a, wp) r = Relu(p) d = Conv<group=4, pads=[1,1,1,1]>(r, wd) q = Relu(d)
            c = Concat<axis=1>(r, q) m = Slice(c, zero, oup, one)""",
            f"""float[4,8,1,1] wp, float[4,1,3,3] wd, int64[1] zero = {{0}}, int64[1] oup = {{{outs}}}, int64[1]
            one = {{1}}""",
            into=outs,
        ),
    )
row(
    72,
    "ghost bottleneck, residual",
    {"a": 4, "p": 2, "d": 2},
    chain(
        """p = Conv(a, wp) d = Conv<group=4, pads=[1,1,1,1]>(p, wd) c = Concat<axis=1>(p, d)
        s = Slice<axes=[-3], starts=[0], ends=[8]>(c) m = Add(a, s)""",
        "float[4,8,1,1] wp, float[4,1,3,3] wd",
        opset=9,
    ),
)

see(73, RULES["Concat, twice the same tensor"], RULES["Tile, channels"])
row(
    73,
    "Tile by a computed number",
    {"a": 4},
    chain(
        """sh = Shape(a) o = Gather(sh, zero) k = Div(o, o) two = Add(k, k) r = Concat<axis=0>(k, two, k, k)
        m = Tile(a, r)""",
        "int64[1] zero = {0}",
        into=16,
    ),
)
row(
    73,
    "repeat_interleave",
    {"a": 4},
    chain(
        """u = Unsqueeze(a, two) t = Tile(u, r) m = Reshape(t, to)""",
        "int64[1] two = {2}, int64[5] r = {1,1,3,1,1}, int64[4] to = {0,-1,8,8}",
        into=24,
    ),
)
row(
    73,
    "repeat_interleave by Expand",
    {"a": 4},
    chain(
        """u = Unsqueeze(a, two) t = Expand(u, e) m = Reshape(t, to)""",
        "int64[1] two = {2}, int64[5] e = {1,8,3,8,8}, int64[4] to = {-1,24,8,8}",
        into=24,
    ),
)
row(
    73,
    "Gather, each twice",
    {"a": 4},
    chain("m = Gather<axis=1>(a, i)", "int64[16] i = {0,0,1,1,2,2,3,3,4,4,5,5,6,6,7,7}", into=16),
)

# --- 74, 75 ---

row(
    74,
    "a bias behind zero padding is not folded",  # silence is zero, at the border too
    {"a": 4, "b": 3},
    chain("b = Conv<pads=[2,2,2,2]>(a, wb) m = Relu(b)", "float[6,8,3,3] wb", into=6, ba=np.full(8, 100.0)),
)


@pytest.mark.parametrize("name", ["ReduceMax over positions, input", "conv", "residual, identity", "conv grouped"])
def test_one_channel_of_every_layer_stays(name: str) -> None:
    """Everything that is free is asked to go."""
    result = prove_half(RULES[name].model, share=1.0)
    lost, sizes = removed(result), {s.node: len(s.units) for s in result.trace.sources}
    assert set(lost) == set(RULES[name].gone)
    for s in result.trace.sources:
        assert lost.get(result.trace.graph.names[s.node], 0) < sizes[s.node]


see(75, test_one_channel_of_every_layer_stays)
row(75, "a layer of one channel", {"a": 4}, chain("b = Conv(a, wb) m = Relu(b)", "float[1,8,1,1] wb", into=1))
row(75, "a layer of two channels", {"a": 4, "b": 1}, chain("b = Conv(a, wb) m = Relu(b)", "float[2,8,1,1] wb", into=2))
row(
    75,
    "two halves that are one group",  # what is left when both halves must agree is nothing
    {"a": 4},
    chain(
        "b = Conv(a, wb) p, q = Split<axis=1>(b, ones) m = Mul(p, q)",
        "float[2,8,1,1] wb, int64[2] ones = {1,1}",
        into=1,
    ),
    Held("b", "p", "Split", "alone"),
)

# --- 76 ---

see(76, RULES["Reshape, tokens and back"], RULES["gemm, rows of a batch merged with channels"])
ANY = """g (float[N,3,H,W] x) => (y) <float[8,3,3,3] wa, float[8] ba, float[5,8,1,1] wy{weights}>
    {{ a = Conv<pads=[1,1,1,1]>(x, wa, ba)
       {middle}
       y = Conv(m, wy) }}"""
for name, middle, weights in (
    (
        "pooled and resized back",
        'p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a) s = Shape(a) m = Resize<mode="nearest">(p, , , s)',
        "",
    ),
    ("flattened and back", "s = Shape(a) f = Reshape(a, to) r = Relu(f) m = Reshape(r, s)", ", int64[3] to = {0,8,-1}"),
    (
        "the batch merged with the channels",
        """s = Shape(a) hw = Slice(s, i2, i4) to = Concat<axis=0>(n, hw) f = Reshape(a, to) r = Relu(f)
        m = Reshape(r, s)""",
        ", int64[1] n = {-1}, int64[1] i2 = {2}, int64[1] i4 = {4}",
    ),
):
    row(76, f"H × W, {name}", {"a": 4}, build(ANY.format(middle=middle, weights=weights)))
row(
    76,
    "H × W in front of a Gemm by pooling",
    {"a": 4},
    build(
        """g (float[N,3,H,W] x) => (y) <float[8,3,3,3] wa, float[32,4] wy, int64[2] to = {-1,32}>
        { a = Conv<pads=[1,1,1,1]>(x, wa)
          s = Constant<value_ints = [2,2]>()
          p = GlobalAveragePool(a)
          q = Concat<axis=2>(p, p)
          r = Concat<axis=3>(q, q)
          f = Reshape(r, to)
          y = MatMul(f, wy) }"""
    ),
)


def test_symbolic_channels_of_the_input() -> None:
    """Their number is asked for, and whoever gives it does not get them cut."""
    model = build(
        """g (float[N,C,8,8] x) => (y) <float[8,8,3,3] wa, float[8,8,1,1] wb, float[5,8,1,1] wy>
        { a = Conv<pads=[1,1,1,1]>(x, wa)
          s = Add(a, x)
          b = Conv(s, wb)
          y = Conv(b, wy) }"""
    )
    with pytest.raises(ShapeNeeded, match="axis 1, C"):
        trace_model(model, None, RUNTIME)
    found = trace_model(model, {"x": (2, 8, 8, 8)}, RUNTIME)
    assert any(op == "Add" and "fixed" in why for _, op, why in walls_at(found, "a"))
    assert not walls_at(found, "b")


see(76, test_symbolic_channels_of_the_input)

# --- 77, 78 ---

see(
    77,
    test_rules.test_half_precision,
    test_rules.test_double_precision,
    test_types.test_a_residual_net_in_bf16_is_proven_as_its_twin,
)
see(77, test_semantics.test_a_sparse_initializer_as_a_kernel, test_files.test_external_data_in_external_data_out)
see(77, test_types.test_small_codes_are_cut_where_they_are_stored, test_scale.test_a_model_over_two_gigabytes)


@pytest.mark.parametrize("kind", ["raw", "typed"])
@pytest.mark.parametrize("opset", [9, 11, 13, 17, 21])
def test_storage_and_opsets(kind: str, opset: int) -> None:
    """The same numbers come out however they are stored, and attributes and operands say the same."""
    squeeze = "Squeeze<axes=[2,3]>(p)" if opset < 13 else "Squeeze(p, hw)"
    model = head(
        f"""r = Clip{"<min=0.0>(a)" if opset < 11 else "(a, zero)"} p = GlobalAveragePool(r) f = {squeeze}
        y = MatMul(f, wy)""",
        "float zero = {0}, int64[2] hw = {2,3}, float[8,4] wy",
        opset,
    )
    for tensor in model.graph.initializer if kind == "typed" else []:
        array = onnx.numpy_helper.to_array(tensor)
        typed = onnx.helper.make_tensor(tensor.name, tensor.data_type, array.shape, array.reshape(-1).tolist())
        tensor.CopyFrom(typed)
        assert not tensor.raw_data
    result = prove_half(model)
    assert removed(result) == {"a": 4}
    assert tensors(result.rewritten.model)["wy"].shape == (4, 4)


see(77, test_storage_and_opsets)


@pytest.mark.parametrize(("listed", "ir"), [(True, 3), (True, 8), (False, 8)])
def test_weights_that_nobody_reads(listed: bool, ir: int) -> None:
    """Large ones are handed to onnxruntime apart from the model: it must not be told of those that it drops."""
    model = chain("m = Relu(a)", "float[40,64] unread", ir=ir, opset=8)
    for tensor in model.graph.initializer if listed else ():
        shape = list(tensor.dims)
        model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, shape))
    assert removed(prove_half(model)) == {"a": 4}


see(77, test_weights_that_nobody_reads)
see(78, RULES["Split along H"], RULES["Slice, H"], RULES["Concat along H"], RULES["Gather along H"])
row(
    78,
    "negative axes, C = H = W",
    {"a": 4},
    chain(
        """p, q = Split<axis=-1>(a, half) c = Concat<axis=-2>(p, q) d = Slice(c, one, eight, h)
        e = Gather<axis=-2>(d, i) m = Relu(e)""",
        """int64[2] half = {4,4}, int64[1] one = {1}, int64[1] eight = {9}, int64[1] h = {2}, int64[8]
        i = {0,1,2,3,4,5,6,-1}""",
    ),
)
row(
    78,
    "along the batch",
    {"a": 4, "b": 4},
    build(
        """g (float[2,3,8,8] x, float[2,3,8,8] z) => (y) <float[8,3,1,1] wa, float[8,3,1,1] wb, float[5,8,1,1] wy>
        { a = Conv(x, wa)
          b = Conv(z, wb)
          c = Concat<axis=0>(a, b)
          p, q, r = Split<axis=-4>(c, s)
          k = Slice(q, i0, i1, i0)
          t = Constant<value = int64[3] {1,2,1}>()
          u = Identity(t)
          m = Add(k, r)
          y = Conv(m, wy) }""".replace("wy>", "wy, int64[3] s = {1,2,1}, int64[1] i0 = {0}, int64[1] i1 = {1}>")
    ),
)
row(
    78,
    "a temporal shift",  # one of four stays, so that no slice is emptied
    {"a": 3},
    build(
        """g (float[4,3,8,8] x) => (y)
        <float[8,3,3,3] wa, float[5,8,1,1] wy, int64[5] five = {2,2,8,6,6}, int64[4] four = {4,8,6,6},
         int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] half = {4}, int64[1] end = {8},
         int64[10] late = {0,0,0,0,0,0,1,0,0,0}, int64[10] soon = {0,1,0,0,0,0,0,0,0,0}>
        { a = Conv(x, wa)
          r = Reshape(a, five)
          l = Slice(r, zero, two, two)
          k = Slice(r, two, half, two)
          rest = Slice(r, half, end, two)
          ls = Slice(l, one, two, one)
          lp = Pad(ls, late)
          ks = Slice(k, zero, one, one)
          kp = Pad(ks, soon)
          j = Concat<axis=2>(lp, kp, rest)
          f = Reshape(j, four)
          y = Conv(f, wy) }"""
    ),
)
row(
    78,
    "frames of a video",
    {"a": 4},
    build(
        """g (float[N,3,4,8,8] x) => (y) <float[8,3,1,3,3] wa, float[5,8,1,1] wy, int64 i = {-1}, int64[4]
        q = {1,1,1,1}>
        { a = Conv(x, wa)
          p, r, s, t = Split<axis=2>(a, q)
          c = Concat<axis=-3>(t, p)
          f = Gather<axis=2>(c, i)
          y = Conv(f, wy) }"""
    ),
)


@pytest.mark.parametrize("key", IDIOMS.names, ids=label)
def test_idiom(key: tuple[int, str]) -> None:
    check(IDIOMS.own[key])
