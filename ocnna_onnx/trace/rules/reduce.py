"""Reductions: over positions labels pass; over channels sums are exact (what is silenced adds nothing), and means and
extremes are once a small operator behind them says what the silenced zeros would have done."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from .. import labels as lb
from ..context import NodeTrace
from ..labels import Labels
from ..types import Option
from .normalize import over_axes
from .rule import NodeSurgery, Rule, scale_result

SUMS = frozenset({"ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum"})
WITH_ZEROS = {"ReduceMean": 7, "ReduceMax": 7, "ReduceMin": 8}
"""Exact with an operator behind them (Mul, Relu, Min) -> the opset from which that operator broadcasts."""

OTHERS = ("ReduceProd", "ReduceLogSumExp")
SAME_VALUES = frozenset("Identity Cast Dropout Reshape Flatten Squeeze Unsqueeze Transpose Expand".split())
SCALINGS = frozenset({"Mul", "Div"})
NORM = "a decomposed LayerNormalization"
CENTRED = {"ReduceMean": NORM, "ReduceSum": NORM, "ReduceMax": "a decomposed Softmax"}
"""What it is called where the result is subtracted from what was reduced."""


def trace_reduce(n: NodeTrace) -> None:
    """Reduce over `axes`; a sum, mean or extreme over channels consumes them."""
    rank = len(n.shape(0))
    keepdims = bool(n.attr("keepdims", 1))
    if n.has(1) and n.value(1) is None:
        n.wall(n.labels(0), f"{n.op} over axes that are not known ahead")
        return
    axes = _axes(rank, n.ints(1, "axes") if n.has(1) or n.attr("axes") is not None else None, _noop(n))
    if not axes:
        n.emit(n.labels(0))
        return
    if _centres(n):
        passed = over_axes(n, axes, CENTRED[n.op])
    elif n.op in SUMS:
        passed = _consumed(n, axes, n.labels(0))
    elif n.is_float(0) and n.opset >= WITH_ZEROS.get(n.op, n.opset + 1):
        whole = [x for x in n.labels(0) if set(x.axes) <= set(axes)]
        _consumed(n, axes, whole)
        passed = over_axes(n, axes, n.op, [x for x in n.labels(0) if not set(x.axes) <= set(axes)])
    else:
        passed = over_axes(n, axes, n.op)
    n.emit(_reduced(x, axes, keepdims) for x in passed)


def _consumed(n: NodeTrace, axes: Sequence[int], labels: Sequence[Labels]) -> list[Labels]:
    """Labels along reduced axes end here, the others pass; of a grid along both whole slices go, either way."""
    passed: list[Labels] = []
    for x in labels:
        inside = [a for a in x.axes if a in axes]
        if inside:
            n.mask(0)
            passed.extend(_grid_consumed(n, x, inside) if len(inside) < len(x.axes) else [])
        else:
            passed.append(x)
    return passed


def _grid_consumed(n: NodeTrace, x: Labels, inside: Sequence[int]) -> list[Labels]:
    """Either the same positions along the reduced axes `inside` go everywhere, or whole slices along the other axes go
    (branches that are summed), and the sums with them: those have units of their own until one of both is chosen."""
    outside = [a for a in x.axes if a not in inside]
    full = np.moveaxis(lb.compact(x), outside, range(len(outside)))
    rows = full.reshape(int(np.prod(full.shape[: len(outside)])), -1)
    sums = n.made_up(len(rows))
    stay = np.stack([sums, np.zeros_like(sums)], axis=1)
    n.choose(
        [
            Option("the same terms of every sum", (rows.T.copy(), stay)),
            Option("whole sums", (np.concatenate([rows, sums[:, None]], axis=1),)),
        ]
    )
    first = _reduced(x, list(inside), keepdims=True)
    return [] if first is None else [Labels(sums.reshape(first.array.shape), first.factors)]


def _centres(n: NodeTrace) -> bool:
    """Whether the (scaled) result is subtracted from what was reduced: then the same channels get values back in which
    those that went have had their say, as in a fused LayerNormalization or Softmax; the two spellings of one thing must
    not come to different values."""
    graph = n.record.graph
    if n.op not in CENTRED:
        return False
    reduced = _origin(n, n.node.input[0])
    names = [n.node.output[0]]
    for name in names:
        for index, k in graph.consumers.get(name, ()):
            node = graph.nodes[index]
            if node.op_type == "Sub" and k >= 0 and _origin(n, node.input[1 - k]) == reduced:
                return True
            scaled = node.op_type in SCALINGS and all(x in n.record.constants.ahead for x in node.input if x != name)
            if (node.op_type in SAME_VALUES and k == 0) or scaled:
                names.append(node.output[0])
    return False


def _origin(n: NodeTrace, name: str) -> str:
    """The tensor whose values `name` holds, perhaps in another shape."""
    graph = n.record.graph
    while name in graph.producer and graph.nodes[graph.producer[name]].op_type in SAME_VALUES:
        name = graph.nodes[graph.producer[name]].input[0]
    return name


def rewrite_reduce(s: NodeSurgery) -> None:
    """What the zeros of the channels that went did to a mean (n/C of it), a maximum (never below 0), a minimum."""
    shape, left = s.old_shape(s.inputs[0]), s.new_shape(s.inputs[0])
    stored = s.attr("axes") if s.attr("axes") is not None else s.value(1)
    axes = _axes(len(shape), None if stored is None else np.asarray(stored).reshape(-1).tolist(), _noop(s))
    share = prod(left[a] for a in axes) / max(prod(shape[a] for a in axes), 1)
    if share == 1:
        return
    if s.op == "ReduceMean":
        scale_result(s, share)
    elif s.op == "ReduceMax":
        s.then("Relu")
    elif s.op == "ReduceMin":
        s.then("Min", np.asarray(0, s.dtype(s.outputs[0])))


def trace_arg(n: NodeTrace) -> None:
    """ArgMax and ArgMin over `axis`: a wall over channels, labels along other axes pass."""
    axis = int(n.attr("axis", 0)) % len(n.shape(0))
    passed = over_axes(n, [axis], n.op)
    n.emit(_reduced(x, [axis], bool(n.attr("keepdims", 1))) for x in passed)


def _noop(node: NodeTrace | NodeSurgery) -> bool:
    return bool(node.attr("noop_with_empty_axes", 0))


def _axes(rank: int, listed: Sequence[int] | None, noop: bool) -> list[int]:
    if listed is None or not len(listed):
        return [] if noop else list(range(rank))
    return [a % rank for a in listed]


def _reduced(x: Labels, axes: list[int], keepdims: bool) -> Labels | None:
    """Labels after the reduction; along reduced axes all labels of a slice were joined, the first stands for all."""
    current: Labels | None = x
    for axis in axes:
        current = None if current is None else lb.take(current, axis, np.zeros(1, np.int64))
    if current is None or keepdims:
        return current
    return Labels(current.array, tuple(f for a, f in enumerate(current.factors) if a not in axes))


RULES = {
    **dict.fromkeys((*SUMS, *OTHERS), Rule(trace_reduce)),
    **dict.fromkeys(WITH_ZEROS, Rule(trace_reduce, rewrite_reduce)),
    **dict.fromkeys(("ArgMax", "ArgMin"), Rule(trace_arg)),
}
