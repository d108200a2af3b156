"""ocnna-onnx: makes trained convolutional networks smaller and faster as ONNX files, with a proof on every run.

>>> import ocnna_onnx
>>> result = ocnna_onnx.prune("in.onnx", data="calibration.npz", ratio=0.3)
>>> result.save("out.onnx")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {  # name -> module; loaded when first used, so that importing the package stays cheap
    "prune": "pipeline",
    "score": "scoring",
    "Scores": "criteria.scores",
    "read_scores": "criteria.scores",
    "sensitivity": "gauging",
    "Sensitivities": "plan.sensitivities",
    "Sensitivity": "plan.sensitivities",
    "read_sensitivities": "plan.sensitivities",
    "distill": "distilling",
    "Distilled": "distilling",
    "search": "evolution.search",
    "Search": "evolution.found",
    "Standing": "evolution.search",
    "inspect": "pipeline",
    "apply": "pipeline",
    "check": "verify",
    "calibration_reader": "data.reader",
    "CalibrationReader": "data.reader",
    "ImageOptions": "data.imageoptions",
    "Result": "finishing",
    "CheckResult": "verify",
    "Plan": "plan.plan",
    "read_plan": "plan.plan",
    "Inspection": "report.inspection",
    "Why": "report.why",
    "OcnnaError": "errors",
    "UsageError": "errors",
    "ModelError": "errors",
    "ShapeNeeded": "errors",
    "DataError": "errors",
    "NothingFree": "errors",
    "ProofFailed": "errors",
    "TargetMissed": "errors",
}

if TYPE_CHECKING:
    from .criteria.scores import Scores, read_scores
    from .data.imageoptions import ImageOptions
    from .data.reader import CalibrationReader, calibration_reader
    from .distilling import Distilled, distill
    from .errors import (
        DataError,
        ModelError,
        NothingFree,
        OcnnaError,
        ProofFailed,
        ShapeNeeded,
        TargetMissed,
        UsageError,
    )
    from .evolution.found import Search
    from .evolution.search import Standing, search
    from .finishing import Result
    from .gauging import sensitivity
    from .pipeline import apply, inspect, prune
    from .plan.plan import Plan, read_plan
    from .plan.sensitivities import Sensitivities, Sensitivity, read_sensitivities
    from .report.inspection import Inspection
    from .report.why import Why
    from .scoring import score
    from .verify import CheckResult, check

__all__ = [
    "CalibrationReader",
    "CheckResult",
    "DataError",
    "Distilled",
    "ImageOptions",
    "Inspection",
    "ModelError",
    "NothingFree",
    "OcnnaError",
    "Plan",
    "ProofFailed",
    "Result",
    "Scores",
    "Search",
    "Sensitivities",
    "Sensitivity",
    "ShapeNeeded",
    "Standing",
    "TargetMissed",
    "UsageError",
    "Why",
    "__version__",
    "apply",
    "calibration_reader",
    "check",
    "distill",
    "inspect",
    "prune",
    "read_plan",
    "read_scores",
    "read_sensitivities",
    "score",
    "search",
    "sensitivity",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
