"""A Conv and the one in front of it, refitted as one problem."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

import ocnna_onnx
import ocnna_onnx.repair.repair as repairing
from ocnna_onnx.calibrate.linear import Linear, features
from ocnna_onnx.repair.bends import Bend, Depthwise, ahead, behind, through
from ocnna_onnx.repair.tandem import Part, Setting, Tandem, improved
from ocnna_onnx.repair.windows import Windows


@pytest.mark.parametrize(
    ("kernel", "strides", "dilations", "pads"),
    [
        ((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1))),
        ((3, 2), (2, 1), (1, 2), ((0, 1), (2, 0))),
        ((1, 1), (2, 2), (1, 1), ((0, 0), (0, 0))),
        ((5,), (3,), (1,), ((2, 2),)),
    ],
)
def test_windows_see_what_features_are_and_scatter_is_the_adjoint(
    kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...], pads: tuple[tuple[int, int], ...]
) -> None:
    rng = np.random.default_rng(0)
    map_ = Linear(0, "x", 1, "y", 1, 1, None, "conv", 1, kernel, strides, dilations, pads)
    x = rng.normal(size=(2, 3, *(9, 8)[: len(kernel)])).astype(np.float32)
    windows = Windows.of(map_, x.shape)
    last = np.moveaxis(x, 1, -1).reshape(-1, 3)
    seen = windows.gathered(last)
    theirs = features(map_, x)[0].reshape(len(seen), 3, -1).transpose(0, 2, 1).reshape(len(seen), -1)
    np.testing.assert_array_equal(seen[:, :-1], theirs)
    assert (seen[:, -1] == 1).all()
    other = rng.normal(size=theirs.shape).astype(np.float32)
    np.testing.assert_allclose((theirs * other).sum(), (last * windows.scattered(other)).sum(), rtol=1e-4)


@pytest.mark.parametrize(
    "bends",
    [
        [Bend(low=0.0)],
        [Bend(low=0.0, leak=0.1)],
        [Bend(low=-1.0, high=1.5)],
        [Bend(np.float32([2, -1, 0.5]), np.float32([0.1, 0.2, -0.3])), Bend(low=0.0, high=6.0)],
    ],
)
def test_slopes_of_bends_are_those_of_the_values(bends: list[Bend]) -> None:
    x = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    step = np.float32(1e-3)
    values, slopes = through(x, bends)[0], _slope(x, bends)
    numeric = (through(x + step, bends)[0] - through(x - step, bends)[0]) / (2 * step)
    smooth = _slope(x + step, bends) == _slope(x - step, bends)  # no bend in between
    assert smooth.mean() > 0.9
    np.testing.assert_allclose(slopes[smooth], numeric[smooth], atol=2e-3)
    assert values.shape == x.shape


def _slope(x: np.ndarray, bends: list[Bend]) -> np.ndarray:
    return ahead(np.ones_like(x), bends, through(x, bends)[1])


def test_a_depthwise_convolution_in_between_and_its_adjoint() -> None:
    rng = np.random.default_rng(0)
    map_ = Linear(0, "x", 1, "y", 1, 1, None, "conv", 3, (3, 3), (2, 2), (1, 1), ((0, 1), (0, 1)))
    windows = Windows.of(map_, (1, 3, 8, 8))
    kernel = rng.normal(size=(9, 3)).astype(np.float32)
    between = [Bend(low=0.0), Depthwise(kernel, np.float32([1, 2, 3]), windows), Bend(low=0.0, high=6.0)]
    x = rng.normal(size=(2 * 64, 3)).astype(np.float32)
    values, slopes = through(x, between)
    seen = features(map_, np.maximum(x, 0).reshape(2, 8, 8, 3).transpose(0, 3, 1, 2))  # [channels, rows, taps]
    theirs = np.einsum("crt,tc->rc", seen, kernel) + np.float32([1, 2, 3])
    np.testing.assert_allclose(values, np.clip(theirs, 0, 6), atol=1e-5)
    d, e = rng.normal(size=x.shape).astype(np.float32), rng.normal(size=values.shape).astype(np.float32)
    np.testing.assert_allclose((ahead(d, between, slopes) * e).sum(), (d * behind(e, between, slopes)).sum(), rtol=1e-4)


def _pair(rng: np.random.Generator, hidden: int, images: int, first: np.ndarray, second: np.ndarray) -> list[Part]:
    """A wide pair's outputs as targets."""
    map_ = Linear(0, "h", 1, "y", 1, 1, None, "conv", 1, (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)))
    windows = Windows.of(map_, (images, hidden, 6, 6))
    x = rng.normal(size=(images * 36, 5)).astype(np.float32)
    x[:, -1] = 1
    target = windows.gathered(np.maximum(x @ first, 0)) @ second
    return [Part(x, target, None, None, windows)]


def test_a_narrower_pair_comes_closer_than_the_channels_that_stayed_can() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=(5, 6)).astype(np.float32)
    first = np.concatenate([first, first[:, :2] + 0.2 * rng.normal(size=(5, 2)).astype(np.float32)], axis=1)
    second = rng.normal(size=(9 * 8 + 1, 4)).astype(np.float32)
    seen, held_out = (_pair(rng, 8, n, first, second) for n in (24, 8))
    stays = np.arange(6)  # the last two are nearly the first two
    rows = np.append((np.arange(9)[:, None] * 8 + stays).reshape(-1), 72)
    narrow = seen[0].windows.gathered(np.maximum(seen[0].x @ first[:, stays], 0))
    alone = np.linalg.lstsq(narrow, seen[0].target, rcond=None)[0].astype(np.float32)
    assert len(rows) == len(alone)
    start = Tandem(np.ascontiguousarray(first[:, stays]), alone)
    with ThreadPoolExecutor(1) as pool:
        setting = Setting([Bend(low=0.0)], np.ones(4, np.float32), np.ones(4, bool), (True, True), pool)
        found, before, after = improved(start, seen, held_out, setting)
        assert after < 0.7 * before
        again = improved(found, seen, held_out, setting)
        assert again[1] == pytest.approx(after)
        fixed = Setting([Bend(low=0.0)], np.ones(4, np.float32), np.ones(4, bool), (False, False), pool)
        kept, _, _ = improved(start, seen, held_out, fixed)
    np.testing.assert_array_equal(kept.first[-1], start.first[-1])
    np.testing.assert_array_equal(kept.second[-1], start.second[-1])


def test_what_is_perfect_stays() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(5, 3)).astype(np.float32), rng.normal(size=(28, 4)).astype(np.float32)
    seen, held_out = (_pair(rng, 3, n, first, second) for n in (16, 8))
    start = Tandem(first, second)
    with ThreadPoolExecutor(1) as pool:
        setting = Setting([Bend(low=0.0)], np.ones(4, np.float32), np.ones(4, bool), (True, True), pool)
        found, before, after = improved(start, seen, held_out, setting)
    assert before == pytest.approx(0, abs=1e-9)
    assert after <= before
    assert found is start or np.abs(found.first - first).max() < 1e-3


def _net(tail: str, norms: bool | None, strides: int = 1) -> onnx.ModelProto:
    rng = np.random.default_rng(3)

    def array(name: str, *shape: int, scale: float = 1.0) -> onnx.TensorProto:
        return numpy_helper.from_array((scale * rng.normal(size=shape)).astype(np.float32), name)

    between = "n = BatchNormalization(h, g, b, m, v) r = Relu(n)" if norms else "r = Relu(h)"
    if norms is None:
        between = "l = Clip(h, low, high) k = Conv<group=12, pads=[1,1,1,1]>(l, wd, cd) r = LeakyRelu(k)"
    text = f"""<ir_version: 8, opset_import: ["" : 17]> net (float[N, 3, 8, 8] x) => (float[N, 5] y) {{
        s = Conv<pads=[1,1,1,1]>(x, w0, c0)
        t = Relu(s)
        h = Conv<pads=[1,1,1,1], strides=[{strides},{strides}]>(t, w1{"" if norms else ", c1"})
        {between}
        o = Conv<pads=[1,1,1,1]>(r, w2{"" if "g2" in tail else ", c2"})
        {tail}
        q = GlobalAveragePool(z) f = Flatten(q) y = Gemm(f, w3, c3) }}"""
    model = onnx.parser.parse_model(text)
    for node in model.graph.node:
        node.name = node.output[0]
    model.graph.initializer.extend(
        [
            array("w0", 8, 3, 3, 3),
            array("c0", 8),
            array("w1", 12, 8, 3, 3, scale=0.3),
            array("w2", 8, 12, 3, 3, scale=0.3),
            array("c2", 8),
            array("w3", 8, 5),
            array("c3", 5),
            array("wd", 12, 1, 3, 3),
            array("cd", 12),
            numpy_helper.from_array(np.float32(0), "low"),
            numpy_helper.from_array(np.float32(6), "high"),
        ]
    )
    if "g2" in tail:
        model.graph.initializer.extend([array("g2", 8), array("b2", 8), array("m2", 8)])
        model.graph.initializer.append(numpy_helper.from_array(np.full(8, 4, np.float32), "v2"))
        del model.graph.initializer[[t.name for t in model.graph.initializer].index("c2")]
    if norms:
        model.graph.initializer.extend([array("g", 12), array("b", 12), array("m", 12)])
        model.graph.initializer.append(numpy_helper.from_array(np.full(12, 4, np.float32), "v"))
    else:
        model.graph.initializer.append(array("c1", 12))
    return model


@pytest.mark.parametrize(
    ("tail", "norms", "strides"),
    [
        ("a = Add(o, t) z = Relu(a)", False, 1),
        ("a = Add(o, t) z = Relu(a)", True, 1),
        ("z = Relu(o)", False, 2),
        ("z = Identity(o)", True, 1),
        ("z = Relu(o)", None, 2),
        ("u = BatchNormalization(o, g2, b2, m2, v2) z = Relu(u)", True, 1),
        ("u = BatchNormalization(o, g2, b2, m2, v2) z = Relu(u)", None, 1),
    ],
)
def test_a_net_comes_closer_when_pairs_are_refitted(
    tail: str, norms: bool | None, strides: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _net(tail, norms, strides)
    rng = np.random.default_rng(0)
    data, fresh = (rng.normal(size=(n, 3, 8, 8)).astype(np.float32) for n in (192, 64))
    asked = {"ratio": 0.4, "criterion": "l2", "exclude": ["s", "o"], "data": data, "samples": 192}

    def distance(result: ocnna_onnx.Result) -> float:
        """At what the pair makes: what the rest does with it is the rest's."""
        made = []
        for m in (model, result.model):
            tapped = onnx.ModelProto()
            tapped.CopyFrom(m)
            tapped.graph.output.append(onnx.ValueInfoProto(name="z"))
            made.append(ort.InferenceSession(tapped.SerializeToString()).run(["z"], {"x": fresh})[0])
        return float(((made[1] - made[0]) ** 2).mean())

    both = distance(ocnna_onnx.prune(model, **asked))
    monkeypatch.setattr(repairing, "refitted_together", lambda *_: ({}, 1.0))
    alone = distance(ocnna_onnx.prune(model, **asked))
    assert both < 0.97 * alone
