"""Every operator with a rule is in the net of some test."""

from __future__ import annotations

import test_rules
import test_rules_microsoft
import test_rules_more
import test_rules_rewrites

from ocnna_onnx.trace.rules import MICROSOFT, RULES

TABLES = tuple(m.TABLE for m in (test_rules, test_rules_microsoft, test_rules_more, test_rules_rewrites))


def test_every_operator_with_a_rule_has_a_case() -> None:
    tested = set().union(*(table.operators for table in TABLES))
    assert {("", op) for op in RULES} | {("com.microsoft", op) for op in MICROSOFT} <= tested
