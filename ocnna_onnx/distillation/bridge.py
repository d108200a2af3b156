"""ONNX to autograd and back: a torch module whose trainable parameters are initializers of the file, by name."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper

from ..errors import ModelError
from ..model.graph import AnyArray, attribute
from . import converters
from .extra import onnx2torch
from .plain import Plain

if TYPE_CHECKING:
    import torch

PLACES: Mapping[str, Mapping[str, int]] = {
    "Conv": {"weight": 1, "bias": 2},
    "ConvTranspose": {"weight": 1, "bias": 2},
    "Gemm": {"weight": 1, "bias": 2},
    "BatchNormalization": {"weight": 1, "bias": 2},
    "InstanceNormalization": {"weight": 1, "bias": 2},
    "LayerNormalization": {"weight": 1, "bias": 2},
}
"""Operator -> the parameters of onnx2torch's module, and which operands of the node they are."""

TRAINED: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(PLACES, (1, 2)),
    "MatMul": (0, 1),
    "Add": (0, 1),
    "Sub": (0, 1),
    "Mul": (0, 1),
    "PRelu": (1,),
    "Transpose": (0,),
}
"""Operator -> operands that may be trained: not running statistics, shapes, scales of images, limits."""

ONE_NUMBER = frozenset("Add Sub Mul".split())
"""Where a constant of one element is arithmetic (x · 1/6), no weight."""


@dataclass(frozen=True)
class Place:
    """Where an initializer ended up. path: of the torch parameter. transposed: as its transpose. scale: times that."""

    path: str
    transposed: bool = False
    scale: float = 1.0


@dataclass(frozen=True)
class Bridge:
    """module: feeds in the order of `inputs` -> a tuple, the tensors of `outputs`. weights: initializer -> its
    parameter, in the orientation of the first of its places. places: initializer -> the place of its parameter. ties:
    (place's parameter, the parameter it is the transpose of): they share memory, gradients must be added up."""

    module: torch.nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: Mapping[str, torch.nn.Parameter]
    places: Mapping[str, Place]
    ties: tuple[tuple[torch.nn.Parameter, torch.nn.Parameter], ...]

    def __call__(self, feed: Mapping[str, Any]) -> tuple[Any, ...]:
        """Tensors of `outputs` for a feed of torch tensors."""
        found = self.module(*(feed[name] for name in self.inputs))
        return tuple(found)

    def value(self, name: str, held: torch.Tensor | None = None) -> AnyArray:
        """The initializer as it is now (or as `held` has its parameter), float32, in the file's orientation."""
        place = self.places[name]
        array = (self.weights[name] if held is None else held).detach().numpy()
        array = array.T if place.transposed else array
        return np.array(array if place.scale == 1.0 else array / np.float32(place.scale), np.float32)

    def parameter(self, name: str, value: AnyArray) -> Any:
        """The reverse of `value`: what the initializer's parameter holds then."""
        import torch

        place = self.places[name]
        array = np.asarray(value.T if place.transposed else value, np.float32) * np.float32(place.scale)
        return torch.from_numpy(np.ascontiguousarray(array))


def cross(net: Plain, taps: Sequence[str] = (), train: bool = False) -> Bridge:
    """The net as a torch module that returns the model's outputs, then the tensors `taps`. train: whether its weights
    are to be trained (those that the file stores, and operators of TRAINED read, and nothing else does).

    Raises UsageError without the extra, ModelError with the operator where one does not convert.
    """
    import torch

    library = onnx2torch()
    converters.complete(net.model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # onnx2torch's, on numbers that tracing would lose
        inferred = onnx.shape_inference.infer_shapes(_with_shapes(net))
        try:
            module = library.convert(inferred, attach_onnx_mapping=True)
        except Exception as error:  # whatever its converters raise
            raise _refusal(net, inferred, error) from error
    module.eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    outputs = tuple(dict.fromkeys((*(o.name for o in net.model.graph.output), *taps)))
    _return(module, net, outputs)
    found = Bridge(module, tuple(i.name for i in net.model.graph.input), outputs, {}, {}, ())
    return _trainable(found, net, torch) if train else found


def _with_shapes(net: Plain) -> onnx.ModelProto:
    """A copy that says every tensor's shape."""
    copy = onnx.ModelProto()
    copy.CopyFrom(net.model)
    declared = {v.name for v in (*copy.graph.input, *copy.graph.output)}
    for node in copy.graph.node:
        for name in node.output:
            if name in net.shapes and name not in declared:
                value = copy.graph.value_info.add(name=name)
                for size in net.shapes[name]:
                    value.type.tensor_type.shape.dim.add(dim_value=size)
    return copy


def _refusal(net: Plain, model: onnx.ModelProto, error: Exception) -> ModelError:
    """Which operator does not convert."""
    from onnx2torch.node_converters import get_converter
    from onnx2torch.onnx_graph import OnnxGraph

    versions = {o.domain: o.version for o in model.opset_import}
    graph = OnnxGraph(model.graph)
    for called, node in zip(net.names, graph.nodes.values(), strict=True):
        try:
            get_converter(node.operation_type, versions.get(node.domain, 1), node.domain)(node, graph)
        except Exception as reason:
            why = (str(reason).splitlines() or [type(reason).__name__])[0]
            if "Converter is not implemented" in why:
                why = "onnx2torch has no converter for it"
            text = f"node '{called}' ({node.operation_type}) cannot be converted to PyTorch: {why}"
            return ModelError(f"{text}; the net cannot be distilled")
    why = (str(error).splitlines() or [type(error).__name__])[0]
    return ModelError(f"the net cannot be converted to PyTorch, and so not distilled: {why}")


def _return(module: Any, net: Plain, outputs: Sequence[str]) -> None:
    """Make the module return these tensors."""
    from operator import getitem

    graph = module.graph
    by_target = {str(n.target): n for n in graph.nodes if n.op == "call_module"}
    placeholders = (n for n in graph.nodes if n.op == "placeholder")
    inputs = dict(zip((i.name for i in net.model.graph.input), placeholders, strict=True))
    made = {name: (node, k) for node in net.model.graph.node for k, name in enumerate(node.output) if name}
    old = next(n for n in graph.nodes if n.op == "output")
    wanted = []
    with graph.inserting_before(old):
        for name in outputs:
            if name in inputs:
                wanted.append(inputs[name])
                continue
            if name not in made:
                raise ModelError(f"output '{name}' does not depend on the inputs: there is nothing to distil")
            node, k = made[name]
            wanted.append(by_target[node.name])
            if len(node.output) > 1:
                wanted[-1] = graph.call_function(getitem, (wanted[-1], k))
        graph.output(tuple(wanted))
    graph.erase_node(old)
    graph.lint()
    module.recompile()


def _trainable(bridge: Bridge, net: Plain, torch: Any) -> Bridge:
    """The weights as parameters, one each however often they are read."""
    module: Any = bridge.module
    stored = {t.name: numpy_helper.to_array(t) for t in net.model.graph.initializer}
    nodes = {n.name: n for n in net.model.graph.node}
    found: dict[str, list[Place]] = defaultdict(list)
    barred: set[str] = {
        name
        for node in net.model.graph.node
        for k, name in enumerate(node.input)
        if name in stored and (k not in TRAINED.get(node.op_type, ()) or _is_arithmetic(node, stored[name]))
    } | {name for name, value in stored.items() if value.dtype != np.float32 or name not in net.own}
    for call in [n for n in module.graph.nodes if n.op == "call_module"]:
        node = nodes[str(call.target)]
        own = module.get_submodule(str(call.target))
        passed = [*call.args, *call.kwargs.values()]
        given = [n for n in own.onnx_mapping.inputs if n]
        for name, operand in zip(given, passed, strict=True):
            if operand.op == "get_attr" and name in stored:
                found[name].append(Place(str(operand.target)))
        if not any(a.op == "get_attr" for a in passed):
            _placed(found, node, own, str(call.target), stored)
    weights: dict[str, Any] = {}
    ties: list[tuple[Any, Any]] = []
    places: dict[str, Place] = {}
    for name, where in found.items():
        scaled = any(p.scale != 1.0 for p in where)
        if name in barred or (scaled and len(where) > 1) or where[0].scale == 0:
            continue
        master: Any = None
        for place in where:
            holder, _, leaf = place.path.rpartition(".")
            owner = module.get_submodule(holder)
            value = stored[name].T if place.transposed else stored[name]
            if master is None:
                array = np.ascontiguousarray(value) * np.float32(place.scale)
                master = own_parameter = torch.nn.Parameter(torch.from_numpy(np.array(array, np.float32)))
                weights[name], places[name] = master, place
            elif place.transposed == places[name].transposed:
                own_parameter = master
            else:
                own_parameter = torch.nn.Parameter(master.data.T)  # the same memory
                ties.append((own_parameter, master))
            delattr(owner, leaf)
            owner.register_parameter(leaf, own_parameter)
    return replace(bridge, weights=weights, places=places, ties=tuple(ties))


def _is_arithmetic(node: onnx.NodeProto, value: AnyArray) -> bool:
    return node.op_type in ONE_NUMBER and value.size == 1


def _placed(
    found: dict[str, list[Place]], node: onnx.NodeProto, own: Any, target: str, stored: Mapping[str, AnyArray]
) -> None:
    """Note where a module that was built around its weights holds them."""
    held = [path for path, _ in own.named_parameters()]
    for leaf, k in PLACES.get(node.op_type, {}).items():
        name = node.input[k] if k < len(node.input) else ""
        path = next((p for p in held if p == leaf or p.endswith(f".{leaf}")), None)
        if name not in stored or path is None:
            continue
        place = Place(f"{target}.{path}")
        if node.op_type == "Gemm":
            scale = attribute(node, "alpha" if leaf == "weight" else "beta", 1.0)
            place = Place(place.path, leaf == "weight" and not attribute(node, "transB", 0), float(scale))
        found[name].append(place)
