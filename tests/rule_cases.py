"""How a test of a rule is written down: a net and what it loses, or a net and the wall that keeps it whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import onnx
from support import build


class Case(NamedTuple):
    """A net and the channels that each layer must lose when half of what is free goes."""

    model: onnx.ModelProto
    gone: dict[str, int]


class Wall(NamedTuple):
    """A net, the layer that must lose nothing, and the node, operator and word of the reason."""

    model: onnx.ModelProto
    layer: str
    node: str
    op: str
    word: str


@dataclass(frozen=True)
class Table:
    """The cases and walls of one test module, by name."""

    cases: dict[str, Case] = field(default_factory=dict)
    walls: dict[str, Wall] = field(default_factory=dict)

    def case(self, name: str, gone: dict[str, int], model: onnx.ModelProto) -> None:
        assert name not in self.cases
        self.cases[name] = Case(model, gone)

    def wall(self, name: str, op: str, word: str, model: onnx.ModelProto, layer: str = "a", node: str = "m") -> None:
        assert name not in self.walls
        self.walls[name] = Wall(model, layer, node, op, word)

    @property
    def operators(self) -> set[tuple[str, str]]:
        """(domain, operator) of every node in these nets."""
        models = [c.model for c in (*self.cases.values(), *self.walls.values())]
        return {(node.domain, node.op_type) for model in models for node in model.graph.node}


def chain(
    middle: str, weights: str = "", into: int = 8, opset: int = 17, ir: int = 8, **arrays: Any
) -> onnx.ModelProto:
    """x [N,3,8,8] -> Conv `a` (8 channels) -> `middle`, which makes m with `into` channels -> Conv `y`."""
    extra = f", {weights}" if weights else ""
    return build(
        f"""g (float[N,3,8,8] x) => (float[N,K,H,W] y)
        <float[8,3,3,3] wa, float[8] ba, float[5,{into},1,1] wy{extra}>
        {{ a = Conv<pads=[1,1,1,1]>(x, wa, ba)
           {middle}
           y = Conv(m, wy) }}""",
        opset,
        ir,
        **arrays,
    )


def fixed_batch(middle: str, weights: str = "", into: int = 8, opset: int = 17, **arrays: Any) -> onnx.ModelProto:
    """As `chain`, with a batch of exactly 2."""
    extra = f", {weights}" if weights else ""
    return build(
        f"""g (float[2,3,8,8] x) => (float[2,5,H,W] y)
        <float[8,3,3,3] wa, float[8] ba, float[5,{into},1,1] wy{extra}>
        {{ a = Conv<pads=[1,1,1,1]>(x, wa, ba)
           {middle}
           y = Conv(m, wy) }}""",
        opset,
        **arrays,
    )


def head(middle: str, weights: str, opset: int = 17, **arrays: Any) -> onnx.ModelProto:
    """x -> Conv `a` (8 channels, 4 × 4) -> `middle`, which makes the logits y [N, K]."""
    return build(
        f"""g (float[N,3,4,4] x) => (float[N,K] y) <float[8,3,3,3] wa, float[8] ba, {weights}>
        {{ a = Conv<pads=[1,1,1,1]>(x, wa, ba)
           {middle} }}""",
        opset,
        **arrays,
    )


def dense_pair(body: str, weights: str, opset: int = 17, **arrays: Any) -> onnx.ModelProto:
    """x [4, 6] -> `body` -> y [4, K]."""
    return build(f"g (float[4,6] x) => (float[4,K] y) <{weights}> {{ {body} }}", opset, **arrays)


def tokens(body: str, weights: str, opset: int = 17, **arrays: Any) -> onnx.ModelProto:
    """x [N, 5, 6] (batch, tokens, features) -> `body` -> y."""
    return build(f"g (float[N,5,6] x) => (float[N,L,K] y) <{weights}> {{ {body} }}", opset, **arrays)


CODES = np.random.default_rng(7)


def codes(*shape: int, low: int = -100, high: int = 100, kind: type[np.generic] = np.int8) -> np.ndarray[Any, Any]:
    return CODES.integers(low, high, shape).astype(kind)
