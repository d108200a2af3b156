"""What is left of a net when everything goes that may: no budget below it can be met."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..plan.costs import cost_model
from ..trace.labels import IntArray
from ..trace.types import Trace


def reach(trace: Trace, deepest: IntArray) -> dict[str, Any]:
    """The `reachable` entry of report.json: parameters and multiply–accumulates that are left, and as shares. deepest:
    the classes that go then."""
    costs = cost_model(trace)
    gone = np.zeros(len(trace.free), bool)
    params, macs = costs.params_left(gone), costs.macs_left(gone)
    gone[deepest] = True
    left = {"params": round(costs.params_left(gone)), "macs": round(costs.macs_left(gone))}
    ratios = {"params_ratio": left["params"] / max(1.0, params), "macs_ratio": left["macs"] / max(1.0, macs)}
    return {**left, **ratios, "removed": len(deepest)}
