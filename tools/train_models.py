"""Train the four small nets in models/ on the scikit-learn digits and write them as ONNX files.

Nothing is tuned or chosen on the test part: every net is trained for a fixed number of epochs on the train part, the
last weights are kept, and the 360 test images give one accuracy figure for the README.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from google.protobuf.message import Message
from torch import Tensor, nn

import ocnna_onnx
from ocnna_onnx.data.digits import digits, fit

SIDE = 16
CLASSES = 10
BATCH = 64
SEED = 7


class Split(NamedTuple):
    """One part of the digits, fitted: images float32 [n, 1, 16, 16] in 0 … 1 and labels int64 [n]."""

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


class Net(NamedTuple):
    """What to build, how long to train it (epochs) and how to export it."""

    name: str
    family: str
    build: Callable[[], nn.Module]
    exporter: Literal["TorchScript", "dynamo"]
    opset: int
    epochs: int
    lr: float


class Row(NamedTuple):
    """One line of the README's table; size in bytes, macs per image."""

    net: Net
    producer: str
    opset: int
    correct: int
    total: int
    params: int
    macs: int
    size: int
    sha256: str


# ---- nets: [N, 1, 16, 16] -> logits [N, 10] ----


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Same-padded convolution and its batch normalization: [N, inputs, H, W] -> [N, outputs, H/stride, W/stride]."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


def vgg() -> nn.Module:
    """Pairs of conv3x3-BN-ReLU, each pair followed by a 2x2 max pool; the 2x2 map is flattened into the classifier."""
    layers: list[nn.Module] = []
    inputs = 1
    for width in (16, 32, 64):
        layers += [*conv_bn(inputs, width), nn.ReLU(), *conv_bn(width, width), nn.ReLU(), nn.MaxPool2d(2)]
        inputs = width
    hidden = 64
    head = [nn.Flatten(), nn.Linear(inputs * 2 * 2, hidden), nn.ReLU(), nn.Dropout(0.3), nn.Linear(hidden, CLASSES)]
    return nn.Sequential(*layers, *head)


class Residual(nn.Module):
    """Two 3x3 convolutions added to the input, or to its 1x1 projection when the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*conv_bn(inputs, outputs, stride=stride), nn.ReLU(), *conv_bn(outputs, outputs))
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Sequential(*conv_bn(inputs, outputs, kernel=1, stride=stride))

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H/stride, W/stride]."""
        return F.relu(self.body(x) + self.shortcut(x))


def resnet() -> nn.Module:
    """Three stages of two residual blocks; the later stages open with a strided projection."""
    layers: list[nn.Module] = [*conv_bn(1, 16), nn.ReLU()]
    inputs = 16
    for width, stride in ((16, 1), (32, 2), (48, 2)):
        layers += [Residual(inputs, width, stride), Residual(width, width, 1)]
        inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, CLASSES))


class Dense(nn.Module):
    """Pre-activated 1x1 bottleneck and 3x3 convolution, whose output is concatenated to the input."""

    def __init__(self, inputs: int, growth: int, bottleneck: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            *conv_bn(inputs, bottleneck, kernel=1),
            nn.ReLU(),
            nn.Conv2d(bottleneck, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, inputs + growth, H, W]."""
        return torch.cat((x, self.body(x)), 1)


def transition(inputs: int, outputs: int) -> list[nn.Module]:
    """Pre-activated 1x1 convolution, then a 2x2 average pool: [N, inputs, H, W] -> [N, outputs, H/2, W/2]."""
    return [nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, outputs, 1, bias=False), nn.AvgPool2d(2)]


def densenet() -> nn.Module:
    """Two dense blocks of four layers with a halving transition between them, after a pooled stem."""
    growth, bottleneck, depth, width = 16, 48, 4, 24
    layers: list[nn.Module] = [nn.Conv2d(1, width, 3, padding=1, bias=False), nn.MaxPool2d(2)]
    for block in range(2):
        if block:
            layers += transition(width, width // 2)
            width //= 2
        for _ in range(depth):
            layers.append(Dense(width, growth, bottleneck))
            width += growth
    head = [nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES)]
    return nn.Sequential(*layers, *head)


class SqueezeExcite(nn.Module):
    """Scale every channel by a gate in 0 … 1 computed from the channel means."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(),
            nn.Conv2d(squeezed, channels, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] -> the same shape."""
        gate: Tensor = self.gate(x)
        return x * gate


class Inverted(nn.Module):
    """Expand 1x1, depthwise, optional squeeze-and-excite, linear projection 1x1; added to the input if shapes agree."""

    def __init__(
        self, inputs: int, expanded: int, outputs: int, kernel: int, stride: int, excite: bool, act: type[nn.Module]
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [*conv_bn(inputs, expanded, kernel=1), act()]
        layers += [*conv_bn(expanded, expanded, kernel, stride, groups=expanded), act()]
        if excite:
            layers.append(SqueezeExcite(expanded, expanded // 4))
        self.body = nn.Sequential(*layers, *conv_bn(expanded, outputs, kernel=1))
        self.residual = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] -> [N, outputs, H/stride, W/stride]."""
        out: Tensor = self.body(x)
        return x + out if self.residual else out


def mobilenet() -> nn.Module:
    """MobileNetV3-like: depthwise separable, then inverted residuals with Hardswish and squeeze-and-excite."""
    return nn.Sequential(
        *conv_bn(1, 16),
        nn.Hardswish(),
        *conv_bn(16, 16, groups=16),
        nn.ReLU(),
        *conv_bn(16, 16, kernel=1),
        Inverted(16, 64, 24, kernel=3, stride=2, excite=False, act=nn.ReLU),
        Inverted(24, 72, 24, kernel=3, stride=1, excite=False, act=nn.ReLU),
        Inverted(24, 96, 40, kernel=5, stride=2, excite=True, act=nn.Hardswish),
        Inverted(40, 120, 40, kernel=5, stride=1, excite=True, act=nn.Hardswish),
        *conv_bn(40, 120, kernel=1),
        nn.Hardswish(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(120, 96),
        nn.Hardswish(),
        nn.Dropout(0.2),
        nn.Linear(96, CLASSES),
    )


def nets() -> dict[str, Net]:
    """The four nets by file stem, in the README's order."""
    listed = (
        Net("digits_vgg", "VGG-like", vgg, "TorchScript", 17, 60, 4e-3),
        Net("digits_resnet", "ResNet-like", resnet, "dynamo", 18, 60, 4e-3),
        Net("digits_densenet", "DenseNet-like", densenet, "TorchScript", 17, 60, 4e-3),
        Net("digits_mobilenet", "MobileNetV3-like", mobilenet, "dynamo", 18, 60, 4e-3),
    )
    return {net.name: net for net in listed}


# ---- training ----


def splits() -> tuple[Split, Split]:
    """The train and the test part, fitted to [n, 1, 16, 16]."""
    data = digits()
    train = Split(fit(data.train_images, 1, SIDE, SIDE), data.train_labels)
    return train, Split(fit(data.test_images, 1, SIDE, SIDE), data.test_labels)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate up to 10°, scale by 0.9 … 1.1 and shift up to 1.5 pixels, drawn for each image; [n, 1, H, W] kept."""
    angle, scale, dx, dy = torch.rand(4, len(images), generator=generator) * 2 - 1
    angle, scale = angle * math.radians(10), 1 + scale * 0.1
    # affine_grid measures in half images, so one pixel is 2 / SIDE.
    dx, dy = dx * 3 / SIDE, dy * 3 / SIDE
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    theta = torch.stack((torch.stack((cos, -sin, dx), 1), torch.stack((sin, cos, dy), 1)), 1)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def train(net: Net, data: Split) -> nn.Module:
    """Train with AdamW and a one-cycle rate for the net's epochs; the last weights, in eval mode."""
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    model = net.build().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=net.lr, weight_decay=0.05)
    # The last partial batch is dropped: too few images give batch normalization noisy statistics.
    steps = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, net.lr, total_steps=net.epochs * steps)
    for _ in range(net.epochs):
        order = torch.randperm(len(images), generator=generator)
        for batch in order[: steps * BATCH].view(steps, BATCH):
            loss = F.cross_entropy(model(augment(images[batch], generator)), labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def torch_logits(model: nn.Module, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Logits [n, 10] of images [n, 1, 16, 16] by PyTorch."""
    with torch.inference_mode():
        logits: npt.NDArray[np.float32] = model(torch.from_numpy(images)).numpy()
    return logits


# ---- export ----


def to_onnx(net: Net, model: nn.Module) -> onnx.ModelProto:
    """The eval-mode model as ONNX: input [N, 1, 16, 16] -> logits [N, 10], without local paths."""
    # Two images, for a batch of one would be taken as a constant by torch.export.
    example = (torch.zeros(2, 1, SIDE, SIDE),)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        if net.exporter == "dynamo":
            shapes = ({0: torch.export.Dim("N")},)
            export = partial(torch.onnx.export, dynamo=True, dynamic_shapes=shapes, external_data=False, verbose=False)
        else:
            axes = {"input": {0: "N"}, "logits": {0: "N"}}
            export = partial(torch.onnx.export, dynamo=False, dynamic_axes=axes)
        export(model, example, path, input_names=["input"], output_names=["logits"], opset_version=net.opset)
        proto = onnx.load(path)
    strip(proto)
    refuse_paths(proto)
    proto.doc_string = f"{net.name}: {net.family} net trained on scikit-learn digits by tools/train_models.py"
    onnx.checker.check_model(proto, full_check=True)
    return proto


def strip(message: Message) -> None:
    """Clear every doc string and metadata entry below the message: the exporters keep stack traces there."""
    for field, value in message.ListFields():
        if field.name in ("doc_string", "metadata_props"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for child in [value] if isinstance(value, Message) else value:
                strip(child)


def refuse_paths(proto: onnx.ModelProto) -> None:
    """Raise ValueError if a name or attribute still looks like a path of the machine that exported the model."""
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    # Weights are left out, for three arbitrary bytes may well spell ".py".
    for tensor in bare.graph.initializer:
        tensor.ClearField("raw_data")
    text = bare.SerializeToString()
    places = (str(Path.cwd()), str(Path.home()), "/work", "/root", "/home", "site-packages", ".py")
    found = [place for place in places if place != "/" and place.encode() in text]
    if found:
        raise ValueError(f"the exported model still names {', '.join(found)}")


# ---- measuring the written file ----


def onnx_logits(path: Path, images: npt.NDArray[np.float32], batch: int) -> npt.NDArray[np.float32]:
    """Logits [n, 10] of images [n, 1, 16, 16] by ONNX Runtime, at most `batch` images at a time."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    runs = [session.run(["logits"], {"input": images[i : i + batch]})[0] for i in range(0, len(images), batch)]
    return np.concatenate(runs)


def measure(net: Net, path: Path, test: Split) -> Row:
    """The README's line for one written file; the accuracy is ONNX Runtime's."""
    content = path.read_bytes()
    correct = int((onnx_logits(path, test.images, BATCH).argmax(1) == test.labels).sum())
    model = onnx.load_model_from_string(content)
    producer = f"{model.producer_name} {model.producer_version}"
    found = ocnna_onnx.inspect(model)
    params, macs = found.params, found.macs
    digest = hashlib.sha256(content).hexdigest()
    opset = model.opset_import[0].version
    return Row(net, producer, opset, correct, len(test.labels), params, macs, len(content), digest)


def verify(model: nn.Module, path: Path, test: Split) -> None:
    """Raise ValueError unless ONNX Runtime gives PyTorch's logits and answers, one image and five at a time."""
    expected = torch_logits(model, test.images)
    for batch in (1, 5):
        found = onnx_logits(path, test.images, batch)
        worst = float(np.abs(found - expected).max())
        if worst > 1e-3 or (found.argmax(1) != expected.argmax(1)).any():
            raise ValueError(f"{path}: at batch {batch} the logits differ from PyTorch's by up to {worst:.2g}")


# ---- README ----


def readme(rows: list[Row]) -> str:
    """The text of models/README.md."""
    lines = [
        f"| `{row.net.name}.onnx` | {row.net.family} | {row.net.exporter} ({row.producer}), opset {row.opset} "
        f"| {row.correct / row.total:.2%} ({row.correct} of {row.total}) "
        f"| {row.params:,} | {row.macs:,} | {row.size:,} | `{row.sha256}` |"
        for row in rows
    ]
    return README.format(table="\n".join(lines))


README = """\
# Models

Four small nets, one for each family of the papers, trained on the handwritten digits that ship inside scikit-learn.
`tools/train_models.py` writes the files and this page.

| file | family | exporter | test accuracy | parameters | MACs | bytes | sha256 |
| --- | --- | --- | --- | ---: | ---: | ---: | --- |
{table}

Each takes `input`, float32 `[N, 1, 16, 16]`, and gives `logits`, float32 `[N, 10]`, without a softmax.

- *Test accuracy* is measured on the written file with ONNX Runtime on the 360 test images. One image is 0.28 points.
- *Parameters* are the weights and biases of Conv, Gemm and BatchNormalization as stored in the file, without running
  means and variances. Both exporters may fold a batch normalization into the convolution before it, so the figure can
  differ from PyTorch's own.
- *MACs* are the multiply-accumulates of Conv and Gemm for one image.

## Make them again

```sh
pip install '.[train]'
python tools/train_models.py                         # all four, a few minutes on two cores
python tools/train_models.py --only digits_resnet    # one of them
python tools/train_models.py --out /tmp/models       # somewhere else
```

## Data

- The 1,797 digits of `sklearn.datasets.load_digits` in a fixed, class-balanced split: 1,437 images to train with, 360
  to test with (`ocnna_onnx.data.digits.digits`). No image is in both.
- The 8x8 images are resized bilinearly to 16x16 and divided by 16, so that pixels lie in 0 … 1
  (`ocnna_onnx.data.digits.fit`). Nothing else is done to them at test time.
- In training, images are rotated (up to 10°), scaled (0.9 … 1.1) and shifted (up to 1.5 of 16 pixels) at random.

## Notes

- Seeds and the number of epochs are fixed, and the last weights are kept. The test images chose neither weights nor
  settings; the settings were tried out once on a fifth of the train part.
- Seeds do not fix everything: another machine, number of threads or version of PyTorch may give other weights, hence
  other bytes and an accuracy some images away. These files were made with two threads on a CPU.
- The split is random over images, and the digits of one writer may be in both parts. The figures say how well a net
  does on this data set, not how well it reads digits elsewhere.
- The exporters' doc strings and metadata are removed, because they hold paths of the machine that ran them.
"""


def main() -> None:
    """Command line: train and write the nets, then rewrite the README from every file that is there."""
    known = nets()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=sorted(known), help="train this net and leave the other files as they are")
    parser.add_argument("--out", type=Path, default=Path("models"), help="folder to write to (default: models)")
    args = parser.parse_args()
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    args.out.mkdir(parents=True, exist_ok=True)
    train_part, test_part = splits()
    for net in [known[args.only]] if args.only else known.values():
        start = time.perf_counter()
        model = train(net, train_part)
        path = args.out / f"{net.name}.onnx"
        path.write_bytes(to_onnx(net, model).SerializeToString(deterministic=True))
        verify(model, path, test_part)
        print(f"{path}: trained and written in {time.perf_counter() - start:.0f} s")
    files = [(net, args.out / f"{net.name}.onnx") for net in known.values()]
    rows = [measure(net, path, test_part) for net, path in files if path.exists()]
    (args.out / "README.md").write_text(readme(rows), encoding="utf-8")
    for row in rows:
        print(
            f"{row.net.name}: {row.correct}/{row.total}, {row.params:,} parameters, {row.macs:,} MACs, {row.size:,} B"
        )


if __name__ == "__main__":
    main()
