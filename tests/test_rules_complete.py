"""Every operator with a rule is in the net of some test."""

from __future__ import annotations

import test_rules
import test_rules_rewrites

from ocnna_onnx.trace.rules import RULES

TABLES = (test_rules.TABLE, test_rules_rewrites.TABLE)


def test_every_operator_with_a_rule_has_a_case() -> None:
    tested = set().union(*(table.operators for table in TABLES))
    assert set(RULES) <= {op for domain, op in tested if domain == ""}
