"""The 78 graph idioms that exporters write and channel pruners break on, by number, and how one of them is tested."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper
from support import Proven, prove_half, removed, walls_at

TITLES = {
    1: "Conv, BatchNormalization kept, activation, Conv",
    2: "BatchNormalization folded",
    3: "BatchNormalization, activation, Conv (pre-activation)",
    4: "Conv, Flatten, Gemm",
    5: "Reshape to a literal or an inferred size, Gemm or MatMul",
    6: "Flatten or Reshape after NHWC",
    7: "global pooling in every spelling, Squeeze, Unsqueeze",
    8: "residual Add, identity",
    9: "residual Add with a projection",
    10: "option-A shortcut: Pad of channels, strided Slice",
    11: "arithmetic with a constant per channel or a scalar",
    12: "arithmetic with a constant per position",
    13: "n-ary Sum, Mean, Max, Min",
    14: "Sub, Div, Pow of two tensors",
    15: "diamonds: SiLU, HardSwish, Mish written out",
    16: "squeeze and excite",
    17: "squeeze and excite by Reshape or Unsqueeze, ESE, global context, coordinate attention",
    18: "efficient channel attention: a Conv across channels",
    19: "spatial attention: a mean over channels",
    20: "spatial attention: an extreme over channels",
    21: "sums and norms over channels",
    22: "products, logarithms of sums, orders and running sums over channels",
    23: "Softmax over channels",
    24: "Softmax over branches (selective kernels, split attention)",
    25: "LayerNormalization over channels",
    26: "RMSNorm",
    27: "division by a norm over channels",
    28: "global response normalization",
    29: "GroupNormalization",
    30: "GroupNormalization written out",
    31: "InstanceNormalization",
    32: "LRN",
    33: "Concat of channels",
    34: "Concat, BatchNormalization, Conv; dense blocks",
    35: "Split of channels in every spelling",
    36: "halves multiplied (GLU, SimpleGate)",
    37: "Slice of channels",
    38: "Gather of channels",
    39: "channel shuffle",
    40: "DepthToSpace, DCR and CRD",
    41: "pixel (un)shuffle written out, Focus",
    42: "depthwise Conv",
    43: "depthwise Conv with a multiplier",
    44: "grouped Conv",
    45: "different numbers of groups that meet",
    46: "ConvTranspose",
    47: "operators that work on positions",
    48: "sizes computed from Shape",
    49: "PRelu",
    50: "one initializer shared by coincidence",
    51: "one weight used twice on purpose",
    52: "initializers listed as inputs",
    53: "weights behind other operators",
    54: "quantized layers",
    55: "Gemm and MatMul in every form",
    56: "1 × 1 Conv as MatMul on the last axis",
    57: "Transpose sandwiches",
    58: "q·kᵀ and ·v",
    59: "packed q, k, v",
    60: "Einsum",
    61: "non-local blocks",
    62: "Where, masks, Expand with a constant",
    63: "YOLO decoding",
    64: "detection heads, RoiAlign, GridSample",
    65: "DeformConv",
    66: "LSTM and GRU behind a CNN",
    67: "bodies that capture a tensor",
    68: "functions and operators of other domains",
    69: "an interior tensor that is also an output",
    70: "an input of the model added to features",
    71: "RepVGG's branches",
    72: "ghost modules",
    73: "Tile of channels, Concat of a tensor with itself",
    74: "constants behind removed channels, and zero padding",
    75: "a whole group",
    76: "symbolic sizes",
    77: "types and storage",
    78: "Split, Concat, Slice along positions or the batch",
}


class Held(NamedTuple):
    """A layer that loses nothing, and the node, operator and word of the reason that holds it."""

    layer: str
    node: str
    op: str
    word: str


class Idiom(NamedTuple):
    """A net, what each layer loses when half of what is free goes (layers that are not named lose nothing), and the
    walls that hold the others."""

    model: onnx.ModelProto
    gone: dict[str, int]
    held: tuple[Held, ...]


@dataclass(frozen=True)
class Idioms:
    """The idioms of one test module, by row and name, and where else a row is tested."""

    own: dict[tuple[int, str], Idiom] = field(default_factory=dict)
    elsewhere: dict[int, list[Any]] = field(default_factory=dict)

    def row(self, number: int, name: str, gone: dict[str, int], model: onnx.ModelProto, *held: Held) -> None:
        assert number in TITLES
        assert (number, name) not in self.own
        self.own[number, name] = Idiom(model, gone, held)

    def see(self, number: int, *tests: Any) -> None:
        """The row is also tested by these: a test function, or a net in the table of another module."""
        assert all(callable(t) or isinstance(t, tuple) for t in tests)
        self.elsewhere.setdefault(number, []).extend(tests)

    @property
    def names(self) -> list[Any]:
        """The own idioms as parameters of a test."""
        return list(self.own)


def label(key: object) -> str:
    """How a parametrized test is called."""
    number, name = key if isinstance(key, tuple) else (key, "")
    return f"{number} {name}"


def check(idiom: Idiom) -> None:
    """Prune half at random, prove, and look at what went and what stayed and why."""
    result = prove_half(idiom.model)
    assert removed(result) == idiom.gone
    for layer, node, op, word in idiom.held:
        assert layer not in idiom.gone
        found = walls_at(result.trace, layer)
        assert any(n == node and o == op and word in reason for n, o, reason in found), found


def silenced_at_source(result: Proven) -> onnx.ModelProto:
    """The original with removed channels set to zero where layers make them: what silence means in nets where a zero
    stays one until channels are mixed. Knows nothing of labels or masks further on."""
    model = onnx.ModelProto()
    model.CopyFrom(result.trace.graph.proto)
    keep = result.rewritten.kept.keep
    for source in result.trace.sources:
        node = next(n for n in model.graph.node if source.tensor in n.output)
        node.output[list(node.output).index(source.tensor)] = f"{source.tensor}//loud"
        shape = [1] * len(result.trace.shapes.shape[source.tensor])
        shape[source.axis] = -1
        mask = keep[source.units].astype(np.float32).reshape(shape)
        model.graph.initializer.append(numpy_helper.from_array(mask, f"{source.tensor}//mask"))
        model.graph.node.insert(
            list(model.graph.node).index(node) + 1,
            helper.make_node("Mul", [f"{source.tensor}//loud", f"{source.tensor}//mask"], [source.tensor]),
        )
    return model
