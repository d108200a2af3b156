"""What is distilled."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import onnx

from ..model.light import Light
from .lineage import Lineage


@dataclass(frozen=True)
class Subject:
    """What is distilled. original: the teacher. pruned: the student, never modified; sha256: of its file. lineage: how
    the one came from the other."""

    original: Light
    original_sha256: str
    pruned: onnx.ModelProto
    sha256: str
    lineage: Lineage


def sha256_of(model: onnx.ModelProto) -> str:
    """Of the file as it would be written in one piece."""
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()
