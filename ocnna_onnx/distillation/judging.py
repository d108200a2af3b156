"""Whether a candidate is better: on samples that are held out, in onnxruntime, as the file that would leave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, sqrt
from typing import Any

import onnx

from ..data.samples import Samples
from ..model.light import Light
from ..model.session import Runtime
from ..report.evaluate import evaluate
from ..report.fidelity import squared_error

Model = onnx.ModelProto | Light


@dataclass(frozen=True)
class Verdict:
    """Of one candidate. agreement: share of held-out samples (pixels) with the original's class; None where the outputs
    have no classes. accuracy: None without labels. error: `report.fidelity.squared_error`."""

    agreement: float | None
    accuracy: float | None
    error: float

    def to_json(self) -> dict[str, Any]:
        """As in the report."""
        return {"agreement": self.agreement, "accuracy": self.accuracy, "error": self.error}


def judge_of(original: Model, held: Samples, batch: int, runtime: Runtime, memory: int) -> Callable[[Model], Verdict]:
    """model -> how close it is to the original on held-out samples."""
    distance = squared_error(original, held, batch, runtime, memory)

    def judged(model: Model) -> Verdict:
        found = evaluate(original, model, held, batch, runtime)
        error = distance(model)
        if found is None or found.kind == "relative_l2":
            return Verdict(None, None, error)
        return Verdict(found.value, found.accuracy_after, error)

    return judged


def better(one: Verdict, other: Verdict | None, start: Verdict, samples: int) -> bool:
    """Whether `one` is to be taken rather than `other` (None: nothing but the start).

    What agrees less with the original than the start, or is right less often, never is. Among the others the higher
    agreement counts where the two differ by more than one standard error of a share; else the lower error, which tells
    more than a few samples that sit on the edge between two classes.
    """
    if one.error == inf or one.error != one.error or not _holds(one, start):
        return False
    against = start if other is None else other
    if one.agreement is not None and against.agreement is not None:
        share = (one.agreement + against.agreement) / 2
        doubt = sqrt(max(share * (1 - share), 0.0) / samples)
        if abs(one.agreement - against.agreement) > doubt:
            return one.agreement > against.agreement
    return one.error < against.error


def _holds(one: Verdict, start: Verdict) -> bool:
    pairs = ((one.agreement, start.agreement), (one.accuracy, start.accuracy))
    if any(a is not None and b is not None and a < b for a, b in pairs):
        return False
    return one.agreement is not None or one.error <= start.error
