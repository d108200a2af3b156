"""Converters that onnx2torch 1.5 lacks, by its own registry: operators whose operands moved from attributes to inputs
in opset 18, Upsample, asymmetric average pooling; and what changed its number only.

A newer version of an operator goes to the newest converter there is: most versions only add types. Where one means
something else, the net differs from onnxruntime's on samples, and is refused before the first step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, reduce
from typing import Any

import numpy as np
import onnx

from .extra import onnx2torch

REDUCTIONS = "ReduceL1 ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSumSquare ReduceLogSum ReduceLogSumExp"


@cache
def registered() -> None:
    """Add them, once per process."""
    onnx2torch()
    from onnx2torch.node_converters import registry

    known = registry._CONVERTER_REGISTRY
    for versions, ops, converter in (
        ((11, 13, 18, 19, 21, 23, 24, 25), "Pad", _pad),
        ((5, 13, 14, 19, 21, 23, 24, 25), "Reshape", _reshape),
        ((1, 10, 11, 13), "Slice", _slice),
        ((18, 20), REDUCTIONS, _reduce),
        ((7, 9, 10), "Upsample", _upsample),
        ((7, 10, 11, 19, 22), "AveragePool", _average_pool),
        ((1,), "MaxPool", known[registry.OperationDescription("", "MaxPool", 8)]),
        ((1, 22), "GlobalMaxPool", _global_max_pool),
        ((18,), "Split", _split),
        ((6, 7), "Dropout", _identity),
        ((13, 21), "SpaceToDepth", _space_to_depth),
        ((20,), "Gelu", _gelu),
        ((18, 22), "Mish", _mish),
    ):
        for op in ops.split():
            for version in versions:
                known[registry.OperationDescription("", op, version)] = converter


def complete(model: onnx.ModelProto) -> None:
    """See that the registry has what it can have for this model: ours, and for versions of operators that it does not
    know the newest that it does."""
    registered()
    from onnx2torch.node_converters import registry

    known = registry._CONVERTER_REGISTRY
    versions = {o.domain: o.version for o in model.opset_import}
    for operation, domain in {(n.op_type, n.domain) for n in model.graph.node}:
        try:
            version = onnx.defs.get_schema(operation, versions.get(domain, 1), domain).since_version
        except onnx.defs.SchemaError:
            continue
        mine = [k.version for k in known if (k.domain, k.operation_type) == (domain, operation)]
        older = [v for v in mine if v <= version]
        if older and version not in older:
            found = known[registry.OperationDescription(domain, operation, max(older))]
            known[registry.OperationDescription(domain, operation, version)] = found


def _result(node: Any, make: Callable[..., Any], inputs: int = 1) -> Any:
    """A module that calls `make` on the first inputs."""
    from onnx2torch.utils.common import OnnxMapping, OperationConverterResult
    from torch import nn

    class Call(nn.Module):  # type: ignore[misc]
        def forward(self, *operands: Any) -> Any:
            return make(*operands)

    return OperationConverterResult(Call(), OnnxMapping(tuple(node.input_values[:inputs]), node.output_values))


def _constant(node: Any, graph: Any, k: int) -> Any:
    """An operand that must be a weight, as a numpy array; None where it is left out."""
    if k >= len(node.input_values) or not node.input_values[k]:
        return None
    name = node.input_values[k]
    if name not in graph.initializers:
        raise NotImplementedError(f"operand {k} ('{name}') is computed as the net runs")
    return graph.initializers[name].to_numpy()


def _pad(node: Any, graph: Any) -> Any:
    """Pad of opset 18 on: `axes` as a fourth input."""
    from torch.nn import functional

    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}.get(
        node.attributes.get("mode", "constant")
    )
    if mode is None:
        raise NotImplementedError("mode wrap")
    pads, value, axes = (_constant(node, graph, k) for k in (1, 2, 3))
    rank = len(graph.value_info[node.input_values[0]].type.tensor_type.shape.dim)
    pairs = [[0, 0] for _ in range(rank)]
    places = range(rank) if axes is None else [int(a) % rank for a in axes]
    for k, axis in enumerate(places):
        pairs[axis] = [int(pads[k]), int(pads[k + len(pads) // 2])]
    while len(pairs) > (1 if mode == "constant" else 3) and pairs[0] == [0, 0]:  # what is not padded
        pairs = pairs[1:]
    if mode != "constant" and len(pairs) == rank:
        raise NotImplementedError(f"{mode} over samples or channels")
    flat = [size for pair in reversed(pairs) for size in pair]
    fill = 0.0 if value is None else float(np.ravel(value)[0])
    if mode == "constant":
        return _result(node, lambda x: functional.pad(x, flat, value=fill))
    spatial = flat[: 2 * (rank - 2)]
    return _result(node, lambda x: functional.pad(x, spatial, mode=mode))


def _reshape(node: Any, graph: Any) -> Any:
    """Reshape to a shape that is known; a 0 copies the size, unless `allowzero` says that it is one."""
    shape, copies = [int(s) for s in _constant(node, graph, 1)], not node.attributes.get("allowzero", 0)

    def reshaped(x: Any) -> Any:
        return x.reshape([x.shape[k] if size == 0 and copies else size for k, size in enumerate(shape)])

    return _result(node, reshaped)


def _slice(node: Any, graph: Any) -> Any:
    """Slice by constants: a view, where the library's module indexes once per call with lists."""
    rank = len(graph.value_info[node.input_values[0]].type.tensor_type.shape.dim)
    a = node.attributes
    given = [_constant(node, graph, k) for k in (1, 2, 3, 4)]
    starts = a.get("starts") if given[0] is None else given[0].tolist()
    ends = a.get("ends") if given[1] is None else given[1].tolist()
    axes = a.get("axes", list(range(len(starts)))) if given[2] is None else given[2].tolist()
    steps = [1] * len(starts) if given[3] is None else given[3].tolist()
    index, flipped = [slice(None)] * rank, []
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if step < 0:
            size = graph.value_info[node.input_values[0]].type.tensor_type.shape.dim[axis % rank].dim_value
            picked = range(*slice(start, None if end < -size else end, step).indices(size))
            flipped.append(axis % rank)
            step, start, end = -step, picked[-1], picked[0] + 1
        index[axis % rank] = slice(start, end, step)
    places = tuple(index)
    return _result(node, lambda x: x[places].flip(flipped) if flipped else x[places])


def _reduce(node: Any, graph: Any) -> Any:
    """Reductions of opset 18 on: `axes` as a second input."""
    import torch

    axes = _constant(node, graph, 1)
    rank = len(graph.value_info[node.input_values[0]].type.tensor_type.shape.dim)
    if axes is None and node.attributes.get("noop_with_empty_axes", 0):
        return _result(node, lambda x: x)
    dims = list(range(rank)) if axes is None or not len(axes) else [int(a) % rank for a in axes]
    keep = bool(node.attributes.get("keepdims", 1))
    functions: dict[str, Callable[[Any], Any]] = {
        "ReduceMean": lambda x: x.mean(dims, keepdim=keep),
        "ReduceMax": lambda x: x.amax(dims, keepdim=keep),
        "ReduceMin": lambda x: x.amin(dims, keepdim=keep),
        "ReduceL1": lambda x: x.abs().sum(dims, keepdim=keep),
        "ReduceL2": lambda x: torch.linalg.vector_norm(x, 2, dims, keepdim=keep),
        "ReduceSumSquare": lambda x: x.square().sum(dims, keepdim=keep),
        "ReduceLogSum": lambda x: x.sum(dims, keepdim=keep).log(),
        "ReduceLogSumExp": lambda x: torch.logsumexp(x, dims, keepdim=keep),
        "ReduceProd": lambda x: reduce(lambda y, d: y.prod(d, keepdim=keep), sorted(dims, reverse=True), x),
    }
    return _result(node, functions[node.operation_type])


def _upsample(node: Any, graph: Any) -> Any:
    """Upsample: `scales` as an attribute (7) or as a second input (9); positions are multiplied, not centred, so that
    linear interpolation is none of PyTorch's: a matrix for each axis."""
    import torch
    from torch.nn import functional

    given = _constant(node, graph, 1)
    scales = [float(s) for s in (node.attributes.get("scales", ()) if given is None else given)]
    if any(s != 1 for s in scales[:2]) or len(scales) < 3:
        raise NotImplementedError(f"scales {scales}")
    factors = tuple(scales[2:])
    if node.attributes.get("mode", "nearest") == "nearest":
        return _result(node, lambda x: functional.interpolate(x, scale_factor=factors, mode="nearest"))
    sizes = [d.dim_value for d in graph.value_info[node.input_values[0]].type.tensor_type.shape.dim][2:]
    if len(sizes) != 2:
        raise NotImplementedError("mode linear of maps that are not two-dimensional")
    rows, columns = (torch.from_numpy(_interpolation(n, s)) for n, s in zip(sizes, factors, strict=True))
    return _result(node, lambda x: rows @ x @ columns.T)


def _interpolation(size: int, scale: float) -> Any:
    """[⌊size · scale⌋, size]: row k interpolates at k / scale."""
    positions = np.minimum(np.arange(int(size * scale)) / scale, size - 1)
    low = np.floor(positions).astype(int)
    found = np.zeros((len(positions), size), np.float32)
    np.add.at(found, (np.arange(len(low)), low), 1 - (positions - low))
    np.add.at(found, (np.arange(len(low)), np.minimum(low + 1, size - 1)), positions - low)
    return found


def _average_pool(node: Any, graph: Any) -> Any:
    """AveragePool, asymmetric pads included: sums over windows by the number of elements in them."""
    import torch
    from torch.nn import functional

    a = node.attributes
    shape = [d.dim_value for d in graph.value_info[node.input_values[0]].type.tensor_type.shape.dim]
    rank = len(shape) - 2
    kernel, strides = list(a["kernel_shape"]), list(a.get("strides", [1] * rank))
    pads = list(a.get("pads", [0] * 2 * rank))
    if any(d != 1 for d in a.get("dilations", [1] * rank)) or rank > 3:
        raise NotImplementedError("dilations")
    counted, ceil = bool(a.get("count_include_pad", 0)), bool(a.get("ceil_mode", 0))
    pool = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[rank - 1]
    even = pads[:rank] == pads[rank:] and all(2 * p <= k for p, k in zip(pads, kernel, strict=False))
    if even:
        given: dict[str, Any] = {"stride": strides, "padding": pads[:rank]}
        given |= {"ceil_mode": ceil, "count_include_pad": counted}
        return _result(node, lambda x: pool(x, kernel, **given))
    if ceil:
        raise NotImplementedError("asymmetric pads with ceil_mode")
    flat = [p for k in reversed(range(rank)) for p in (pads[k], pads[rank + k])]
    inside = torch.ones(1, 1, *shape[2:])
    share = pool(functional.pad(inside, flat, value=1.0 if counted else 0.0), kernel, stride=strides)
    return _result(node, lambda x: pool(functional.pad(x, flat), kernel, stride=strides) / share)


def _global_max_pool(node: Any, graph: Any) -> Any:
    return _result(node, lambda x: x.amax(list(range(2, x.dim())), keepdim=True))


def _split(node: Any, graph: Any) -> Any:
    """Split of opset 18 on: `num_outputs` instead of sizes, the last part smaller."""
    import torch

    sizes, axis, parts = _constant(node, graph, 1), int(node.attributes.get("axis", 0)), len(node.output_values)
    if sizes is None:
        whole = graph.value_info[node.input_values[0]].type.tensor_type.shape.dim[axis].dim_value
        each = -(-whole // parts)
        sizes = [each] * (parts - 1) + [whole - each * (parts - 1)]
    listed = [int(s) for s in sizes]
    return _result(node, lambda x: torch.split(x, listed, axis))


def _identity(node: Any, graph: Any) -> Any:
    return _result(node, lambda x: x)


def _space_to_depth(node: Any, graph: Any) -> Any:
    side = int(node.attributes["blocksize"])

    def moved(x: Any) -> Any:
        n, c, h, w = x.shape
        return (
            x.reshape(n, c, h // side, side, w // side, side)
            .permute(0, 3, 5, 1, 2, 4)
            .reshape(n, c * side * side, h // side, w // side)
        )

    return _result(node, moved)


def _gelu(node: Any, graph: Any) -> Any:
    from torch.nn import functional

    how = node.attributes.get("approximate", "none")
    return _result(node, lambda x: functional.gelu(x, approximate=how))


def _mish(node: Any, graph: Any) -> Any:
    from torch.nn import functional

    return _result(node, functional.mish)
