"""The trained nets that benchmarks judge by: which file, which preprocessing, which images calibrate, which judge.

Neither nets nor images are part of the project: DATA_ROOT is a folder with `models/*.onnx`, `images/cifar10/{train,
test}/CLASS/*.png` and `images/imagenet/labels.csv` with photographs of 256 × 256. Images that judge never calibrate.
What was decoded and prepared is kept in a folder (`CACHE`) and mapped from there.
"""

from __future__ import annotations

import csv
import fnmatch
import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]
IntArray = npt.NDArray[np.int64]

CACHE = Path(tempfile.gettempdir()) / "ocnna-onnx-bench"
CALIBRATING_PHOTOGRAPHS = 300
"""Of the photographs so many, drawn by the seed, may calibrate; the others judge."""

SIDE = 256
CHUNK = 64


@dataclass(frozen=True)
class Preparation:
    """Pixels 0–255 [n, rows, columns, RGB] -> an input: the centre square of side `crop`, resized (bilinearly) to
    `size`, (x − mean) / std; channels last where `nhwc`. crop, size 0: as they are."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop: int = 0
    size: int = 0
    nhwc: bool = False

    def __call__(self, pixels: ByteArray) -> FloatArray:
        if self.crop:
            top, left = ((side - self.crop) // 2 for side in pixels.shape[1:3])
            pixels = pixels[:, top : top + self.crop, left : left + self.crop]
        if self.size and pixels.shape[1:3] != (self.size, self.size):
            shape = (self.size, self.size)
            pixels = np.stack([np.asarray(Image.fromarray(p).resize(shape, Image.Resampling.BILINEAR)) for p in pixels])
        made = (pixels.astype(np.float32) - np.float32(self.mean)) / np.float32(self.std)
        return made if self.nhwc else np.ascontiguousarray(made.transpose(0, 3, 1, 2))


def _of_unit_range(mean: Sequence[float], std: Sequence[float]) -> Preparation:
    """For nets whose means and deviations are those of x / 255."""
    (a, b, c), (d, e, f) = ([255 * v for v in values] for values in (mean, std))
    return Preparation((a, b, c), (d, e, f))


HALF = (127.5, 127.5, 127.5)
PREPARATIONS = {
    "A": _of_unit_range((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "B": Preparation((125.307, 122.95, 113.865), (62.9932, 62.0887, 66.7048)),
    "C": _of_unit_range((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "D": Preparation(HALF, HALF, crop=224),
    "E": Preparation(HALF, HALF, crop=224, size=192, nhwc=True),
    "D513": Preparation(HALF, HALF, size=513),
}


@dataclass(frozen=True)
class Net:
    """One trained net. images: `cifar10` or `imagenet`. preparation: a name of PREPARATIONS. background: how many
    outputs come before the first class. labelled: whether its images have labels of its classes; else it is judged by
    agreement with the original. published: accuracy on all labelled images. sha256: of the file that this is said of.
    """

    name: str
    images: str
    preparation: str
    published: float
    source: str
    sha256: str
    background: int = 0
    labelled: bool = True
    path: Path = Path()


AKAMASTER = "akamaster/pytorch_resnet_cifar10 (BSD-2)"
CORAL = "google-coral/edgetpu (Apache-2.0)"
OWN = "trained for this folder"
NETS = (
    Net(
        "cifar10_resnet20",
        "cifar10",
        "A",
        0.9173,
        AKAMASTER,
        "a99d257c67b98d326fcd6a7d2b22209326bb3a2ff3c18df5a5a0cb85be188bf9",
    ),
    Net(
        "cifar10_resnet20_bn_legacy",
        "cifar10",
        "A",
        0.9173,
        AKAMASTER,
        "ca2e85d53b7ed0f42a4a6456b218be7b172a8badef8f770629e00fa6a5c7e84e",
    ),
    Net(
        "cifar10_resnet56",
        "cifar10",
        "A",
        0.9339,
        AKAMASTER,
        "ef3988252a192a0b5d3b98db9923999b8879b96906b32e81580ce6f333600bf9",
    ),
    Net(
        "cifar10_resnet56_bn",
        "cifar10",
        "A",
        0.9339,
        AKAMASTER,
        "be3f8f07e91074e2a9d07782747b2fc679a8e1780bfc0521b685961b0399e8b5",
    ),
    Net(
        "cifar10_preact_resnet32_bn",
        "cifar10",
        "B",
        0.9231,
        "Hyperparticle/one-pixel-attack-keras (MIT)",
        "8f38b8cb5f2b8796b7a74ce171290866d8a1ad84ae3c7a731aac73cd0ca451ef",
    ),
    Net(
        "cifar10_densenet_bc100_k12_bn",
        "cifar10",
        "C",
        0.9074,
        "Ericsciencer/DenseNet",
        "92d4ed5886dd5949e4bc132dd683e0d5ab96ee4292036ae34dc8275064ff6431",
    ),
    Net(
        "cifar10_densenet_bc_6_12_24_k12",
        "cifar10",
        "C",
        0.9022,
        "JasonWei05/DenseNet",
        "43f83128deff4d8da2c518e428c5b075aebad04279b9294e668b5a2b1bdedaef",
    ),
    Net(
        "cifar10_vgg16_half_bn",
        "cifar10",
        "A",
        0.9015,
        OWN,
        "74c7ede8dd4467a1b5bcdab2ea31e094682eb8fab0e0eece528e7f74165c5157",
    ),
    Net(
        "cifar10_mobilenet_v1_half",
        "cifar10",
        "A",
        0.8649,
        OWN,
        "3187e23822e18918b540f8a4c836720f564bfb6c5d6b5d1246bf0f2d997fc1b4",
    ),
    Net(
        "imagenet_mobilenet_v1_075_bn",
        "imagenet",
        "D",
        0.816,
        "Keras Applications, by tangmingsh/ml5featureExtractormodel",
        "5624f0604b43f8a23289e3881e9c903b326a2efeb7738aa6cbf584b7292ab5b4",
    ),
    Net(
        "imagenet_mobilenet_v1_075_192",
        "imagenet",
        "E",
        0.748,
        CORAL,
        "ef829dc9845584f2d041815fdff2dd67f025a05b6dccaf4f7fa7c7e0c54ed69f",
        background=1,
    ),
    Net(
        "imagenet_mobilenet_v2",
        "imagenet",
        "D",
        0.860,
        CORAL,
        "57aebb117137cc0aeea0a2d2cc539a1af752c673944c90ced58846a681ec8698",
        background=1,
    ),
    Net(
        "imagenet_mobilenet_edgetpu_075",
        "imagenet",
        "D",
        0.850,
        CORAL,
        "5a874e871596534594b8a6f53902922164ad66602e5a8ff3697b196acbd97f04",
        background=1,
    ),
    Net(
        "pascal_deeplabv3_mobilenet_v2",
        "imagenet",
        "D513",
        1.0,
        CORAL,
        "e243788f9f06cb3440a73f79dd52c1d9ddd67684758c1c4b9941869bb888f77c",
        labelled=False,
    ),
)


@dataclass(frozen=True)
class Judging:
    """inputs: float32, as the net takes them. labels: index of the right output of each; None: there are none."""

    inputs: FloatArray
    labels: IntArray | None


def find_nets(root: Path, pattern: str = "*") -> list[Net]:
    """The nets that lie under root and match, in the order of NETS. Raises ValueError for a file that is another."""
    found = []
    for net in NETS:
        path = root / "models" / f"{net.name}.onnx"
        if not any(fnmatch.fnmatch(net.name, p) for p in pattern.split(",")) or not path.exists():
            continue
        if hashlib.sha256(path.read_bytes()).hexdigest() != net.sha256:
            raise ValueError(f"{path}: not the file that these benchmarks know (sha256 {net.sha256[:12]}…)")
        found.append(Net(**{**vars(net), "path": path}))
    return found


def described(nets: Sequence[Net]) -> list[dict[str, str]]:
    """What a reader needs to find the same files: a row per net."""
    return [
        {
            "net": net.name,
            "images": net.images,
            "preparation": net.preparation,
            "top-1": f"{net.published:.2%}" if net.labelled else "–",
            "source of the weights": net.source,
            "sha256": f"`{net.sha256}`",
        }
        for net in nets
    ]


def calibration(net: Net, seed: int, count: int, cache: Path = CACHE) -> FloatArray:
    """So many images (at most) that may calibrate, drawn by the seed: CIFAR-10's training images, or the photographs
    that do not judge."""
    pixels, _, rows = _calibrating(net, seed, count, cache)
    return _prepared(net, pixels, rows, cache)


def calibration_labels(net: Net, seed: int, count: int, cache: Path = CACHE) -> IntArray:
    """Index of the right output for each of the images of `calibration`."""
    _, labels, rows = _calibrating(net, seed, count, cache)
    return labels[rows] + net.background


def _calibrating(net: Net, seed: int, count: int, cache: Path) -> tuple[ByteArray, IntArray, IntArray]:
    """All pixels and labels, and which of them are drawn."""
    root = net.path.parent.parent / "images"
    if net.images == "cifar10":
        pixels, labels = _cifar(root / "cifar10" / "train", cache)
        return pixels, labels, _drawn(len(pixels), seed)[:count]
    pixels, labels = _photographs(root / "imagenet", cache)
    return pixels, labels, _drawn(len(pixels), seed)[:CALIBRATING_PHOTOGRAPHS][:count]


def judging(net: Net, seed: int, count: int | None = None, cache: Path = CACHE) -> Judging:
    """All images that may judge, or so many of them, drawn by the seed: CIFAR-10's test images, or the photographs
    that may not calibrate under this seed."""
    root = net.path.parent.parent / "images"
    if net.images == "cifar10":
        pixels, labels = _cifar(root / "cifar10" / "test", cache)
        rows = _drawn(len(pixels), seed)
    else:
        pixels, labels = _photographs(root / "imagenet", cache)
        rows = _drawn(len(pixels), seed)[CALIBRATING_PHOTOGRAPHS:]
    rows = np.sort(rows[:count])
    return Judging(_prepared(net, pixels, rows, cache), labels[rows] + net.background if net.labelled else None)


def _drawn(count: int, seed: int) -> IntArray:
    return np.random.default_rng(seed).permutation(count)


def _cifar(folder: Path, cache: Path) -> tuple[ByteArray, IntArray]:
    """Pixels and labels: classes in alphabetical order."""
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir())
    files = [(path, k) for k, name in enumerate(classes) for path in sorted((folder / name).glob("*.png"))]
    return _decoded([path for path, _ in files], 32, cache), np.array([k for _, k in files], np.int64)


def _photographs(folder: Path, cache: Path) -> tuple[ByteArray, IntArray]:
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    labels = np.array([int(row["label"]) for row in rows], np.int64)
    return _decoded([folder / row["file"] for row in rows], SIDE, cache), labels


def _decoded(files: Sequence[Path], side: int, cache: Path) -> ByteArray:
    def decode(chunk: IntArray) -> ByteArray:
        return np.stack([np.asarray(Image.open(files[k]).convert("RGB")) for k in chunk])

    about = "".join(f"{path}\n" for path in files)
    return _kept(cache, about, np.arange(len(files)), (side, side, 3), np.uint8, decode)


def _prepared(net: Net, pixels: ByteArray, rows: IntArray, cache: Path) -> FloatArray:
    prepare = PREPARATIONS[net.preparation]
    shape = prepare(pixels[:1]).shape[1:]
    about = f"{net.path.parent}{net.images}{len(pixels)}{prepare}{rows.tolist()}"
    return _kept(cache, about, rows, shape, np.float32, lambda chunk: prepare(pixels[chunk]))


def _kept(
    cache: Path, about: str, rows: IntArray, shape: Sequence[int], dtype: type, make: Callable[[IntArray], npt.NDArray]
) -> npt.NDArray:
    """make(some of the rows), for all rows, in a file that is mapped; made where it is not there yet."""
    path = cache / f"{hashlib.sha256(about.encode()).hexdigest()[:24]}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.tmp")
        array = np.lib.format.open_memmap(unfinished, "w+", dtype, (len(rows), *shape))
        for k in range(0, len(rows), CHUNK):
            array[k : k + CHUNK] = make(rows[k : k + CHUNK])
        array.flush()
        del array
        os.replace(unfinished, path)
    return np.load(path, mmap_mode="r")
