"""Scores against references written as plain loops, and what a cut makes of them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from nets import MODELS, RESNET, TINY, TINY_SHAPES, build, done, images, initializers, tiny, traced, weights
from onnx import numpy_helper
from sklearn.decomposition import PCA

import ocnna_onnx
from ocnna_onnx.calibrate import stream
from ocnna_onnx.calibrate.maps import as_maps
from ocnna_onnx.calibrate.moments import merged, moments
from ocnna_onnx.calibrate.stream import Tap
from ocnna_onnx.criteria.magnitude import filters, l1, l2
from ocnna_onnx.criteria.ocnna import pca_norms, variation
from ocnna_onnx.criteria.random import RANDOM
from ocnna_onnx.criteria.request import Gather, Subject, from_outputs
from ocnna_onnx.data.open import open_data
from ocnna_onnx.data.samples import Samples
from ocnna_onnx.model.light import light
from ocnna_onnx.model.session import Runtime, open_session, run
from ocnna_onnx.plan.plan import removed_channels
from ocnna_onnx.plan.select import Cut, class_scores, excluded, select
from ocnna_onnx.trace.groups import find_groups
from ocnna_onnx.trace.types import Trace

Array = np.ndarray[Any, np.dtype[Any]]

NEAR_TIE = 1e-6
RUNTIME = Runtime(threads=1)


def per_image(trace: Trace, sources: Any, samples: Samples, measure: Any, memory: int = 1 << 30) -> list[Array]:
    """measure(maps) of every image, [images, channels] per source, by the stream."""
    parts: list[list[Array]] = [[] for _ in sources]

    def watch(k: int) -> Any:
        return lambda y, batch, valid: parts[k].append(measure(as_maps(y, sources[k].axis, batch))[:valid])

    taps = [Tap(s.tensor, watch(k)) for k, s in enumerate(sources)]
    stream.stream(trace.graph, trace.shapes, taps, samples, RUNTIME, memory)
    return [np.concatenate(p) for p in parts]


# --- OCNNA


def reference_norm(map_: Array) -> float:
    """‖PCA-projected map‖ by scikit-learn; NaN where the number of components hangs on rounding."""
    m = np.asarray(map_, np.float64)
    m = m if m.shape[0] > 1 else m.T
    if m.size == 1:
        return float(abs(m[0, 0]))
    if not (m - m.mean(axis=0)).any():
        return 0.0
    spectrum = np.linalg.svd(m - m.mean(axis=0), compute_uv=False) ** 2
    shares = spectrum.cumsum() / spectrum.sum()
    if np.abs(shares - 0.95).min() < NEAR_TIE:
        return math.nan
    return float(np.linalg.norm(PCA(n_components=0.95, svd_solver="full").fit_transform(m)))


def reference_norms(maps: Array) -> Array:
    """[images, channels] of [images, channels, H, W]."""
    return np.array([[reference_norm(m) for m in image] for image in maps])


def assert_same_norms(found: Array, wanted: Array) -> None:
    clear = ~np.isnan(wanted)
    assert clear.mean() > 0.99
    np.testing.assert_allclose(found[clear], wanted[clear], rtol=1e-5, atol=1e-9)


SIZES = [(8, 8), (5, 9), (9, 5), (2, 2), (2, 17), (17, 2), (3, 1), (1, 6), (1, 2), (16, 1), (1, 1), (24, 24)]


@pytest.mark.parametrize("size", SIZES, ids=[f"{h}x{w}" for h, w in SIZES])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_norms_equal_the_loop_over_sklearn(size: tuple[int, int], dtype: type) -> None:
    rng = np.random.default_rng(size[0] * 100 + size[1])
    output = (rng.standard_normal((4, 3, *size)) * rng.uniform(0.1, 10, (4, 3, 1, 1)) + 3).astype(dtype)
    found = pca_norms(as_maps(output, 1, 4))
    assert found.shape == (4, 3)
    assert_same_norms(found, reference_norms(output))


def test_norms_of_low_rank_and_of_badly_scaled_maps() -> None:
    rng = np.random.default_rng(0)
    one = rng.standard_normal((6, 5, 12, 1)) @ rng.standard_normal((6, 5, 1, 10))
    two = one + 0.3 * rng.standard_normal((6, 5, 12, 1)) @ rng.standard_normal((6, 5, 1, 10))
    for maps in (one, two, 1e6 + two, 1e-12 * two, 1e12 * two):
        assert_same_norms(pca_norms(maps), reference_norms(maps))


def test_a_sparse_map_as_relu_leaves_it() -> None:
    maps = np.maximum(np.random.default_rng(1).standard_normal((5, 4, 9, 9)) - 1.5, 0).astype(np.float32)
    maps[0, 0] = 0
    maps[1, 1] = 7
    found = pca_norms(maps)
    assert found[0, 0] == found[1, 1] == 0
    assert_same_norms(found, reference_norms(maps))


@pytest.mark.parametrize(
    ("shape", "axis", "form"),
    [
        ((4, 3), 1, lambda y: y[:, :, None, None]),
        ((4, 3, 7), 1, lambda y: y[:, :, :, None]),
        ((4, 7, 3), 2, lambda y: y.transpose(0, 2, 1)[..., None]),
        ((4, 5, 6, 3), 3, lambda y: y.transpose(0, 3, 1, 2)),
        ((4, 3, 2, 5, 6), 1, lambda y: y.reshape(4, 3, 10, 6)),
        ((4, 3, 1, 6), 1, lambda y: y),
    ],
    ids=["vector", "sequence", "sequence, channels last", "image, channels last", "volume", "one row"],
)
def test_every_layout_of_an_output(shape: tuple[int, ...], axis: int, form: Any) -> None:
    output = np.random.default_rng(5).standard_normal(shape).astype(np.float32)
    assert_same_norms(pca_norms(as_maps(output, axis, 4)), reference_norms(form(output)))


def test_scores_on_real_maps() -> None:
    """The four families have every shape that counts: maps from 16×16 to 1×1, and vectors."""
    trace = traced(onnx.load(RESNET), input=(2, 1, 16, 16))
    samples = open_data("digits", trace.graph, {}, 6, 0)
    sources = [s for s in trace.sources if trace.free[trace.unit_class[s.units]].any()]
    found = per_image(trace, sources, samples, pca_norms)
    tapped = light(trace.graph.proto, [s.tensor for s in sources])
    with open_session(tapped, RUNTIME, optimize=True) as session:
        outputs = run(session, [s.tensor for s in sources], samples.arrays)
    for source, norms in zip(sources, found, strict=True):
        maps = outputs[source.tensor]
        wanted = reference_norms(maps.reshape(*maps.shape[:2], *(maps.shape[2:] or (1, 1))))
        clear = ~np.isnan(wanted)
        assert clear.mean() > 0.99
        np.testing.assert_allclose(norms[clear], wanted[clear], rtol=1e-4)  # the run itself rounds, by its batch
        score = wanted.std(axis=0) / wanted.mean(axis=0)
        sure = clear.all(axis=0) & np.isfinite(score)
        np.testing.assert_allclose(variation(moments(norms))[sure], score[sure], rtol=1e-3)


def test_the_command_removes_what_the_reference_scores_lowest(tmp_path: Path) -> None:
    source = MODELS / "digits_vgg.onnx"  # a plain chain: every group is one layer
    options = ("--samples", 8, "--ratio", 0.5, "--data", "digits")
    done("prune", source, "--dry-run", *options, "--plan-out", tmp_path / "p.json")
    remove = json.loads((tmp_path / "p.json").read_text())["remove"]
    trace = traced(onnx.load(source))
    samples = open_data("digits", trace.graph, {}, 8, 0)
    layer = trace.sources[1]
    name = trace.graph.names[layer.node]
    with open_session(light(trace.graph.proto, [layer.tensor]), RUNTIME) as session:
        norms = reference_norms(run(session, [layer.tensor], samples.arrays)[layer.tensor])
    score = norms.std(axis=0) / norms.mean(axis=0)
    assert remove[name] == sorted(np.argsort(score)[: len(score) // 2].tolist())


def test_dead_and_constant_filters_score_zero() -> None:
    norms = np.abs(np.random.default_rng(0).standard_normal((9, 4))) + 0.1
    norms[:, 1] = 0
    norms[:, 2] = 3.7
    score = variation(moments(norms))
    assert score[1] == 0
    assert score[2] == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(score[[0, 3]], norms.std(axis=0)[[0, 3]] / norms.mean(axis=0)[[0, 3]])
    assert variation(moments(norms[:1])).tolist() == [0, 0, 0, 0]  # one image tells nothing apart


def test_a_dead_filter_goes_first() -> None:
    arrays = weights(TINY_SHAPES)
    arrays["w2"][4] = 0
    arrays["b2"][4] = 0
    arrays["w1"][2] = 0
    arrays["b1"][2] = 0.5
    plan = ocnna_onnx.prune(build(TINY, arrays), data=images(), ratio=0.17).plan
    assert dict(plan.remove) == {"conv1": (2,), "conv2": (4,)}


def test_moments_of_batches_are_those_of_everything() -> None:
    values = np.random.default_rng(0).standard_normal((37, 5)) * [1, 1e-3, 1e3, 0, 1] + [0, 1, 1e6, 2, -1]
    found = None
    for part in np.split(values, [1, 8, 9, 30]):
        found = merged(found, moments(part))
    assert found is not None
    np.testing.assert_allclose(found.mean, values.mean(axis=0), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(found.deviation, values.std(axis=0), rtol=1e-9, atol=1e-15)


# --- the stream


def fixed_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in (*copy.graph.input, *copy.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    return copy


def norms_of(model: onnx.ModelProto, data: Array, memory: int = 1 << 30) -> list[Array]:
    trace = traced(model)
    return per_image(trace, trace.sources, open_data(data, trace.graph, {}), pca_norms, memory)


def test_the_batch_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    data = images(10)
    wanted = norms_of(tiny(), data)
    assert [w.shape for w in wanted] == [(10, 8), (10, 6), (10, 5)]
    models = [fixed_batch(tiny(), k) for k in (1, 3, 4, 10, 16)]
    for found in [norms_of(m, data) for m in models]:
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4)
    for batch in (1, 3, 7):
        monkeypatch.setattr(stream, "MAX_BATCH", batch)
        for a, b in zip(norms_of(tiny(), data), wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4)


@pytest.mark.parametrize("late", [0, 1])
@pytest.mark.parametrize(("gather", "together"), [(0, [3, 3, 3, 1]), (10_000, [6, 4]), (1 << 30, [10])])
def test_maps_of_several_batches_are_measured_together(
    gather: int, together: list[int], late: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image has 2048 bytes of conv1's maps. late: samples that do not come, so that the last maps wait in vain."""
    monkeypatch.setattr(stream, "MAX_BATCH", 3)
    trace = traced(tiny())
    wanted = [variation(moments(w)) for w in norms_of(tiny(), images(10))]
    seen: list[int] = []

    def measure(maps: Array) -> Array:
        if maps.shape[1:] == (8, 8, 8):
            seen.append(len(maps))
        return pca_norms(maps)

    tensors = tuple(s.tensor for s in trace.sources)
    gathered = Gather(10 + late, gather, 8)
    request = from_outputs(trace.sources, tensors, measure, variation, gathered)
    stream.stream(trace.graph, trace.shapes, request.taps, open_data(images(10), trace.graph, {}), RUNTIME, 1 << 30)
    assert seen == (together[:-1] if late and gather else together)
    for found, want in zip(request.finish(), wanted, strict=True):
        np.testing.assert_allclose(found, want, rtol=1e-4)
    assert seen == together


def test_memory_does_not_matter() -> None:
    """With next to none every layer gets a pass of its own."""
    wanted = norms_of(tiny(), images(10))
    for a, b in zip(norms_of(tiny(), images(10), memory=1), wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)  # onnxruntime fuses what is not tapped


def test_the_order_of_samples_does_not_matter() -> None:
    data = images(20)
    order = np.random.default_rng(3).permutation(20)
    for a, b in zip(norms_of(tiny(), data[order]), norms_of(tiny(), data), strict=True):
        np.testing.assert_allclose(a, b[order], rtol=1e-4)
    plans = [ocnna_onnx.prune(tiny(), data=d, ratio=0.4).plan.remove for d in (data, data[order])]
    assert plans[0] == plans[1]


def test_outputs_that_are_not_finite_are_refused() -> None:
    arrays = weights(TINY_SHAPES)
    arrays["w2"] *= np.float32(1e37)
    with pytest.raises(ocnna_onnx.DataError, match=r"conv2.*not finite"):
        ocnna_onnx.prune(build(TINY, arrays), data=images() * np.float32(1e3))


# --- norms of weights


def layer(text: str, arrays: Mapping[str, Array], opset: int = 17) -> Trace:
    return traced(build(text, arrays, opset))


def norms(trace: Trace, number: int = 0) -> tuple[Array, Array]:
    source = trace.sources[number]
    return l1(trace, source), l2(trace, source)


def assert_norms(trace: Trace, per_channel: list[Array]) -> None:
    """Both norms of the first source against the weights listed per channel."""
    found = filters(trace, trace.sources[0])
    assert found.shape == (len(per_channel), per_channel[0].size)
    np.testing.assert_allclose(np.sort(found, axis=1), np.sort([w.reshape(-1) for w in per_channel], axis=1), rtol=1e-6)
    np.testing.assert_allclose(norms(trace)[0], [np.abs(w).sum() for w in per_channel], rtol=1e-6)
    np.testing.assert_allclose(norms(trace)[1], [np.sqrt((w**2).sum()) for w in per_channel], rtol=1e-6)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_filters_of_conv(groups: int) -> None:
    text = f"g (float[N,4,9,9] x) => (float[N,8,1,1] z) {{ y = Conv<group={groups}>(x, w)  z = GlobalAveragePool(y) }}"
    arrays = weights({"w": (8, 4 // groups, 3, 3)})
    assert_norms(layer(text, arrays), list(arrays["w"]))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_filters_of_conv_transpose(groups: int) -> None:
    text = f"g (float[N,4,5,5] x) => (float[N,8,7,7] z) {{ y = ConvTranspose<group={groups}>(x, w)  z = Relu(y) }}"
    w = weights({"w": (4, 8 // groups, 3, 3)})["w"]
    inputs, outputs = 4 // groups, 8 // groups
    wanted = [w[g * inputs : (g + 1) * inputs, o] for g in range(groups) for o in range(outputs)]
    assert_norms(layer(text, {"w": w}), wanted)


@pytest.mark.parametrize("transposed", [0, 1])
def test_filters_of_gemm(transposed: int) -> None:
    text = f"g (float[N,4] x) => (float[N,8] z) {{ y = Gemm<transB={transposed}>(x, w)  z = Relu(y) }}"
    w = weights({"w": (8, 4) if transposed else (4, 8)})["w"]
    assert_norms(layer(text, {"w": w}), list(w if transposed else w.T))


def test_filters_of_matmul_with_the_weight_on_the_right() -> None:
    w = weights({"w": (4, 8)})["w"]
    for x in ("N,4", "N,7,4", "N,2,7,4"):
        text = f"g (float[{x}] x) => (float[{x[:-1]}8] z) {{ y = MatMul(x, w)  z = Relu(y) }}"
        assert_norms(layer(text, {"w": w}), list(w.T))


def test_filters_of_matmul_with_the_weight_on_the_left() -> None:
    w = weights({"w": (8, 4)})["w"]
    text = "g (float[N,4,7] x) => (float[N,8,7] z) { y = MatMul(w, x)  z = Relu(y) }"
    assert_norms(layer(text, {"w": w}), list(w))


NORM = """
g (float[N,3,8,8] x) => (float[N,8,1,1] z) {{
    [made] y = {op}(x, w, b)
    [norm] n = BatchNormalization<epsilon=0.01>(y, gamma, beta, mean, var)
    [pool] z = GlobalAveragePool(n)
}}
"""


@pytest.mark.parametrize(("op", "shape"), [("Conv", (8, 3, 3, 3)), ("ConvTranspose", (3, 8, 3, 3))])
def test_batch_normalization_is_folded_in(op: str, shape: tuple[int, ...]) -> None:
    names = dict.fromkeys(("b", "gamma", "beta", "mean", "var"), (8,))
    arrays = weights({"w": shape, **names})
    arrays["gamma"][3] = 0
    scale = arrays["gamma"] / np.sqrt(arrays["var"] + 0.01)
    folded = arrays["w"] * (scale[:, None, None, None] if op == "Conv" else scale[:, None, None])
    text = f"g (float[N,3,8,8] x) => (float[N,8,1,1] z) {{ y = {op}(x, w)  z = GlobalAveragePool(y) }}"
    for a, b in zip(norms(layer(NORM.format(op=op), arrays)), norms(layer(text, {"w": folded})), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
        assert a[3] == 0


def test_batch_normalization_beside_another_reader_is_not_folded_in() -> None:
    text = NORM.format(op="Conv").replace("[pool] z = GlobalAveragePool(n)", "s = Add(n, y)  z = GlobalAveragePool(s)")
    arrays = weights({"w": (8, 3, 3, 3), **dict.fromkeys(("b", "gamma", "beta", "mean", "var"), (8,))})
    assert_norms(layer(text, arrays), list(arrays["w"]))


def test_random_scores_are_positive() -> None:
    trace = one_layer(10_000)
    score = RANDOM.request(Subject(trace, (0,), 1, 0), {}).finish()[0]
    assert score.shape == (10_000,)
    assert 0 < score.min() < score.max() <= 1


# --- scores of groups

RESIDUAL = """
g (float[N,1,8,8] x) => (float[N,5] y) {
    [left] a = Conv(x, w1)
    [right] b = Conv(x, w2)
    [sum] c = Add(a, b)
    [alone] d = Conv(c, w3)
    [pool] e = GlobalAveragePool(d)
    [flat] f = Flatten(e)
    [fc] y = Gemm<transB=1>(f, w4)
}
"""
RESIDUAL_SHAPES = {"w1": (8, 1, 3, 3), "w2": (8, 1, 3, 3), "w3": (6, 8, 3, 3), "w4": (5, 6)}


def by_channel(trace: Trace, number: int, score: Array) -> Array:
    return score[trace.unit_class[trace.sources[number].units]]


def test_members_of_a_group_are_normalised_and_averaged() -> None:
    trace = layer(RESIDUAL, weights(RESIDUAL_SHAPES))
    rng = np.random.default_rng(0)
    scores = {0: rng.random(8), 1: 1000 * rng.random(8), 2: rng.random(6)}
    found = class_scores(trace.unit_class, trace.sources, scores)
    wanted = (scores[0] / scores[0].mean() + scores[1] / scores[1].mean()) / 2
    np.testing.assert_allclose(by_channel(trace, 0, found), wanted)
    np.testing.assert_allclose(by_channel(trace, 1, found), wanted)
    np.testing.assert_allclose(by_channel(trace, 2, found), scores[2] / scores[2].mean())


def test_a_member_whose_scores_are_all_zero() -> None:
    trace = layer(RESIDUAL, weights(RESIDUAL_SHAPES))
    scores = {0: np.arange(8.0), 1: np.zeros(8), 2: np.zeros(6)}
    found = class_scores(trace.unit_class, trace.sources, scores)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(by_channel(trace, 0, found), np.arange(8) / 3.5 / 2)
    assert not by_channel(trace, 2, found).any()


def test_a_unit_with_several_channels_of_a_layer_takes_their_mean() -> None:
    """Concat of a layer with itself, added to another: one decision stands for two channels of the other."""
    text = """
    g (float[N,1,8,8] x) => (float[N,5] y) {
        [half] a = Conv(x, w1)
        [twice] b = Concat<axis=1>(a, a)
        [whole] c = Conv(x, w2)
        [sum] d = Add(b, c)
        [pool] e = GlobalAveragePool(d)
        [flat] f = Flatten(e)
        [fc] y = Gemm<transB=1>(f, w3)
    }
    """
    trace = layer(text, weights({"w1": (3, 1, 3, 3), "w2": (6, 1, 3, 3), "w3": (5, 6)}))
    half, whole = np.array([1.0, 2.0, 3.0]), np.arange(6.0)
    found = class_scores(trace.unit_class, trace.sources, {0: half, 1: whole})
    wanted = (half / half.mean() + (whole[:3] + whole[3:]) / 2 / whole.mean()) / 2
    np.testing.assert_allclose(by_channel(trace, 0, found), wanted)
    np.testing.assert_allclose(by_channel(trace, 1, found), np.tile(wanted, 2))


# --- the cut

NOTHING = np.zeros(0, np.int64)


def one_layer(channels: int) -> Trace:
    text = """
    g (float[N,1,4,4] x) => (float[N,5] y) {
        [conv] a = Conv(x, w1)
        [pool] b = GlobalAveragePool(a)
        [flat] c = Flatten(b)
        [fc] y = Gemm<transB=1>(c, w2)
    }
    """
    return layer(text, weights({"w1": (channels, 1, 3, 3), "w2": (5, channels)}))


def gone(values: Any, **cut: Any) -> list[int]:
    """Channels of a lone layer with these scores that a cut removes."""
    values = np.asarray(values, np.float64)
    trace = one_layer(len(values))
    score = np.zeros(len(trace.free))
    score[trace.unit_class[trace.sources[0].units]] = values
    classes = select(trace, find_groups(trace), score, Cut(**cut), NOTHING)
    return list(removed_channels(trace, trace.keep_units(classes)).get("conv", ()))


@pytest.mark.parametrize("percentile", [0.5, 10, 25, 37.5, 50, 90, 99.9])
@pytest.mark.parametrize("count", [2, 7, 16])
def test_percentile_as_numpy_does_it(percentile: float, count: int) -> None:
    values = np.random.default_rng(count).random(count)
    wanted = np.flatnonzero(values <= np.percentile(values, percentile))
    assert gone(values, percentile=percentile) == wanted.tolist()


def test_percentile_zero_removes_nothing() -> None:
    assert gone([3, 1, 2], percentile=0) == []
    assert gone([0, 0, 0], percentile=0) == []


def test_all_ties_at_the_percentile_go() -> None:
    values = [5, 1, 1, 4, 1, 1, 3, 2]
    assert np.percentile(values, 10) == 1
    assert gone(values, percentile=10) == [1, 2, 4, 5]


def test_never_all_of_a_layer_goes() -> None:
    assert gone([2, 2, 2, 2], percentile=50) == [1, 2, 3]  # the lowest index stays
    assert gone([2, 2, 2, 2], ratio=0.99) == [1, 2, 3]
    assert gone([0, 0, 0, 0], percentile=1) == [1, 2, 3]
    assert gone([1], percentile=99) == []
    assert gone([1], ratio=0.99) == []


@pytest.mark.parametrize(("count", "ratio"), [(10, 0.3), (10, 0.7), (7, 0.5), (3, 0.3), (100, 0.29), (100, 0.57)])
def test_ratio_floors(count: int, ratio: float) -> None:
    values = np.random.default_rng(count).random(count)
    wanted = math.floor(round(ratio * 100) * count / 100)  # 0.29 · 100 is 29, not 28.999…
    assert gone(values, ratio=ratio) == sorted(np.argsort(values)[:wanted].tolist())


def test_ties_keep_the_lower_index() -> None:
    assert gone([1, 1, 1, 1], ratio=0.5) == [2, 3]
    assert gone([1, 0, 1, 0, 1, 0], ratio=0.34) == [3, 5]
    assert gone([1, 0, 1, 0, 1, 0], ratio=0.67) == [1, 3, 4, 5]


def test_min_channels_in_both_ways_to_cut() -> None:
    values = [3, 1, 2, 5, 4]
    assert gone(values, ratio=0.9, min_channels=3) == [1, 2]
    assert gone(values, percentile=90, min_channels=4) == [1]
    assert gone(values, ratio=0.9, min_channels=5) == []
    assert gone(values, ratio=0.9, min_channels=50) == []


def test_excluded_layers_stay() -> None:
    trace = layer(RESIDUAL, weights(RESIDUAL_SHAPES))
    score = np.arange(float(len(trace.free)))
    for patterns, left in ((["right"], {"alone"}), (["alone"], {"left", "right"}), (["re:l"], set()), ([], None)):
        barred = trace.unit_class[excluded(trace, patterns)]
        classes = select(trace, find_groups(trace), score, Cut(ratio=0.5), barred)
        names = set(removed_channels(trace, trace.keep_units(classes)))
        assert names == (left if left is not None else {"left", "right", "alone"})


SPLIT = """
g (float[N,1,8,8] x) => (float[N,5] y) {
    [conv] a = Conv(x, w1)
    [halves] b, c = Split<axis=1>(a)
    [top] d = Conv(b, w2)
    [bottom] e = Conv(c, w3)
    [sum] f = Add(d, e)
    [pool] h = GlobalAveragePool(f)
    [flat] i = Flatten(h)
    [fc] y = Gemm<transB=1>(i, w4)
}
"""
SPLIT_SHAPES = {"w1": (8, 1, 3, 3), "w2": (6, 4, 3, 3), "w3": (6, 4, 3, 3), "w4": (5, 6)}


def test_no_half_of_a_split_is_emptied() -> None:
    arrays = weights(SPLIT_SHAPES)
    arrays["w1"][:4] *= np.array([0.03, 0.02, 0.04, 0.01], np.float32)[:, None, None, None]
    model = build(SPLIT, arrays, opset=13)
    result = ocnna_onnx.prune(model, criterion="l2", ratio=0.5, samples=4)
    lowest = np.argsort(np.sqrt((arrays["w1"] ** 2).sum(axis=(1, 2, 3))))[:4]
    assert sorted(lowest) == [0, 1, 2, 3]  # the cut would take the whole first half
    kept = set(range(8)) - set(result.plan.remove["conv"])
    assert kept & {0, 1, 2, 3} == {int(lowest[-1])}
    after = initializers(result.model)
    assert (after["w2"].shape[1], after["w3"].shape[1]) == (1, 4)
    assert numpy_helper.to_array(result.model.graph.initializer[0]).shape[0] == 5


def test_samples_are_counted_once() -> None:
    """`Samples` that fill up a batch leave no trace in the statistics."""
    trace = traced(fixed_batch(tiny(), 4))
    x = images(5)
    found = per_image(trace, trace.sources, Samples({"x": x}), lambda m: m.mean(axis=(2, 3)))
    assert [f.shape[0] for f in found] == [5, 5, 5]
