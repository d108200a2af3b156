"""Whether repaired weights bring a net's outputs closer to the original's."""

from __future__ import annotations

import numpy as np
import onnx

from ..data.samples import Samples
from ..errors import UsageError
from ..model.light import Light
from ..model.session import Runtime, open_session, run
from ..report.evaluate import of_samples
from ..report.fidelity import squared_error

Model = onnx.ModelProto | Light


def how_much_worse(
    original: Model, before: Model, after: Model, samples: Samples, batch: int, runtime: Runtime, memory: int
) -> tuple[float, float] | None:
    """None where it is no worse on these samples, by `report.fidelity.squared_error` (which looks at classes) or by the
    plain squared error of the outputs; else the former of both nets."""
    try:
        distance = squared_error(original, samples, batch, runtime, memory)
    except UsageError:  # no output that could be compared
        return None
    with np.errstate(over="ignore"):  # an output that is zero throughout
        errors = distance(before), distance(after)
    if errors[1] <= errors[0]:
        return None
    plain = [_relative(original, model, samples, batch, runtime) for model in (before, after)]
    return None if np.isfinite(plain[1]) and plain[1] <= plain[0] else errors


def _relative(original: Model, model: Model, samples: Samples, batch: int, runtime: Runtime) -> float:
    """‖b − a‖² / ‖a‖², the mean over float outputs."""
    with open_session(original, runtime, True) as one, open_session(model, runtime, True) as two:
        names = [o.name for o in one.get_outputs() if o.type.startswith(("tensor(float", "tensor(double"))]
        sums = np.zeros((len(names), 2))
        for feed, valid in samples.batches(batch):
            theirs, ours = run(one, names, feed), run(two, names, feed)
            for k, name in enumerate(names):
                a, b = (of_samples(found[name], batch, valid).astype(np.float64) for found in (theirs, ours))
                if a.shape != b.shape:
                    return float("inf")
                sums[k] += ((b - a) ** 2).sum(), (a**2).sum()
    with np.errstate(over="ignore"):
        shares = sums[:, 0] / np.maximum(sums[:, 1], np.finfo(np.float64).tiny)
    return float(shares.mean()) if names else float("inf")
