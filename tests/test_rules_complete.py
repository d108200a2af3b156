"""Every operator with a rule is in the net of some test."""

from __future__ import annotations

import test_rules
import test_rules_microsoft
import test_rules_rewrites

from ocnna_onnx.trace.rules import MICROSOFT, RULES

TABLES = (test_rules.TABLE, test_rules_rewrites.TABLE, test_rules_microsoft.TABLE)


def test_every_operator_with_a_rule_has_a_case() -> None:
    tested = set().union(*(table.operators for table in TABLES))
    assert {("", op) for op in RULES} | {("com.microsoft", op) for op in MICROSOFT} <= tested
