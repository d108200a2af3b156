"""Pictures as samples: folders and labels, presets against numbers computed by hand, and odd or broken files."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from nets import TINY, TINY_SHAPES, build, cli, done, weights, written
from PIL import Image

import ocnna_onnx
from ocnna_onnx.data.images import image_samples
from ocnna_onnx.data.open import open_data
from ocnna_onnx.data.samples import Samples
from ocnna_onnx.model.graph import Graph

Array = np.ndarray[Any, np.dtype[Any]]

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
CIFAR = "float[N,3,32,32] x"


def graph(inputs: str) -> Graph:
    return Graph(build(f"g ({inputs}) => (float[N] out) {{ out = Identity(w) }}", {"w": np.zeros(1, np.float32)}))


def opened(source: Any, inputs: str = CIFAR, count: int | None = None, seed: int = 0, **image: Any) -> Samples:
    return open_data(source, graph(inputs), {}, count, seed, image)


def pixels(height: int = 32, width: int = 32, seed: int = 0) -> Array:
    """[height, width, 3] uint8, smooth enough for resizes to mean something."""
    rng = np.random.default_rng(seed)
    rough = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8))
    return np.asarray(rough.resize((width, height), Image.Resampling.BICUBIC))


def saved(path: Path, content: Array | None = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels() if content is None else content).save(path, **options)
    return path


def first(samples: Samples, name: str = "x") -> Array:
    return next(samples.batches(1))[0][name][0]


def by_hand(picture: Array) -> Array:
    return ((picture / 255 - MEAN) / STD).astype(np.float32).transpose(2, 0, 1)


def resized(picture: Array, height: int, width: int) -> Array:
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))


# --- numbers


def test_pictures_of_the_inputs_size_are_exact(tmp_path: Path) -> None:
    for k in range(5):
        saved(tmp_path / f"{k}.png", pixels(seed=k))
    found = opened(tmp_path)
    assert found.count == 5
    for k, x in enumerate(next(found.batches(5))[0]["x"]):
        np.testing.assert_array_equal(x, by_hand(pixels(seed=k)))
    assert found.real
    assert "0.485,0.456,0.406" in found.preprocessing
    assert "no --preset was given" in found.notes[0]
    assert not opened(tmp_path, preset="imagenet").notes


def test_imagenet_covers_and_crops(tmp_path: Path) -> None:
    wide = pixels(100, 150)
    path = saved(tmp_path / "wide.png", wide)
    small = resized(wide, 64, 96)[4:60, 20:76]  # the short side to 56 · 256 / 224
    np.testing.assert_array_equal(first(opened(path, "float[N,3,56,56] x", preset="imagenet")), by_hand(small))
    tall = saved(tmp_path / "tall.png", wide.transpose(1, 0, 2).copy())
    small = resized(wide.transpose(1, 0, 2).copy(), 96, 64)[20:76, 4:60]
    np.testing.assert_array_equal(first(opened(tall, "float[N,3,56,56] x")), by_hand(small))
    oblong = opened(path, "float[N,3,56,28] x")
    np.testing.assert_array_equal(first(oblong), by_hand(resized(wide, 64, 96)[4:60, 34:62]))
    assert "short side to 64" in opened(path, "float[N,3,56,56] x").preprocessing
    assert "cover 64×32" in oblong.preprocessing


def test_the_other_presets(tmp_path: Path) -> None:
    x = pixels()
    path = saved(tmp_path / "a.png", x)
    np.testing.assert_allclose(
        first(opened(path, preset="tf")), (x / 127.5 - 1).transpose(2, 0, 1).astype(np.float32), rtol=1e-6, atol=1e-7
    )
    np.testing.assert_array_equal(first(opened(path, preset="none")), x.transpose(2, 0, 1))
    np.testing.assert_allclose(first(opened(path, preset="yolo")), x.transpose(2, 0, 1) / 255, rtol=1e-6)
    oblong = pixels(50, 100)
    path = saved(tmp_path / "b.png", oblong)
    boxed = first(opened(path, preset="yolo")) * 255
    np.testing.assert_allclose(boxed[:, :8], 114, rtol=1e-6)
    np.testing.assert_allclose(boxed[:, 24:], 114, rtol=1e-6)
    np.testing.assert_allclose(boxed[:, 8:24], resized(oblong, 16, 32).transpose(2, 0, 1), rtol=1e-6)
    stretched = first(opened(path, preset="none"))
    np.testing.assert_array_equal(stretched, resized(oblong, 32, 32).transpose(2, 0, 1))


def test_overrides(tmp_path: Path) -> None:
    x = pixels()
    path = saved(tmp_path / "a.png", x)
    planes = x.transpose(2, 0, 1).astype(np.float64)
    column = (-1, 1, 1)
    cases: list[tuple[dict[str, Any], Array]] = [
        ({"scale": "1/255"}, planes / 255),
        ({"scale": 2}, planes * 2),
        ({"mean": "0.5", "std": "0.25"}, (planes / 255 - 0.5) / 0.25),
        ({"mean": [0.1, 0.2, 0.3]}, planes / 255 - np.reshape([0.1, 0.2, 0.3], column)),
        ({"scale": 1, "mean": "10,20,30", "std": "2,4,8"}, (planes - [[[10]], [[20]], [[30]]]) / [[[2]], [[4]], [[8]]]),
        ({"preset": "tf", "std": 2}, (planes / 127.5 - 1) / 2),
        ({"color": "bgr", "preset": "none"}, planes[::-1]),
        ({"color": "bgr", "preset": "imagenet"}, by_hand(x)[::-1]),
        ({"color": "bgr", "scale": 1, "mean": "1,2,3"}, planes[::-1] - np.reshape([1, 2, 3], column)),
    ]
    for image, wanted in cases:
        np.testing.assert_allclose(first(opened(path, **image)), wanted, rtol=1e-6, atol=1e-6, err_msg=str(image))
    grey = np.asarray(Image.fromarray(x).convert("L"))
    np.testing.assert_array_equal(first(opened(path, preset="none", color="grey")), np.stack([grey] * 3))
    np.testing.assert_array_equal(first(opened(path, "float[N,1,32,32] x", preset="none")), grey[None])
    one = first(opened(path, "float[N,1,32,32] x", preset="imagenet"))[0]
    np.testing.assert_allclose(one, (grey / 255 - 0.449) / 0.226, rtol=1e-5, atol=1e-6)
    assert "no --preset" not in "".join(opened(path, scale=1).notes)


def test_resize_and_crop(tmp_path: Path) -> None:
    x = pixels(60, 90)
    path = saved(tmp_path / "a.png", x)

    def found(**image: Any) -> Array:
        return first(opened(path, preset="none", **image)).transpose(1, 2, 0)

    np.testing.assert_array_equal(found(resize=40), resized(x, 40, 60)[4:36, 14:46])
    np.testing.assert_array_equal(found(resize="40x50"), resized(x, 40, 50)[4:36, 9:41])
    np.testing.assert_array_equal(found(resize=(32, 32)), resized(x, 32, 32))
    np.testing.assert_array_equal(found(resize="none"), x[14:46, 29:61])
    np.testing.assert_array_equal(found(resize="none", crop=32), x[14:46, 29:61])
    np.testing.assert_array_equal(found(resize="stretch"), resized(x, 32, 32))
    np.testing.assert_array_equal(found(resize="letterbox")[:5], np.full((5, 32, 3), 114))
    exact = saved(tmp_path / "exact.png")
    zoomed = first(opened(exact, preset="none", resize=40)).transpose(1, 2, 0)
    np.testing.assert_array_equal(zoomed, resized(pixels(), 40, 40)[4:36, 4:36])  # what was asked for is done
    any_size = opened(path, "float[N,3,H,W] x", preset="none", resize=50, crop="40x48")
    np.testing.assert_array_equal(first(any_size).transpose(1, 2, 0), resized(x, 50, 75)[5:45, 14:62])
    assert opened(path, "float[N,3,H,W] x").arrays["x"].shape == (1, 3, 224, 224)
    assert opened(path, "float[N,H,W,3] x", resize="40x48").arrays["x"].shape == (1, 40, 48, 3)


TYPES = {
    "channels last": ("float[N,32,32,3] x", lambda x: x.astype(np.float32)),
    "bytes": ("uint8[N,3,32,32] x", lambda x: x.transpose(2, 0, 1)),
    "bytes, channels last": ("uint8[N,32,32,3] x", lambda x: x),
    "half": ("float16[N,3,32,32] x", lambda x: x.transpose(2, 0, 1).astype(np.float16)),
    "double": ("double[N,3,32,32] x", lambda x: x.transpose(2, 0, 1).astype(np.float64)),
    "alpha": ("float[N,4,32,32] x", lambda x: np.concatenate([x, np.full_like(x[..., :1], 255)], 2).transpose(2, 0, 1)),
    "fixed batch": ("float[4,3,32,32] x", lambda x: x.transpose(2, 0, 1).astype(np.float32)),
}


@pytest.mark.parametrize(("inputs", "wanted"), TYPES.values(), ids=TYPES)
def test_layouts_and_types(tmp_path: Path, inputs: str, wanted: Any) -> None:
    found = first(opened(saved(tmp_path / "a.png"), inputs, preset="none"))
    np.testing.assert_array_equal(found, wanted(pixels()))
    assert found.dtype == (wanted(pixels()).dtype if inputs[0] in "duf" and "[N,4" not in inputs else np.float32)


def test_bytes_need_no_preset(tmp_path: Path) -> None:
    found = opened(saved(tmp_path / "a.png"), "uint8[N,3,32,32] x")
    np.testing.assert_array_equal(first(found), pixels().transpose(2, 0, 1))
    assert not found.notes
    assert "bytes 0 … 255" in found.preprocessing


def test_a_layout_that_the_shape_does_not_tell(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png")
    for layout, shape in (("NCHW", (1, 3, 224, 224)), ("NHWC", (1, 224, 224, 3))):
        found = open_data(path, graph("float[N,A,B,C] x"), {"x": shape}, 1, 0, {"layout": layout})
        assert found.arrays["x"].shape == shape
    with pytest.raises(ocnna_onnx.UsageError, match="no input that takes pictures"):
        opened(path, layout="NHWC")


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "preset": ({"preset": "caffe"}, "imagenet, tf, yolo, none"),
    "unknown": ({"means": 1}, "no option 'means'"),
    "color": ({"color": "hsv"}, "rgb, bgr"),
    "layout": ({"layout": "CHW"}, "NCHW"),
    "mean": ({"mean": "a,b"}, "expected numbers"),
    "two means": ({"mean": "0.1,0.2"}, "2 numbers, input 'x' has 3 channels"),
    "mean of bytes": ({"mean": "123.675,116.28,103.53"}, "--scale 1"),
    "std": ({"std": "0,1,1"}, "division by zero"),
    "scale": ({"scale": "1/0"}, "1/255"),
    "resize": ({"resize": "big"}, "HEIGHTxWIDTH"),
    "resize 0": ({"resize": "0"}, "HEIGHTxWIDTH"),
    "crop": ({"crop": "24"}, "takes 32×32"),
    "resize below": ({"resize": 20}, "takes 32×32"),
    "resize below, two": ({"resize": "20x40"}, "takes 32×32"),
    "resize, no crop": ({"resize": "40x40", "crop": "none"}, "takes 32×32"),
}


@pytest.mark.parametrize(("image", "word"), WRONG.values(), ids=WRONG)
def test_options_that_do_not_fit(tmp_path: Path, image: dict[str, Any], word: str) -> None:
    with pytest.raises(ocnna_onnx.UsageError) as caught:
        opened(saved(tmp_path / "a.png"), **image)
    assert word in str(caught.value)


def test_options_where_they_mean_nothing(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png")
    with pytest.raises(ocnna_onnx.UsageError, match="takes bytes"):
        opened(path, "uint8[N,3,32,32] x", mean=0.5)
    with pytest.raises(ocnna_onnx.UsageError, match="1 channels"):
        opened(path, "float[N,1,32,32] x", color="bgr")
    with pytest.raises(ocnna_onnx.UsageError, match="fed as it is"):
        opened(np.zeros((2, 3, 32, 32), np.float32), preset="tf")
    with pytest.raises(ocnna_onnx.UsageError, match="no input that takes pictures"):
        opened(path, "float[N,7] x")
    with pytest.raises(ocnna_onnx.UsageError, match="is no preset's name"):
        ocnna_onnx.prune(build(TINY, weights(TINY_SHAPES)), image=3)  # type: ignore[arg-type]
    big = opened(saved(tmp_path / "big.png", pixels(40, 50)), resize="none", crop="none")
    with pytest.raises(ocnna_onnx.DataError, match=r"big\.png.*40×50.*32×32"):
        first(big)
    with pytest.raises(ocnna_onnx.DataError, match=r"tiny\.png.*20×20"):
        first(opened(saved(tmp_path / "tiny.png", pixels(20, 20)), resize="none"))


def test_the_photographs_take_a_preset_too() -> None:
    bytes_ = np.asarray(opened(None, "uint8[N,3,32,32] x", 4).arrays["x"])
    found = opened(None, count=4, preset="tf")
    np.testing.assert_allclose(found.arrays["x"], bytes_ / 127.5 - 1, atol=1e-6)
    assert "x/127.5" in found.preprocessing
    with pytest.raises(ocnna_onnx.UsageError, match="resize"):
        opened(None, resize=40)


# --- folders


def classes(folder: Path, sizes: dict[str, int]) -> Path:
    for number, (name, count) in enumerate(sizes.items()):
        for k in range(count):
            saved(folder / name / f"{k:03}.png", np.full((32, 32, 3), 40 * number + k, np.uint8))
    return folder


def test_sub_folders_are_classes(tmp_path: Path) -> None:
    folder = classes(tmp_path, {"cat": 12, "ant": 3, "bee": 7})
    saved(folder / "bee" / "more" / "deep.JPG")
    (folder / "notes.txt").write_text("x")
    (folder / "cat" / "meta.csv").write_text("x")
    (folder / "cat" / ".hidden.png").write_text("x")
    (folder / ".cache").mkdir()
    saved(folder / ".cache" / "x.png")
    found = opened(folder)
    assert found.labels is not None
    assert np.bincount(found.labels).tolist() == [3, 8, 12]
    assert "23 pictures in 3 sub-folders" in found.source
    values = np.rint(next(opened(folder, preset="none").batches(23))[0]["x"][:, 0, 0, 0]).astype(int)
    assert values[:3].tolist() == [40, 41, 42]
    few = opened(folder, count=9, preset="none")
    assert few.labels is not None
    assert np.bincount(few.labels).tolist() == [3, 3, 3]
    for x, label in zip(next(few.batches(9))[0]["x"][:, 0, 0, 0], few.labels, strict=True):
        assert label == 1 or x // 40 == {0: 1, 2: 0}[int(label)]
    again = opened(folder, count=9, preset="none")
    np.testing.assert_array_equal(few.arrays["x"][:], again.arrays["x"][:])
    assert (opened(folder, count=9, seed=1, preset="none").arrays["x"][:] != again.arrays["x"][:]).any()


def test_a_labels_file(tmp_path: Path) -> None:
    for k in range(4):
        saved(tmp_path / "pics" / f"{k}.png", pixels(seed=k))
    (tmp_path / "labels.csv").write_text("file,label,name\npics/2.png,7,dog\npics/0.png, 3,cat\n")
    found = opened(tmp_path)
    assert found.labels is not None
    assert found.labels.tolist() == [7, 3]
    np.testing.assert_array_equal(first(found), by_hand(pixels(seed=2)))
    for text, word in (
        ("name,label\na,1\n", "file,label"),
        ("file,label\npics/9.png,1\n", "line 2"),
        ("file,label\npics/0.png,cat\n", "'cat' is no class number"),
        ("file,label\npics/0.png\n", "line 2"),
        ("file,label\n", "no pictures"),
        ("", "file,label"),
    ):
        (tmp_path / "labels.csv").write_text(text)
        with pytest.raises(ocnna_onnx.DataError, match=r"labels\.csv") as caught:
            opened(tmp_path)
        assert word in str(caught.value)


def test_folders_without_classes(tmp_path: Path) -> None:
    for name in ("a.png", "b.jpeg", "sub/c.webp"):
        saved(tmp_path / "mixed" / name)
    assert opened(tmp_path / "mixed").labels is None
    assert opened(tmp_path / "mixed").count == 3
    saved(tmp_path / "one" / "sub" / "c.png")
    assert opened(tmp_path / "one").labels is None
    assert opened(saved(tmp_path / "alone.png")).count == 1


def test_folders_that_are_no_data(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ocnna_onnx.UsageError, match="empty: a folder without pictures"):
        opened(tmp_path / "empty")
    for part in ("train", "val"):
        saved(tmp_path / "set" / part / "cat" / "a.png")
    with pytest.raises(ocnna_onnx.UsageError, match="train, val"):
        opened(tmp_path / "set")


def test_links_do_not_go_round(tmp_path: Path) -> None:
    saved(tmp_path / "set" / "a" / "x.png")
    saved(tmp_path / "elsewhere" / "y.png")
    (tmp_path / "set" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "a" / "loop").symlink_to(tmp_path / "set")
    assert opened(tmp_path / "set").count == 2


def colour(classes: int) -> onnx.ModelProto:
    """The tiny net on [N, 3, 32, 32]."""
    text = TINY.replace("N,1,8,8", "N,3,32,32").replace("N,5", f"N,{classes}")
    return build(text, weights({**TINY_SHAPES, "w1": (8, 3, 3, 3), "w3": (classes, 6), "b3": (classes,)}))


def test_sub_folders_that_are_not_the_models_classes(tmp_path: Path) -> None:
    folder = classes(tmp_path, {"a": 10, "b": 3})
    (folder / "annotations.json").write_text("{}")
    for count, known in ((2, True), (5, False)):
        found = open_data(folder, Graph(colour(count)), {}, 6, 0, "none")
        values = np.rint(found.arrays["x"][:][:, 0, 0, 0]).astype(int) // 40
        assert np.bincount(values).tolist() == [3, 3]  # chosen evenly in any case
        assert (found.labels is not None) == known
        assert any("are not the model's 5 classes" in n for n in found.notes) != known
    (folder / "labels.csv").write_text("file,label\na/000.png,4\n")
    assert open_data(folder, Graph(colour(5)), {}, 6, 0, "none").labels is not None


def test_the_same_pictures_as_arrays(tmp_path: Path) -> None:
    """A folder gives what the arrays of its pictures, prepared by hand, give."""
    folder = classes(tmp_path / "d", {"a": 10, "b": 6})
    model = colour(2)
    stack = [np.full((32, 32, 3), 40 * c + k, np.uint8) for c, n in ((0, 10), (1, 6)) for k in range(n)]
    x, y = np.stack([by_hand(p) for p in stack]), np.array([0] * 10 + [1] * 6)
    results = [
        ocnna_onnx.prune(model, data=folder, image="imagenet", samples=9, threads=1),
        ocnna_onnx.prune(model, data={"x": x, "y": y}, samples=9, threads=1),
    ]
    assert results[0].model.SerializeToString() == results[1].model.SerializeToString()
    assert results[0].report["accuracy"] == results[1].report["accuracy"]


def test_a_picture_beside_another_input(tmp_path: Path) -> None:
    found = opened(saved(tmp_path / "a.png"), f"{CIFAR}, float[N,5] v, float[6,5] table, int64 step")
    assert {n: a.shape for n, a in found.arrays.items()} == {"x": (1, 3, 32, 32), "v": (1, 5)}
    assert {n: a.shape for n, a in found.fixed.items()} == {"table": (6, 5), "step": ()}
    assert "noise or zeros for v, table, step" in found.source


# --- odd pictures


def test_odd_pictures(tmp_path: Path) -> None:
    x = pixels()
    rgb = Image.fromarray(x)
    grey = np.asarray(rgb.convert("L"))

    def read(name: str, picture: Image.Image, inputs: str = CIFAR, **options: Any) -> Array:
        picture.save(tmp_path / name, **options)
        return first(opened(tmp_path / name, inputs, preset="none"))

    def planes(picture: Image.Image) -> Array:
        return np.asarray(picture.convert("RGB")).transpose(2, 0, 1)

    np.testing.assert_array_equal(read("grey.png", rgb.convert("L")), np.stack([grey] * 3))
    np.testing.assert_array_equal(read("bits.png", rgb.convert("1")), planes(rgb.convert("1")))
    palette = rgb.quantize(16)
    np.testing.assert_array_equal(read("palette.png", palette), planes(palette))
    np.testing.assert_array_equal(read("palette.gif", palette), planes(palette))
    clear = read("clear.png", palette, transparency=bytes([0] * 8 + [255] * 8))
    np.testing.assert_array_equal(clear, planes(palette))
    alpha = Image.merge("RGBA", [*rgb.split(), Image.fromarray(grey)])
    np.testing.assert_array_equal(read("alpha.png", alpha), x.transpose(2, 0, 1))  # dropped, as training code does
    four = read("alpha.png", alpha, "float[N,4,32,32] x")
    np.testing.assert_array_equal(four, np.asarray(alpha).transpose(2, 0, 1))
    np.testing.assert_array_equal(read("la.png", alpha.convert("LA")), np.stack([grey] * 3))
    cmyk = rgb.convert("CMYK")
    np.testing.assert_array_equal(read("cmyk.tif", cmyk), planes(cmyk))
    assert np.abs(read("cmyk.jpg", cmyk, quality=95) - x.transpose(2, 0, 1)).mean() < 8
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    np.testing.assert_array_equal(read("deep.png", deep), np.stack([grey] * 3))
    np.testing.assert_array_equal(read("deep.tif", deep, "float[N,1,32,32] x"), grey[None])
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° clockwise
    turned = read("turned.png", rgb, exif=exif)
    np.testing.assert_array_equal(turned, np.rot90(x, -1).transpose(2, 0, 1))
    two = Image.fromarray(255 - x).quantize(16)
    palette.save(tmp_path / "moves.gif", save_all=True, append_images=[two])
    np.testing.assert_array_equal(first(opened(tmp_path / "moves.gif", preset="none")), planes(palette))
    with pytest.raises(ocnna_onnx.DataError, match="32 bits"):
        read("float.tif", Image.fromarray(grey.astype(np.float32)))


def cut(path: Path, share: float = 0.6) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


def bomb(path: Path) -> Path:
    """A PNG whose header promises 60,000 × 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    idat = chunk(b"IDAT", zlib.compress(b"\0" * 99))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + idat + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize(
    "name", ["cut.jpg", "cut.png", "cut.gif", "cut.bmp", "cut.webp", "cut.tif", "text.png", "empty.jpg", "bomb.png"]
)
def test_broken_pictures_are_skipped_and_named(tmp_path: Path, name: str) -> None:
    folder = classes(tmp_path / "d", {"a": 4, "b": 4})
    path = folder / "b" / name
    if name.startswith("cut"):
        cut(saved(path, pixels(200, 200)))
    elif name == "bomb.png":
        bomb(path)
    else:
        path.write_bytes(b"no picture" if name == "text.png" else b"")
    found = opened(folder, preset="none")
    assert found.count == 8
    assert found.labels is not None
    assert found.labels.tolist() == [0] * 4 + [1] * 4
    (note,) = found.notes
    assert "1 of 9 pictures were skipped" in note
    assert name in note
    assert len(list(found.batches(3))) == 3
    with pytest.raises(ocnna_onnx.DataError, match=name):
        opened(path)


def test_many_broken_pictures_are_an_error(tmp_path: Path) -> None:
    for k in range(9):
        path = saved(tmp_path / f"{k}.jpg", pixels(90, 90))
        if k % 3:
            cut(path)
    with pytest.raises(ocnna_onnx.DataError, match=r"1\.jpg.*5 of 9 more"):
        opened(tmp_path)


def test_damage_that_only_decoding_shows(tmp_path: Path) -> None:
    """The end of the file is there, its middle is not: it is found when the batch is decoded, and named."""
    folder = classes(tmp_path / "d", {"a": 3})
    path = saved(folder / "a" / "zz.png", np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))
    data = path.read_bytes()
    start = data.index(b"IDAT") + 4
    (size,) = struct.unpack(">I", data[start - 8 : start - 4])
    body = data[start : start + size // 2]
    short = struct.pack(">I", len(body)) + b"IDAT" + body + struct.pack(">I", zlib.crc32(b"IDAT" + body))
    path.write_bytes(data[: start - 8] + short + data[start + size + 4 :])
    found = opened(folder)
    assert found.count == 4
    with pytest.raises(ocnna_onnx.DataError, match=r"zz\.png.*remove the file"):
        list(found.batches(2))


def test_a_jpeg_with_something_behind_it_is_whole(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg")
    whole = first(opened(path))
    path.write_bytes(path.read_bytes() + b"\0" * 200_000)
    np.testing.assert_array_equal(first(opened(path)), whole)


def test_nothing_is_decoded_before_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = classes(tmp_path, {"a": 30, "b": 30})
    decoded: list[str] = []
    from ocnna_onnx.data import images as module

    real = module.decode

    def counted(path: Path, mode: str) -> Image.Image:
        decoded.append(path.name)
        return real(path, mode)

    monkeypatch.setattr(module, "decode", counted)
    found = image_samples(folder, graph(CIFAR), {}, ocnna_onnx.ImageOptions(), 10, 0)
    assert not decoded
    next(found.batches(4))
    assert len(decoded) == 4
    for _ in range(3):
        list(found.batches(4))
    assert len(decoded) == 10  # each once: later passes read what was kept


def test_memory_stays_bounded(tmp_path: Path) -> None:
    folder = classes(tmp_path, {"a": 60})
    found = opened(folder, "float[N,3,384,384] x", 60)  # 106 MB of feeds
    tracemalloc.start()
    for _ in range(2):
        for feed, _ in found.batches(4):
            assert feed["x"].shape == (4, 3, 384, 384)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6


# --- the command line


def test_the_command_line(tmp_path: Path) -> None:
    folder = classes(tmp_path / "d", {"a": 5, "b": 5})
    cut(saved(folder / "b" / "broken.jpg", pixels(90, 90)))
    model = written(tmp_path, colour(2))
    out = tmp_path / "out.onnx"
    result = done("prune", model, out, "--data", folder, "--ratio", 0.3)
    assert "no --preset was given" in result.stderr
    assert "broken.jpg" in result.stderr
    assert "2 sub-folders" in " ".join(result.stdout.split())
    flags = ("--scale", "1/127.5", "--mean", "1", "--std", "1,1,1", "--resize", "40", "--crop", "32x32")
    more = (*flags, "--color", "bgr", "--layout", "NCHW")
    result = done("prune", model, out, "--data", folder, *more, "--overwrite", "--ratio", 0.3)
    said = " ".join(result.stdout.split())
    for word in ("short side to 40", "centre crop 32×32", "x/127.5", "mean 1", "std 1", "BGR", "NCHW"):
        assert word in said
    result = done("check", model, out, "--data", folder)
    assert "no --preset was given" in result.stderr
    assert "no --preset was given" in done("inspect", model, "--data", folder).stderr
    assert not done("inspect", model, "--data", folder, "--preset", "tf").stderr.count("preset")
    refused = cli("prune", model, out, "--data", folder, "--preset", "caffe")
    assert refused.exit_code == 2
    assert "imagenet, tf, yolo, none" in refused.stderr
    assert cli("prune", model, out, "--data", folder / "b" / "broken.jpg").exit_code == 4
