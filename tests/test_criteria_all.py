"""What holds for every criterion of the table, and each against a reference in plain loops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from nets import RESNET, TINY, TINY_SHAPES, build, images, initializers, traced, weights

import ocnna_onnx
from ocnna_onnx.calibrate import stream
from ocnna_onnx.calibrate.where import after_activation, decoder, with_zeros
from ocnna_onnx.criteria.chip import independence
from ocnna_onnx.criteria.hrank import ranks
from ocnna_onnx.criteria.magnitude import filters, l2, lamp
from ocnna_onnx.criteria.response import entropy
from ocnna_onnx.criteria.similarity import distances
from ocnna_onnx.criteria.table import CRITERIA
from ocnna_onnx.model.light import light
from ocnna_onnx.model.session import Runtime, open_session, run
from ocnna_onnx.trace.types import Trace

Array = np.ndarray[Any, np.dtype[Any]]

RUNTIME = Runtime(threads=1)
DEAD = 2
"""The index of the channel that is dead in every layer of the nets below."""


def scores(model: onnx.ModelProto, data: Any, criterion: str, **more: Any) -> dict[str, Array]:
    """Node -> scores."""
    found = ocnna_onnx.score(model, data=data, criterion=criterion, cache=False, threads=1, **more)
    return {name: layer.scores for name, layer in found.layers.items()}


# --- nets


@dataclass(frozen=True)
class Net:
    """An ONNX text with its initializers. dead: initializers, with the axis along which position DEAD is zeroed.
    layers: nodes whose channel DEAD is dead then. sample: shape of one sample."""

    text: str
    shapes: Mapping[str, tuple[int, ...]]
    dead: Mapping[str, int]
    layers: tuple[str, ...]
    sample: tuple[int, ...] = (1, 8, 8)
    half: bool = False


def norm(k: int, size: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}{k}": (size,) for name in ("gamma", "beta", "mean", "var")}


RESIDUAL = Net(
    """
    g (float[N,1,8,8] x) => (float[N,5] y) {
        [stem] a0 = Conv<pads=[1,1,1,1]>(x, w0)
        [n0] b0 = BatchNormalization(a0, gamma0, beta0, mean0, var0)
        [r0] c0 = Relu(b0)
        [inner] a1 = Conv<pads=[1,1,1,1]>(c0, w1)
        [n1] b1 = BatchNormalization(a1, gamma1, beta1, mean1, var1)
        [r1] c1 = Relu(b1)
        [outer] a2 = Conv<pads=[1,1,1,1]>(c1, w2)
        [n2] b2 = BatchNormalization(a2, gamma2, beta2, mean2, var2)
        [sum] s = Add(b2, c0)
        [r2] c2 = Relu(s)
        [pool] p = GlobalAveragePool(c2)
        [flat] f = Flatten(p)
        [fc] y = Gemm<transB=1>(f, w3, b3)
    }
    """,
    {
        "w0": (6, 1, 3, 3),
        "w1": (4, 6, 3, 3),
        "w2": (6, 4, 3, 3),
        "w3": (5, 6),
        "b3": (5,),
        **norm(0, 6),
        **norm(1, 4),
        **norm(2, 6),
    },
    {f"{name}{k}": 0 for name in ("w", "gamma", "beta") for k in range(3)},
    ("stem", "inner", "outer"),
)
DEPTHWISE = Net(
    """
    g (float[N,3,8,8] x) => (float[N,5] y) {
        [wide] a0 = Conv(x, w0)
        [n0] b0 = BatchNormalization(a0, gamma0, beta0, mean0, var0)
        [r0] c0 = Clip(b0, low, high)
        [deep] a1 = Conv<group=8, pads=[1,1,1,1]>(c0, w1)
        [n1] b1 = BatchNormalization(a1, gamma1, beta1, mean1, var1)
        [r1] c1 = Clip(b1, low, high)
        [thin] a2 = Conv(c1, w2)
        [n2] b2 = BatchNormalization(a2, gamma2, beta2, mean2, var2)
        [last] a3 = Conv(b2, w3)
        [pool] p = GlobalAveragePool(a3)
        [flat] y = Flatten(p)
    }
    """,
    {
        "w0": (8, 3, 1, 1),
        "w1": (8, 1, 3, 3),
        "w2": (4, 8, 1, 1),
        "w3": (5, 4, 1, 1),
        "low": (),
        "high": (),
        **norm(0, 8),
        **norm(1, 8),
        **norm(2, 4),
    },
    {f"{name}{k}": 0 for name in ("w", "gamma", "beta") for k in range(3)},
    ("wide", "deep", "thin"),
    (3, 8, 8),
)
GROUPED = Net(
    """
    g (float[N,4,8,8] x) => (float[N,5] y) {
        [first] a0 = Conv<pads=[1,1,1,1]>(x, w0, b0)
        [r0] c0 = Relu(a0)
        [groups] a1 = Conv<group=2, pads=[1,1,1,1]>(c0, w1, b1)
        [r1] c1 = Relu(a1)
        [up] a2 = ConvTranspose<group=2>(c1, w2)
        [r2] c2 = HardSwish(a2)
        [pool] p = GlobalAveragePool(c2)
        [flat] f = Flatten(p)
        [fc] y = Gemm(f, w3)
    }
    """,
    {"w0": (8, 4, 3, 3), "b0": (8,), "w1": (6, 4, 3, 3), "b1": (6,), "w2": (6, 4, 2, 2), "w3": (8, 5)},
    {"w0": 0, "b0": 0, "w1": 0, "b1": 0},
    ("first", "groups"),
    (4, 8, 8),
)
TOKENS = Net(
    """
    g (float[N,6,4] x) => (float[N,5] y) {
        [one] a0 = MatMul(x, w0)
        [bias] d0 = Add(b0, a0)
        [r0] c0 = Relu(d0)
        [two] a1 = MatMul(c0, w1)
        [r1] c1 = Relu(a1)
        [mean] m = ReduceMean<axes=[1], keepdims=0>(c1)
        [three] a2 = Gemm(m, w2, b2)
        [r2] c2 = Relu(a2)
        [fc] y = Gemm<transB=1>(c2, w3)
    }
    """,
    {"w0": (4, 7), "b0": (7,), "w1": (7, 6), "w2": (6, 5), "b2": (5,), "w3": (5, 5)},
    {"w0": 1, "b0": 0, "w1": 1, "w2": 1, "b2": 0},
    ("one", "two", "three"),
    (6, 4),
)
CHANNELS_LAST = Net(
    """
    g (float[N,8,8,2] x) => (float[N,5] y) {
        [in] t = Transpose<perm=[0,3,1,2]>(x)
        [conv] a0 = Conv(t, w0)
        [r0] c0 = Relu(a0)
        [out] u = Transpose<perm=[0,2,3,1]>(c0)
        [point] a1 = MatMul(u, w1)
        [bias] d1 = Add(a1, b1)
        [r1] c1 = Relu(d1)
        [mean] m = ReduceMean<axes=[1,2], keepdims=0>(c1)
        [fc] y = MatMul(m, w2)
    }
    """,
    {"w0": (6, 2, 3, 3), "w1": (6, 5), "b1": (5,), "w2": (5, 5)},
    {"w0": 0, "w1": 1, "b1": 0},
    ("conv", "point"),
    (8, 8, 2),
)
HALF = Net(RESIDUAL.text.replace("float[", "float16["), RESIDUAL.shapes, RESIDUAL.dead, RESIDUAL.layers, half=True)
NETS = {
    "residual": RESIDUAL,
    "depthwise": DEPTHWISE,
    "grouped": GROUPED,
    "tokens": TOKENS,
    "channels last": CHANNELS_LAST,
    "fp16": HALF,
}
REFUSED = {("bn-scale", "grouped"), ("bn-scale", "tokens"), ("bn-scale", "channels last")}


@cache
def model_of(name: str) -> onnx.ModelProto:
    net = NETS[name]
    arrays = weights(net.shapes)
    for array, axis in net.dead.items():
        arrays[array] = arrays[array].copy()
        np.moveaxis(arrays[array], axis, 0)[DEAD] = 0
    if "low" in arrays:
        arrays["low"], arrays["high"] = np.float32([0, 6])
    arrays = {k: np.asarray(a, np.float16 if net.half else np.float32) for k, a in arrays.items()}
    return build(net.text, arrays)


def data_of(name: str) -> Array:
    return images(10, NETS[name].sample).astype(np.float16 if NETS[name].half else np.float32)


@cache
def scored(name: str, criterion: str) -> dict[str, Array]:
    return scores(model_of(name), data_of(name), criterion)


CASES = [(n, c) for n in NETS for c in CRITERIA if (c, n) not in REFUSED]
every_case = pytest.mark.parametrize(("name", "criterion"), CASES, ids=[f"{c} on {n}" for n, c in CASES])


# --- what holds for all of them


@every_case
def test_scores_are_finite_and_the_same_again(name: str, criterion: str) -> None:
    found = scored(name, criterion)
    trace = traced(model_of(name))
    assert {n: len(s) for n, s in found.items()} == {trace.graph.names[s.node]: len(s.units) for s in trace.sources}
    again = scores(model_of(name), data_of(name), criterion)
    for node, values in found.items():
        assert values.dtype == np.float64
        assert values.ndim == 1
        assert np.isfinite(values).all()
        assert values.tobytes() == again[node].tobytes()


@every_case
def test_a_dead_filter_comes_last(name: str, criterion: str) -> None:
    if criterion == "random":
        return
    for node in NETS[name].layers:
        values = scored(name, criterion)[node]
        assert values[DEAD] == values.min(), node


IMAGE_CASES = [(n, c) for n, c in CASES if CRITERIA[c].images and c != "blend"]
"""All but blend, which holds out a seeded choice of positions: another order holds out other samples."""


@pytest.mark.parametrize(("name", "criterion"), IMAGE_CASES, ids=[f"{c} on {n}" for n, c in IMAGE_CASES])
def test_neither_order_nor_batch_of_samples_matters(name: str, criterion: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data, wanted = data_of(name), scored(name, criterion)
    order = np.random.default_rng(0).permutation(len(data))
    tolerance = {"rtol": 2e-2, "atol": 1e-3} if NETS[name].half else {"rtol": 1e-4, "atol": 1e-7}
    shuffled = scores(model_of(name), data[order], criterion)
    monkeypatch.setattr(stream, "MAX_BATCH", 3)
    in_batches = scores(model_of(name), data, criterion)
    for found in (shuffled, in_batches):
        for node, values in found.items():
            near = {**tolerance, "atol": max(tolerance["atol"], 1e-5 * float(np.abs(wanted[node]).max()))}
            np.testing.assert_allclose(values, wanted[node], **near, err_msg=node)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_prunes(criterion: str) -> None:
    """The model in the repository has its BatchNormalizations folded, which bn-scale says."""
    if criterion == "bn-scale":
        with pytest.raises(ocnna_onnx.UsageError, match=r"bn-scale: no layer .* BatchNormalization"):
            ocnna_onnx.prune(RESNET, criterion=criterion, data="digits", samples=4, cache=False)
        return
    result = ocnna_onnx.prune(RESNET, criterion=criterion, data="digits", samples=8, ratio=0.25, cache=False)
    assert result.plan.remove
    assert result.plan.criterion == criterion
    values = scores(onnx.load(RESNET), "digits", criterion, samples=8)
    assert all(np.isfinite(v).all() for v in values.values())


@pytest.mark.parametrize("criterion", [c for c in CRITERIA if "tap" in CRITERIA[c].options])
def test_where_a_criterion_reads(criterion: str) -> None:
    at = {tap: scores(model_of("residual"), data_of("residual"), f"{criterion}:tap={tap}") for tap in TAPS}
    assert any((at["conv"][n] != at["activation"][n]).any() for n in at["conv"])
    with pytest.raises(ocnna_onnx.UsageError, match=rf"{criterion}: tap 'relu' is not known"):
        scores(model_of("residual"), data_of("residual"), f"{criterion}:tap=relu")


TAPS = ("conv", "activation")


# --- against plain loops

LOOPED = weights(TINY_SHAPES)


@cache
def tapped() -> dict[str, Array]:
    """Every tensor of the tiny net on 12 images."""
    return tensors(build(TINY, LOOPED), images())


def tensors(model: onnx.ModelProto, data: Array) -> dict[str, Array]:
    names = [o for node in model.graph.node for o in node.output]
    with open_session(light(model, names), RUNTIME) as session:
        return run(session, names, {"x": data})


def tiny_scores(criterion: str) -> dict[str, Array]:
    return scores(build(TINY, LOOPED), images(), criterion)


def assert_scores(criterion: str, wanted: Mapping[str, Any], rtol: float = 1e-4) -> None:
    found = tiny_scores(criterion)
    for node, values in wanted.items():
        np.testing.assert_allclose(found[node], values, rtol=rtol, err_msg=node)


def per_map(tensor: str, measure: Callable[[Array], float]) -> Array:
    """The mean over the images of a number per map."""
    return np.array([[measure(m.astype(np.float64)) for m in image] for image in tapped()[tensor]]).mean(axis=0)


def squared(a: Array) -> float:
    return float((a.astype(np.float64) ** 2).sum())


def test_group_l2_in_loops() -> None:
    w = LOOPED
    first = [squared(w["w1"][c]) + squared(w["w2"][:, c]) + squared(w["gamma"][c]) for c in range(8)]
    second = [squared(w["w2"][c]) + squared(w["w3"][:, c]) for c in range(6)]
    assert_scores("group-l2", {"conv1": np.sqrt(first), "conv2": np.sqrt(second), "fc": l2_rows(w["w3"])})


def l2_rows(weight: Array) -> Array:
    return np.array([np.sqrt(squared(row)) for row in weight])


def test_group_l2_of_grouped_and_depthwise_convolutions() -> None:
    w = initializers_of("depthwise")
    wide = [
        squared(w["w0"][c]) + squared(w["w1"][c]) + squared(w["w2"][:, c]) + w["gamma0"][c] ** 2 + w["gamma1"][c] ** 2
        for c in range(8)
    ]
    found = scored("depthwise", "group-l2")
    wide[DEAD] = 0
    np.testing.assert_allclose(found["wide"], np.sqrt(wide), rtol=1e-5)
    np.testing.assert_allclose(found["deep"], np.sqrt(wide), rtol=1e-5)
    w = initializers_of("grouped")
    first = [squared(w["w0"][c]) + squared(w["w1"][3 * (c // 4) : 3 * (c // 4) + 3, c % 4]) for c in range(8)]
    middle = [squared(w["w1"][c]) + squared(w["w2"][c]) for c in range(6)]
    up = [squared(w["w2"][3 * (c // 4) : 3 * (c // 4) + 3, c % 4]) + squared(w["w3"][c]) for c in range(8)]
    first[DEAD] = middle[DEAD] = 0
    found = scored("grouped", "group-l2")
    for node, values in {"first": first, "groups": middle, "up": up}.items():
        np.testing.assert_allclose(found[node], np.sqrt(values), rtol=1e-5, err_msg=node)


def initializers_of(name: str) -> dict[str, Array]:
    return initializers(model_of(name))


def test_fpgm_in_loops() -> None:
    trace = traced(build(TINY, LOOPED))
    for k, node in enumerate(("conv1", "conv2")):
        rows = filters(trace, trace.sources[k])
        wanted = [sum(np.linalg.norm(a - b) for b in rows) for a in rows]
        np.testing.assert_allclose(tiny_scores("fpgm")[node], wanted, rtol=1e-9)


def test_distances_of_points_that_nearly_coincide() -> None:
    rng = np.random.default_rng(0)
    points = rng.standard_normal((700, 5)) + 100
    points[1], points[2], points[600] = points[0] + 1e-9, points[0] + 1e-5, points[0]
    wanted = np.sqrt(((points[:, None] - points) ** 2).sum(axis=2)).sum(axis=1)
    np.testing.assert_allclose(distances(points), wanted, rtol=1e-9)
    close = points[0] + 1e-7 * rng.standard_normal((6, 5))
    wanted = np.sqrt(((close[:, None] - close) ** 2).sum(axis=2)).sum(axis=1)
    np.testing.assert_allclose(distances(close), wanted, rtol=1e-9)
    assert not distances(np.ones((4, 3))).any()
    np.testing.assert_allclose(distances(np.repeat(close, 3, axis=0)), np.repeat(3 * wanted, 3), rtol=1e-9)


def test_bn_scale_in_loops() -> None:
    wanted = {"conv1": np.abs(LOOPED["gamma"]), "conv2": l2_rows(LOOPED["w2"]), "fc": l2_rows(LOOPED["w3"])}
    assert_scores("bn-scale", wanted)


def test_bn_scale_of_a_constant_channel() -> None:
    arrays = {k: a.copy() for k, a in LOOPED.items()}
    arrays["w1"][5] = 0
    wanted = np.abs(arrays["gamma"])
    wanted[5] = 0
    found = scores(build(TINY, arrays), images(), "bn-scale")["conv1"]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_lamp_in_loops() -> None:
    norms = l2_rows(LOOPED["w2"])
    wanted = [n**2 / sum(m**2 for m in norms if m >= n) for n in norms]
    assert_scores("lamp", {"conv2": wanted}, rtol=1e-6)
    trace = traced(build(TINY, LOOPED))
    assert_scores("lamp", {"conv1": lamp(l2(trace, trace.sources[0]))}, rtol=1e-9)


def test_hrank_in_loops() -> None:
    def rank(m: Array) -> float:
        return float(np.linalg.matrix_rank(m, rtol=max(m.shape) * np.finfo(np.float32).eps))

    assert_scores("hrank", {"conv1": per_map("c", rank), "conv2": per_map("e", rank)}, rtol=1e-12)
    wanted = (tapped()["y"] != 0).mean(axis=0)  # 1 × 1: whether it is zero
    assert_scores("hrank", {"fc": wanted}, rtol=1e-12)


@pytest.mark.parametrize("size", [(5, 9), (9, 5), (12, 12), (1, 7), (7, 1), (1, 1)])
def test_ranks_of_products(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    for rank in range(min(size) + 1):
        maps = (rng.standard_normal((4, 3, size[0], rank)) @ rng.standard_normal((4, 3, rank, size[1]))).astype("f4")
        for factor in (1, 1e-25, 1e25):
            wanted = [[np.linalg.matrix_rank(m) for m in image] for image in maps]
            np.testing.assert_array_equal(ranks(maps * np.float32(factor)), wanted)


def nuclear_drop(m: Array) -> Array:
    """One SVD per row."""
    full, found = np.linalg.svd(m, compute_uv=False).sum(), []
    for c in range(len(m)):
        rest = m.copy()
        rest[c] = 0
        found.append(full - np.linalg.svd(rest, compute_uv=False).sum())
    return np.array(found)


def test_chip_in_loops() -> None:
    def mean_drop(tensor: str) -> Array:
        maps = tapped()[tensor].astype(np.float64)
        return np.mean([nuclear_drop(m.reshape(len(m), -1)) for m in maps], axis=0)

    assert_scores("chip", {"conv1": mean_drop("c"), "conv2": mean_drop("e"), "fc": mean_drop("y")}, rtol=1e-5)
    found = scores(build(TINY, LOOPED), images(), "chip:images=5")
    wanted = np.mean([nuclear_drop(m.reshape(len(m), -1).astype(np.float64)) for m in tapped()["e"][:5]], axis=0)
    np.testing.assert_allclose(found["conv2"], wanted, rtol=1e-5)
    with pytest.raises(ocnna_onnx.UsageError, match="images -1 is out of range"):
        tiny_scores("chip:images=-1")


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (16, 16), (30, 1), (1, 30), (1, 1)])
def test_independence_is_the_loop_over_svds(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(shape[0])
    full = rng.standard_normal(shape)
    low = rng.standard_normal((shape[0], 2)) @ rng.standard_normal((2, shape[1]))
    sparse = np.maximum(full - 1, 0)
    doubled = np.concatenate([full, full, np.zeros_like(full)])
    scaled = full * np.logspace(-4, 3, shape[0])[:, None]
    for m in (full, low, sparse, doubled, scaled, 1e-9 * full, 1e9 * full, 0 * full):
        wanted = nuclear_drop(m)
        atol = 1e-7 * np.linalg.norm(m, 2)
        np.testing.assert_allclose(independence(m), wanted, rtol=1e-6, atol=atol)
        assert not independence(m)[~m.any(axis=1)].any()


def test_apoz_in_loops() -> None:
    def share(m: Array) -> float:
        return sum(float(v != 0) for v in m.reshape(-1)) / m.size

    assert_scores("apoz", {"conv1": per_map("c", share), "conv2": per_map("e", share), "fc": np.ones(5)}, rtol=1e-9)
    residual = tensors(model_of("residual"), data_of("residual"))["c2"]
    np.testing.assert_allclose(scored("residual", "apoz")["outer"], (residual != 0).mean(axis=(0, 2, 3)))


def test_apoz_says_where_nothing_gives_zeros() -> None:
    for instead in ("Sigmoid", "LeakyRelu", "Tanh"):
        with pytest.raises(ocnna_onnx.UsageError, match="apoz: no activation of this model gives zeros"):
            scores(build(TINY.replace("Relu", instead), LOOPED), images(), "apoz")


def test_energy_variance_and_entropy_in_loops() -> None:
    for node, tensor in (("conv1", "c"), ("conv2", "e")):
        assert_scores("activation-l2", {node: per_map(tensor, lambda m: float((m**2).mean()))})
        pooled = tapped()[tensor].astype(np.float64).mean(axis=(2, 3))
        assert_scores("activation-var", {node: pooled.var(axis=0)})
        for text, bins in (("activation-entropy", 16), ("activation-entropy:bins=5", 5)):
            wanted = []
            for column in pooled.T:
                p = np.histogram(column, bins)[0] / len(column)
                wanted.append(-sum(q * np.log(q) for q in p if q))
            np.testing.assert_allclose(tiny_scores(text)[node], wanted, rtol=1e-6)
    with pytest.raises(ocnna_onnx.UsageError, match="bins 1 is out of range"):
        tiny_scores("activation-entropy:bins=1")


def test_entropy_of_equal_numbers_is_zero() -> None:
    assert entropy(np.full((6, 2), 3.7), 8).tolist() == [0, 0]
    np.testing.assert_allclose(entropy(np.array([[0.0], [1.0]]), 2), np.log(2))


def rms(x: Array, axis: int) -> Array:
    """‖x_c‖₂ with the mean over the images, per position of an axis."""
    moved = np.moveaxis(x.astype(np.float64), axis, 0)
    return np.array([np.sqrt((m**2).sum() / len(x)) for m in moved])


def test_wanda_in_loops() -> None:
    c, f = tapped()["c"], tapped()["h"]
    first = [np.abs(LOOPED["w2"][:, k]).sum() * rms(c, 1)[k] for k in range(8)]
    second = [np.abs(LOOPED["w3"][:, k]).sum() * rms(f, 1)[k] for k in range(6)]
    assert_scores("wanda", {"conv1": first, "conv2": second, "fc": rms(tapped()["y"], 1)})


def test_wanda_of_grouped_depthwise_and_matrices() -> None:
    w, t = initializers_of("depthwise"), tensors(model_of("depthwise"), data_of("depthwise"))
    wide = [
        np.abs(w["w1"][k]).sum() * rms(t["c0"], 1)[k] + np.abs(w["w2"][:, k]).sum() * rms(t["c1"], 1)[k]
        for k in range(8)
    ]
    for node in ("wide", "deep"):
        np.testing.assert_allclose(scored("depthwise", "wanda")[node], wide, rtol=1e-4, atol=1e-9)
    w, t = initializers_of("grouped"), tensors(model_of("grouped"), data_of("grouped"))
    own = [slice(3 * (k // 4), 3 * (k // 4) + 3) for k in range(8)]
    first = [np.abs(w["w1"][own[k], k % 4]).sum() * rms(t["c0"], 1)[k] for k in range(8)]
    middle = [np.abs(w["w2"][k]).sum() * rms(t["c1"], 1)[k] for k in range(6)]
    up = [np.abs(w["w3"][k]).sum() * rms(t["f"], 1)[k] for k in range(8)]
    for node, wanted in {"first": first, "groups": middle, "up": up}.items():
        np.testing.assert_allclose(scored("grouped", "wanda")[node], wanted, rtol=1e-4, atol=1e-9)
    w, t = initializers_of("tokens"), tensors(model_of("tokens"), data_of("tokens"))
    one = [np.abs(w["w1"][k]).sum() * rms(t["c0"], 2)[k] for k in range(7)]
    two = [np.abs(w["w2"][k]).sum() * rms(t["m"], 1)[k] for k in range(6)]
    for node, wanted in {"one": one, "two": two}.items():
        np.testing.assert_allclose(scored("tokens", "wanda")[node], wanted, rtol=1e-4, atol=1e-9)


PRODUCTS = {
    "MatMul with the weight on the left": ("y = MatMul(v, c)", {"v": (3, 7)}, "N,3,5"),
    "Gemm after Flatten": ("f = Flatten(c)  y = Gemm(f, v)", {"v": (35, 3)}, "N,3"),
    "Einsum": ('y = Einsum<equation="nct,co->not">(c, v)', {"v": (7, 3)}, "N,3,5"),
}


@pytest.mark.parametrize("kind", PRODUCTS)
def test_readers_of_every_kind(kind: str) -> None:
    text, shapes, out = PRODUCTS[kind]
    arrays = weights({"w": (7, 6), **shapes})
    model = build(f"g (float[N,6,5] x) => (float[{out}] y) {{ [made] a = MatMul(w, x)  c = Relu(a)  {text} }}", arrays)
    data = images(9, (6, 5))
    c = tensors(model, data)["c"]
    if kind.startswith("Gemm"):
        strength = np.abs(arrays["v"]).reshape(7, 5, 3).sum(axis=2)
        each = np.sqrt((c.astype(np.float64) ** 2).mean(axis=0))  # every position has weights of its own
        wanted = (strength * each).sum(axis=1)
        norms = np.sqrt(squared_rows(arrays["w"]) + squared_rows(arrays["v"].reshape(7, 15)))
    else:
        v = arrays["v"].T if kind.startswith("MatMul") else arrays["v"]
        wanted = np.abs(v).sum(axis=1) * rms(c, 1)
        norms = np.sqrt(squared_rows(arrays["w"]) + squared_rows(v))
    np.testing.assert_allclose(scores(model, data, "wanda")["made"], wanted, rtol=1e-5)
    np.testing.assert_allclose(scores(model, data, "group-l2")["made"], norms, rtol=1e-5)


def squared_rows(weight: Array) -> Array:
    return np.array([squared(row) for row in weight])


# --- where a layer is read

BEHIND = {
    "nothing": ("", "a"),
    "Relu": ("r = Relu(a)", "r"),
    "BatchNormalization and Clip": ("b = BatchNormalization(a, v, v, v, v)  r = Clip(b, zero, six)", "r"),
    "BatchNormalization alone": ("r = BatchNormalization(a, v, v, v, v)", "r"),
    "constants": ("b = Mul(a, u)  d = Add(u, b)  r = Relu(d)", "r"),
    "SiLU": ("s = Sigmoid(a)  r = Mul(a, s)", "r"),
    "HardSwish": ("b = Add(a, three)  s = Clip(b, zero, six)  r = Mul(a, s)  d = Div(r, six)", "r"),
    "Gelu": ("b = Div(a, two)  e = Erf(b)  f = Add(e, one)  r = Mul(a, f)  d = Mul(r, half)", "r"),
    "Mish": ("b = Softplus(a)  e = Tanh(b)  r = Mul(a, e)", "r"),
    "PRelu": ("r = PRelu(a, u)", "r"),
    "two branches": ("r = Relu(a)  s = MaxPool<kernel_shape=[1,1]>(a)  t = Add(r, s)", "a"),
    "a residual sum": ("r = Conv<pads=[1,1,1,1]>(a, w4)  s = Add(a, r)  t = Relu(s)", "a"),
    "two activations": ("r = Relu(a)  s = Tanh(r)", "r"),
    "a pooling": ("p = MaxPool<kernel_shape=[2,2]>(a)  r = Relu(p)", "a"),
    "a constant that broadcasts": ("r = Add(a, big)  s = Relu(r)", "a"),
}


def behind(text: str) -> Trace:
    arrays = weights({"w": (4, 1, 3, 3), "w4": (4, 4, 3, 3), "u": (4, 1, 1), "big": (2, 1, 4, 1, 1)})
    arrays["v"] = np.ones(4, np.float32)
    for name, value in {"zero": 0, "half": 0.5, "one": 1, "two": 2, "three": 3, "six": 6}.items():
        arrays[name] = np.float32(value)
    last = text.split("  ")[-1].split(" =")[0] or "a"
    body = f"[conv] a = Conv(x, w)  {text}  z = ReduceMax<keepdims=0, axes=[2]>({last})"
    return traced(build(f"g (float[N,1,8,8] x) => (float z) {{ {body} }}", arrays))


@pytest.mark.parametrize("case", BEHIND)
def test_the_tensor_behind_the_activation(case: str) -> None:
    text, wanted = BEHIND[case]
    trace = behind(text)
    assert after_activation(trace, trace.sources[0]) == wanted


ZEROS = {
    "r = Relu(a)": "r",
    "r = Clip(a, zero, six)": "r",
    "r = Clip(a, one, six)": None,
    "r = Max(zero, a)": "r",
    "r = HardSwish(a)": "r",
    "s = HardSigmoid(a)  r = Mul(a, s)": "s",
    "s = Sigmoid(a)  r = Mul(a, s)": None,
    "b = BatchNormalization(a, v, v, v, v)  r = ThresholdedRelu(b)": "r",
    "r = Conv<pads=[1,1,1,1]>(a, w4)  s = Add(a, r)  t = Relu(s)": "t",
    "p = MaxPool<kernel_shape=[2,2]>(a)  r = Relu(p)": None,
    "t = Transpose<perm=[0,2,3,1]>(a)  r = Relu(t)": None,
}


@pytest.mark.parametrize("text", ZEROS)
def test_the_first_activation_that_gives_zeros(text: str) -> None:
    trace = behind(text)
    assert with_zeros(trace, trace.sources[0]) == ZEROS[text]


# --- quantized layers

QUANTIZED = """
g (float[N,2,8,8] x) => (float[N,3] y) {
    [codes] q = QuantizeLinear(x, sx, zx)
    [conv] c = QLinearConv<pads=[1,1,1,1]>(q, sx, zx, w, sw, zw, sc, zc)
    [pooled] p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c)
    [last] d = QLinearConv(p, sc, zc, v, sv, zw, sd, zd)
    [float] f = DequantizeLinear(d, sd, zd)
    [pool] g = GlobalAveragePool(f)
    [flat] y = Flatten(g)
}
"""


def quantized(zero: int) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    arrays = {
        "sx": np.float32(0.03),
        "zx": np.uint8(128),
        "sc": np.float32(0.05),
        "zc": np.uint8(zero),
        "w": rng.integers(-90, 90, (4, 2, 3, 3)).astype(np.int8),
        "sw": np.float32([0.01, 0.02, 0.005, 0.01]),
        "v": rng.integers(-90, 90, (3, 4, 1, 1)).astype(np.int8),
        "sv": np.float32(0.01),
        "zw": np.int8(0),
        "sd": np.float32(0.05),
        "zd": np.uint8(120),
    }
    return build(QUANTIZED, arrays)


def test_codes_count_as_the_numbers_they_stand_for() -> None:
    model, data = quantized(zero=100), images(6, (2, 8, 8))
    trace = traced(model)
    values = tensors(model, data)
    real = (values["c"].astype(np.float64) - 100) * 0.05
    np.testing.assert_allclose(decoder(trace, "p")(values["p"]), (values["p"].astype(np.float32) - 100) * 0.05, 1e-6)
    np.testing.assert_allclose(scores(model, data, "activation-l2")["conv"], (real**2).mean(axis=(0, 2, 3)), rtol=1e-5)
    v = initializers(model)["v"].astype(np.float64) * 0.01
    pooled = (values["p"].astype(np.float64) - 100) * 0.05
    wanted = np.abs(v).sum(axis=(0, 2, 3)) * rms(pooled, 1)
    np.testing.assert_allclose(scores(model, data, "wanda")["conv"], wanted, rtol=1e-5)
    w = initializers(model)["w"] * initializers(model)["sw"].astype(np.float64)[:, None, None, None]
    norms = np.sqrt(squared_rows(w) + squared_rows(v.transpose(1, 0, 2, 3)))
    np.testing.assert_allclose(scores(model, data, "group-l2")["conv"], norms, rtol=1e-5)
    for criterion in CRITERIA:
        if criterion not in ("bn-scale", "apoz"):
            assert all(np.isfinite(s).all() for s in scores(model, data, criterion).values()), criterion


def test_zeros_of_a_relu_that_was_folded_into_the_codes() -> None:
    model, data = quantized(zero=0), images(6, (2, 8, 8))
    codes = tensors(model, data)["c"]
    np.testing.assert_allclose(scores(model, data, "apoz")["conv"], (codes != 0).mean(axis=(0, 2, 3)))
    with pytest.raises(ocnna_onnx.UsageError, match="gives zeros"):
        scores(quantized(zero=100), data, "apoz")
