"""Trained values back in the file: as it stores them, and seen to give what the student gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from ..errors import ProofFailed
from ..model.graph import AnyArray, Graph
from ..model.light import light
from ..model.session import open_session, run
from ..repair.values import with_values
from ..rewrite.only import only_values
from ..settings import Settings
from .feeding import tensors
from .loop import Nets, State, Values
from .nets import EQUAL, how_far
from .split import Split
from .subject import Subject

EQUAL_HALF = 3e-2
"""How far apart the file and the student may be at the end, where onnxruntime computes in float16 or bfloat16."""


def stored_types(model: onnx.ModelProto) -> dict[str, np.dtype[Any]]:
    """The type of every float that is stored, by name."""
    graph = Graph(model)
    found = {t.name: onnx.helper.tensor_dtype_to_np_dtype(t.data_type) for t in model.graph.initializer}
    for node in graph.nodes:
        if node.op_type == "Constant":
            value = next((a.t for a in node.attribute if a.name == "value"), None)
            kind = onnx.TensorProto.FLOAT if value is None else value.data_type
            found[node.output[0]] = onnx.helper.tensor_dtype_to_np_dtype(kind)
    return found


def rounded(values: Values, stored: Mapping[str, np.dtype[Any]]) -> dict[str, AnyArray]:
    """In the types of the file."""
    with np.errstate(over="ignore"):  # what overflows is judged as it is
        return {name: value.astype(stored[name]) for name, value in values.items()}


def final_of(subject: Subject, nets: Nets, state: State, split: Split, settings: Settings) -> onnx.ModelProto:
    """The file that leaves: only values differ, and onnxruntime computes with it what the student does."""
    import torch

    if state.best is None:
        copy = onnx.ModelProto()
        copy.CopyFrom(subject.pruned)
        return copy
    stored = stored_types(subject.pruned)
    final = with_values(subject.pruned, rounded(state.best, stored))
    only_values(subject.pruned, light(final))
    batch = nets.feeding.batch
    feed, _ = next(split.held.batches(batch))
    with torch.no_grad():
        for name, weight in nets.student.weights.items():
            weight.copy_(nets.student.parameter(name, state.best[name]))
        found = dict(zip(nets.student.outputs, nets.student(tensors(feed)), strict=True))
    names = list(nets.loss.kinds)
    with open_session(final, settings.runtime) as session:
        wanted = run(session, names, feed)
    half = any(stored[name] != np.float32 for name in state.best)
    limit = EQUAL_HALF if half else EQUAL
    for name in names:
        off = how_far(wanted[name], found[name].numpy())
        if not off <= limit:
            raise ProofFailed(
                f"the distilled file differs from the student at output '{name}' by {off:.1e} (limit {limit:g}): "
                "nothing was written (a defect; please report it)"
            )
    return final
