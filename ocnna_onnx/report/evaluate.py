"""How close the pruned model is to the original on samples: agreement, and accuracy where labels exist."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx

from ..data.samples import Samples
from ..model.graph import AnyArray
from ..model.session import Runtime, open_session, run

Kind = Literal["top1", "pixel", "relative_l2"]


@dataclass(frozen=True)
class Agreement:
    """kind: `top1` (share of samples with the same class), `pixel` (share of pixels), or `relative_l2` (error)."""

    kind: Kind
    value: float
    samples: int
    accuracy_before: float | None = None
    accuracy_after: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The `agreement` entry of report.json."""
        return {"kind": self.kind, "value": self.value, "samples": self.samples}

    def accuracy_json(self) -> dict[str, Any] | None:
        """The `accuracy` entry of report.json; None without labels."""
        if self.accuracy_before is None:
            return None
        return {"before": self.accuracy_before, "after": self.accuracy_after, "samples": self.samples}


def evaluate(
    original: onnx.ModelProto,
    pruned: onnx.ModelProto,
    samples: Samples,
    batch: int,
    runtime: Runtime,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Agreement | None:
    """Run both (optimized, as users do) and compare their first float output; None where there is none.

    Accuracy: share of labelled samples whose arg max over the class axis is the label.
    """
    same = total = right_before = right_after = 0
    error = size = 0.0
    kind: Kind | None = None
    with open_session(original, runtime, True) as one, open_session(pruned, runtime, True) as two:
        name = next(
            (o.name for o in one.get_outputs() if o.type in ("tensor(float)", "tensor(float16)", "tensor(double)")),
            None,
        )
        if name is None:
            return None
        position = 0
        for feed, valid in samples.batches(batch):
            a = run(one, [name], feed)[name].astype(np.float64)
            b = run(two, [name], feed)[name].astype(np.float64)
            if a.ndim and a.shape[0] == batch:
                a, b = a[:valid], b[:valid]
            kind = kind or _kind(a)
            error += float(((a - b) ** 2).sum())
            size += float((a**2).sum())
            if kind != "relative_l2":
                ours, theirs = b.argmax(axis=1), a.argmax(axis=1)
                same += int((ours == theirs).sum())
                total += ours.size
                if samples.labels is not None and kind == "top1":
                    wanted = samples.labels[position : position + valid]
                    right_before += int((theirs == wanted).sum())
                    right_after += int((ours == wanted).sum())
            position += valid
            progress(position, samples.count)
    if kind is None:
        return None
    if kind == "relative_l2":
        return Agreement(kind, float(np.sqrt(error / size)) if size else 0.0, samples.count)
    if samples.labels is None or kind != "top1":
        return Agreement(kind, same / total, samples.count)
    return Agreement(kind, same / total, samples.count, right_before / total, right_after / total)


def _kind(output: AnyArray) -> Kind:
    if output.ndim == 2 and output.shape[1] > 1:
        return "top1"
    if output.ndim == 4 and output.shape[1] > 1:
        return "pixel"
    return "relative_l2"
