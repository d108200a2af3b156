"""What people trying the tool ran into, kept as tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from nets import cli, done, written
from onnx import numpy_helper
from support import RUNTIME, build, prove_half, removed, run_model

import ocnna_onnx
from ocnna_onnx.trace.rules import RULES, Rule
from ocnna_onnx.trace.tracer import DEFECT, trace

NET = """g (float[N,3,8,8] x) => (float[N,5,1,1] y) <float[8,3,3,3] wa, float[8] ba, float[5,8,1,1] wy>
    { [conv] a = Conv(x, wa, ba) [relu] r = Relu(a) [pool] p = GlobalAveragePool(r) [head] y = Conv(p, wy) }"""


def images(count: int = 12) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, 8, 8)).astype(np.float32)


def test_class_scores_as_maps_of_one_pixel_have_an_accuracy() -> None:
    data = {"x": images(), "y": np.arange(12) % 5}
    report = ocnna_onnx.prune(build(NET), data=data, ratio=0.5).report
    assert report["agreement"]["kind"] == "top1"
    assert report["accuracy"]["samples"] == 12


def test_labels_that_are_no_class_are_refused() -> None:
    with pytest.raises(ocnna_onnx.DataError, match="5 classes"):
        ocnna_onnx.prune(build(NET), data={"x": images(), "y": np.full(12, 100)}, ratio=0.5)


def test_an_exclusion_that_matches_nothing_is_told() -> None:
    report = ocnna_onnx.prune(build(NET), data=images(), ratio=0.5, exclude=["typo*"], exclude_op=["Convv"]).report
    assert [w for w in report["warnings"] if "typo*" in w]
    assert [w for w in report["warnings"] if "Convv" in w]


def test_node_names_that_look_like_markup(tmp_path: Path) -> None:
    model = build(NET)
    model.graph.node[0].name = "b[/x]y[bold]z"
    out = done("prune", written(tmp_path, model), tmp_path / "out.onnx", "--criterion", "l2", "--samples", 4).stdout
    assert "b[/x]y[bold]z" in out
    assert "b[/x]y[bold]z" in done("inspect", written(tmp_path, model)).stdout


def test_the_plan_does_not_replace_the_model_by_another_spelling(tmp_path: Path) -> None:
    net = written(tmp_path, build(NET))
    (tmp_path / "sub").mkdir()
    result = cli("prune", net, tmp_path / "out.onnx", "--plan-out", tmp_path / "sub" / ".." / "out.onnx")
    assert result.exit_code == 2


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    net = written(tmp_path, build(NET))
    (tmp_path / "real.onnx").write_bytes(b"old")
    (tmp_path / "link.onnx").symlink_to(tmp_path / "real.onnx")
    done("prune", net, tmp_path / "link.onnx", "--criterion", "l2", "--samples", 4)
    assert (tmp_path / "link.onnx").is_symlink()
    assert onnx.load(tmp_path / "real.onnx").graph.node


def test_a_recurrent_state_has_no_sample_axis() -> None:
    model = build(
        """g (float[N,3,8,8] x, float[2,M,4] state) => (float[N,5,6,6] y, float[2,M,4] s)
        <float[8,3,3,3] wa, float[5,8,1,1] wy> { a = Conv(x, wa) y = Conv(a, wy) s = Relu(state) }"""
    )
    data = {"x": images(6), "state": np.zeros((2, 1, 4), np.float32)}
    result = ocnna_onnx.prune(model, data=data, ratio=0.5)
    assert result.report["data"]["samples"] == 6
    assert ocnna_onnx.check(model, result.model, data=data).proof.passed


def test_a_rule_that_fails_becomes_a_wall(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(n: object) -> None:
        raise ValueError("what nobody thought of")

    monkeypatch.setitem(RULES, "GlobalAveragePool", Rule(broken))
    found = trace(build(NET))
    assert [w for w in found.walls if DEFECT in w.reason and "what nobody thought of" in w.reason]
    assert not found.free[found.unit_class[found.sources[0].units]].any()


# --- weights that the graph computes: what is stored shrinks ---

COMPUTED = {
    "transposed": ("t = Transpose<perm=[1,0,2,3]>(w) m = Conv(a, t)", "float[8,8,1,1] w"),
    "cast": ("t = Cast<to=1>(w) m = Conv(a, t)", "float16[8,8,1,1] w"),
    "reshaped": ("t = Reshape(w, s) m = Conv(a, t)", "float[8,8] w, int64[4] s = {8,8,1,1}"),
    "unsqueezed": ("t = Unsqueeze(w, s) m = PRelu(a, t)", "float[8] w, int64[2] s = {1,2}"),
    "expanded": ("t = Expand(w, s) m = PRelu(a, t)", "float[8,1,1] w, int64[3] s = {8,6,6}"),
    "scaled": ("t = Mul(w, k) m = Conv(a, t)", "float[8,8,1,1] w, float[8,1,1,1] k"),
    "dequantized": (
        "t = DequantizeLinear<axis=0>(w, k, z) m = Conv(a, t)",
        "int8[8,8,1,1] w, float[8] k, int8[8] z",
    ),
    "filled": ("t = ConstantOfShape<value=float[1] {0.5}>(s) m = Mul(a, t)", "int64[3] s = {8,1,1}"),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_a_computed_weight_is_cut_where_it_is_stored(name: str) -> None:
    middle, weights = COMPUTED[name]
    codes = {"w": np.random.default_rng(0).integers(-9, 9, (8, 8, 1, 1))} if name == "dequantized" else {}
    model = build(
        f"""g (float[N,3,8,8] x) => (float[N,5,6,6] y) <float[8,3,3,3] wa, float[5,8,1,1] wy, {weights}>
        {{ a = Conv(x, wa) {middle} y = Conv(m, wy) }}""",
        **codes,
    )
    result = prove_half(model)
    assert removed(result)["a"] == 4
    ops = [n.op_type for n in result.rewritten.model.graph.node]
    assert ops == [n.op_type for n in model.graph.node]
    stored = {t.name: numpy_helper.to_array(t).size for t in result.rewritten.model.graph.initializer}
    before = {t.name: numpy_helper.to_array(t).size for t in model.graph.initializer}
    assert sum(stored.values()) < sum(before.values())
    if "w" in before:
        assert stored["w"] < before["w"]


def test_a_type_like_another_is_a_constant() -> None:
    """PyTorch's exporter without optimization: a bias made by CastLike and Expand."""
    model = build(
        """g (float[N,3,8,8] x) => (float[N,5,6,6] y)
        <float[8,3,3,3] wa, float[5,8,1,1] wy, float zero = {0}, int64[1] s = {8}>
        { c = CastLike(zero, x) b = Expand(c, s) a = Conv(x, wa, b) r = Relu(a) y = Conv(r, wy) }"""
    )
    assert removed(prove_half(model)) == {"a": 4}


def test_json_of_a_prune_is_strict(tmp_path: Path) -> None:
    net = written(tmp_path, build(NET))
    report = json.loads(done("prune", net, tmp_path / "o.onnx", "--criterion", "l2", "--samples", 4, "--json").stdout)
    assert report["schema"] == 1


@pytest.mark.parametrize(
    "line",
    ["r = Reshape(c, t)", "r = Expand(c, t)", "r = Resize(c, , , t)", "r = Tile(c, t)"],
)
def test_a_size_that_comes_in_at_run_time_is_a_wall(line: str) -> None:
    """What the caller feeds holds the number of channels: nothing of ours can follow."""
    shape = "float[2,3,8,8] x, int64[4] t"
    model = build(f"g ({shape}) => (float[A,B,C,D] y) <float[8,3,1,1] w> {{ c = Conv(x, w)  {line}  y = Relu(r) }}")
    values = {"t": np.asarray([1, 1, 1, 1] if "Tile" in line else [2, 8, 8, 8])}
    found = trace(model, None, RUNTIME, values)
    assert not found.free[found.unit_class[found.sources[0].units]].any()
    assert any("not known ahead" in w.reason or "computed" in w.reason for w in found.walls), found.walls


@pytest.mark.parametrize("batch", [1, 4])
def test_sizes_that_are_given_for_symbolic_dimensions_are_no_constants(batch: int) -> None:
    """--input-shapes x:1,3,8,8 must not turn a Reshape target that follows the batch into a literal."""
    model = build(
        """g (float[N,3,8,8] x) => (float[M,4,8,8] y) <float[8,3,1,1] w, float[4,8,1,1] v, int64[1] zero = {0},
        int64[2] rest = {8, 64}> {
          c = Conv(x, w)  s = Shape(c)  n = Gather(s, zero)  t = Concat<axis=0>(n, rest)  r = Reshape(c, t)
          k = Mul(r, r)  u = Reshape(k, s)  y = Conv(u, v) }"""
    )
    result = ocnna_onnx.prune(model, criterion="l2", ratio=0.5, input_shapes={"x": (1, 3, 8, 8)})
    assert result.report["proof"]["passed"]
    x = np.random.default_rng(0).standard_normal((batch, 3, 8, 8)).astype(np.float32)
    inner = run_model(result.model, {"x": x}, ["k"])["k"]
    assert inner.shape == (batch, 4, 64)


def test_a_mean_over_a_map_of_channels_by_channels() -> None:
    """Two label arrays on one tensor (bilinear pooling): one axis is averaged, the other passes."""
    model = build(
        """g (float[N,3,8,8] x) => (float[N,M] y)
        <float[8,3,1,1] wa, float[6,3,1,1] wb, int64[3] fa = {0,8,64}, int64[3] fb = {0,6,64}, float[6,4] v> {
          a = Conv(x, wa)  b = Conv(x, wb)  p = Reshape(a, fa)  q = Reshape(b, fb)
          t = Transpose<perm=[0,2,1]>(q)  m = MatMul(p, t)  r = ReduceMean<axes=[1], keepdims=0>(m)
          y = MatMul(r, v) }"""
    )
    assert removed(prove_half(model)) == {"a": 4, "b": 3}


def test_a_saturated_sigmoid_is_no_wrong_cut() -> None:
    """Values around 1e-7 beside values of 1: what they differ by is the rounding of the Sigmoid."""
    model = build(
        """g (float[N,3,8,8] x) => (float[N,M,H,W] y)
        <float[8,3,3,3] wa, float[8] ba, float[6,8,3,3] wb, float[5,6,1,1] wc> {
          a = Conv(x, wa, ba)  b = Conv<pads=[2,2,2,2]>(a, wb)  m = Sigmoid(b)  y = Conv(m, wc) }""",
        ba=np.full(8, 100.0),
    )
    for seed in range(4):
        prove_half(model, 0.9, seed)


def test_a_constant_scaled_by_a_number_of_channels_keeps_its_values() -> None:
    """The keys are constant, both sides are divided by ⁴√channels: after the cut they still are, by the old number."""
    model = build(
        """g (float[N,4,16] x) => (float[N,4,5] y)
        <float[16,8] wq, float[6,8] keys, float[6,5] v, float[1] one = {1}> {
          q = MatMul(x, wq)  s = Shape<start=2, end=3>(q)  f = Cast<to=1>(s)  r = Sqrt(f)  d = Sqrt(r)  c = Div(one, d)
          t = Transpose<perm=[1,0]>(keys)  qs = Mul(q, c)  ks = Mul(t, c)  w = MatMul(qs, ks)  y = MatMul(w, v) }"""
    )
    assert removed(prove_half(model)) == {"q": 4, "w": 3}
