"""Which layers of a pruned net can be repaired, and why the others are left as they are."""

from __future__ import annotations

from dataclasses import dataclass

from ..calibrate.linear import Linear, linear
from ..model.constants import Constants
from ..model.graph import AnyArray, Graph, bodies, captured
from ..model.session import Runtime
from ..model.shapes import Shapes
from ..rewrite.rewrite import Rewritten
from ..trace.types import Trace
from .slots import Slot, Stored, bias_slot, fixed_bias, stored_weight_of

QUANTIZED = frozenset("QLinearConv ConvInteger MatMulInteger QLinearMatMul QGemm DynamicQuantizeMatMul".split())

LISTED = 3
"""How many nodes a note names."""


@dataclass(frozen=True)
class Layer:
    """A node of the pruned graph with weights of its own. weight, slot: where weight and bias are stored. offset: a
    bias that stays, [outputs] or [1]."""

    node: int
    map: Linear
    weight: Stored
    slot: Slot | None
    offset: AnyArray


def pruned_shapes(trace: Trace, rewritten: Rewritten, graph: Graph) -> Shapes:
    """Shapes and types of the pruned graph's tensors, weights under new names among them."""
    stored = {n: t.data_type for n, t in graph.initializers.items()}
    before = trace.shapes
    return Shapes(rewritten.shapes, {**before.dtype, **stored}, before.dynamic, before.feeds, before.batch)


def pruned_constants(trace: Trace, shapes: Shapes, graph: Graph, runtime: Runtime) -> Constants:
    """What is known ahead in the pruned graph."""
    return Constants(graph, shapes.shape, runtime, None, shapes.dtype, trace.constants.strict_inputs)


def find_layers(
    trace: Trace, rewritten: Rewritten, graph: Graph, shapes: Shapes, constants: Constants
) -> tuple[list[Layer], dict[str, list[str]]]:
    """Layers whose kept outputs the cut has changed, in topological order; and reason -> nodes that are left alone."""
    found: list[Layer] = []
    left: dict[str, list[str]] = {}
    touched = _touched(trace, rewritten, graph)
    for i in graph.order:
        if i not in touched:
            continue
        layer = layer_at(trace, graph, shapes, constants, i)
        if isinstance(layer, Layer):
            found.append(layer)
        elif layer:
            left.setdefault(layer, []).append(graph.names[i])
    return found, left


def notes_of(left: dict[str, list[str]]) -> list[str]:
    """One line per reason."""
    found = []
    for reason, nodes in left.items():
        more = f" and {len(nodes) - LISTED} more" if len(nodes) > LISTED else ""
        found.append(f"left as it is, {reason}: {', '.join(nodes[:LISTED])}{more}")
    return found


def layer_at(trace: Trace, graph: Graph, shapes: Shapes, constants: Constants, index: int) -> Layer | str:
    """The node as a layer, or why it is none that can be repaired; '' for a node without weights."""
    node = graph.nodes[index]
    if node.op_type in QUANTIZED:
        return "its weight is quantized"
    known = all(n in shapes.shape for n in (*node.input[:2], node.output[0]) if n)
    map_ = linear(graph, shapes, constants, index) if known else None
    if map_ is None:
        return _unknown(trace, graph, constants, index)
    if map_.output not in trace.graph.producer or map_.output not in trace.shapes.shape:
        return "the original has no such tensor"
    if map_.axis == 0 or map_.out_axis == 0:
        return "its channels lie along axis 0"
    if map_.alpha == 0:
        return "its weight has no say (alpha is 0)"
    weight = stored_weight_of(graph, node.input[map_.weight])
    if isinstance(weight, str):
        return weight
    slot = bias_slot(graph, map_, constants)
    offset = fixed_bias(graph, constants, map_, slot)
    return offset if isinstance(offset, str) else Layer(index, map_, weight, slot, offset)


def _unknown(trace: Trace, graph: Graph, constants: Constants, index: int) -> str:
    """Why a node that contracts channels with weights is no layer to us."""
    node = graph.nodes[index]
    number = trace.graph.producer.get(node.output[0], -1)
    contracts = any((number, k) in trace.masks for k in range(len(node.input)))
    weights = any(n in constants.fixed and len(constants.shape.get(n, ())) > 1 for n in node.input)
    if (contracts and weights) or any(True for _ in bodies(node)):
        return f"{node.op_type} is no layer that is repaired"
    return ""


def _touched(trace: Trace, rewritten: Rewritten, graph: Graph) -> set[int]:
    """Nodes whose kept outputs differ from the original's: they mix channels of which some went (the proof's oracle
    silences them there), or read what differs."""
    kept, masks = rewritten.kept, trace.masks
    found: set[int] = set()
    changed: set[str] = set()
    for i in graph.order:
        node = graph.nodes[i]
        number = trace.graph.producer.get(next(filter(None, node.output), ""), -1)
        before = trace.graph.nodes[number].input if number >= 0 else ()
        mixed = any((number, k) in masks and kept.changed(n) for k, n in enumerate(before) if n)
        new = number < 0 and any(n in trace.labels and kept.changed(n) for n in node.input if n)
        reads = any(n in changed for n in (*node.input, *captured(node)))
        if mixed or new or reads:
            found.add(i)
            changed.update(o for o in node.output if o)
    return found
