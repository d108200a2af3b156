"""How close the pruned model is to the original on samples: agreement, and accuracy where labels exist."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx

from ..data.samples import IntArray, Samples
from ..errors import DataError
from ..model.graph import AnyArray
from ..model.light import Light
from ..model.session import Runtime, open_session, run

Kind = Literal["top1", "pixel", "relative_l2"]


@dataclass(frozen=True)
class Agreement:
    """kind: `top1` (share of samples with the same class), `pixel` (share of pixels), or `relative_l2` (error).
    relative_l2: ‖pruned − original‖ / ‖original‖ of the output, whatever the kind."""

    kind: Kind
    value: float
    samples: int
    relative_l2: float = 0.0
    accuracy_before: float | None = None
    accuracy_after: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The `agreement` entry of report.json."""
        return {"kind": self.kind, "value": self.value, "samples": self.samples, "relative_l2": self.relative_l2}

    def accuracy_json(self) -> dict[str, Any] | None:
        """The `accuracy` entry of report.json; None without labels."""
        if self.accuracy_before is None:
            return None
        return {"before": self.accuracy_before, "after": self.accuracy_after, "samples": self.samples}


def evaluate(
    original: onnx.ModelProto | Light,
    pruned: onnx.ModelProto | Light,
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
    labels: IntArray | None = None
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
            a, b = of_samples(a, batch, valid), of_samples(b, batch, valid)
            if kind is None:
                kind = kind_of(a)
                labels = usable_labels(samples, a, kind)
            error += float(((a - b) ** 2).sum())
            size += float((a**2).sum())
            if kind != "relative_l2":
                ours, theirs = b.argmax(axis=1), a.argmax(axis=1)
                same += int((ours == theirs).sum())
                total += ours.size
                if labels is not None:
                    wanted = labels[position : position + valid]
                    right_before += int((theirs == wanted).sum())
                    right_after += int((ours == wanted).sum())
            position += valid
            progress(position, samples.count)
    if kind is None:
        return None
    distance = float(np.sqrt(error / size)) if size else 0.0
    if kind == "relative_l2":
        return Agreement(kind, distance, samples.count, distance)
    if labels is None:
        return Agreement(kind, same / total, samples.count, distance)
    return Agreement(kind, same / total, samples.count, distance, right_before / total, right_after / total)


def usable_labels(samples: Samples, output: AnyArray, kind: Kind) -> IntArray | None:
    """The labels, where the output has classes. Raises DataError for labels that are none of them."""
    if samples.labels is None or kind != "top1":
        return None
    low, high = int(samples.labels.min()), int(samples.labels.max())
    if 0 <= low <= high < output.shape[1]:
        return samples.labels
    if samples.foreign_labels:
        return None
    raise DataError(f"{samples.source}: labels are {low} … {high}, the model has {output.shape[1]} classes")


def of_samples(output: AnyArray, batch: int, valid: int) -> AnyArray:
    """What belongs to the first `valid` samples of a batch; class scores as 1 × 1 maps become [samples, classes]."""
    if output.ndim and output.shape[0] == batch:
        output = output[:valid]
    if output.ndim > 2 and output.size == output.shape[0] * output.shape[1]:
        output = output.reshape(output.shape[:2])
    return output


def kind_of(output: AnyArray) -> Kind:
    """How it is compared: by arg max where axis 1 holds classes (of a sample, or of a pixel), else by its values."""
    if output.ndim == 2 and output.shape[1] > 1:
        return "top1"
    if output.ndim == 4 and output.shape[1] > 1:
        return "pixel"
    return "relative_l2"
