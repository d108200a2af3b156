"""Torch-Pruning on one ONNX file, by way of onnx2torch, to a share of the multiply–accumulates; accuracy without and
with re-estimated statistics. Prints a line of JSON: two rows.

    python tools/peers_share.py DATA_ROOT NET '{"share": 0.5, "way": "group-l2", …}'

Started by `bench_peers.py`, with a folder on the path that has both packages.
"""

from __future__ import annotations

import copy
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_nets
import numpy as np
import onnx
import torch
from bench_peers import Unreachable, search
from onnx import helper, numpy_helper
from torch import nn

LIBRARY = torch.library.Library("torchvision", "DEF")  # torchvision without its compiled operators
LIBRARY.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
LIBRARY.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import onnx2torch
import torch_pruning

BATCH = 50
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
OPSET = 17
"""The newest whose Pad and ReduceMean onnx2torch knows."""

SUM = ("add", "pad", "concat", "cat")
Row = dict[str, Any]


def fitting(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same net in terms that suit both libraries, as far as the nets of the benchmarks need it: opset 17 (axes of
    reductions as attributes, no `allowzero`: their shapes have no zeros), and Flatten for a Reshape to [-1, channels],
    whose literal would not follow the cut."""
    found = onnx.ModelProto()
    found.CopyFrom(model)
    held = {t.name: t for t in found.graph.initializer}
    held |= {n.output[0]: helper.get_node_attr_value(n, "value") for n in found.graph.node if n.op_type == "Constant"}
    values = {name: numpy_helper.to_array(t) for name, t in held.items() if len(t.dims) == 1}
    known = onnx.shape_inference.infer_shapes(model).graph.value_info
    features = {v.name for v in known if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    for node in found.graph.node:
        if node.op_type == "Reshape":
            del node.attribute[:]
            shape = values.get(node.input[1], np.zeros(0)).tolist()
            if len(shape) == 2 and shape[0] == -1 and node.input[0] in features:
                node.op_type = "Flatten"
                node.attribute.append(helper.make_attribute("axis", 1))
                del node.input[1:]
        elif node.op_type == "ReduceMean" and len(node.input) > 1:
            node.attribute.append(helper.make_attribute("axes", values[node.input[1]].tolist()))
            del node.input[1:]
    for entry in found.opset_import:
        entry.version = entry.version if entry.domain else min(entry.version, OPSET)
    return found


def converted(path: Path, x: torch.Tensor) -> nn.Module:
    """The file as a torch module, seen to compute the same."""
    import onnxruntime

    net = onnx2torch.convert(fitting(onnx.load(path))).eval()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    wanted = session.run(None, {"input": x.numpy()})[0]
    error = float(np.abs(net(x).numpy() - wanted).max() / np.abs(wanted).max())
    if error > 1e-3:
        raise ValueError(f"onnx2torch's net differs from the file by {error:.1e}")
    return net


def cost(net: nn.Module, x: torch.Tensor) -> tuple[float, float]:
    """Multiply–accumulates of convolutions and matrix products, and parameters (running statistics are none)."""
    count = [0.0]

    def hook(layer: Any, given: Any, output: torch.Tensor) -> None:
        count[0] += output.numel() * layer.weight[0].numel()

    handles = [m.register_forward_hook(hook) for m in net.modules() if isinstance(m, LAYERS)]
    net(x)
    for handle in handles:
        handle.remove()
    return count[0], float(sum(p.numel() for p in net.parameters()))


def classifier(net: nn.Module, outputs: int) -> list[str]:
    """The last layer that makes as many channels as the net has outputs."""
    layers = [(n, m) for n, m in net.named_modules() if isinstance(m, LAYERS)]
    return [n for n, m in layers if getattr(m, "out_features", getattr(m, "out_channels", 0)) == outputs][-1:]


def trunk(net: Any) -> list[str]:
    """Layers whose channels reach a sum, a Pad or a Concat with no other layer in between."""
    modules, found = dict(net.named_modules()), []
    for node in net.graph.nodes:
        if not isinstance(modules.get(str(node.target)), LAYERS):
            continue
        ahead, seen = list(node.users), set()
        while ahead:
            user = ahead.pop()
            module = modules.get(str(user.target))
            called = f"{user.name} {type(module).__name__}".lower()
            if any(word in called for word in SUM) or "binary" in called:
                found.append(str(node.target))
                break
            if not isinstance(module, LAYERS) and user not in seen:
                seen.add(user)
                ahead += user.users
    return found


def importance(way: str) -> tuple[Any, bool]:
    """Torch-Pruning's, and whether groups compete with each other."""
    kinds = torch_pruning.importance
    if way == "fpgm":
        return kinds.FPGMImportance(), False
    if way == "bn-scale":
        return kinds.BNScaleImportance(), False
    return kinds.GroupMagnitudeImportance(p=2), way.endswith("global")


def pruned(net: nn.Module, x: torch.Tensor, way: str, ratio: float, ignored: list[str]) -> nn.Module:
    """A pruned copy, seen to run."""
    small = copy.deepcopy(net)
    modules = dict(small.named_modules())
    rank, everywhere = importance(way)
    with torch.enable_grad():
        pruner = torch_pruning.pruner.BasePruner(
            small,
            x,
            importance=rank,
            global_pruning=everywhere,
            pruning_ratio=ratio,
            ignored_layers=[modules[n] for n in ignored],
        )
        pruner.step()
    small.eval()
    if small(x).shape != net(x).shape:
        raise ValueError("another output shape after pruning")
    return small


def reestimated(net: nn.Module, images: np.ndarray) -> nn.Module:
    """A copy whose running statistics are those of the images."""
    found = copy.deepcopy(net)
    for layer in found.modules():
        if isinstance(layer, NORMS):
            layer.reset_running_stats()
            layer.momentum = None  # the mean over all batches
            layer.train()
    for k in range(0, len(images), BATCH):
        found(torch.from_numpy(np.array(images[k : k + BATCH])))
    return found.eval()


def right(net: nn.Module, judge: bench_nets.Judging, original: nn.Module, background: int) -> float:
    """Share of right answers; without labels, of pixels with the class that the original gives them."""
    count = total = 0
    batch = BATCH if judge.labels is not None else 1
    for k in range(0, len(judge.inputs), batch):
        x = torch.from_numpy(np.array(judge.inputs[k : k + batch]))
        found = net(x).argmax(dim=1).numpy()
        wanted = judge.labels[k : k + batch] if judge.labels is not None else original(x).argmax(dim=1).numpy()
        count += int((found == wanted).sum())
        total += found.size
    return count / total


def cut(net: nn.Module, x: torch.Tensor, given: Row, ignored: list[str]) -> tuple[nn.Module, Row]:
    """The net at the share, and what is left of it."""
    whole = cost(net, x)

    def left_at(ratio: float) -> float:
        return cost(pruned(net, x, given["way"], ratio, ignored), x)[0] / whole[0]

    ratio, _ = search(left_at, given["share"])
    small = pruned(net, x, given["way"], ratio, ignored)
    macs, rpr = (a / b for a, b in zip(cost(small, x), whole, strict=True))
    return small, {"ratio": ratio, "macs": round(macs, 5), "rpr": round(rpr, 5)}


def line(error: BaseException) -> str:
    """One line of an exception."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def rows(root: Path, name: str, given: Row) -> list[Row]:
    """Without and with re-estimated statistics."""
    net_file = bench_nets.find_nets(root, name)[0]
    cache = Path(given["cache"])
    seed = 0 if net_file.images == "cifar10" else given["seed"]
    images = bench_nets.calibration(net_file, given["seed"], given["images"], cache)
    x = torch.from_numpy(np.array(images[:2]))
    try:
        net = converted(net_file.path, x)
    except Exception as error:  # whatever onnx2torch raises
        return [{"failed": f"onnx2torch: {line(error)}"}] * 2
    norms = any(isinstance(m, NORMS) for m in net.modules())
    none = {"failed": "n/a: BatchNormalization is folded in this file"}
    if given["way"] == "bn-scale" and not norms:
        return [none] * 2
    ends, more = classifier(net, net(x).shape[1]), {}
    try:
        small, left = cut(net, x, given, ends)
    except Unreachable as error:
        return [{"failed": str(error)}] * 2
    except Exception as error:  # whatever its broken nets raise
        more = {"crash": line(error)}
        try:
            small, left = cut(net, x, given, [*ends, *trunk(net)])
        except Exception as again:
            return [{"failed": line(error), "again": line(again)}] * 2
    judge = bench_nets.judging(net_file, seed, given["judge"], cache)
    measured: Callable[[nn.Module], float] = lambda n: right(n, judge, net, net_file.background)  # noqa: E731
    before = measured(net) if net_file.labelled else 1.0
    made = []
    for candidate in (small, reestimated(small, images) if norms else None):
        if candidate is None:
            made.append(none)
            continue
        after = measured(candidate)
        row = {"before": 100 * before, "after": 100 * after, "delta": 100 * (after - before)}
        made.append({**left, **more, **{k: round(v, 3) for k, v in row.items()}, "judged": len(judge.inputs)})
    return made


def main() -> None:
    """Read, prune, judge, print."""
    warnings.simplefilter("ignore")
    root, name, text = sys.argv[1:]
    given = json.loads(text)
    torch.set_num_threads(given["threads"])
    with torch.no_grad():
        print(json.dumps(rows(Path(root), name, given)))


if __name__ == "__main__":
    main()
