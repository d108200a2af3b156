"""A distillation behind something else, as it is asked for."""

from __future__ import annotations

from math import prod

from onnx import TensorProto
from onnx.helper import tensor_dtype_to_np_dtype

from ..errors import ModelError, UsageError
from ..model.load import LoadedModel
from ..model.save import PROTOBUF_LIMIT
from ..settings import Settings
from .extra import onnx2torch
from .recipe import Recipe, recipe_named


def recipe_for(distill: str | float, settings: Settings) -> Recipe:
    """A distillation as it is asked for, once the extra and samples are seen to be there. Raises UsageError."""
    recipe = recipe_named(distill, settings.seed)
    if settings.data is None:
        raise UsageError("distillation learns from samples, without labels: give data (--data), the more the better")
    onnx2torch()
    return recipe


def check_size(loaded: LoadedModel) -> None:
    """Refuse a model that is too large for one protobuf as it is converted to PyTorch (half floats as float32), before
    minutes are spent on it. Raises ModelError."""
    halves = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    size = sum(
        prod(t.dims) * (4 if t.data_type in halves else tensor_dtype_to_np_dtype(t.data_type).itemsize)
        for t in loaded.proto.graph.initializer
    )
    if size >= PROTOBUF_LIMIT:
        raise ModelError(
            f"{loaded.name}: {size / 1e9:.1f} GB of weights (as float32) are more than the {PROTOBUF_LIMIT / 1e9:g} GB "
            "that a net can have to be distilled; prune it without a distillation"
        )
