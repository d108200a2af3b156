"""Torch-Pruning's result on one net: half of every group by magnitude, all but the classifier. Prints a line of JSON.

python tools/peers_torch.py timm ghostnet_050
"""

from __future__ import annotations

import json
import sys

import exports
import exports_timm
import torch
import torch_pruning
from torch import nn


def weights(net: nn.Module) -> int:
    """Elements of parameters of two or more dimensions."""
    return sum(p.numel() for p in net.parameters() if p.ndim > 1)


def classifiers(net: nn.Module, x: torch.Tensor) -> list[nn.Module]:
    """The layers that make as many channels as the net has outputs."""
    outputs = net(x).shape[1]
    layers = [m for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return [m for m in layers if getattr(m, "out_features", getattr(m, "out_channels", 0)) == outputs]


def main() -> None:
    """Prune, run, count."""
    library, name = sys.argv[1:]
    net, shape = (exports_timm if library == "timm" else exports).build(name, "random")
    x = torch.randn(2, *shape)
    before, expected = weights(net), net(x).shape
    pruner = torch_pruning.pruner.MagnitudePruner(
        net,
        x,
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=classifiers(net, x)[-1:],
    )
    pruner.step()
    row: dict[str, object] = {"gone": 1 - weights(net) / before, "runs": True, "why": ""}
    try:
        with torch.no_grad():
            y = net(x)
        if y.shape != expected or not bool(torch.isfinite(y).all()):
            row |= {"runs": False, "why": f"output {list(y.shape)} instead of {list(expected)}, or not finite"}
    except Exception as error:  # whatever its broken nets raise
        row |= {"runs": False, "why": f"{type(error).__name__}: {error}".splitlines()[0]}
    print(json.dumps(row))


if __name__ == "__main__":
    main()
