"""Grouped convolutions: whole groups go, or an equal count from every group, paired after scoring."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from support import Proven, build, prove_half, redo_cuts, removed

import ocnna_onnx
from ocnna_onnx.trace.tracer import trace as trace_model

WIDE = """g (float[N,3,8,8] x) => (float[N,4,H,W] y)
<float[16,3,3,3] w1, float[16] b1, float[24,8,3,3] w2, float[24] b2, float[4,24,1,1] w3> {
  c1 = Conv<pads=[1,1,1,1]>(x, w1, b1)  r1 = Relu(c1)
  c2 = Conv<group=2, pads=[1,1,1,1]>(r1, w2, b2)  r2 = Relu(c2)  y = Conv(r2, w3) }"""
"""Two groups of eight and twelve channels: counts leave more choices than the two groups."""

NARROW = """g (float[N,3,8,8] x) => (float[N,4,H,W] y)
<float[16,3,3,3] w1, float[16,2,3,3] w2, float[16] b2, float[4,16,1,1] w3> {
  c1 = Conv<pads=[1,1,1,1]>(x, w1)  r1 = Relu(c1)
  c2 = Conv<group=8, pads=[1,1,1,1]>(r1, w2, b2)  r2 = Relu(c2)  y = Conv(r2, w3) }"""
"""Eight groups of two channels: whole groups leave more choices."""

TRANSPOSED = """g (float[N,3,8,8] x) => (float[N,4,H,W] y)
<float[12,3,3,3] w1, float[12,5,2,2] w2, float[10] b2, float[4,10,1,1] w3> {
  c1 = Conv(x, w1)  r1 = Relu(c1)  c2 = ConvTranspose<group=2, strides=[2,2]>(r1, w2, b2)  y = Conv(c2, w3) }"""

CHAINED = """g (float[N,3,8,8] x) => (float[N,4,H,W] y)
<float[16,3,3,3] w1, float[16,8,3,3] w2, float[16,1,3,3] d, float[20,8,3,3] w3, float[4,20,1,1] w4> {
  c1 = Conv(x, w1)  r1 = Relu(c1)  c2 = Conv<group=2>(r1, w2)  c3 = Conv<group=16, pads=[1,1,1,1]>(c2, d)
  r3 = Relu(c3)  c4 = Conv<group=2>(r3, w3)  y = Conv(c4, w4) }"""
"""Grouped, depthwise, grouped: the grids share channels and cut them into the same groups."""

CLASHING = """g (float[N,3,8,8] x) => (float[N,4,H,W] y)
<float[24,3,3,3] w1, float[12,12,3,3] w2, float[12,8,3,3] w3, float[4,12,1,1] w4> {
  c1 = Conv(x, w1)  r1 = Relu(c1)  a = Conv<group=2>(r1, w2)  b = Conv<group=3>(r1, w3)  s = Add(a, b)
  y = Conv(s, w4) }"""
"""Two groups here, three there: what goes must be an equal count of both."""

RESIDUAL = """g (float[N,3,8,8] x) => (float[N,4,H,W] y)
<float[16,3,3,3] w1, float[16,8,3,3] w2, float[16,8,3,3] w3, float[4,16,1,1] w4> {
  c1 = Conv<pads=[1,1,1,1]>(x, w1)  r1 = Relu(c1)  c2 = Conv<group=2, pads=[1,1,1,1]>(r1, w2)  a2 = Add(c2, c1)
  c3 = Conv<group=2, pads=[1,1,1,1]>(a2, w3)  a3 = Add(c3, a2)  y = Conv(a3, w4) }"""


def nested(result: Proven) -> list[Any]:
    """Cuts with one list per group."""
    return [c for c in result.rewritten.cuts if isinstance(c.kept[0], tuple)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("text", [WIDE, NARROW, TRANSPOSED, CHAINED, CLASHING, RESIDUAL])
def test_every_kind_is_cut_and_proven(text: str, share: float, seed: int) -> None:
    result = prove_half(build(text, seed=seed), share, seed)
    layers = {name: count for name, count in removed(result).items() if name not in ("y",)}
    assert share < 0.5 or len(layers) >= 2


@pytest.mark.parametrize(("text", "chosen"), [(WIDE, "equal count"), (NARROW, "whole groups")])
def test_the_kind_that_leaves_more_choices_is_taken(text: str, chosen: str) -> None:
    assert chosen in next(name for _, name in trace_model(build(text)).chosen)


def test_each_group_keeps_channels_of_its_own() -> None:
    result = prove_half(build(WIDE), 0.5, 1)
    (cut,) = nested(result)
    assert (cut.node, cut.axis, len(cut.kept)) == ("c2", 1, 2)
    assert len(cut.kept[0]) == len(cut.kept[1]) == 4
    assert cut.kept[0] != cut.kept[1]


def test_whole_groups_take_their_groups_along() -> None:
    result = prove_half(build(NARROW))
    node = next(n for n in result.rewritten.model.graph.node if "c2" in n.output)
    assert next(a.i for a in node.attribute if a.name == "group") == 4
    assert removed(result) == {"c1": 8, "c2": 8}


def scored(text: str) -> onnx.ModelProto:
    """The net with filters of the first layer whose L2 norms rise within the first group and fall within the second."""
    model = build(text)
    w = np.ones((16, 3, 3, 3), np.float32) * np.r_[np.arange(1, 9), np.arange(8, 0, -1)].reshape(-1, 1, 1, 1)
    tensor = next(t for t in model.graph.initializer if t.name == "w1")
    tensor.CopyFrom(onnx.numpy_helper.from_array(w.astype(np.float32), "w1"))
    return model


def test_the_lowest_of_each_group_go_together() -> None:
    model = scored(WIDE)
    result = ocnna_onnx.prune(model, criterion="l2", ratio=0.25, samples=4)
    assert result.plan.remove["c1"] == (0, 1, 14, 15)
    records = [c for c in result.report["cuts"] if c["node"] == "c2" and c["axis"] == 1]
    assert [c["kept"] for c in records] == [[[2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5]]]
    redo_cuts(model, result.model, result.report["cuts"], result.report["rewrites"])


def test_a_plan_with_pairs_is_replayed_bit_for_bit_and_checked() -> None:
    model = scored(WIDE)
    result = ocnna_onnx.prune(model, criterion="l2", ratio=0.5, samples=4)
    again = ocnna_onnx.apply(result.plan, model, samples=4)
    assert again.model.SerializeToString(deterministic=True) == result.model.SerializeToString(deterministic=True)
    assert ocnna_onnx.check(model, result.model, samples=4).proof.passed


def test_a_plan_with_unequal_counts_is_refused() -> None:
    model = scored(WIDE)
    plan = ocnna_onnx.prune(model, criterion="l2", ratio=0.25, samples=4).plan
    broken = ocnna_onnx.Plan(**{**vars(plan), "remove": {"c1": (0, 1, 15)}})
    with pytest.raises(ocnna_onnx.DataError, match="c1"):
        ocnna_onnx.apply(broken, model, samples=4)


def test_an_excluded_layer_keeps_its_channels_and_its_partners_pair_with_each_other() -> None:
    text = """g (float[N,3,8,8] x) => (float[N,4,H,W] y)
    <float[4,3,3,3] wa, float[12,3,3,3] wb, float[16,8,3,3] w2, float[4,16,1,1] w3> {
      a = Conv(x, wa)  b = Conv(x, wb)  c = Concat<axis=1>(a, b)  c2 = Conv<group=2>(c, w2)  y = Conv(c2, w3) }"""
    result = ocnna_onnx.prune(build(text), criterion="l2", ratio=0.5, exclude=["a"], samples=4)
    assert "a" not in result.plan.remove
    assert len(result.plan.remove["b"]) == 8


def test_quantized_weights_of_a_grouped_layer_are_cut_per_group() -> None:
    text = """g (float[N,3,8,8] x) => (float[N,4,H,W] y)
    <float[16,3,3,3] w1, int8[16,8,3,3] q2, float[16] s2, int8[16] z2, float[4,16,1,1] w3> {
      c1 = Conv(x, w1)  r1 = Relu(c1)  w2 = DequantizeLinear<axis=0>(q2, s2, z2)  c2 = Conv<group=2>(r1, w2)
      y = Conv(c2, w3) }"""
    rng = np.random.default_rng(0)
    model = build(text, q2=rng.integers(-127, 127, (16, 8, 3, 3)), s2=rng.uniform(0.01, 0.02, 16), z2=np.zeros(16))
    result = prove_half(model)
    stored = next(t for t in result.rewritten.model.graph.initializer if t.name == "q2")
    assert (tuple(stored.dims), stored.data_type) == ((8, 4, 3, 3), onnx.TensorProto.INT8)
    assert nested(result)
