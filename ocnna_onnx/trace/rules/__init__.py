"""Rules by operator: one file per family, each with a table `RULES` of ONNX's own operators and perhaps one of
onnxruntime's (`MICROSOFT`); this is the table of tables."""

from __future__ import annotations

import onnx

from . import (
    contraction,
    einsum,
    elementwise,
    growing,
    indexed,
    movement,
    normalize,
    product,
    quantize,
    recurrent,
    reduce,
    selecting,
    spatial,
)
from .refused import reason_without_rule
from .rule import NodeSurgery, Rule

RULES: dict[str, Rule] = {
    **contraction.RULES,
    **einsum.RULES,
    **elementwise.RULES,
    **growing.RULES,
    **indexed.RULES,
    **movement.RULES,
    **normalize.RULES,
    **product.RULES,
    **quantize.RULES,
    **recurrent.RULES,
    **reduce.RULES,
    **selecting.RULES,
    **spatial.RULES,
}
MICROSOFT: dict[str, Rule] = {
    **contraction.MICROSOFT,
    **elementwise.MICROSOFT,
    **growing.MICROSOFT,
    **indexed.MICROSOFT,
    **normalize.MICROSOFT,
    **product.MICROSOFT,
    **quantize.MICROSOFT,
    **spatial.MICROSOFT,
}
DOMAINS = {"": RULES, "ai.onnx": RULES, "com.microsoft": MICROSOFT}


def rule_for(node: onnx.NodeProto) -> Rule | None:
    """The rule of a node's operator, by domain and name; None where there is none."""
    return DOMAINS.get(node.domain, {}).get(node.op_type)


__all__ = ["MICROSOFT", "RULES", "NodeSurgery", "Rule", "reason_without_rule", "rule_for"]
