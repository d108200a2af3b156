"""What the benchmarks of accuracy have in common: nets are pruned on images that never judge, and judged on others."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench_nets
import onnx
from bench_criteria import accuracy
from bench_nets import CACHE, FloatArray, Judging, Net
from bench_rows import Row

import ocnna_onnx
from ocnna_onnx.errors import OcnnaError
from ocnna_onnx.model.session import Runtime

MADE = (0.7, 0.5)
"""Shares of the multiply–accumulates for nets of which nothing else is asked."""

SHARES: dict[str, tuple[float, ...]] = {
    "cifar10_resnet20": (0.7, 0.5),
    "cifar10_resnet20_bn_legacy": (0.7, 0.5),
    "cifar10_resnet56": (0.7, 0.5, 0.3),
    "cifar10_resnet56_bn": (0.7, 0.5, 0.3),
    "cifar10_preact_resnet32_bn": (0.5,),
    "cifar10_densenet_bc_6_12_24_k12": (0.7, 0.5),
    "cifar10_mobilenet_v1_half": (0.6, 0.4),
    "cifar10_vgg16_half_bn": (0.5, 0.25),
    "imagenet_mobilenet_v1_075_bn": (0.7,),
    "imagenet_mobilenet_v1_075_192": (0.7,),
    "imagenet_mobilenet_v2": (0.8,),
    "imagenet_mobilenet_edgetpu_075": (0.8,),
    "pascal_deeplabv3_mobilenet_v2": (0.8,),
}
"""Net -> the shares that are asked of it by default."""


@dataclass(frozen=True)
class Setting:
    """images: that calibrate, repair and measure sensitivities, at most. judge: images that judge, at most (None: all
    that may). threads: onnxruntime's. align: as for `prune`. file: where rows go."""

    file: Path
    images: int
    judge: int | None
    threads: int
    align: str = "1"
    cache: Path = CACHE

    @property
    def runtime(self) -> Runtime:
        return Runtime(threads=self.threads)

    @property
    def alignment(self) -> int | str:
        """As `prune` takes it."""
        return self.align if self.align == "auto" else int(self.align)

    def about(self, what: str, net: Net, seed: int) -> Row:
        """What every row depends on."""
        return {"what": what, "net": net.name, "seed": seed, "images": self.images, "judge": self.judge}


@dataclass(frozen=True)
class Judge:
    """before: of the net as it is, as a share."""

    net: Net
    images: Judging
    runtime: Runtime
    before: float

    def __call__(self, model: onnx.ModelProto) -> Row:
        """Accuracy (or agreement) before and after, in per cent, and the difference in percentage points."""
        after = accuracy(model, self.images, self.net, self.runtime)
        return {
            "before": round(100 * self.before, 3),
            "after": round(100 * after, 3),
            "delta": round(100 * (after - self.before), 3),
            "judged": len(self.images.inputs),
        }


class Judges:
    """A judge for a net and a seed, made when it is first asked for: what is resumed needs none. CIFAR-10's test
    images judge under every seed, photographs only where they may not calibrate."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._made: dict[tuple[str, int], Judge] = {}

    def __call__(self, net: Net, seed: int) -> Judge:
        drawn = 0 if net.images == "cifar10" else seed
        key = (net.name, drawn)
        if key not in self._made:
            images = bench_nets.judging(net, drawn, self._setting.judge, self._setting.cache)
            runtime = self._setting.runtime
            before = accuracy(onnx.load(net.path), images, net, runtime)
            self._made = {key: Judge(net, images, runtime, before)}  # the images of one net at a time
        return self._made[key]


def calibrating(net: Net, seed: int, setting: Setting) -> FloatArray:
    """The images that a prune is given; none of them judges under this seed."""
    os.environ.setdefault("OCNNA_ONNX_CACHE", str(setting.cache / "scores"))
    return bench_nets.calibration(net, seed, setting.images, setting.cache)


def cut_to(net: Net, share: float, criterion: str, seed: int, setting: Setting, **more: Any) -> ocnna_onnx.Result:
    """The net at a share of its multiply–accumulates."""
    images = calibrating(net, seed, setting)
    return ocnna_onnx.prune(
        net.path,
        data={"input": images},
        samples=len(images),
        seed=seed,
        criterion=criterion,
        target=f"macs={100 * share:g}%",
        align=setting.alignment,
        threads=setting.threads,
        **more,
    )


def left(report: dict[str, Any]) -> Row:
    """Shares of the multiply–accumulates and of the parameters that are left."""
    obtained = report["obtained"]
    return {"macs": round(obtained["macs_ratio"], 5), "rpr": round(obtained["params_ratio"], 5)}


def timed(work: Callable[[], Row]) -> Row:
    """A row, with the seconds it took and the load of the machine; where nothing can be made of a net, why."""
    started = time.perf_counter()
    try:
        row = work()
    except OcnnaError as error:
        row = {"refused": str(error).splitlines()[0]}
    stamp = {"load": round(os.getloadavg()[0], 1), "date": time.strftime("%Y-%m-%d")}
    return {**row, "seconds": round(time.perf_counter() - started, 1), **stamp}


def measured(make: Callable[[], ocnna_onnx.Result], judge: Callable[[], Judge]) -> tuple[Row, ocnna_onnx.Result | None]:
    """What a prune leaves, the seconds it took, and the accuracy (which takes no part in the seconds); where nothing
    can be made of a net, why, and None."""
    results: list[ocnna_onnx.Result] = []

    def work() -> Row:
        results.append(make())
        return left(results[0].report)

    row = timed(work)
    return ({**row, **judge()(results[0].model)}, results[0]) if results else (row, None)
