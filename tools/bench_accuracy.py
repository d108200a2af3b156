"""Accuracy at a share of the multiply–accumulates, without training: what the cut leaves, and what the repair brings
back."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import bench_nets
from bench_criteria import accuracy
from bench_nets import Net

import ocnna_onnx
from ocnna_onnx.model.load import load
from ocnna_onnx.model.session import Runtime

SHARES = {
    "cifar10_resnet20": (0.7, 0.5),
    "cifar10_resnet56": (0.7, 0.5, 0.3),
    "cifar10_preact_resnet32_bn": (0.5,),
    "cifar10_densenet_bc_6_12_24_k12": (0.7, 0.5),
    "cifar10_mobilenet_v1_half": (0.6, 0.4),
    "cifar10_vgg16_half_bn": (0.5, 0.25),
}
"""Net -> the shares that are asked of it by default."""


def rows(
    nets: Sequence[Net], shares: Sequence[float], criterion: str, images: int, seeds: Sequence[int], threads: int
) -> Iterable[dict[str, Any]]:
    """One per net, share and seed. The images that judge are in nobody else's hands."""
    for net in nets:
        runtime = Runtime(threads=threads)
        judge = bench_nets.judging(net, 0)
        whole = accuracy(load(net.path).proto, judge, net, runtime)
        for share in shares or SHARES.get(net.name, (0.7, 0.5)):
            for seed in seeds:
                data = {"input": bench_nets.calibration(net, seed, images)}
                started = time.perf_counter()
                result = ocnna_onnx.prune(
                    net.path,
                    data=data,
                    samples=images,
                    seed=seed,
                    criterion=criterion,
                    target=f"macs={100 * share:g}%",
                    align=1,
                    threads=threads,
                )
                spent = time.perf_counter() - started
                obtained = result.report["obtained"]
                after = accuracy(result.model, judge, net, runtime)
                yield {
                    "net": net.name,
                    "asked": f"{share:.0%}",
                    "MACs": round(obtained["macs_ratio"], 3),
                    "RPR": round(obtained["params_ratio"], 3),
                    "seed": seed,
                    "before": round(100 * whole, 2),
                    "after": round(100 * after, 2),
                    "Δ pp": round(100 * (after - whole), 2),
                    "seconds": round(spent, 1),
                }
