"""Distillation as one would write it in PyTorch: on Torch-Pruning's cut of a net, or on the net's own class, for its
speed. Prints a line of JSON.

    python tools/distill_by_hand.py peer DATA_ROOT NET '{"share": 0.5, "way": "group-l2", "seconds": 120, …}'
    python tools/distill_by_hand.py speed DATA_ROOT NET '{…}'

Started by `bench_distill.py`; `peer` with a folder on the path that has Torch-Pruning and onnx2torch.
"""

from __future__ import annotations

import copy
import json
import math
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_nets
import numpy as np
import torch
from torch import nn
from torch.nn import functional

BATCH, TEMPERATURE, RATE = 32, 4.0, 3e-4
TRIED, WARMED = 20, 3
Row = dict[str, Any]


class Block(nn.Module):
    """Two Convs with an option-A shortcut (He et al. 2016, §4.2)."""

    def __init__(self, before: int, after: int, middle: int, stride: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(before, middle, 3, stride, 1)
        self.two = nn.Conv2d(middle, after, 3, 1, 1)
        self.stride, self.more = stride, after - before

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.two(functional.relu(self.one(x)))
        if self.stride != 1 or self.more:
            x = functional.pad(
                x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more // 2, self.more - self.more // 2)
            )
        return functional.relu(y + x)


class ResNet20(nn.Module):
    """For CIFAR-10, BatchNormalization folded, as the file is. widths: channels of the stem, then of every block
    (inside, and what it adds to)."""

    def __init__(self, stem: int, blocks: list[tuple[int, int]], classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, stem, 3, 1, 1)
        layers, width = [], stem
        for k, (middle, after) in enumerate(blocks):
            layers.append(Block(width, after, middle, 2 if k in (3, 6) else 1))
            width = after
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(functional.relu(self.stem(x))).mean((2, 3)))


def view(x: torch.Tensor) -> torch.Tensor:
    """Mirrored by chance, shifted by up to four pixels, one shift for the batch."""
    flipped = torch.rand(len(x)) < 0.5
    x = torch.where(flipped[:, None, None, None], x.flip(3), x)
    top, left = torch.randint(0, 9, (2,)).tolist()
    return functional.pad(x, (4, 4, 4, 4), mode="replicate")[:, :, top : top + 32, left : left + 32].contiguous()


def step(student: nn.Module, teacher: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> None:
    """T² · KL(teacher ‖ student)."""
    with torch.no_grad():
        wanted = (teacher(x) / TEMPERATURE).log_softmax(1)
    found = (student(x) / TEMPERATURE).log_softmax(1)
    loss = TEMPERATURE**2 * functional.kl_div(found, wanted, reduction="batchmean", log_target=True)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def distilled(student: nn.Module, teacher: nn.Module, images: np.ndarray, seconds: float) -> int:
    """Train in place for so many seconds, the rate along a cosine; returns the steps. BatchNormalization in inference
    form, as ours."""
    student.eval()
    for p in student.parameters():
        p.requires_grad_(True)
    optimizer = torch.optim.AdamW(student.parameters(), lr=RATE, weight_decay=0.0)
    started, count = time.perf_counter(), 0
    while (gone := (time.perf_counter() - started) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, gone / 0.05 + 0.01) * 0.5 * (1 + math.cos(math.pi * gone))
        rows = torch.randperm(len(images))[:BATCH].numpy()
        step(student, teacher, optimizer, view(torch.from_numpy(images[rows])))
        count += 1
    return count


def peer(root: Path, name: str, given: Row) -> Row:
    """Torch-Pruning's cut at the share, re-estimated where it has BatchNormalization, then distilled."""
    import peers_share

    net_file = bench_nets.find_nets(root, name)[0]
    cache = Path(given["cache"])
    images = np.array(bench_nets.calibration(net_file, given["seed"], given["teaching"], cache))
    x = torch.from_numpy(images[:2])
    with torch.no_grad():
        net = peers_share.converted(net_file.path, x)
        ends = peers_share.classifier(net, net(x).shape[1])
        try:
            small, row = peers_share.cut(net, x, given, ends)
        except Exception as error:  # whatever its broken nets raise
            small, row = peers_share.cut(net, x, given, [*ends, *peers_share.trunk(net)])
            row["crash"] = peers_share.line(error)
        if any(isinstance(m, peers_share.NORMS) for m in small.modules()):
            small = peers_share.reestimated(small, images[: given["images"]])
    torch.manual_seed(given["seed"])
    row["steps"] = distilled(small, copy.deepcopy(net), images, given["seconds"])
    judge = bench_nets.judging(net_file, 0, given["judge"], cache)
    with torch.no_grad():
        before, after = (peers_share.right(n, judge, net, net_file.background) for n in (net, small))
    scores = {"before": 100 * before, "after": 100 * after, "delta": 100 * (after - before)}
    return {**row, **{k: round(v, 3) for k, v in scores.items()}, "judged": len(judge.inputs)}


def per_second(work: Callable[[int], object]) -> float:
    """How often a second work(k) is done."""
    for k in range(WARMED):
        work(k)
    started = time.perf_counter()
    for k in range(TRIED):
        work(k)
    return TRIED / (time.perf_counter() - started)


def speed(root: Path, name: str, given: Row) -> Row:
    """Steps per second of our loop with the loss that the one by hand has, and of the one by hand, taking turns. The
    widths of the class are those of our cut by half of every group."""
    import onnx

    import ocnna_onnx
    from ocnna_onnx.data.inputs import ImageInput
    from ocnna_onnx.data.samples import Samples
    from ocnna_onnx.distillation import bridge, feeding, loop, loss, optimizing, plain, views
    from ocnna_onnx.model.light import light
    from ocnna_onnx.model.session import Runtime

    net_file = bench_nets.find_nets(root, name)[0]
    images = np.array(bench_nets.calibration(net_file, given["seed"], given["images"], Path(given["cache"])))
    runtime = Runtime(threads=given["threads"])
    cut = ocnna_onnx.prune(
        net_file.path, data={"input": images[:64]}, criterion="l2", ratio=0.5, repair="none", threads=given["threads"]
    )
    nets = []
    for model, train in ((onnx.load(net_file.path), False), (cut.model, True)):
        net = plain.plain(light(model), {"input": (BATCH, 3, 32, 32)}, runtime, {})
        nets.append(bridge.cross(net, (), train))
    picture = ImageInput("input", np.dtype(np.float32), 3, 32, 32, False)
    feed = feeding.Feeding(Samples({"input": images}), BATCH, views.Views(picture, frozenset(("shift", "flip"))), 0)
    outputs = (nets[0].outputs[0],)
    ours = loop.Nets(nets[1], nets[0], loss.Loss({outputs[0]: "kl"}, outputs, (), TEMPERATURE, 0.0), feed, 1)
    optimizer = optimizing.optimizer_of(ours.student.weights)

    def mine(k: int) -> None:
        loop.gradient(ours, k)
        optimizer.step(loop.RATE)

    teacher = ResNet20(16, [(c, c) for c in (16, 16, 16, 32, 32, 32, 64, 64, 64)]).eval()
    stored = {t.name: t.dims for t in cut.model.graph.initializer}
    widths = [stored[n.input[1]][0] for n in cut.model.graph.node if n.op_type == "Conv"]
    student = ResNet20(widths[0], list(zip(widths[1::2], widths[2::2], strict=True)))
    by_hand = torch.optim.AdamW(student.parameters(), lr=RATE)

    def theirs(k: int) -> None:
        rows = np.arange(k * BATCH, (k + 1) * BATCH) % len(images)
        step(student, teacher, by_hand, view(torch.from_numpy(images[rows])))

    rates = [(per_second(mine), per_second(theirs)) for _ in range(3)]
    best = [max(r) for r in zip(*rates, strict=True)]
    return {
        "ours": round(best[0], 3),
        "by_hand": round(best[1], 3),
        "batch": BATCH,
        "macs": cut.report["obtained"]["macs_ratio"],
    }


def main() -> None:
    """Measure and print."""
    warnings.simplefilter("ignore")
    what, root, name, text = sys.argv[1:]
    given = json.loads(text)
    torch.set_num_threads(given["threads"] or torch.get_num_threads())
    print(json.dumps({"peer": peer, "speed": speed}[what](Path(root), name, given)))


if __name__ == "__main__":
    main()
