"""Rules by operator: one file per family, each with a table `RULES`; this is the table of tables."""

from __future__ import annotations

from . import contraction, elementwise, movement, normalize, quantize, reduce, spatial
from .rule import NodeSurgery, Rule

RULES: dict[str, Rule] = {
    **contraction.RULES,
    **elementwise.RULES,
    **movement.RULES,
    **normalize.RULES,
    **quantize.RULES,
    **reduce.RULES,
    **spatial.RULES,
}

__all__ = ["RULES", "NodeSurgery", "Rule"]
