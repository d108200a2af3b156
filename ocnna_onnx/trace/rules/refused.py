"""Operators that channels cannot pass, and why, where a person would ask: what `inspect` says in place of a rule."""

from __future__ import annotations

import onnx

from ...model.graph import is_standard

BLOCKED = "channels are stored in blocks for one kind of CPU; save the model at ORT_ENABLE_EXTENDED or below instead"
DOMAINS = {"com.microsoft.nchwc": BLOCKED}
REASONS: dict[tuple[str, str], str] = {}


def reason_without_rule(node: onnx.NodeProto) -> str:
    """Why the channels that reach an operator without a rule stay."""
    kind = node.op_type if is_standard(node) else f"{node.domain}.{node.op_type}"
    domain = "" if is_standard(node) else node.domain
    why = REASONS.get((domain, node.op_type), DOMAINS.get(domain))
    return f"no rule for the operator {kind}" if why is None else f"{kind}: {why}"
