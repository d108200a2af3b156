"""The shape of a rule: how labels pass through an operator, and how the node itself is edited when channels go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import onnx

from ...model.graph import AnyArray
from ..context import NodeTrace
from ..labels import BoolArray, Shape


class NodeSurgery(Protocol):
    """What a rule's `rewrite` may do to its node. Weights are cut elsewhere, from the trace's `cuts`."""

    @property
    def op(self) -> str: ...
    @property
    def opset(self) -> int: ...
    @property
    def inputs(self) -> Sequence[str]: ...
    @property
    def outputs(self) -> Sequence[str]: ...
    def attr(self, name: str, default: Any = None) -> Any: ...
    def set_attr(self, name: str, value: Any) -> None:
        """Set an attribute (and record the edit)."""

    def kept(self, tensor: str, axis: int) -> BoolArray:
        """bool [old size]: which positions of a tensor's axis stay."""

    def dtype(self, tensor: str) -> np.dtype[Any]: ...
    def old_shape(self, tensor: str) -> Shape: ...
    def new_shape(self, tensor: str) -> Shape: ...
    def value(self, i: int) -> AnyArray | None:
        """The value of a static input before the cut."""

    def set_operand(self, i: int, new: Sequence[int]) -> None:
        """Give an integer operand a value. Nothing happens where it has it already; where the graph computes it from
        shapes, only the elements that do not adapt by themselves are overridden."""

    def set_operand_array(self, i: int, new: AnyArray) -> None:
        """Replace a constant operand by another array."""

    def then(
        self, op: str, operand: AnyArray | None = None, attributes: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        """Put a node behind this one: `op`(output) or `op`(output, operand) takes over the first output's name."""


@dataclass(frozen=True)
class Rule:
    """trace: says how labels pass. rewrite: edits attributes and literals; None where there are none to edit."""

    trace: Callable[[NodeTrace], None]
    rewrite: Callable[[NodeSurgery], None] | None = None
    inputs: tuple[int, ...] | None = (0,)
    """Inputs whose labels the rule understands (None: all); labels on any other are a wall."""
    source: bool = False
    """Whether the operator makes fresh channels, so that it is traced even when nothing labelled reaches it."""


def scale_result(s: NodeSurgery, factor: float) -> None:
    """Put a multiplication behind a node; in float32 where the node has bfloat16, which rounds the factor."""
    dtype = s.dtype(s.outputs[0])
    if dtype.kind == "f":
        s.then("Mul", np.asarray(factor, dtype))
        return
    s.then("Cast", attributes={"to": int(onnx.TensorProto.FLOAT)})
    s.then("Mul", np.asarray(factor, np.float32))
    s.then("Cast", attributes={"to": int(onnx.helper.np_dtype_to_tensor_dtype(dtype))})
