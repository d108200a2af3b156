"""Nets and images of the benchmarks: what calibrates never judges, and inputs are what the nets were trained on."""

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

import bench_nets
from bench_nets import PREPARATIONS, Net, calibration, calibration_labels, find_nets, judging

CLASSES = ("airplane", "truck")


def picture(path: Path, side: int, colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (side, side), colour).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Pictures of one colour each, by which they are told apart."""
    folder = tmp_path / "data"
    for part, level in (("train", 0), ("test", 100)):
        for c, name in enumerate(CLASSES):
            for k in range(6):
                picture(folder / "images" / "cifar10" / part / name / f"{k}.png", 32, (level + 10 * c + k, 0, 0))
    lines = ["file,label"]
    for k in range(5):
        picture(folder / "images" / "imagenet" / f"{k}.png", 256, (k, 0, 0))
        lines.append(f"{k}.png,{k}")
    (folder / "images" / "imagenet" / "labels.csv").write_text("\n".join(lines))
    return folder


def net(root: Path, images: str, preparation: str, **more: int) -> Net:
    return Net("net", images, preparation, 0.9, "made up", "", path=root / "models" / "net.onnx", **more)


def reds(inputs: np.ndarray, preparation: str) -> list[int]:
    prepare = PREPARATIONS[preparation]
    first = inputs[:, 0, 0, 0]
    return np.round(first * prepare.std[0] + prepare.mean[0]).astype(int).tolist()


def test_cifar_calibrates_with_training_and_judges_with_test_images(root: Path, tmp_path: Path) -> None:
    one = net(root, "cifar10", "A")
    inputs = calibration(one, 3, 8, tmp_path / "cache")
    assert inputs.shape == (8, 3, 32, 32)
    assert inputs.dtype == np.float32
    assert set(reds(inputs, "A")) < {10 * c + k for c in range(2) for k in range(6)}
    assert reds(inputs, "A") == reds(calibration(one, 3, 8, tmp_path / "cache"), "A")
    assert reds(inputs, "A") != reds(calibration(one, 4, 8, tmp_path / "cache"), "A")
    all_of_them = judging(one, 0, cache=tmp_path / "cache")
    assert reds(all_of_them.inputs, "A") == [100 + 10 * c + k for c in range(2) for k in range(6)]
    assert all_of_them.labels is not None
    assert all_of_them.labels.tolist() == [0] * 6 + [1] * 6
    assert len(judging(one, 0, 5, tmp_path / "cache").inputs) == 5


@pytest.mark.parametrize(("preparation", "shape"), [("D", (3, 224, 224)), ("E", (192, 192, 3))])
def test_photographs_calibrate_or_judge(
    root: Path, tmp_path: Path, preparation: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_nets, "CALIBRATING_PHOTOGRAPHS", 2)
    one = net(root, "imagenet", preparation, background=1)
    mine, judge = calibration(one, 0, 100, tmp_path / "cache"), judging(one, 0, cache=tmp_path / "cache")
    assert mine.shape == (2, *shape)
    assert judge.inputs.shape == (3, *shape)
    assert sorted(reds(mine, preparation) + reds(judge.inputs, preparation)) == list(range(5))
    assert judge.labels is not None
    assert judge.labels.tolist() == [k + 1 for k in reds(judge.inputs, preparation)]


def test_only_the_files_that_are_known(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = root / "models" / "net.onnx"
    path.parent.mkdir()
    path.write_bytes(b"weights")
    known = Net("net", "cifar10", "A", 0.9, "made up", hashlib.sha256(b"weights").hexdigest())
    monkeypatch.setattr(bench_nets, "NETS", (known,))
    assert [n.path for n in find_nets(root, "other,n*")] == [path]
    assert find_nets(root, "other") == []
    path.write_bytes(b"other weights")
    with pytest.raises(ValueError, match="not the file"):
        find_nets(root)


def test_labels_of_the_images_that_calibrate(root: Path, tmp_path: Path) -> None:
    cifar, photographs = net(root, "cifar10", "A"), net(root, "imagenet", "D", background=1)
    cache = tmp_path / "cache"
    inputs, labels = calibration(cifar, 3, 8, cache), calibration_labels(cifar, 3, 8, cache)
    assert [r // 10 for r in reds(inputs, "A")] == labels.tolist()
    inputs, labels = calibration(photographs, 3, 4, cache), calibration_labels(photographs, 3, 4, cache)
    assert [r + 1 for r in reds(inputs, "D")] == labels.tolist()
