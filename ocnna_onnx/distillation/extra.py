"""The extra `[distill]`: PyTorch and onnx2torch, imported when first needed, or one line that says what to install."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from ..errors import UsageError

INSTALL = "pip install 'ocnna-onnx[distill]'"


@cache
def onnx2torch() -> ModuleType:
    """The library that makes torch modules of ONNX nodes. Raises UsageError where it, or PyTorch, is not installed."""
    for name in ("torch", "onnx2torch"):
        if importlib.util.find_spec(name) is None:
            raise UsageError(f"distillation needs {name}, which is not installed: {INSTALL}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # others' deprecations
        try:
            _meet_torchvision()
            return import_module("onnx2torch")
        except (ImportError, RuntimeError, OSError) as error:
            first = (str(error).splitlines() or [""])[0]
            raise UsageError(
                f"distillation needs torch and onnx2torch, which do not load ({first}): {INSTALL}"
            ) from error


@cache
def _meet_torchvision() -> Any:
    """onnx2torch imports torchvision for two operators of detectors. A torchvision whose compiled part does not fit
    this torch (a CPU build beside one from PyPI) fails on import, since its operators are not declared: then they are
    declared here, without an implementation. Returns what must stay alive for that."""
    try:
        import_module("torchvision")
        return None
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    torch: Any = import_module("torch")
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import_module("torchvision")
    return library
