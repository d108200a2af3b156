"""Whether a candidate is better: on samples that are held out, in onnxruntime, as the file that would leave."""

from __future__ import annotations

from dataclasses import asdict
from math import inf, isfinite, sqrt
from typing import Any

from ..report.fidelity import Closeness

DOUBT = 2.0
"""Standard errors. With one, a single sample would decide where nearly all agree."""


def to_json(verdict: Closeness) -> dict[str, Any]:
    """As in the report: what is no number is null, which JSON has."""
    return {name: None if value is None or not isfinite(value) else value for name, value in asdict(verdict).items()}


def better(one: Closeness, other: Closeness | None, start: Closeness, samples: int) -> bool:
    """Whether `one` is to be taken rather than `other` (None: nothing but the start).

    What agrees less with the original than the start, or is right less often, never is. Among the others the higher
    agreement counts where the two differ by more than DOUBT standard errors of a share; else the lower error, which
    tells more than a few samples that sit on the edge between two classes.
    """
    if one.error == inf or one.error != one.error or not _holds(one, start):
        return False
    against = start if other is None else other
    if one.agreement is not None and against.agreement is not None:
        share = (one.agreement + against.agreement) / 2
        doubt = DOUBT * sqrt(max(share * (1 - share), 0.0) / samples)
        if abs(one.agreement - against.agreement) > doubt:
            return one.agreement > against.agreement
    return one.error < against.error


def _holds(one: Closeness, start: Closeness) -> bool:
    pairs = ((one.agreement, start.agreement), (one.accuracy, start.accuracy))
    if any(a is not None and b is not None and a < b for a, b in pairs):
        return False
    return one.agreement is not None or one.error <= start.error
