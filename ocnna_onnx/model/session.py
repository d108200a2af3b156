"""The one place where onnxruntime sessions are made, with the user's provider and threads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx

from ..errors import ModelError, UsageError
from .graph import AnyArray, captured
from .light import Light, light
from .twin import as_fed, fp32_twin, has_bfloat16

if TYPE_CHECKING:
    import onnxruntime

OVERRIDABLE_IR = 4
"""Before this version initializers had to be inputs, too, and no caller could override them."""


@dataclass(frozen=True)
class Runtime:
    """How onnxruntime is to run: execution providers in order of preference, and threads (0: onnxruntime's choice)."""

    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    threads: int = 0


def check_providers(names: Sequence[str]) -> None:
    """Raises UsageError for an execution provider that this onnxruntime does not have."""
    import onnxruntime

    available = onnxruntime.get_available_providers()
    for name in names:
        if name not in available:
            raise UsageError(f"providers: {name} is not available here ({', '.join(available)})")


@contextmanager
def open_session(
    model: onnx.ModelProto | Light, runtime: Runtime, optimize: bool = False, twin: bool = True, shared: bool = False
) -> Iterator[onnxruntime.InferenceSession]:
    """A session on an in-memory model. `optimize=False` keeps every node as written (no fusion, no reordering); `twin`
    runs what computes in bfloat16 as its fp32 twin; `shared` leaves the cores to others as soon as a run ends.

    Raises ModelError with onnxruntime's own first line where it refuses the model.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = runtime.threads
    options.inter_op_num_threads = 1
    if shared:
        options.add_session_config_entry("session.force_spinning_stop", "1")
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    opened = model if isinstance(model, Light) else light(model)
    if twin and has_bfloat16(opened.proto):
        opened = light(Light(fp32_twin(opened.proto), opened.weights))
    read = _read(opened.proto)  # onnxruntime drops the others, and then does not find them
    present = [t.name for t in opened.proto.graph.initializer if t.name in opened.weights and t.name in read]
    values = [ort.OrtValue.ortvalue_from_numpy(opened.weights[name]) for name in present]  # they share its memory
    try:
        options.add_external_initializers(present, values)
        proto = opened.proto.SerializeToString()
        session = ort.InferenceSession(proto, options, providers=list(runtime.providers))
    except Exception as error:  # onnxruntime raises a dozen unrelated types
        raise ModelError(f"onnxruntime cannot open the model: {first_line(error)}") from error
    yield session


def _read(model: onnx.ModelProto) -> set[str]:
    """Names that a node, a body or an output reads, or that a caller may override."""
    names = {name for node in model.graph.node for name in (*node.input, *captured(node))}
    overridable = model.graph.input if model.ir_version >= OVERRIDABLE_IR else ()
    return names | {v.name for v in (*model.graph.output, *overridable)}


def run(
    session: onnxruntime.InferenceSession, outputs: Sequence[str], feed: Mapping[str, AnyArray]
) -> dict[str, AnyArray]:
    """Outputs by name. ModelError with onnxruntime's first line where a node fails."""
    try:
        return dict(zip(outputs, session.run(list(outputs), {n: as_fed(a) for n, a in feed.items()}), strict=True))
    except Exception as error:
        raise ModelError(f"onnxruntime cannot run the model: {_failing_node(first_line(error))}") from error


def _failing_node(text: str) -> str:
    """onnxruntime's message with the innermost node that failed in front, instead of one sentence per level."""
    found = re.findall(r"while running (\S+) node\. Name:'([^']*)'", text)
    if not found:
        return text
    op, name = found[-1]
    inside = f" in the body of '{found[0][1]}'" if len(found) > 1 else ""
    return f"node '{name}' ({op}){inside}: {text.rsplit('Status Message: ', 1)[-1]}"


def first_line(error: BaseException) -> str:
    """The first line of an error's text, without onnxruntime's code prefix."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return text.split(" : ")[-1] if text.startswith("[ONNXRuntimeError]") else text
