"""Where samples come from, and what a model's inputs make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from nets import MODELS, build, images, tiny, weights
from PIL import Image

import ocnna_onnx
from ocnna_onnx.data.digits import digits, fit
from ocnna_onnx.data.open import open_data
from ocnna_onnx.data.samples import Samples, choose
from ocnna_onnx.model.graph import Graph

Array = np.ndarray[Any, np.dtype[Any]]


def graph(inputs: str) -> Graph:
    """A graph with these inputs; nothing runs it."""
    return Graph(build(f"g ({inputs}) => (float[N] out) {{ out = Identity(w) }}", {"w": np.zeros(1, np.float32)}))


def opened(inputs: str, source: Any = None, count: int | None = 8, seed: int = 0) -> Samples:
    return open_data(source, graph(inputs), {}, count, seed)


def same(a: Samples, b: Samples) -> bool:
    return a.arrays.keys() == b.arrays.keys() and all(np.array_equal(a.arrays[n], b.arrays[n]) for n in a.arrays)


# --- digits


def test_the_split_is_fixed_and_disjoint() -> None:
    data = digits()
    assert (len(data.train_images), len(data.test_images)) == (1437, 360)
    for a, b in zip(data, digits(), strict=True):
        np.testing.assert_array_equal(a, b)
    train, test = ({i.tobytes() for i in part} for part in (data.train_images, data.test_images))
    assert not train & test
    assert len(data.train_labels) == 1437
    assert len(data.test_labels) == 360


def test_the_split_is_the_one_that_the_nets_were_judged_on() -> None:
    """models/README.md: 359 of the 360 test images."""
    data = digits()
    session = onnxruntime.InferenceSession(str(MODELS / "digits_resnet.onnx"), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"input": fit(data.test_images, 1, 16, 16)})
    assert (logits.argmax(axis=1) == data.test_labels).sum() == 359


def test_the_split_is_class_balanced() -> None:
    data = digits()
    for label in range(10):
        train, test = (data.train_labels == label).sum(), (data.test_labels == label).sum()
        assert abs(test - 0.2 * (train + test)) <= 1


LAYOUTS = {
    "grey": ("float[N,1,16,12] x", (1, 16, 12)),
    "grey, channels last": ("float[N,16,12,1] x", (16, 12, 1)),
    "colour": ("float[N,3,16,12] x", (3, 16, 12)),
    "colour, channels last": ("float[N,16,12,3] x", (16, 12, 3)),
    "fixed batch": ("float[4,1,16,12] x", (1, 16, 12)),
    "half": ("float16[N,1,16,12] x", (1, 16, 12)),
    "double": ("double[N,1,16,12] x", (1, 16, 12)),
    "bytes": ("uint8[N,3,16,12] x", (3, 16, 12)),
    "bytes, channels last": ("uint8[N,16,12,1] x", (16, 12, 1)),
}


@pytest.mark.parametrize(("inputs", "shape"), LAYOUTS.values(), ids=LAYOUTS)
def test_digits_in_every_layout(inputs: str, shape: tuple[int, ...]) -> None:
    found = opened(inputs, "digits", 20)
    x = found.arrays["x"]
    assert x.shape == (20, *shape)
    kind = {"float": np.float32, "float16": np.float16, "double": np.float64, "uint8": np.uint8}
    assert x.dtype == kind[inputs.partition("[")[0]]
    assert found.real
    assert found.labels is not None
    full = 255 if x.dtype == np.uint8 else 1
    assert x.min() == 0
    assert 0.5 * full < x.max() <= full
    nchw = x if shape[-1] > 4 else x.transpose(0, 3, 1, 2)
    assert all(np.array_equal(nchw[:, 0], nchw[:, c]) for c in range(nchw.shape[1]))
    assert found.evaluation is not None
    assert found.evaluation.count == 360
    assert found.evaluation.arrays["x"].shape[1:] == shape


def test_digits_are_calibrated_with_the_train_part_and_judged_by_the_test_part() -> None:
    data = digits()
    found = opened("float[N,1,8,8] x", "digits", 50)
    train = {i.tobytes() for i in data.train_images / 16}
    assert all((x[0]).tobytes() in train for x in found.arrays["x"])
    assert found.evaluation is not None
    np.testing.assert_array_equal(found.evaluation.arrays["x"][:, 0], data.test_images / 16)
    np.testing.assert_array_equal(found.evaluation.labels, data.test_labels)


def test_digits_are_chosen_class_balanced_and_seeded() -> None:
    found = opened("float[N,1,8,8] x", "digits", 40)
    assert found.labels is not None
    assert np.bincount(found.labels).tolist() == [4] * 10
    assert same(found, opened("float[N,1,8,8] x", "digits", 40))
    assert not same(found, opened("float[N,1,8,8] x", "digits", 40, seed=1))


def test_fit_resizes_bilinearly() -> None:
    picture = digits().train_images[:1]
    wanted = np.asarray(Image.fromarray(picture[0]).resize((20, 12), Image.Resampling.BILINEAR)) / 16
    fitted = fit(picture, 3, 12, 20)
    assert fitted.shape == (1, 3, 12, 20)
    for channel in fitted[0]:
        np.testing.assert_allclose(channel, wanted)


# --- photos


@pytest.mark.parametrize(("inputs", "shape"), LAYOUTS.values(), ids=LAYOUTS)
def test_photos_in_every_layout(inputs: str, shape: tuple[int, ...]) -> None:
    found = opened(inputs)
    x = found.arrays["x"]
    assert x.shape == (8, *shape)
    assert not found.real
    assert found.labels is None
    assert len({p.tobytes() for p in x}) == 8
    if x.dtype == np.uint8:
        assert x.max() > 128
    else:
        assert np.isfinite(x).all()
        assert np.abs(x).max() < 3
        assert 0.2 < x.astype(np.float64).std() < 2
    assert same(found, opened(inputs))
    assert same(found, opened(inputs, "photos"))
    assert not same(found, opened(inputs, seed=1))


def test_photos_have_colour_and_mean() -> None:
    x = opened("uint8[N,3,32,32] x", count=32).arrays["x"].astype(np.float64)
    assert np.abs(x[:, 0] - x[:, 2]).mean() > 5
    bytes_ = opened("float[N,3,32,32] x", count=32).arrays["x"]
    mean, std = np.reshape([0.485, 0.456, 0.406], (3, 1, 1)), np.reshape([0.229, 0.224, 0.225], (3, 1, 1))
    np.testing.assert_allclose(bytes_ * std + mean, x / 255, atol=0.5 / 255 + 1e-6)


def test_four_channels() -> None:
    assert opened("float[N,4,16,16] x").arrays["x"].shape == (8, 4, 16, 16)
    assert (opened("uint8[N,16,16,4] x").arrays["x"][..., 3] == 255).all()


def test_a_net_that_takes_any_size_gets_one() -> None:
    x = opened("float[N,3,H,W] x", count=2).arrays["x"]
    assert x.shape == (2, 3, 224, 224)
    given = open_data(None, graph("float[N,3,H,W] x"), {"x": (1, 3, 40, 48)}, 2, 0)
    assert given.arrays["x"].shape == (2, 3, 40, 48)


def test_inputs_that_are_no_image() -> None:
    found = opened("float[N,7] vector, int64[N,5] tokens, bool[N,5] mask, float[N,4,11] sound")
    assert {n: (a.shape, a.dtype.name) for n, a in found.arrays.items()} == {
        "vector": ((8, 7), "float32"),
        "tokens": ((8, 5), "int64"),
        "mask": ((8, 5), "bool"),
        "sound": ((8, 4, 11), "float32"),
    }
    assert not found.arrays["tokens"].any()
    assert not found.arrays["mask"].any()
    assert 0.5 < found.arrays["vector"].std() < 2
    assert not found.real
    assert same(found, opened("float[N,7] vector, int64[N,5] tokens, bool[N,5] mask, float[N,4,11] sound"))


def test_an_image_beside_what_is_no_image() -> None:
    found = opened("float[N,3,16,16] x, float[N,5] v, float[6,5] table, int64 step")
    assert {n: a.shape for n, a in found.arrays.items()} == {"x": (8, 3, 16, 16), "v": (8, 5)}
    assert {n: a.shape for n, a in found.fixed.items()} == {"table": (6, 5), "step": ()}
    again = opened("float[N,3,16,16] x, float[N,5] v, float[6,5] table, int64 step", "digits")
    assert {n: a.shape for n, a in again.arrays.items()} == {"x": (8, 3, 16, 16), "v": (8, 5)}


# --- the user's arrays


def test_an_npz_with_labels(tmp_path: Path) -> None:
    x, labels = images(6), np.arange(6)
    for name in ("y", "labels"):
        for stored in (labels, labels[:, None], labels.astype(np.uint8)):
            np.savez(tmp_path / "d.npz", x=x, **{name: stored})
            found = opened("float[N,1,8,8] x", tmp_path / "d.npz")
            np.testing.assert_array_equal(found.arrays["x"], x)
            assert found.labels is not None
            assert found.labels.dtype == np.int64
            np.testing.assert_array_equal(found.labels, labels)
    np.savez_compressed(tmp_path / "d.npz", x=x)
    assert opened("float[N,1,8,8] x", tmp_path / "d.npz").labels is None


def test_an_input_of_the_name_y_is_no_label(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", y=images(6))
    found = opened("float[N,1,8,8] y", tmp_path / "d.npz")
    assert found.labels is None
    assert found.arrays["y"].shape == (6, 1, 8, 8)
    np.savez(tmp_path / "d.npz", y=images(6), labels=np.arange(6))
    assert opened("float[N,1,8,8] y", tmp_path / "d.npz").labels is not None


def test_the_only_array_is_the_only_input(tmp_path: Path) -> None:
    x = images(6)
    np.save(tmp_path / "d.npy", x)
    np.savez(tmp_path / "other.npz", anything=x, y=np.arange(6))
    np.savez(tmp_path / "unnamed.npz", x)
    for source in (tmp_path / "d.npy", str(tmp_path / "d.npy"), tmp_path / "other.npz", tmp_path / "unnamed.npz", x):
        np.testing.assert_array_equal(opened("float[N,1,8,8] x", source).arrays["x"], x)


def test_arrays_and_dictionaries() -> None:
    x = images(6)
    for source in (x, {"x": x}, {"x": x, "y": np.arange(6)}):
        np.testing.assert_array_equal(opened("float[N,1,8,8] x", source).arrays["x"], x)
    found = opened("float[N,1,8,8] x", {"x": x, "labels": list(range(6))})
    assert found.labels is not None
    assert found.labels.tolist() == list(range(6))


def test_floats_and_integers_are_converted_where_nothing_is_lost() -> None:
    x = images(6)
    assert opened("float[N,1,8,8] x", x.astype(np.float64)).arrays["x"].dtype == np.float32
    assert opened("float16[N,1,8,8] x", x).arrays["x"].dtype == np.float16
    assert opened("uint8[N,3] x", np.full((4, 3), 200)).arrays["x"].dtype == np.uint8
    with pytest.raises(ocnna_onnx.DataError):
        opened("uint8[N,3] x", np.full((4, 3), 256))
    with pytest.raises(ocnna_onnx.DataError):
        opened("uint8[N,3] x", np.full((4, 3), -1))


def test_arrays_of_an_input_without_sample_axis() -> None:
    arrays = {"x": images(6), "table": np.ones((3, 5), np.float32), "step": np.int64(2)}
    found = opened("float[N,1,8,8] x, float[3,5] table, int64 step", arrays)
    assert set(found.arrays) == {"x"}
    assert {n: a.shape for n, a in found.fixed.items()} == {"table": (3, 5), "step": ()}
    for feed, _ in found.batches(4):
        assert {n: a.shape for n, a in feed.items()} == {"x": (4, 1, 8, 8), "table": (3, 5), "step": ()}


def test_the_users_arrays_are_not_modified() -> None:
    x = images(6).astype(np.float64)
    before = x.copy()
    ocnna_onnx.prune(tiny(), data={"x": x, "y": np.arange(6) % 5}, samples=4)
    np.testing.assert_array_equal(x, before)


# --- choosing


def labelled(labels: Any) -> Samples:
    labels = np.asarray(labels, np.int64)
    return Samples({"x": np.arange(len(labels), dtype=np.float32)[:, None]}, labels=labels)


def test_choose_is_balanced_as_far_as_the_classes_go() -> None:
    found = choose(labelled([0] * 100 + [1] * 3 + [2] * 50), 13, 0)
    assert found.labels is not None
    assert np.bincount(found.labels).tolist() == [5, 3, 5]
    even = choose(labelled(np.arange(1000) % 7), 70, 0)
    assert even.labels is not None
    assert np.bincount(even.labels).tolist() == [10] * 7


def test_choose_keeps_samples_and_labels_together() -> None:
    samples = labelled(np.random.default_rng(0).integers(0, 9, 200))
    found = choose(samples, 40, 3)
    assert found.count == 40
    assert samples.labels is not None
    index = found.arrays["x"][:, 0].astype(int)
    assert len(set(index.tolist())) == 40
    np.testing.assert_array_equal(found.labels, samples.labels[index])


def test_choose_is_seeded() -> None:
    samples = labelled(np.arange(100) % 10)
    assert same(choose(samples, 20, 1), choose(samples, 20, 1))
    assert not same(choose(samples, 20, 1), choose(samples, 20, 2))
    plain = Samples({"x": np.arange(100.0)})
    assert same(choose(plain, 20, 1), choose(plain, 20, 1))
    assert len({choose(plain, 20, k).arrays["x"].tobytes() for k in range(5)}) == 5


def test_choose_takes_all_where_there_are_no_more() -> None:
    samples = labelled(np.arange(10))
    assert choose(samples, 10, 0) is samples
    assert choose(samples, 99, 0) is samples


# --- batches


def test_a_batch_that_is_not_full_repeats_its_last_sample() -> None:
    x = np.arange(10, dtype=np.float32)[:, None]
    found = [(feed["x"][:, 0].tolist(), valid) for feed, valid in Samples({"x": x}).batches(4)]
    assert found == [([0, 1, 2, 3], 4), ([4, 5, 6, 7], 4), ([8, 9, 9, 9], 2)]


def with_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    return model


def test_samples_that_fill_up_a_fixed_batch_are_not_counted() -> None:
    data = {"x": images(10), "y": np.arange(10) % 5}
    results = [ocnna_onnx.prune(m, data=data, ratio=0.4, repair="none") for m in (tiny(), with_batch(tiny(), 4))]
    free, fixed = (r.report for r in results)
    assert results[0].plan.remove == results[1].plan.remove
    assert fixed["data"]["samples"] == fixed["agreement"]["samples"] == fixed["accuracy"]["samples"] == 10
    assert fixed["agreement"] == free["agreement"]
    assert fixed["accuracy"] == free["accuracy"]
    assert (fixed["before"]["macs"], fixed["after"]["macs"]) == (free["before"]["macs"], free["after"]["macs"])


def test_accuracy_and_agreement_are_what_they_say() -> None:
    x, labels = images(30), np.random.default_rng(4).integers(0, 5, 30)
    result = ocnna_onnx.prune(tiny(), data={"x": x, "y": labels}, ratio=0.5)
    before, after = (
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"])
        .run(None, {"x": x})[0]
        .argmax(axis=1)
        for m in (tiny(), result.model)
    )
    report = result.report
    assert {k: v for k, v in report["agreement"].items() if k != "relative_l2"} == {
        "kind": "top1",
        "value": pytest.approx((before == after).mean()),
        "samples": 30,
    }
    wanted = {"before": (before == labels).mean(), "after": (after == labels).mean(), "samples": 30}
    assert report["accuracy"] == pytest.approx(wanted)


def test_as_many_samples_as_asked_for() -> None:
    for count in (1, 3, 12, 50):
        report = ocnna_onnx.prune(tiny(), data=images(12), samples=count).report
        assert report["data"]["samples"] == min(count, 12)
    assert ocnna_onnx.prune(tiny(), samples=5).report["data"]["samples"] == 5


def test_a_net_with_two_inputs() -> None:
    text = """
    g (float[N,1,8,8] a, float[N,3] b) => (float[N,5] y) {
        [conv1] c = Conv(a, w1)
        [pool] d = GlobalAveragePool(c)
        [flat] e = Flatten(d)
        [join] f = Concat<axis=1>(e, b)
        [fc1] h = Gemm<transB=1>(f, w2)
        [act] i = Relu(h)
        [fc2] y = Gemm<transB=1>(i, w3)
    }
    """
    model = build(text, weights({"w1": (8, 1, 3, 3), "w2": (10, 11), "w3": (5, 10)}))
    vectors = np.random.default_rng(0).standard_normal((9, 3)).astype(np.float32)
    labels = np.arange(9) % 5
    for data in ({"a": images(9), "b": vectors}, {"b": vectors, "a": images(9), "y": labels}, "digits", None):
        result = ocnna_onnx.prune(model, data=data, ratio=0.5, samples=16)
        assert {n: len(c) for n, c in result.plan.remove.items()} == {"conv1": 4, "fc1": 5}
        assert result.report["proof"]["passed"]
