"""Export torchvision's nets with random weights to ONNX by both of PyTorch's exporters, as a zoo to test a pruner on.

    python tools/exports.py OUTDIR [--only NAME ...] [--exporter dynamo ...] [--init random ...]

A net has the same weights in the files of both exporters. Files that exist already are kept.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import onnx
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

# torchvision without its compiled operators (only the CPU wheel has them) imports if these two are declared.
_LIB = torch.library.Library("torchvision", "DEF")
_LIB.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
_LIB.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from torchvision import models

Exporter = Literal["dynamo", "torchscript"]
Init = Literal["random", "default"]

SEED = 0
OPSETS: dict[Exporter, int] = {"dynamo": 18, "torchscript": 17}
ATTENTION = ("vit_", "swin_", "maxvit_")
CNNS = tuple(name for name in models.list_models(models) if not name.startswith(ATTENTION))
TRANSFORMERS = tuple(name for name in models.list_models(models) if name.startswith(ATTENTION))
SEGMENTATION = tuple(models.list_models(models.segmentation))
VIDEO = ("r3d_18", "mc3_18", "r2plus1d_18", "s3d")
SUITES = {
    "torchvision CNN": CNNS,
    "torchvision transformer": TRANSFORMERS,
    "torchvision segmentation": SEGMENTATION,
    "torchvision video": VIDEO,
}
NAMES = tuple(name for names in SUITES.values() for name in names)
SMALLEST = """
    resnet18 mobilenet_v2 shufflenet_v2_x1_0 densenet121 squeezenet1_1 mobilenet_v3_small mnasnet0_5 regnet_y_400mf
    efficientnet_b0 googlenet resnet50 resnext50_32x4d inception_v3 convnext_tiny alexnet
""".split()
"""Nets that see pictures of full size; larger nets of the same families see small ones, which saves time."""


class Out(nn.Module):
    """A segmentation net that returns the tensor of its main head only."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)["out"]


def input_shape(name: str) -> tuple[int, ...]:
    """Shape of one sample."""
    if name in VIDEO:
        return (3, 16, 224, 224) if name == "s3d" else (3, 8, 64, 64)  # s3d pools 2×7×7 at a 32nd of the size
    if name in SEGMENTATION:
        return (3, 128, 128)
    if name == "inception_v3":
        return (3, 299, 299)
    full = name in SMALLEST or name.startswith((*ATTENTION, "vgg"))
    return (3, 224, 224) if full else (3, 128, 128)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread: the last bits of sums depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def build(name: str, init: Init) -> tuple[nn.Module, tuple[int, ...]]:
    """The net in eval mode with the shape of one sample; the weights depend on `name` and `init` only."""
    if name not in NAMES:
        raise ValueError(f"unknown net {name!r}, expected one of {', '.join(NAMES)}")
    torch.manual_seed(SEED)
    if name in SEGMENTATION:
        aux = {} if name.startswith("lraspp") else {"aux_loss": False}
        net: nn.Module = Out(models.get_model(name, weights=None, weights_backbone=None, **aux))
    elif name in ("googlenet", "inception_v3"):
        net = models.get_model(name, weights=None, init_weights=False, aux_logits=False)
    elif name.startswith("vit_"):
        net = models.get_model(name, weights=None, image_size=224)
    else:
        net = models.get_model(name, weights=None)
    net.eval()
    shape = input_shape(name)
    if init == "random":
        with torch.no_grad(), one_thread():
            randomize_and_check(net, shape)
    return net, shape


def randomize_and_check(net: nn.Module, shape: tuple[int, ...]) -> None:
    """Give every parameter a non-trivial value, such that activations neither explode nor vanish."""
    randomize(net)
    x = torch.randn(8 if len(shape) == 3 else 2, *shape)
    kinds = [type(module) for module in net.modules()]
    if any(issubclass(kind, _BatchNorm) for kind in kinds):
        calibrate(net, x)
    elif not any("Norm" in kind.__name__ or "Std" in kind.__name__ for kind in kinds):
        standardize(net, x)
    check(net, shape)


def randomize(net: nn.Module) -> None:
    """Give biases, norms and layer scales non-trivial values; raise weights that were initialized close to zero."""
    seen = set()
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear):
            fan_in = module.weight[0].numel()
            gain = float(module.weight.std() * fan_in**0.5)
            if gain == 0:
                module.weight.normal_(std=fan_in**-0.5)
            elif gain < 0.5:
                module.weight.div_(gain)
            if module.bias is not None:
                module.bias.normal_(std=0.1)
        elif isinstance(module, _BatchNorm | nn.LayerNorm | nn.GroupNorm) and module.weight is not None:
            sign = torch.where(torch.rand_like(module.weight) < 0.1, -1.0, 1.0)
            module.weight.uniform_(0.5, 1.5).mul_(sign)
            if module.bias is not None:
                module.bias.normal_(std=0.2)
        else:
            continue
        seen.update({id(module.weight), id(module.bias)})
    for parameter in net.parameters():  # layer scales, gains, tables of positions
        if id(parameter) not in seen and float(parameter.max()) == float(parameter.min()) <= 0.1:
            parameter.uniform_(0.5, 1.0)


def calibrate(net: nn.Module, x: Tensor) -> None:
    """Set the running statistics of BatchNorm layers to those of a batch, perturbed by up to 20 %."""

    def hook(module: _BatchNorm, args: tuple[Tensor]) -> None:
        assert module.running_mean is not None
        assert module.running_var is not None
        var, mean = torch.var_mean(args[0], dim=[d for d in range(args[0].ndim) if d != 1])
        module.running_mean.copy_(mean + var.sqrt() * torch.empty_like(mean).uniform_(-0.2, 0.2))
        module.running_var.copy_(var * torch.empty_like(var).uniform_(0.8, 1.2))

    handles = [m.register_forward_pre_hook(hook) for m in net.modules() if isinstance(m, _BatchNorm)]
    net(x)
    for handle in handles:
        handle.remove()


def standardize(net: nn.Module, x: Tensor) -> None:
    """Scale and shift the convolutions of a net without norms so that each channel is standardized on a batch."""

    def hook(module: nn.Conv2d, _args: object, output: Tensor) -> Tensor:
        assert module.bias is not None
        std, mean = torch.std_mean(output, dim=(0, 2, 3))
        offset = torch.randn_like(mean) * 0.1
        module.weight.div_(std[:, None, None, None])
        module.bias.sub_(mean).div_(std).add_(offset)
        return (output - mean[:, None, None]) / std[:, None, None] + offset[:, None, None]

    handles = [m.register_forward_hook(hook) for m in net.modules() if isinstance(m, nn.Conv2d)]
    net(x)
    for handle in handles:
        handle.remove()


def activations(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Outputs of all leaf modules, and of the net itself under the name ''."""
    found: dict[str, Tensor] = {}

    def keep(key: str, output: object) -> None:
        if isinstance(output, Tensor):
            found[key] = output.clone()  # some activations work in place

    hooks = [
        module.register_forward_hook(lambda _module, _args, output, key=key: keep(key, output))
        for key, module in net.named_modules()
        if key == "" or not list(module.children())
    ]
    with torch.no_grad():
        net(x)
    for hook in hooks:
        hook.remove()
    return found


def check(net: nn.Module, shape: tuple[int, ...]) -> None:
    """Raise if an activation explodes or vanishes, or if the output hardly depends on the input."""
    found = activations(net, torch.randn(2, *shape, generator=torch.Generator().manual_seed(SEED)))
    for key, value in found.items():
        if value.ndim == 3 and value.shape[2] == 1:
            continue  # tokens of one number: their norm is constant
        top, spread = float(value.abs().max()), float(value.std())
        if not (top < 1e4 and spread > 1e-4):
            raise ValueError(f"activation {key!r}: largest {top:.3g}, standard deviation {spread:.3g}")
    spread = float(found[""].std(dim=0).mean())
    if not spread > 1e-4:
        raise ValueError(f"output hardly depends on the input: standard deviation {spread:.3g} over two inputs")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings and log messages of the exporters."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


def to_onnx(net: nn.Module, shape: tuple[int, ...], exporter: Exporter, axes: dict[int, str]) -> onnx.ModelProto:
    """Export a net; `axes` names the dynamic axes of the input (and of the output)."""
    x = torch.randn(2, *shape)
    if exporter == "dynamo":
        program = torch.onnx.export(
            net,
            (x,),
            dynamo=True,
            opset_version=OPSETS[exporter],
            input_names=["input"],
            output_names=["output"],
            dynamic_shapes=(axes,),
            external_data=False,
            verbose=False,
        )
        assert program is not None
        return program.model_proto
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        torch.onnx.export(
            net,
            (x,),
            path,
            dynamo=False,
            opset_version=OPSETS[exporter],
            input_names=["input"],
            output_names=["output"],
            dynamic_axes={"input": axes, "output": axes},
        )
        return onnx.load(path)


def strip(model: onnx.ModelProto) -> None:
    """Remove doc strings and metadata, where the exporters leave stack traces with local paths."""
    model.ClearField("metadata_props")
    for part in (model.graph, *model.functions):
        values = [*part.value_info]
        if isinstance(part, onnx.GraphProto):
            values += [*part.input, *part.output]
            for tensor in part.initializer:
                tensor.ClearField("doc_string")
                tensor.ClearField("metadata_props")
        for item in (part, *part.node, *values):
            item.ClearField("doc_string")
            item.ClearField("metadata_props")


def write(
    net: nn.Module, shape: tuple[int, ...], exporter: Exporter, axes: Sequence[dict[int, str]], path: Path
) -> None:
    """Export a net to a file, with the first set of dynamic axes that the exporter takes."""
    with quiet():
        for k, attempt in enumerate(axes):
            try:
                model = to_onnx(net, shape, exporter, attempt)
                break
            except (RuntimeError, ValueError):
                if k + 1 == len(axes):
                    raise
    strip(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.tmp")
    if model.ByteSize() < 2**31:
        partial.write_bytes(model.SerializeToString())
    else:
        data = path.with_suffix(".data")
        data.unlink(missing_ok=True)
        onnx.save(model, partial, save_as_external_data=True, location=data.name)
    partial.replace(path)  # others never see half a file


def export(name: str, exporter: Exporter, init: Init, folder: Path) -> Path:
    """Write `<name>-<exporter>-<init>.onnx` into `folder`, unless it is there already, and return its path."""
    path = Path(folder) / f"{name}-{exporter}-{init}.onnx"
    if not path.exists():
        batch = {0: "N"}
        # a fixed height and width will do where the exporter cannot leave them open
        axes = [{**batch, 2: "H", 3: "W"}, batch] if name in SEGMENTATION else [batch]
        write(*build(name, init), exporter, axes, path)
    return path


def describe(path: Path) -> str:
    """Size, opset and number of nodes of an ONNX file."""
    model = onnx.load(path, load_external_data=False)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return f"{path.stat().st_size / 1e6:8.2f} MB  opset {opset}  {len(model.graph.node):4d} nodes"


def command_line(
    library: str, suites: Mapping[str, Sequence[str]], export_one: Callable[[str, Exporter, Init, Path], Path]
) -> int:
    """The command of an exporting tool; the exit code is the number of exports that failed."""
    if sys.argv[1:] == ["--list"]:
        print(json.dumps({kind: list(names) for kind, names in suites.items()}))
        return 0
    names = [name for kind in suites.values() for name in kind]
    parser = argparse.ArgumentParser(description=f"Export {library}'s nets with random weights to ONNX.")
    parser.add_argument("outdir", type=Path, metavar="OUTDIR")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--exporter", nargs="+", choices=get_args(Exporter), default=get_args(Exporter))
    parser.add_argument("--init", nargs="+", choices=get_args(Init), default=get_args(Init))
    args = parser.parse_args()
    failed = 0
    for name, exporter, init in ((n, e, i) for n in args.only for e in args.exporter for i in args.init):
        start = time.perf_counter()
        try:
            path = export_one(name, exporter, init, args.outdir)
        except Exception as error:  # exporters raise what they like
            failed += 1
            text = next((line for line in str(error).splitlines() if line.strip()), "")
            print(f"{name}-{exporter}-{init}: {type(error).__name__}: {text}", flush=True)
            continue
        print(f"{path.stem:48} {describe(path)}  {time.perf_counter() - start:5.1f} s", flush=True)
    return failed


if __name__ == "__main__":
    raise SystemExit(command_line("torchvision", SUITES, export))
