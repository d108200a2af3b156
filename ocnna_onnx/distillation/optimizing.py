"""How a gradient becomes a step: matrices go along its orthogonal factor, everything else by Adam.

Muon (Jordan et al. 2024): the momentum of a weight matrix [filters, what each reads] is replaced by the nearest
semi-orthogonal matrix, by five Newton–Schulz iterations of degree five, so that all directions of a layer move alike,
whatever the scale of its weights; steps have the size of Adam's by 0.2 · √(longer side) (Liu et al. 2025, eq. 4).
`torch.optim.Muon` takes matrices only, and computes in bfloat16, which is slow and coarse on CPUs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

MOMENTUM = 0.95
ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
SIZE = 0.2
TINY = 1e-7


@dataclass(frozen=True)
class Optimizer:
    """matrices: with their momenta. others: AdamW without decay (the starting weights are good ones)."""

    matrices: Mapping[str, torch.nn.Parameter]
    momenta: Mapping[str, torch.Tensor]
    others: Any

    def step(self, rate: float) -> None:
        """One step along the gradients that are there, in place; the gradients go. rate: how far."""
        import torch

        with torch.no_grad():
            for name, weight in self.matrices.items():
                if weight.grad is None:
                    continue
                momentum = self.momenta[name]
                momentum.lerp_(weight.grad, 1 - MOMENTUM)
                ahead = weight.grad.lerp(momentum, MOMENTUM).reshape(len(weight), -1)
                size = SIZE * max(ahead.shape) ** 0.5
                weight.add_(orthogonal(ahead).reshape(weight.shape), alpha=-rate * size)
                weight.grad = None
        if self.others is not None:
            for group in self.others.param_groups:
                group["lr"] = rate
            self.others.step()
            self.others.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"momenta": dict(self.momenta), "others": None if self.others is None else self.others.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        for name, momentum in self.momenta.items():
            momentum.copy_(state["momenta"][name])
        if self.others is not None:
            self.others.load_state_dict(state["others"])


def optimizer_of(weights: Mapping[str, torch.nn.Parameter]) -> Optimizer:
    """Depthwise kernels, scales and shifts are no matrices: each of their filters reads one channel."""
    import torch

    matrices = {n: w for n, w in weights.items() if w.dim() >= 2 and min(w.shape[:2]) > 1}
    rest = [w for n, w in weights.items() if n not in matrices]
    others = torch.optim.AdamW(rest, lr=0.0, betas=(0.9, 0.99), weight_decay=0.0) if rest else None
    return Optimizer(matrices, {n: torch.zeros_like(w) for n, w in matrices.items()}, others)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """U Vᵀ of the singular value decomposition U S Vᵀ, roughly (singular values end in 0.7 … 1.2): [m, n] -> [m, n]."""
    a, b, c = COEFFICIENTS
    x: torch.Tensor = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + TINY)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x
