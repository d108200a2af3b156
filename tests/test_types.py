"""Half types, and weights in eight bits or four: pruned in their own type, proven with the tolerance that it allows."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from support import RUNTIME, build, prove_half, removed, tensors
from test_rules import CASES

import ocnna_onnx
from ocnna_onnx.cli.main import main
from ocnna_onnx.model.constants import Constants
from ocnna_onnx.model.graph import Graph
from ocnna_onnx.model.twin import fp32_twin, has_bfloat16
from ocnna_onnx.trace.tracer import trace as trace_model

RESIDUAL = """g (T[N,3,8,8] x) => (T[N,5] y)
    <T[8,3,3,3] wa, T[8] ga, T[8] ba, T[8] ma, T[8] va, T[6,8,3,3] wb, T[6] gb, T[6] bb, T[6] mb, T[6] vb,
     T[8,6,1,1] wc, T[8,5] wy, T[5] by>
    { [stem] a0 = Conv<pads=[1,1,1,1]>(x, wa)
      a1 = BatchNormalization(a0, ga, ba, ma, va)
      a = Relu(a1)
      [inner] b0 = Conv<pads=[1,1,1,1]>(a, wb)
      b1 = BatchNormalization(b0, gb, bb, mb, vb)
      b = Relu(b1)
      [back] c = Conv(b, wc)
      s = Add(a, c)
      p = GlobalAveragePool(s)
      f = Flatten(p)
      y = Gemm(f, wy, by) }"""

FREE = {"stem": 4, "inner": 3, "back": 4}


def residual(kind: str) -> onnx.ModelProto:
    return build(RESIDUAL.replace("T[", f"{kind}["), va=np.linspace(0.5, 2, 8), vb=np.linspace(0.5, 2, 6))


# --- fp16 ---


def test_a_residual_net_in_fp16() -> None:
    result = prove_half(residual("float16"))
    assert removed(result) == FREE
    assert result.proof.tolerance == 1e-2
    assert result.proof.twin == ""
    kinds = {t.data_type for t in result.rewritten.model.graph.initializer}
    assert kinds == {TensorProto.FLOAT16}


def test_fp16_between_casts() -> None:
    text = RESIDUAL.replace("T[", "float16[").replace("float16[N,3,8,8] x", "float[N,3,8,8] xf")
    text = text.replace("float16[N,5] y)", "float[N,5] yf)").replace("{ [stem]", "{ x = Cast<to=10>(xf)\n [stem]")
    text = text.replace("(f, wy, by) }", "(f, wy, by)\n yf = Cast<to=1>(y) }")
    model = build(text, va=np.linspace(0.5, 2, 8), vb=np.linspace(0.5, 2, 6))
    result = prove_half(model)
    assert removed(result) == FREE
    assert result.proof.tolerance == 1e-2


@pytest.mark.parametrize("seed", [5, 9, 11])
def test_an_output_in_fp32_that_was_rounded_to_fp16_before(seed: int) -> None:
    """Sums in another order round differently, by more than fp32's tolerance."""
    model = build(
        """g (float[N,3,16,16] xf) => (float[N,5,16,16] yf)
        <float16[64,3,3,3] wa, float16[64] ba, float16[96,64,3,3] wb, float16[96] bb, float16[64,96,1,1] wc,
         float16[5,64,1,1] wy, float16[5] by>
        { x = Cast<to=10>(xf)
          a0 = Conv<pads=[1,1,1,1]>(x, wa, ba)
          a = Relu(a0)
          b0 = Conv<pads=[1,1,1,1]>(a, wb, bb)
          b = Relu(b0)
          c = Conv(b, wc)
          s = Add(a, c)
          y = Conv(s, wy, by)
          yf = Cast<to=1>(y) }""",
        seed=seed,
    )
    result = prove_half(model, seed=seed)
    assert result.proof.ill_conditioned == ()


def test_layers_in_fp16_and_fp32_that_share_channels() -> None:
    """What is fp32 behind fp16 was rounded before: it is compared as fp16 is."""
    model = build(
        """g (float[N,3,8,8] x) => (float[N,5,8,8] y)
        <float[8,3,3,3] wa, float16[8,8,3,3] wb, float16[8] bb, float[5,8,1,1] wy>
        { a = Conv<pads=[1,1,1,1]>(x, wa)
          h = Cast<to=10>(a)
          [half] b = Conv<pads=[1,1,1,1]>(h, wb, bb)
          g0 = Cast<to=1>(b)
          s = Add(a, g0)
          y = Conv(s, wy) }"""
    )
    result = prove_half(model)
    assert removed(result) == {"a": 4, "half": 4}
    assert tensors(result.rewritten.model)["wb"].dtype == np.float16


# --- bf16 ---


def test_a_residual_net_in_bf16_is_proven_as_its_twin() -> None:
    result = prove_half(residual("bfloat16"))
    assert removed(result) == FREE
    assert result.proof.twin == "fp32"
    assert result.proof.max_relative_error <= result.proof.tolerance == 1e-4
    stored = result.rewritten.model.graph.initializer
    assert {t.data_type for t in stored} == {TensorProto.BFLOAT16}
    assert result.trace.shapes.dtype["a0"] == TensorProto.BFLOAT16


def test_the_twin_leaves_the_model_and_its_numbers_alone() -> None:
    model = residual("bfloat16")
    before = model.SerializeToString()
    twin = fp32_twin(model)
    assert model.SerializeToString() == before
    assert has_bfloat16(model)
    assert not has_bfloat16(twin)
    for name, array in tensors(model).items():
        np.testing.assert_array_equal(tensors(twin)[name], array.astype(np.float32))


def test_bf16_weights_that_are_cast_to_fp32_stay_bf16() -> None:
    model = build(
        """g (float[N,3,8,8] x) => (float[N,5,8,8] y)
        <bfloat16[8,3,3,3] ha, bfloat16[8] hb, bfloat16[5,8,1,1] hy>
        { wa = Cast<to=1>(ha)
          ba = Cast<to=1>(hb)
          [conv] a = Conv<pads=[1,1,1,1]>(x, wa, ba)
          wy = Cast<to=1>(hy)
          y = Conv(a, wy) }"""
    )
    result = prove_half(model)
    assert removed(result) == {"conv": 4}
    cut = tensors(result.rewritten.model)
    assert (cut["ha"].dtype, cut["ha"].shape) == (ml_dtypes.bfloat16, (4, 3, 3, 3))
    assert [n.op_type for n in result.rewritten.model.graph.node] == [n.op_type for n in model.graph.node]


def test_fp32_weights_that_are_cast_to_bf16_round() -> None:
    """A constant behind a Cast to bfloat16 has the value that rounding gives, and its type."""
    model = build(
        """g (bfloat16[N,3,8,8] x) => (bfloat16[N,5,8,8] y) <float[8,3,3,3] fa, float[8,3,3,3] fb, bfloat16[5,8,1,1] wy>
        { sum = Add(fa, fb)
          wa = Cast<to=16>(sum)
          back = Cast<to=1>(wa)
          twice = Cast<to=16>(back)
          [conv] a = Conv<pads=[1,1,1,1]>(x, twice)
          y = Conv(a, wy) }"""
    )
    trace = trace_model(model, None, RUNTIME)
    stored = tensors(model)
    rounded = (stored["fa"] + stored["fb"]).astype(ml_dtypes.bfloat16)
    for name, expected in (("twice", rounded), ("back", rounded.astype(np.float32))):
        value = Constants(Graph(model), trace.shapes.shape, RUNTIME).value(name)
        assert value is not None
        assert value.dtype == expected.dtype
        np.testing.assert_array_equal(value, expected)
    assert removed(prove_half(model)) == {"conv": 4}


@pytest.mark.parametrize("data", [None, "npz"])
def test_bf16_by_the_command_line(tmp_path: Path, data: str | None) -> None:
    onnx.save(residual("bfloat16"), tmp_path / "in.onnx")
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(np.float32))
    given = ["--data", str(tmp_path / "data.npz")] if data else []
    paths = {k: str(tmp_path / k) for k in ("in.onnx", "out.onnx", "again.onnx", "plan.json", "report.json")}
    runner = CliRunner()
    source, out = paths["in.onnx"], paths["out.onnx"]
    written = ["--plan-out", paths["plan.json"], "--report", paths["report.json"], "--samples", "8"]
    for command in (
        ["prune", source, out, "--ratio", "0.5", "--repair", "none", *written, *given],
        ["check", source, out, *given],
        ["apply", paths["plan.json"], source, paths["again.onnx"], *given],
        ["inspect", source],
    ):
        result = runner.invoke(main, command)
        assert result.exit_code == 0, (command, result.output)
    report = json.loads(Path(paths["report.json"]).read_text())
    assert report["proof"]["twin"] == "fp32"
    assert report["proof"]["passed"] is True
    assert any("bfloat16" in w for w in report["warnings"])
    assert report["agreement"]["kind"] == "top1"
    assert Path(out).read_bytes() == Path(paths["again.onnx"]).read_bytes()
    assert has_bfloat16(onnx.load(out))


def test_bf16_samples_in_memory_are_taken() -> None:
    samples = np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype(ml_dtypes.bfloat16)
    result = ocnna_onnx.prune(residual("bfloat16"), data=samples, ratio=0.5)
    assert sum(map(len, result.plan.remove.values())) == 11


@pytest.mark.parametrize("criterion", ["ocnna", "l1", "l2", "random"])
def test_every_criterion_scores_bf16(criterion: str) -> None:
    result = ocnna_onnx.prune(residual("bfloat16"), criterion=criterion, ratio=0.5, samples=4)
    assert result.report["obtained"]["removed"] == 7


def test_bf16_in_a_body() -> None:
    model = build(
        """g (float[N,3,8,8] x, bool c) => (float[N,5,8,8] y) <float[8,3,3,3] wa, float[5,8,1,1] wy>
        { [conv] a = Conv<pads=[1,1,1,1]>(x, wa)
          z = Conv(a, wy)
          y = If(c) <then_branch = t () => (float[N,5,8,8] p) { h = Cast<to=16>(z) i = Add(h, h) p = Cast<to=1>(i) },
                     else_branch = f () => (float[N,5,8,8] q) { q = Neg(z) }> }"""
    )
    assert removed(prove_half(model)) == {"conv": 4}


def in_bf16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every float32 of a model as bfloat16."""
    converted = onnx.ModelProto()
    converted.CopyFrom(model)
    nodes = list(converted.graph.node)
    nodes += [n for f in converted.functions for n in f.node]
    for tensor in (*converted.graph.initializer, *(a.t for n in nodes for a in n.attribute if a.HasField("t"))):
        if tensor.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor).astype(ml_dtypes.bfloat16)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for value in (*converted.graph.input, *converted.graph.output, *converted.graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.BFLOAT16
    for node in nodes:
        for a in node.attribute:
            if a.name in ("to", "dtype") and a.i == TensorProto.FLOAT:
                a.i = TensorProto.BFLOAT16
    return converted


@pytest.mark.parametrize(
    "name",
    [n if k % 10 == 1 else pytest.param(n, marks=pytest.mark.slow) for k, n in enumerate(CASES)],
)
def test_an_idiom_is_pruned_in_bf16_too(name: str) -> None:
    result = prove_half(in_bf16(CASES[name].model))
    assert removed(result) == CASES[name].gone
    assert result.proof.twin == "fp32"


# --- weights in eight bits and four ---

KINDS = ["FLOAT8E4M3FN", "FLOAT8E5M2", "INT4", "UINT4", "INT8"]


def dequantized(kind: str, block: int = 0) -> onnx.ModelProto:
    model = build(
        """g (float[N,3,8,8] x) => (float[N,5,8,8] y) <float[5,8,1,1] wy>
        { a = Conv<pads=[1,1,1,1]>(x, wa)
          r = Relu(a)
          b = Conv(r, wb)
          y = Conv(b, wy) }""",
        opset=23,
        ir=11,
    )
    rng = np.random.default_rng(0)
    made = []
    for name, shape in (("wa", (8, 3, 3, 3)), ("wb", (8, 8, 1, 1))):
        low, high = (0, 8) if kind.startswith("U") else (-7, 8)
        kind_type = helper.tensor_dtype_to_np_dtype(getattr(TensorProto, kind))
        codes = rng.integers(low, high, shape).astype(np.int8).astype(kind_type)
        model.graph.initializer.append(numpy_helper.from_array(codes, f"{name}_codes"))
        blocks = block and name == "wb"
        scales = np.float32(rng.uniform(0.1, 0.3, (8, 8 // block, 1, 1) if blocks else 8))
        model.graph.initializer.append(numpy_helper.from_array(scales, f"{name}_scale"))
        extra = {"block_size": block, "axis": 1} if blocks else {"axis": 0}
        made.append(helper.make_node("DequantizeLinear", [f"{name}_codes", f"{name}_scale"], [name], **extra))
    nodes = [*made, *(onnx.NodeProto.FromString(n.SerializeToString()) for n in model.graph.node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_small_codes_are_cut_where_they_are_stored(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    result = prove_half(dequantized(kind))
    assert removed(result) == {"a": 4, "b": 4}
    stored = {t.name: t for t in result.rewritten.model.graph.initializer}
    assert stored["wa_codes"].data_type == getattr(TensorProto, kind)
    assert list(stored["wa_codes"].dims) == [4, 3, 3, 3]
    assert list(stored["wb_scale"].dims) == [4]
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("kind", ["INT4", "INT8"])
def test_codes_in_blocks_are_exact_whatever_goes(kind: str) -> None:
    result = prove_half(dequantized(kind, block=4))
    assert removed(result) == {"a": 4, "b": 4}


@pytest.mark.parametrize("kind", ["INT4", "UINT4", "INT8"])
def test_codes_in_blocks_stay_codes_where_whole_blocks_go(kind: str) -> None:
    model = dequantized(kind, block=4)
    scale = next(t for t in model.graph.initializer if t.name == "wa_scale")
    scale.CopyFrom(numpy_helper.from_array(np.float32([0.3] * 4 + [0.001] * 4), "wa_scale"))
    pruned = ocnna_onnx.prune(model, ratio=0.5, criterion="l1", samples=4).model
    stored = {t.name: t for t in pruned.graph.initializer}
    assert stored["wb_codes"].data_type == getattr(TensorProto, kind)
    assert list(stored["wb_codes"].dims) == [4, 4, 1, 1]
    assert list(stored["wb_scale"].dims) == [4, 1, 1, 1]


@pytest.mark.parametrize("kind", ["FLOAT8E4M3FN", "INT4", "UINT4", "INT16"])
def test_activations_in_small_codes(kind: str) -> None:
    model = build(
        """g (float[N,3,8,8] x) => (float[N,5,8,8] y)
        <float[8,3,1,1] wa, float[6,8,1,1] wb, float[5,6,1,1] wy, float s = {0.05}>
        { a = Conv(x, wa)
          q = QuantizeLinear(a, s, z)
          d = DequantizeLinear(q, s, z)
          b = Conv(d, wb)
          y = Conv(b, wy) }""",
        opset=23,
        ir=11,
    )
    zero = np.zeros((), helper.tensor_dtype_to_np_dtype(getattr(TensorProto, kind)))
    model.graph.initializer.append(numpy_helper.from_array(zero, "z"))
    assert removed(prove_half(model)) == {"a": 4, "b": 3}
