"""The closed-form repair: least squares by another way, what is left alone, and what holds whatever the net."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import MODELS, NETS
from onnx import numpy_helper
from support import RUNTIME, build, removed_at_random, run_model, tensors

from ocnna_onnx.calibrate.readers import covariances, readers
from ocnna_onnx.calibrate.stream import stream
from ocnna_onnx.errors import ModelError
from ocnna_onnx.model.graph import Graph
from ocnna_onnx.model.session import Runtime
from ocnna_onnx.opened import Opened, open_model
from ocnna_onnx.repair import bychannels, channelmap, frontier, moments, refit, repair, solve
from ocnna_onnx.repair import job as on_its_way
from ocnna_onnx.repair.job import Repaired
from ocnna_onnx.repair.shelf import Shelf
from ocnna_onnx.repair.values import with_values
from ocnna_onnx.report.evaluate import evaluate
from ocnna_onnx.rewrite.only import only_values
from ocnna_onnx.rewrite.rewrite import Rewritten, rewrite
from ocnna_onnx.settings import settings_of

Array = np.ndarray[Any, np.dtype[Any]]
MEMORY = 1 << 28
STEM = "[stem] a = Conv<pads=[1,1,1,1]>(x, w0, b0) r = Relu(a) "


def net(body: str, weights: str, out: str = "float[N,M,H,W] y", **arrays: Any) -> onnx.ModelProto:
    text = f"g (float[N,3,6,6] x) => ({out}) <float[8,3,3,3] w0, float[8] b0, {weights}> {{ {STEM} {body} }}"
    return build(text, **arrays)


def images(count: int = 24, shape: tuple[int, ...] = (3, 6, 6), seed: int = 1) -> Array:
    """Pixels that have something to do with their neighbours, so that channels can stand in for each other."""
    noise = np.random.default_rng(seed).standard_normal((count, *shape))
    return (noise + noise.mean(axis=-1, keepdims=True) * 2).astype(np.float32)


def pruned(model: onnx.ModelProto, data: Any, share: float = 0.4, **common: Any) -> tuple[Opened, Rewritten]:
    job = open_model(model, settings_of(data=data, threads=1, cache=False, **common))
    rewritten = rewrite(job.trace, removed_at_random(job.trace, share, 0))
    assert rewritten.cuts, "nothing went"
    return job, rewritten


def repaired(job: Opened, rewritten: Rewritten, memory: int = MEMORY, threads: int = 1) -> Repaired:
    return repair.repair(job.trace, rewritten, job.samples, Runtime(threads=threads), memory)


def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Least squares on all samples, without shrinking."""
    for module in (moments, bychannels, repair):
        monkeypatch.setattr(module, "HELD_OUT", 1 << 20)
    monkeypatch.setattr(solve, "CAUTIOUS", 1e-10)


def error(job: Opened, model: onnx.ModelProto, x: Array, name: str = "y") -> float:
    wanted, found = (
        run_model(m, {"x": x}, [name])[name].astype(np.float64) for m in (job.trace.original.whole(), model)
    )
    return float(((wanted - found) ** 2).sum())


def best(job: Opened, model: onnx.ModelProto, x: Array, names: list[str]) -> float:
    """The least squared error of y over the values of these initializers, in which y is affine: the design matrix is
    made by onnxruntime, one weight at a time."""
    now = tensors(model)

    def y(values: dict[str, Array]) -> Array:
        return run_model(with_values(model, values), {"x": x}, ["y"])["y"].astype(np.float64).reshape(-1)

    zero = {n: np.zeros_like(now[n]) for n in names}
    base = y(zero)
    columns = []
    for n in names:
        for k in range(now[n].size):
            one = zero[n].copy()
            one.reshape(-1)[k] = 1
            columns.append(y({**zero, n: one}) - base)
    design = np.stack(columns, axis=1)
    wanted = run_model(job.trace.original.whole(), {"x": x}, ["y"])["y"].astype(np.float64).reshape(-1) - base
    found = np.linalg.lstsq(design, wanted, rcond=1e-10)[0]
    return float(((wanted - design @ found) ** 2).sum())


POOL = "p = GlobalAveragePool(r) f = Flatten(p) "
NHWC = "t = Transpose<perm=[0,2,3,1]>(r) "
TWO = "float[N,M] y"
BN = "float[4] g, float[4] be, float[4] me, float[4] va"
FORMS: dict[str, tuple[onnx.ModelProto, list[str]]] = {
    "Conv": (net("y = Conv<pads=[1,1,1,1]>(r, w, b)", "float[4,8,3,3] w, float[4] b"), ["w", "b"]),
    "Conv, strides, dilations, pads": (
        net(
            "y = Conv<strides=[2,1], dilations=[1,2], pads=[1,0,0,2]>(r, w, b)", "float[2,8,3,2] w, float[2] b"
        ),
        ["w", "b"],
    ),
    "Conv, SAME_LOWER": (
        net('y = Conv<auto_pad="SAME_LOWER", strides=[2,2]>(r, w, b)', "float[2,8,2,2] w, float[2] b"),
        ["w", "b"],
    ),
    "Conv without a bias": (net("y = Conv(r, w)", "float[4,8,2,2] w"), ["w"]),
    "Conv, grouped": (net("y = Conv<group=2>(r, w, b)", "float[4,4,3,3] w, float[4] b"), ["w", "b"]),
    "Conv, 1 × 1 with strides": (net("y = Conv<strides=[2,2]>(r, w, b)", "float[4,8,1,1] w, float[4] b"), ["w", "b"]),
    "BatchNormalization behind": (
        net("c = Conv(r, w) y = BatchNormalization(c, g, be, me, va)", f"float[4,8,2,2] w, {BN}"),
        ["w", "me"],
    ),
    "Add behind a Conv": (net("c = Conv(r, w) y = Add(c, k)", "float[4,8,2,2] w, float[4,1,1] k"), ["w", "k"]),
    "Sub behind a Conv": (net("c = Conv(r, w) y = Sub(c, k)", "float[4,8,2,2] w, float[1,4,1,1] k"), ["w", "k"]),
    "ConvTranspose": (
        net("y = ConvTranspose<strides=[2,2]>(r, w, b)", "float[8,3,2,2] w, float[3] b"),
        ["w", "b"],
    ),
    "ConvTranspose, overlapping": (
        net(
            "y = ConvTranspose<strides=[2,2], pads=[1,1,1,1], output_padding=[1,0]>(r, w, b)",
            "float[8,2,3,3] w, float[2] b",
        ),
        ["w", "b"],
    ),
    "ConvTranspose, grouped, dilated": (
        net("y = ConvTranspose<group=2, dilations=[2,1], pads=[0,1,1,1]>(r, w)", "float[8,2,2,3] w"),
        ["w"],
    ),
    "ConvTranspose, cropped": (net("y = ConvTranspose<pads=[1,0,2,0]>(r, w)", "float[8,3,1,2] w"), ["w"]),
    "ConvTranspose, SAME_UPPER": (
        net('y = ConvTranspose<auto_pad="SAME_UPPER", strides=[2,2]>(r, w)', "float[8,2,3,3] w"),
        ["w"],
    ),
    "ConvTranspose, output_shape": (
        net("y = ConvTranspose<output_shape=[11,11], strides=[2,2]>(r, w)", "float[8,2,3,3] w"),
        ["w"],
    ),
    "Gemm": (net(POOL + "y = Gemm(f, w, b)", "float[8,5] w, float[5] b", TWO), ["w", "b"]),
    "Gemm, transB, alpha, beta": (
        net(POOL + "y = Gemm<transB=1, alpha=0.5, beta=2.0>(f, w, b)", "float[5,8] w, float[1,5] b", TWO),
        ["w", "b"],
    ),
    "Gemm without a bias": (net(POOL + "y = Gemm(f, w)", "float[8,5] w", TWO), ["w"]),
    "Gemm behind Flatten": (
        net("m = MaxPool<kernel_shape=[3,3], strides=[3,3]>(r) f = Flatten(m) y = Gemm(f, w, b)",
            "float[32,3] w, float[3] b", TWO),
        ["w", "b"],
    ),
    "MatMul": (net(NHWC + "y = MatMul(t, w)", "float[8,5] w"), ["w"]),
    "MatMul and Add": (net(NHWC + "m = MatMul(t, w) y = Add(k, m)", "float[8,5] w, float[5] k"), ["w", "k"]),
    "MatMul from the left": (
        net("s = Reshape(r, q) y = MatMul(w, s)", "int64[3] q, float[5,8] w", "float[N,A,B] y", q=[0, 0, 36]), ["w"],
    ),
    "weight behind Transpose and Identity": (
        net(NHWC + "i = Identity(w) v = Transpose(i) y = MatMul(t, v)", "float[5,8] w"), ["w_pruned", "w"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", list(FORMS))
def test_least_squares(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, names = FORMS[form]
    x = images(24 if "Gemm" not in form else 60)
    job, rewritten = pruned(model, x)
    exact(monkeypatch)
    found = repaired(job, rewritten)
    assert found.values, found.notes
    names = [n for n in names if n in tensors(rewritten.model)]
    assert set(found.values) == set(names)
    after = with_values(rewritten.model, found.values)
    limit = best(job, rewritten.model, x, names)
    before = error(job, rewritten.model, x)
    assert limit < 0.9 * before
    assert error(job, after, x) <= limit * 1.001 + 1e-6 * before
    assert_only_values(rewritten.model, after, set(found.values))


def assert_only_values(before: onnx.ModelProto, after: onnx.ModelProto, changed: set[str]) -> None:
    assert set(only_values(before, Graph(after).model)) <= changed
    one, two = (onnx.ModelProto.FromString(m.SerializeToString()) for m in (before, after))
    for model in (one, two):
        kept = [t for t in model.graph.initializer if t.name not in changed]
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)
        for node in model.graph.node:
            if node.op_type == "Constant" and node.output[0] in changed:
                del node.attribute[:]
    assert one.SerializeToString(deterministic=True) == two.SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", NETS)
def test_trained_nets(name: str) -> None:
    job = open_model(MODELS / f"digits_{name}.onnx", settings_of(data="digits", samples=128, threads=1, cache=False))
    rewritten = rewrite(job.trace, removed_at_random(job.trace, 0.3, 0))
    found = repaired(job, rewritten)
    assert not found.notes
    after = with_values(rewritten.model, found.values)
    test = job.samples.evaluation
    assert test is not None
    raw, better = (evaluate(job.loaded.model, m, test, 16, RUNTIME) for m in (rewritten.model, after))
    assert raw is not None
    assert better is not None
    assert better.relative_l2 < 0.5 * raw.relative_l2
    assert (better.accuracy_after or 0) > max((raw.accuracy_after or 0) + 0.1, 0.9)
    assert all(np.isfinite(v).all() for v in found.values.values())
    assert all(b <= a for a, b in found.layers.values())
    assert_only_values(rewritten.model, after, set(found.values))


def test_same_bytes_whatever_the_memory_and_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    job = open_model(MODELS / "digits_resnet.onnx", settings_of(data="digits", samples=40, threads=1, cache=False))
    rewritten = rewrite(job.trace, removed_at_random(job.trace, 0.3, 0))
    written = []
    write = Shelf.write
    monkeypatch.setattr(Shelf, "write", lambda self, *rows: written.append(1) or write(self, *rows))
    runs = [repaired(job, rewritten, m, t).values for m, t in ((MEMORY, 1), (MEMORY, 1), (1 << 16, 1), (MEMORY, 2))]
    assert written
    for other in runs[1:]:
        assert {n: v.tobytes() for n, v in other.items()} == {n: v.tobytes() for n, v in runs[0].items()}


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 9])
def test_few_samples_do_no_harm(count: int) -> None:
    model, _ = FORMS["Conv"]
    job, rewritten = pruned(model, images(count))
    found = repaired(job, rewritten)
    after = with_values(rewritten.model, found.values)
    other = images(40, seed=5)
    assert error(job, after, other) <= 1.1 * error(job, rewritten.model, other)


def test_constant_images() -> None:
    job, rewritten = pruned(FORMS["Conv"][0], np.ones((12, 3, 6, 6), np.float32))
    found = repaired(job, rewritten)
    assert all(np.isfinite(v).all() for v in found.values.values())


def left_alone(model: onnx.ModelProto, word: str, data: Any = None, share: float = 0.4) -> Repaired:
    job, rewritten = pruned(model, images() if data is None else data, share)
    found = repaired(job, rewritten)
    assert any(word in note for note in found.notes), found.notes
    return found


def test_shared_weight() -> None:
    found = left_alone(
        net("u = Conv(r, w) v = Conv(r, w) z = Add(u, v) y = Conv(r, w2)", "float[4,8,2,2] w, float[4,8,2,2] w2",
            "float[N,M,H,W] z, float[N,M,H,W] y"), "shared"
    )  # fmt: skip
    assert set(found.values) == {"w2"}


def test_shared_bias_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights beside it are still the best that there are."""
    weights = "float[4,8,2,2] w, float[4,8,2,2] w2, float[4] b"
    model = net("u = Conv(r, w, b) y = Conv(r, w2, b)", weights, "float[N,M,H,W] u, float[N,M,H,W] y")
    x = images()
    job, rewritten = pruned(model, x)
    exact(monkeypatch)
    found = repaired(job, rewritten)
    assert set(found.values) == {"w", "w2"}
    after = with_values(rewritten.model, found.values)
    assert error(job, after, x) <= best(job, rewritten.model, x, ["w2"]) * 1.001


def test_computed_weight() -> None:
    left_alone(net("v = Exp(w) y = Conv(r, v)", "float[4,8,2,2] w"), "computed")


@pytest.mark.parametrize("behind", ["BatchNormalization(o, e, z, z, k)", "Clip(o, low)"])
def test_what_is_computed_behind_a_layer_is_no_obstacle(behind: str) -> None:
    """What a Relu behind it would cut off is not known then; the layer is repaired all the same."""
    body = f"o = Conv(r, w) k = Exp(e) low = ReduceMax<keepdims=0>(r) n = {behind} y = Relu(n)"
    model = net(body, "float[4,8,2,2] w, float[4] e, float[4] z")
    x = images()
    job, rewritten = pruned(model, x)
    found = repaired(job, rewritten)
    assert "w" in found.values
    assert error(job, with_values(rewritten.model, found.values), x, "o") < error(job, rewritten.model, x, "o")


def test_half_precision() -> None:
    text = """g (float16[N,3,6,6] x) => (float16[N,M,H,W] y) <float16[8,3,3,3] w0, float16[4,8,3,3] w, float16[4] b> {
        a = Conv<pads=[1,1,1,1]>(x, w0) r = Relu(a) y = Conv(r, w, b) }"""
    x = images().astype(np.float16)
    job, rewritten = pruned(build(text), x)
    found = repaired(job, rewritten)
    assert found.values["w"].dtype == np.float16
    assert error(job, with_values(rewritten.model, found.values), x) < 0.9 * error(job, rewritten.model, x)


def test_quantized_layers_beside_others() -> None:
    weights = "int8[4,8,2,2] q, float s, float[4,8,2,2] w"
    model = net(
        "d = DequantizeLinear(q, s) z = Conv(r, d) y = Conv(r, w)", weights, "float[N,M,H,W] z, float[N,M,H,W] y",
        q=np.random.default_rng(0).integers(-90, 90, (4, 8, 2, 2)), s=0.01,
    )  # fmt: skip
    assert set(left_alone(model, "quantized").values) == {"w"}


def test_constant_nodes() -> None:
    model = FORMS["Conv"][0]
    changed = onnx.ModelProto.FromString(model.SerializeToString())
    for tensor in list(changed.graph.initializer):
        array = numpy_helper.to_array(tensor)
        changed.graph.initializer.remove(tensor)
        node = onnx.helper.make_node("Constant", [], [tensor.name], value=numpy_helper.from_array(array))
        changed.graph.node.insert(0, node)
    results = []
    for m in (model, changed):
        job, rewritten = pruned(m, images())
        found = repaired(job, rewritten)
        after = with_values(rewritten.model, found.values)
        assert_only_values(rewritten.model, after, set(found.values))
        results.append(error(job, after, images()))
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5)


def test_scales_of_a_resize_are_known_to_a_piece() -> None:
    body = "[up] u = Resize(r, none, scales) m = Conv(u, w1) n = Relu(m) v = Resize(n, none, scales) y = Conv(v, w)"
    weights = "float[4] scales, float[0] none, float[8,8,1,1] w1, float[4,8,2,2] w"
    job, rewritten = pruned(net(body, weights, scales=[1, 1, 2, 2], none=[]), images())
    assert {"w", "w1"} & set(repaired(job, rewritten).values)


LAYOUTS = {
    "time first": "t = Reshape(r, q) u = Transpose<perm=[2,0,1]>(t) y = MatMul(u, w)",
    "positions in the batch": ("t = Transpose<perm=[0,2,3,1]>(r) u = Reshape(t, q2) y = Gemm(u, w, b)"),
    "sizes from Shape": "sh = Shape(r) t = Reshape(r, sh) k = Transpose<perm=[0,2,3,1]>(t) y = MatMul(k, w)",
}


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("count", [36, 40])
def test_axes_that_are_no_batch(layout: str, count: int) -> None:
    out = {"time first": "float[T,N,M] y", "positions in the batch": "float[B,M] y"}.get(layout, "float[N,H,W,M] y")
    weights = "int64[3] q, int64[2] q2, float[8,4] w, float[4] b"
    model = net(LAYOUTS[layout], weights, out, q=[0, 0, 36], q2=[-1, 8])
    x = images(count)
    job, rewritten = pruned(model, x)
    found = repaired(job, rewritten)
    assert "w" in found.values or "w_pruned" in found.values, found.notes
    after = with_values(rewritten.model, found.values)
    assert error(job, after, x) < 0.9 * error(job, rewritten.model, x)


def test_fixed_batch_and_outputs_in_the_middle() -> None:
    text = f"""g (float[1,3,6,6] x) => (float[1,8,6,6] r, float[1,4,5,5] y) <float[8,3,3,3] w0, float[8] b0,
        float[6,8,1,1] w1, float[4,6,2,2] w> {{ {STEM} m = Conv(r, w1) n = Relu(m) y = Conv(n, w) }}"""
    x = images(20)
    job, rewritten = pruned(build(text), x)
    found = repaired(job, rewritten)
    after = with_values(rewritten.model, found.values)
    errors = [sum(error(job, m, x[k : k + 1]) for k in range(20)) for m in (rewritten.model, after)]
    assert errors[1] < errors[0]


def test_fixed_inputs_and_bodies() -> None:
    text = f"""g (float[N,3,6,6] x, bool flag, float[1,8,1,1] e) => (float[N,M,H,W] y) <float[8,3,3,3] w0, float[8] b0,
        float[6,8,1,1] w1, float[4,6,2,2] w> {{ {STEM} s = Mul(r, e) m = Conv(s, w1)
        n = If(flag) <then_branch = g1 () => (float[N,6,6,6] u) {{ u = Relu(m) }},
                      else_branch = g2 () => (float[N,6,6,6] v) {{ v = Neg(m) }}> y = Conv(n, w) }}"""
    x = images(24)
    data = {"x": x, "flag": np.asarray(True), "e": np.full((1, 8, 1, 1), 0.5, np.float32)}
    job = open_model(build(text), settings_of(data=data, threads=1, cache=False))
    rewritten = rewrite(job.trace, removed_at_random(job.trace, 0.4, 0))
    if rewritten.cuts:
        found = repaired(job, rewritten)
        assert not any("left out" in n for n in found.notes), found.notes


def test_a_piece_that_fails_leaves_the_net_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    job, rewritten = pruned(FORMS["Conv"][0], images())

    def refuse(*args: Any, **options: Any) -> None:
        raise ModelError("onnxruntime cannot run the model: no")

    monkeypatch.setattr(frontier, "run", refuse)
    found = repaired(job, rewritten)
    assert not found.values
    assert "repair left out" in found.notes[0]


def test_a_repair_that_makes_the_outputs_worse_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    job, rewritten = pruned(FORMS["Conv"][0], images())
    real = repair.fit

    def wrong(*args: Any) -> solve.Fit:
        found = real(*args)
        return solve.Fit(-found.weight, found.bias, found.ridge, found.before, found.after)

    monkeypatch.setattr(repair, "fit", wrong)
    monkeypatch.setattr(repair, "refitted_together", lambda *_: ({}, 1.0))  # which would put it right
    found = repaired(job, rewritten)
    assert not found.values
    assert "left out" in found.notes[-1]


def test_weights_out_of_proportion_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    job, rewritten = pruned(FORMS["Conv"][0], images())
    monkeypatch.setattr(on_its_way, "GROWTH", 1e-3)
    found = repaired(job, rewritten)
    assert not found.values
    assert "proportion" in found.notes[0]


CHAIN = "float[6,8,1,1] w1, float[6] b1, float[8,6,1,1] w2, float[8] b2"
RESIDUALS = {
    "plain": ("m = Conv(r, w1, b1) n = Relu(m) o = Conv(n, w2, b2) z = Add(o, r) y = Relu(z)", CHAIN),
    "scaled": (
        "m = Conv(r, w1, b1) n = Relu(m) o = Conv(n, w2, b2) p = Mul(o, k) z = Add(r, p) y = Relu(z)",
        CHAIN + ", float[8,1,1] k",
    ),
    "normalized": (
        "m = Conv(r, w1, b1) n = Relu(m) o = Conv(n, w2) p = BatchNormalization(o, g, be, me, va) z = Add(r, p) "
        "y = Relu(z)",
        "float[6,8,1,1] w1, float[6] b1, float[8,6,1,1] w2, " + BN.replace("4", "8"),
    ),
}


@pytest.mark.parametrize("form", list(RESIDUALS))
def test_residual_streams(form: str) -> None:
    body, weights = RESIDUALS[form]
    x = images(48)
    job, rewritten = pruned(net(body + " h = Conv(y, w3)", weights + ", float[3,8,1,1] w3", "float[N,M,H,W] h"), x)
    found = repaired(job, rewritten)
    after = with_values(rewritten.model, found.values)
    assert error(job, after, x, "h") < 0.8 * error(job, rewritten.model, x, "h")


@pytest.mark.parametrize("form", ["Conv", "Gemm behind Flatten"])
def test_channel_maps(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = images(64)
    job, rewritten = pruned(FORMS[form][0], x)
    monkeypatch.setattr(channelmap, "PATCH_WORK", 1.0)
    found = repaired(job, rewritten)
    assert found.values, found.notes
    after = with_values(rewritten.model, found.values)
    assert error(job, after, x) < 0.9 * error(job, rewritten.model, x)


def test_many_depthwise_channels() -> None:
    text = """g (float[N,3,8,8] x) => (float[N,M,H,W] y) <float[8,3,3,3] w0, float[960,8,1,1] w1, float[960,1,3,3] d,
        float[960] e, float[4,960,1,1] w> { a = Conv(x, w0) r = Relu(a) b = Conv(r, w1) c = Relu(b)
        f = Conv<group=960>(c, d, e) h = Relu(f) y = Conv(h, w) }"""
    x = images(32, (3, 8, 8))
    job, rewritten = pruned(build(text), x, 0.25)
    found = repaired(job, rewritten)
    assert "d" in found.values, found.notes
    assert error(job, with_values(rewritten.model, found.values), x) < error(job, rewritten.model, x)


def test_refit_is_least_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights from covariances alone are those of a regression on the same rows."""
    x = images(32)
    job, rewritten = pruned(FORMS["Conv"][0], x)
    exact(monkeypatch)
    monkeypatch.setattr(refit, "DAMPING", 1e-10)
    (reader,) = readers(job.trace)
    taps, (covariance,) = covariances([reader], job.samples.count, 0)
    stream(job.trace.graph, job.trace.shapes, taps, job.samples, RUNTIME, MEMORY)
    graph = job.trace.graph
    now = {n: graph.array(n) for n in graph.initializers}
    gone = ~rewritten.kept.keep
    found = refit.refitted(graph, reader, covariance, gone, now)
    ours = repaired(job, rewritten).values
    stays = ~gone[reader.units[0]].reshape(-1, 9)[:, 0]
    np.testing.assert_allclose(found["w"][:, stays], ours["w"], atol=2e-3)
    np.testing.assert_allclose(found["b"], ours["b"], atol=2e-3)


@given(st.integers(1, 30), st.integers(0, 29), st.integers(1, 30), st.sampled_from(["float32", "int8", "float16"]))
@settings(max_examples=30, deadline=None)
def test_shelf(count: int, first: int, length: int, dtype: str) -> None:
    rows = np.random.default_rng(count).integers(-9, 9, (count, 2, 3)).astype(dtype)
    shelf = Shelf(rows.shape, rows.dtype)
    shelf.write(0, rows[: count // 2])
    shelf.write(count // 2, rows[count // 2 :])
    np.testing.assert_array_equal(shelf[first : first + length], rows[first : first + length])
    index = np.minimum(np.arange(min(first, count - 1), first + length), count - 1)
    if len(index):
        np.testing.assert_array_equal(shelf[index], rows[index])


def test_no_more_in_memory_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of all samples lie in files once they exceed their share, and go when no later layer needs them."""
    x = images(64, (3, 32, 32))
    text = f"""g (float[N,3,32,32] x) => (float[N,M,H,W] y) <float[8,3,3,3] w0, float[8] b0, float[8,8,3,3] w1,
        float[8,8,3,3] w2, float[4,8,3,3] w3> {{ {STEM} c = Conv<pads=[1,1,1,1]>(r, w1) d = Relu(c)
        e = Conv<pads=[1,1,1,1]>(d, w2) f = Relu(e) y = Conv(f, w3) }}"""
    job, rewritten = pruned(build(text), x)
    most = []
    real = frontier.Frontier.done

    def watched(self: frontier.Frontier) -> None:
        made = {n: a for n, a in self.held.items() if n != "x"}
        most.append((sum(a.nbytes for a in made.values() if isinstance(a, np.ndarray)), len(made)))
        real(self)

    monkeypatch.setattr(frontier.Frontier, "done", watched)
    memory = 1 << 21
    assert repaired(job, rewritten, memory).values
    assert max(size for size, _ in most) <= memory // 2 // frontier.SHARE
    assert max(count for _, count in most) <= 3  # the input of a pair, what the layer itself reads, and its target


def test_what_is_held_is_what_the_net_computes() -> None:
    """Weights that change are heard by everything behind them, also by what was computed before."""
    text = f"""g (float[N,3,6,6] x) => (float[N,M,H,W] y) <float[8,3,3,3] w0, float[8] b0, float[8,8,1,1] w1,
        float[8,8,1,1] w2> {{ {STEM} c = Conv(r, w1) d = Conv(r, w2) e = Add(c, d) y = Relu(e) }}"""
    job, _ = pruned(build(text), images(20), 0.2)
    model = job.trace.graph.model
    step = frontier.Step
    graph = job.trace.graph
    steps = [step(("r", "d"), (graph.producer["c"],)), step(("r", "c"), (graph.producer["d"],)), step(("e",))]
    net_ = frontier.frontier(model, job.samples, 16, RUNTIME, MEMORY, steps)
    for names, weight in ((("r", "d"), "w1"), (("r", "c"), "w2"), (("e",), "")):
        net_.reach(names)
        if weight:
            net_.weights[weight] = net_.weights[weight] * 2
            net_.done()
    changed = with_values(job.trace.original.whole(), {n: net_.weights[n] for n in ("w1", "w2")})
    wanted = run_model(changed, {"x": images(20)}, ["e"])["e"]
    np.testing.assert_allclose(np.asarray(net_.held["e"][0:20]), wanted, rtol=1e-4, atol=1e-4)


def test_bfloat16_is_left_alone() -> None:
    text = """g (bfloat16[N,3,6,6] x) => (bfloat16[N,M,H,W] y) <bfloat16[8,3,3,3] w0, bfloat16[4,8,3,3] w> {
        a = Conv(x, w0) r = Relu(a) y = Conv(r, w) }"""
    assert not left_alone(build(text, opset=22, ir=10), "bfloat16").values
