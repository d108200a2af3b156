"""How much worse a pruned net is on samples, with what the number of samples allows to be said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from ..data.samples import Samples
from ..model.light import Light
from ..model.session import Runtime, open_session, run
from .bound import mean_bound, paired_bound, share_bound
from .evaluate import Kind, kind_of, of_samples, usable_labels

FLOATS = ("tensor(float)", "tensor(float16)", "tensor(double)")


@dataclass(frozen=True)
class Difference:
    """kind: `accuracy` (labels: how much less), `top1` or `pixel` (how many disagree with the original), or
    `relative_l2`. value: as a share (0.01: a percentage point). bound: its upper 90 % bound. samples: how many. floor:
    the bound if nothing had changed: fewer samples cannot show less."""

    kind: str
    value: float
    bound: float
    samples: int
    floor: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """For the report."""
        return {
            "kind": self.kind,
            "value": self.value,
            "bound": self.bound,
            "samples": self.samples,
            "floor": self.floor,
        }


def difference(
    original: onnx.ModelProto | Light, pruned: onnx.ModelProto | Light, samples: Samples, batch: int, runtime: Runtime
) -> Difference | None:
    """Of the first float output; None where there is none."""
    worse = better = changed = total = 0
    errors: list[float] = []
    sizes: list[float] = []
    kind: Kind | None = None
    with open_session(original, runtime, True) as one, open_session(pruned, runtime, True) as two:
        name = next((o.name for o in one.get_outputs() if o.type in FLOATS), None)
        if name is None:
            return None
        position = 0
        labels = None
        for feed, valid in samples.batches(batch):
            a, b = (of_samples(run(s, [name], feed)[name].astype(np.float64), batch, valid) for s in (one, two))
            if kind is None:
                kind = kind_of(a)
                labels = usable_labels(samples, a, kind)
            rows = a.reshape(len(a), -1) if a.ndim else a.reshape(1, 1)
            other = b.reshape(rows.shape)
            errors.extend(((rows - other) ** 2).sum(axis=1).tolist())
            sizes.extend((rows**2).sum(axis=1).tolist())
            if kind != "relative_l2":
                theirs, ours = a.argmax(axis=1), b.argmax(axis=1)
                apart = (theirs != ours).reshape(len(a), -1).mean(axis=1)
                changed += float(apart.sum())  # type: ignore[assignment]
                total += len(a)
                if labels is not None:
                    wanted = labels[position : position + valid]
                    worse += int(((theirs == wanted) & (ours != wanted)).sum())
                    better += int(((theirs != wanted) & (ours == wanted)).sum())
            position += valid
    if kind is None:
        return None
    if kind == "relative_l2":
        scale = float(np.mean(sizes)) or 1.0
        values = np.array(errors) / scale
        return Difference(kind, float(np.sqrt(values.mean())), float(np.sqrt(mean_bound(values))), len(values))
    if labels is not None:
        bound = paired_bound(worse, better, total)
        return Difference("accuracy", (worse - better) / total, bound, total, paired_bound(0, 0, total))
    return Difference(kind, changed / total, share_bound(int(np.ceil(changed)), total), total, share_bound(0, total))
