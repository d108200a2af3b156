"""Weights that several nodes read on purpose (a head shared by pyramid levels) are cut once."""

from __future__ import annotations

from .context import NodeTrace, Record
from .rules import rule_for


def tie_shared_weights(record: Record) -> None:
    """Readers of one matrix or kernel agree along every axis, so that it stays one tensor.

    Vectors are copied per reader instead (in the rewrite): exporters share equal biases by coincidence.
    """
    readers: dict[str, set[int]] = {}
    for i, node in enumerate(record.graph.nodes):
        rule = rule_for(node)
        if rule is None or not rule.source:
            continue
        for name in node.input:
            if name in record.constants.fixed and len(record.shapes.shape.get(name, ())) >= 2:
                readers.setdefault(record.constants.root(name), set()).add(i)
    shared = {name for name, nodes in readers.items() if len(nodes) > 1}
    places: dict[tuple[str, int], list[int]] = {}
    for k, cut in enumerate(record.cuts):
        name = record.constants.root(record.graph.nodes[cut.node].input[cut.input])
        if name in shared:
            places.setdefault((name, cut.axis), []).append(k)
    for (name, axis), found in places.items():
        cuts = [record.cuts[k] for k in found]
        first = cuts[0].labels.array.reshape(-1)
        n = NodeTrace(record, cuts[0].node, record.graph.nodes[cuts[0].node])
        fixed_elsewhere = readers[name] - {cut.node for cut in cuts}
        for cut in cuts:
            own = cut.labels.array.reshape(-1)
            if fixed_elsewhere:
                n.wall_units(own, f"'{name}' is shared with a node for which axis {axis} is fixed", name)
            elif len(own) == len(first):
                n.join_units(first, own, f"'{name}' is shared with a node for which axis {axis} is fixed")
            else:
                n.wall_units(own, f"'{name}' is shared by nodes that use it differently", name)
