"""The stamp: what was done to a model, kept in the model's own metadata."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import onnx

KEY = "ocnna_onnx"


def read_stamp(model: onnx.ModelProto) -> list[dict[str, Any]]:
    """The entries of prunes in the stamp, oldest first; each with `version`, `source_sha256` and `plan` (a decoded
    plan.json).

    An unreadable stamp counts as none.
    """
    text = next((p.value for p in model.metadata_props if p.key == KEY), "")
    try:
        entries = json.loads(text) if text else []
        prunes = [e for e in entries if "distilled" not in e]
        return [{**e, "plan": json.loads(zlib.decompress(base64.b64decode(e["plan"])))} for e in prunes]
    except (ValueError, KeyError, TypeError, zlib.error):
        return []


def add_stamp(model: onnx.ModelProto, version: str, sha256: str, plan: dict[str, Any]) -> None:
    """Append the entry of a prune, in place."""
    packed = base64.b64encode(zlib.compress(json.dumps(plan, sort_keys=True).encode(), 9)).decode()
    add_entry(model, {"version": version, "source_sha256": sha256, "plan": packed})


def add_entry(model: onnx.ModelProto, entry: dict[str, Any]) -> None:
    """Append any entry, in place."""
    text = next((p.value for p in model.metadata_props if p.key == KEY), "")
    try:
        entries = json.loads(text) if text else []
    except ValueError:
        entries = []
    entries = entries if isinstance(entries, list) else []
    entries.append(entry)
    for prop in model.metadata_props:
        if prop.key == KEY:
            prop.value = json.dumps(entries)
            return
    model.metadata_props.add(key=KEY, value=json.dumps(entries))
