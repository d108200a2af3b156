"""onnxruntime's own operators, as its quantizer and its optimizer write them into files."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from rule_cases import Table, chain, codes, dense_pair, fixed_batch, tokens
from support import assert_wall, build, prove_half, removed

import ocnna_onnx

TABLE = Table()
CASES, WALLS = TABLE.cases, TABLE.walls

SCALES = "float s = {0.05}, uint8 z = {120}, float s2 = {0.04}, uint8 z2 = {100}"


def microsoft(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, with onnxruntime's operators imported."""
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def case(name: str, gone: dict[str, int], model: onnx.ModelProto) -> None:
    TABLE.case(name, gone, microsoft(model))


def wall(name: str, op: str, word: str, model: onnx.ModelProto, layer: str = "a", node: str = "m") -> None:
    TABLE.wall(name, op, word, microsoft(model), layer, node)


def quantized(middle: str, weights: str = "", into: int = 8, **arrays: Any) -> onnx.ModelProto:
    """x -> Conv `a` -> codes q -> `middle`, which makes codes k of scale s2 and zero point z2 -> Conv `y`."""
    declared = ", ".join(filter(None, (SCALES, weights)))
    return chain(f"q = QuantizeLinear(a, s, z) {middle} m = DequantizeLinear(k, s2, z2)", declared, into, **arrays)


# --- words for what stays ---

wall(
    "SkipLayerNormalization",
    "SkipLayerNormalization",
    "com.microsoft.SkipLayerNormalization: a normalization over channels",
    tokens(
        "a = MatMul(x, w1) m = com.microsoft.SkipLayerNormalization(a, a, s) y = MatMul(m, w2)",
        "float[6,10] w1, float[10] s, float[10,3] w2",
    ),
)

# --- one position at a time ---

for op in ("Gelu", "QuickGelu<alpha=1.7>", "FastGelu"):
    case(op, {"a": 4}, chain(f"m = com.microsoft.{op}(a)"))
for op in ("BiasGelu", "FastGelu"):
    case(
        f"{op} with a bias",
        {"h": 5},
        tokens(
            f"h = MatMul(x, w1) g = com.microsoft.{op}(h, b) y = MatMul(g, w2)",
            "float[6,10] w1, float[10] b, float[10,3] w2",
        ),
    )
for op in ("QLinearSigmoid", "QLinearLeakyRelu<alpha=0.2>"):
    case(op, {"a": 4}, quantized(f"k = com.microsoft.{op}(q, s, z, s2, z2)"))
for op in ("QLinearAdd", "QLinearMul"):
    case(
        f"{op} of two branches",
        {"a": 4, "b": 4},
        quantized(
            f"""b = Conv<pads=[1,1,1,1]>(x, wb) r = QuantizeLinear(b, s, z)
            k = com.microsoft.{op}(q, s, z, r, s, z, s2, z2)""",
            "float[8,3,3,3] wb",
        ),
    )
    case(
        f"{op} with a constant",
        {"a": 4},
        quantized(
            f"k = com.microsoft.{op}(c, s, z, q, s, z, s2, z2)",
            "uint8[1,8,1,1] c",
            c=codes(1, 8, 1, 1, low=0, high=255, kind=np.uint8),
        ),
    )
case(
    "QLinearWhere",
    {"a": 4},
    quantized(
        "g = Greater(a, zero) k = com.microsoft.QLinearWhere(g, q, s, z, c, s, z, s2, z2)",
        "float zero = {0}, uint8[8,1,1] c",
        c=codes(8, 1, 1, low=0, high=255, kind=np.uint8),
    ),
)
case(
    "quantization with 16 bits",
    {"a": 4, "c": 4},
    chain(
        """q = com.microsoft.QuantizeLinear(a, s, z) d = com.microsoft.DequantizeLinear(q, s, z)
        wd = com.microsoft.DequantizeLinear<axis=0>(w, ws, wz) c = Conv(d, wd) m = Relu(c)""",
        "float s = {0.001}, uint16 z = {30000}, int16[8,8,1,1] w, float[8] ws, int16[8] wz",
        w=codes(8, 8, 1, 1, low=-30000, high=30000, kind=np.int16),
        ws=np.linspace(1e-5, 3e-5, 8),
        wz=np.zeros(8),
    ),
)

# --- positions, channels ---

case("QLinearGlobalAveragePool", {"a": 4}, quantized("k = com.microsoft.QLinearGlobalAveragePool(q, s, z, s2, z2)"))
case(
    "QLinearAveragePool",
    {"a": 4},
    quantized("k = com.microsoft.QLinearAveragePool<kernel_shape=[2,2]>(q, s, z, s2, z2)"),
)
LAST = "t = Transpose<perm=[0,2,3,1]>(q) {} k = Transpose<perm=[0,3,1,2]>(u)"
for op, attributes, operands in (
    ("QLinearGlobalAveragePool", "channels_last=1", "t, s, z, s2, z2"),
    ("QLinearAveragePool", "kernel_shape=[2,2], channels_last=1", "t, s, z, s2, z2"),
    ("NhwcMaxPool", "kernel_shape=[2,2]", "t"),
):
    case(
        f"{op}, channels last",
        {"a": 4},
        quantized(LAST.format(f"u = com.microsoft.{op}<{attributes}>({operands})")),
    )
case(
    "QLinearConcat",
    {"a": 4, "b": 3},
    quantized(
        """b = Conv<pads=[1,1,1,1]>(x, wb) r = QuantizeLinear(b, s, z)
        k = com.microsoft.QLinearConcat<axis=1>(s2, z2, q, s, z, r, s, z)""",
        "float[6,3,3,3] wb",
        into=14,
    ),
)
case(
    "QLinearSoftmax over positions",
    {"a": 4},
    quantized("k = com.microsoft.QLinearSoftmax<axis=3, opset=13>(q, s, z, s2, z2)"),
)
for opset in (11, 13):
    wall(
        f"QLinearSoftmax over channels, opset {opset}",
        "QLinearSoftmax",
        "over channels",
        quantized(f"k = com.microsoft.QLinearSoftmax<axis=1, opset={opset}>(q, s, z, s2, z2)"),
        node="k",
    )

case("Trilu", {"a": 4}, chain("m = com.microsoft.Trilu<upper=0>(a)"))
case(
    "GatherND of positions",
    {"a": 4},
    chain(
        """t = Transpose<perm=[2,3,0,1]>(a) g = com.microsoft.GatherND(t, i) u = Unsqueeze(g, one)
        m = Transpose<perm=[2,3,0,1]>(u)""",
        "int64[3,2] i = {0,1,5,5,7,0}, int64[1] one = {1}",
    ),
)
case(
    "GridSample",
    {"a": 4},
    fixed_batch(
        "m = com.microsoft.GridSample(a, grid)",
        "float[2,5,5,2] grid",
        grid=np.random.default_rng(4).uniform(-1, 1, (2, 5, 5, 2)),
    ),
)
case(
    "CropAndResize",
    {"a": 4},
    fixed_batch(
        "m = com.microsoft.CropAndResize(a, boxes, of, size)",
        "float[2,4] boxes = {0,0,0.5,0.5,0.1,0.1,1,1}, int32[2] of = {0,1}, int32[2] size = {3,3}",
    ),
)

# --- contractions ---

case(
    "FusedConv",
    {"a": 4, "c": 3},
    chain(
        'c = com.microsoft.FusedConv<activation="LeakyRelu", activation_params=[0.1]>(a, w, b) m = Relu(c)',
        "float[6,8,1,1] w, float[6] b",
        into=6,
    ),
)
case(
    "FusedConv that adds an activation",
    {"a": 4, "m": 4},
    chain('r = Relu(a) m = com.microsoft.FusedConv<activation="Relu">(r, w, b, a)', "float[8,8,1,1] w, float[8] b"),
)
case(
    "FusedConv that adds a constant",
    {"m": 4},
    build(
        """g (float[2,3,4,4] x) => (float[2,5,H,W] y)
        <float[8,3,1,1] w, float[8] b, float[2,8,4,4] c, float[5,8,1,1] wy>
        { m = com.microsoft.FusedConv<activation="Relu">(x, w, b, c) y = Conv(m, wy) }"""
    ),
)
wall(
    "FusedConv that adds the image",
    "FusedConv",
    "adds an activation that is fixed",
    build(
        """g (float[2,3,4,4] x) => (float[2,5,H,W] y) <float[3,3,1,1] w, float[5,3,1,1] wy>
        { m = com.microsoft.FusedConv<activation="Relu">(x, w, , x) y = Conv(m, wy) }"""
    ),
    layer="m",
)
wall(
    "FusedConv with a computed weight",
    "FusedConv",
    "computed weight",
    build(
        """g (float[2,3,4,4] x, float[8,3,1,1] k) => (float[2,5,H,W] y) <float[8,3,1,1] w, float[5,8,1,1] wy>
        { a = Conv(x, w) m = com.microsoft.FusedConv<activation="Relu">(x, k, , a) y = Conv(m, wy) }"""
    ),
)
case(
    "FusedConv, grouped",
    {"a": 4, "m": 4},
    chain('m = com.microsoft.FusedConv<activation="Relu", group=2>(a, w, b)', "float[8,4,1,1] w, float[8] b"),
)
case(
    "FusedGemm",
    {"h": 5},
    dense_pair(
        'h = com.microsoft.FusedGemm<activation="Relu", transB=1>(x, w1, b1) y = Gemm(h, w2)',
        "float[10,6] w1, float[10] b1, float[10,3] w2",
    ),
)
for name, body, weights in (
    ("scaled", "h = com.microsoft.FusedMatMul<alpha=0.5>(x, w1)", "float[6,10] w1"),
    ("transposed weight", "h = com.microsoft.FusedMatMul<transB=1>(x, w1)", "float[10,6] w1"),
    (
        "transposed activation",
        "t = Transpose<perm=[0,2,1]>(x) h = com.microsoft.FusedMatMul<transA=1>(t, w1)",
        "float[6,10] w1",
    ),
    ("older name", "h = com.microsoft.TransposeMatMul<transB=1>(x, w1)", "float[10,6] w1"),
):
    case(f"FusedMatMul, {name}", {"h": 5}, tokens(f"{body} y = MatMul(h, w2)", f"{weights}, float[10,3] w2"))
case(
    "FusedMatMul reads transposed channels",
    {"h": 5},
    tokens(
        "h = MatMul(x, w1) t = Transpose<perm=[0,2,1]>(h) y = com.microsoft.FusedMatMul<transA=1>(t, w2)",
        "float[6,10] w1, float[10,3] w2",
    ),
)
case(
    "FusedMatMul, q·kᵀ",
    {"q": 5, "k": 5, "v": 4},
    tokens(
        """q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv)
        s = com.microsoft.FusedMatMul<transB=1, alpha=0.3>(q, k) p = Softmax<axis=-1>(s) o = MatMul(p, v)
        y = MatMul(o, wo)""",
        "float[6,10] wq, float[6,10] wk, float[6,8] wv, float[8,3] wo",
    ),
)
wall(
    "FusedMatMul that transposes the batch",
    "FusedMatMul",
    "batch axis",
    build(
        """g (float[2,3,6] x) => (float[A,B,C] y) <float[6,8] w, float[3,8,4] k>
        { a = MatMul(x, w) m = com.microsoft.FusedMatMul<transBatchA=1>(a, k) y = Relu(m) }"""
    ),
)


def product(middle: str, weights: str, **arrays: Any) -> onnx.ModelProto:
    """x [4,6] -> Gemm `h` [4,10] -> codes q -> `middle`, which makes numbers y."""
    scales = "float s = {0.05}, uint8 z = {120}, float s2 = {0.2}, uint8 z2 = {110}"
    return dense_pair(
        f"h = Gemm(x, w1) q = QuantizeLinear(h, s, z) {middle}", f"float[6,10] w1, {scales}, {weights}", **arrays
    )


PER_COLUMN = {"ws": np.linspace(0.002, 0.02, 8), "wz": np.zeros(8)}
for trans in (0, 1):
    sizes = "8,10" if trans else "10,8"
    case(
        f"QGemm, transB={trans}",
        {"h": 5, "g": 4},
        product(
            f"""g = com.microsoft.QGemm<transB={trans}>(q, s, z, w, ws, wz, b, s2, z2) d = DequantizeLinear(g, s2, z2)
            y = MatMul(d, w2)""",
            f"int8[{sizes}] w, float[8] ws, int8[8] wz, int32[8] b, float[8,3] w2",
            w=codes(*map(int, sizes.split(","))),
            b=codes(8, low=-500, high=500, kind=np.int32),
            **PER_COLUMN,
        ),
    )
case(
    "QGemm to floats",
    {"h": 5, "g": 4},
    product(
        "g = com.microsoft.QGemm(q, s, z, w, ws, wz) y = MatMul(g, w2)",
        "int8[10,8] w, float ws = {0.01}, int8 wz = {3}, float[8,3] w2",
        w=codes(10, 8),
    ),
)
case(
    "QLinearMatMul, scales per column",
    {"h": 5, "g": 4},
    product(
        "g = QLinearMatMul(q, s, z, w, ws, wz, s2, z2) d = DequantizeLinear(g, s2, z2) y = MatMul(d, w2)",
        "int8[10,8] w, float[8] ws, int8[8] wz, float[8,3] w2",
        w=codes(10, 8),
        **PER_COLUMN,
    ),
)
case(
    "QLinearMatMul, weight on the left",
    {"h": 5, "g": 4},
    product(
        """t = Transpose(q) g = QLinearMatMul(w, ws, wz, t, s, z, s2, z2) d = DequantizeLinear(g, s2, z2)
        u = Transpose(d) y = MatMul(u, w2)""",
        "uint8[8,10] w, float ws = {0.01}, uint8 wz = {128}, float[8,3] w2",
        w=codes(8, 10, low=0, high=255, kind=np.uint8),
    ),
)
case(
    "QLinearMatMul of two activations",
    {"h": 5, "k": 5},
    product(
        """k = Gemm(x, wk) r = QuantizeLinear(k, s2, z2) t = Transpose(r) g = QLinearMatMul(q, s, z, t, s2, z2, s2, z2)
        y = DequantizeLinear(g, s2, z2)""",
        "float[6,10] wk",
    ),
)
case(
    "MatMulInteger behind a dynamic quantization",
    {"h": 5, "g": 4},
    dense_pair(
        """h = Gemm(x, w1) q, s, z = DynamicQuantizeLinear(h) g = MatMulInteger(q, w, z, wz) f = Cast<to=1>(g)
        k = Mul(f, small) y = MatMul(k, w2)""",
        "float[6,10] w1, int8[10,8] w, int8[8] wz, float small = {0.001}, float[8,3] w2",
        w=codes(10, 8),
        wz=np.zeros(8),
    ),
)
case(
    "MatMulIntegerToFloat",
    {"h": 5, "g": 4},
    dense_pair(
        """h = Gemm(x, w1) q, s, z = DynamicQuantizeLinear(h)
        g = com.microsoft.MatMulIntegerToFloat(q, w, s, ws, z, wz, b) y = MatMul(g, w2)""",
        "float[6,10] w1, int8[10,8] w, float[8] ws, int8[8] wz, float[8] b, float[8,3] w2",
        w=codes(10, 8),
        **PER_COLUMN,
    ),
)
case(
    "DynamicQuantizeMatMul",
    {"h": 5, "g": 4},
    dense_pair(
        "h = Gemm(x, w1) g = com.microsoft.DynamicQuantizeMatMul(h, w, ws, wz, b) y = MatMul(g, w2)",
        "float[6,10] w1, int8[10,8] w, float[8] ws, int8[8] wz, float[8] b, float[8,3] w2",
        w=codes(10, 8),
        **PER_COLUMN,
    ),
)
for group, shape in (1, "8,8,3,3"), (8, "8,1,3,3"):
    case(
        f"QLinearConv, channels last, group={group}",
        {"a": 4, "u": 4},
        quantized(
            LAST.format(
                f"u = com.microsoft.QLinearConv<channels_last=1, group={group}>(t, s, z, w, ws, wz, s2, z2, b)"
            ),
            f"int8[{shape}] w, float[8] ws, int8[8] wz, int32[8] b",
            w=codes(*map(int, shape.split(","))),
            b=codes(8, low=-500, high=500, kind=np.int32),
            **PER_COLUMN,
        ),
    )


@pytest.mark.parametrize("name", CASES)
def test_what_is_free_goes_and_is_proven(name: str) -> None:
    model, gone = CASES[name]
    assert removed(prove_half(model)) == gone


@pytest.mark.parametrize("name", WALLS)
def test_what_cannot_go_is_a_wall_that_says_why(name: str) -> None:
    assert_wall(*WALLS[name])


# --- files as onnxruntime writes them ---

NET = """g (float[N,3,16,16] x) => (float[N,K] y)
    <float[8,3,3,3] wa, float[8] ba, float[8,8,1,1] wb, float[8] bb, float[8,1,3,3] wd, float[8] bd,
     float[8,3,3,3] wz, float[12,24,1,1] wc, float[12] bc, float[6,12] w1, float[6] b1, float[4,6] w2, float[4] b2,
     int64[2] to = {0,-1}>
    { a = Conv<pads=[1,1,1,1]>(x, wa, ba) r = Relu(a) d = Conv<group=8, pads=[1,1,1,1]>(r, wd, bd) l = LeakyRelu(d)
      b = Conv(l, wb, bb) s = Add(b, r) t = Relu(s) z = Conv<pads=[1,1,1,1]>(x, wz) g0 = GlobalAveragePool(t)
      g1 = Sigmoid(g0) g = Mul(t, g1) c0 = Concat<axis=1>(g, t, z) mp = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c0)
      ap = AveragePool<kernel_shape=[2,2], strides=[2,2]>(mp) c = Conv(ap, wc, bc) rc = Relu(c)
      p = GlobalAveragePool(rc) f = Reshape(p, to) h = Gemm<transB=1>(f, w1, b1) hr = Relu(h)
      k = Gemm<transB=1>(hr, w2, b2) y = Softmax<axis=1>(k) }"""
LAYERS = {"wa": 4, "wb": 4, "wd": 4, "wz": 4, "wc": 6, "w1": 3}
"""Weight -> how many of its layer's channels go."""


KERNELS = 8 * 27 + 64 + 72 + 8 * 27 + 12 * 24 + 72 + 24
"""Codes of all weights."""


class Images(CalibrationDataReader):
    """A few random images to calibrate on."""

    def __init__(self) -> None:
        self.feeds: Iterator[dict[str, Any]] = iter(
            {"x": np.random.default_rng(k).standard_normal((2, 3, 16, 16)).astype(np.float32)} for k in range(3)
        )

    def get_next(self) -> dict[str, Any] | None:
        return next(self.feeds, None)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """The net as a file."""
    logging.getLogger().setLevel(logging.ERROR)
    onnx.save(build(NET, b1=np.zeros(6), b2=np.zeros(4)), tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def statically(net: Path, kind: QuantFormat, **options: Any) -> Path:
    """The net, quantized as `kind`."""
    path = net.with_name("quantized.onnx")
    quantize_static(str(net), str(path), Images(), quant_format=kind, **options)
    return path


def optimized(net: Path, level: str) -> onnx.ModelProto:
    """The net as a session at this level saves it."""
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.optimized_model_filepath = str(net.with_name("optimized.onnx"))
    options.log_severity_level = 4
    ort.InferenceSession(str(net), options, providers=["CPUExecutionProvider"])
    return onnx.load(options.optimized_model_filepath)


def layers_lost(model: onnx.ModelProto) -> list[int]:
    """How many channels each layer loses when half of what is free goes, once that is proven."""
    result = prove_half(model)
    assert not [w for w in result.trace.walls if "no rule" in w.reason]
    return sorted(removed(result).values())


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("kind", [QuantFormat.QOperator, QuantFormat.QDQ])
def test_a_statically_quantized_net_loses_what_the_net_loses(
    net: Path, kind: QuantFormat, per_channel: bool, level: str
) -> None:
    path = statically(net, kind, per_channel=per_channel)
    assert layers_lost(optimized(path, level)) == sorted(LAYERS.values())


@pytest.mark.parametrize("own", [False, True])
def test_a_net_quantized_to_16_bits(net: Path, own: bool) -> None:
    kinds = {"activation_type": QuantType.QUInt16, "weight_type": QuantType.QInt16}
    model = onnx.load(statically(net, QuantFormat.QDQ, **kinds, extra_options={"UseQDQContribOps": own}))
    assert any(n.domain == "com.microsoft" for n in model.graph.node) == own
    assert ocnna_onnx.inspect(model).to_json()["params"] == KERNELS
    assert layers_lost(model) == sorted(LAYERS.values())


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_EXTENDED"])
def test_a_dynamically_quantized_net(net: Path, level: str) -> None:
    path = net.with_name("dynamic.onnx")
    quantize_dynamic(str(net), str(path))
    assert layers_lost(optimized(path, level)) == sorted(LAYERS.values())


def test_a_net_that_was_saved_optimized(net: Path) -> None:
    model = optimized(net, "ORT_ENABLE_EXTENDED")
    assert {"FusedConv", "FusedGemm"} <= {n.op_type for n in model.graph.node}
    assert layers_lost(model) == sorted(LAYERS.values())


def test_blocked_layouts_are_walls_that_say_what_to_do(net: Path) -> None:
    model = optimized(net, "ORT_ENABLE_ALL")
    if not any(n.domain == "com.microsoft.nchwc" for n in model.graph.node):
        pytest.skip("this onnxruntime does not block channels on this machine")
    found = ocnna_onnx.inspect(model).to_json()["walls"]
    assert any("ORT_ENABLE_EXTENDED" in w["reason"] for w in found)
