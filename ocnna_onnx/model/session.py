"""The one place where onnxruntime sessions are made, with the user's provider and threads."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from ..errors import ModelError, UsageError
from .graph import AnyArray
from .twin import as_fed, fp32_twin, has_bfloat16

if TYPE_CHECKING:
    import onnxruntime

PROTOBUF_LIMIT = 2_000_000_000


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


def weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of the initializers' data, as an estimate of the serialized size that cannot overflow."""
    return sum(len(t.raw_data) or 8 * int(np.prod(t.dims, dtype=np.int64)) for t in model.graph.initializer)


@contextmanager
def open_session(
    model: onnx.ModelProto, runtime: Runtime, optimize: bool = False, twin: bool = True
) -> Iterator[onnxruntime.InferenceSession]:
    """A session on an in-memory model. `optimize=False` keeps every node as written (no fusion, no reordering); `twin`
    runs what computes in bfloat16 as its fp32 twin.

    Raises ModelError with onnxruntime's own first line where it refuses the model.
    """
    import onnxruntime as ort

    if twin and has_bfloat16(model):
        model = fp32_twin(model)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = runtime.threads
    options.inter_op_num_threads = 1
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    with ExitStack() as stack:
        try:
            if weight_bytes(model) < PROTOBUF_LIMIT:
                session = ort.InferenceSession(model.SerializeToString(), options, providers=list(runtime.providers))
            else:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ocnna-onnx-"))
                path = Path(folder) / "model.onnx"
                copy = onnx.ModelProto()
                copy.CopyFrom(model)
                onnx.save_model(copy, str(path), save_as_external_data=True, location="model.data")
                del copy
                session = ort.InferenceSession(str(path), options, providers=list(runtime.providers))
        except Exception as error:  # onnxruntime raises a dozen unrelated types
            raise ModelError(f"onnxruntime cannot open the model: {first_line(error)}") from error
        yield session


def run(
    session: onnxruntime.InferenceSession, outputs: Sequence[str], feed: Mapping[str, AnyArray]
) -> dict[str, AnyArray]:
    """Outputs by name. ModelError with onnxruntime's first line where a node fails."""
    try:
        return dict(zip(outputs, session.run(list(outputs), {n: as_fed(a) for n, a in feed.items()}), strict=True))
    except Exception as error:
        raise ModelError(f"onnxruntime cannot run the model: {first_line(error)}") from error


def with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy of the model whose outputs are these tensors."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    known = {o.name: o for o in model.graph.output}
    copy.graph.output.extend(known.get(n, onnx.ValueInfoProto(name=n)) for n in names)
    return copy


def first_line(error: BaseException) -> str:
    """The first line of an error's text, without onnxruntime's code prefix."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return text.split(" : ")[-1] if text.startswith("[ONNXRuntimeError]") else text
