"""How far a pruned net is from the original on samples, as one number that is smooth in the outputs: what a search goes
by. Labels have no say."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import onnx

from ..data.samples import IntArray, Samples
from ..errors import UsageError
from ..model.graph import AnyArray
from ..model.light import Light
from ..model.session import Runtime, open_session, run
from .evaluate import kind_of, of_samples, usable_labels

Outputs = dict[str, AnyArray]
Model = onnx.ModelProto | Light

KL, PROBABILITIES, RELATIVE, DIFFERENT = "kl", "kl of probabilities", "relative_l2", "different"
"""Of an output with classes: KL divergence in nats per sample (per pixel), after a softmax unless the net ends with
one. Of another: ‖b - a‖ / ‖a‖. Of whole numbers: the share that differs."""

CERTAIN = 1e-12
"""Probabilities below it count as much as it."""


def fidelity(
    original: Model, samples: Samples, batch: int, runtime: Runtime, memory: int
) -> tuple[dict[str, str], Callable[[Model], float]]:
    """(output -> how it is compared, model -> distance to the original: the mean over these outputs).

    Float outputs count; where there is none, whole numbers do. Classes lie where `evaluate` sees them. The original's
    outputs are computed once where they fit half of `memory` (bytes), else along with each model. An output of another
    shape counts as 1, a distance that is no number as inf. Raises UsageError where no output can be compared.
    """
    kinds, kept = _reference(original, samples, batch, runtime, memory // 2)
    names = list(kinds)

    def distance(model: Model) -> float:
        sums = np.zeros((len(names), 2))
        theirs = iter(kept) if kept is not None else _outputs(original, names, samples, batch, runtime)
        for a, b in zip(theirs, _outputs(model, names, samples, batch, runtime), strict=True):
            sums += [_compared(kinds[n], a[n], b[n]) for n in names]
        found = sums[:, 0] / np.maximum(sums[:, 1], np.finfo(np.float64).tiny)
        found = np.where([kinds[n] == RELATIVE for n in names], np.sqrt(found), found)
        return float(found.mean()) if np.isfinite(found).all() else float("inf")

    return kinds, distance


def squared_error(
    original: Model, samples: Samples, batch: int, runtime: Runtime, memory: int
) -> Callable[[Model], float]:
    """model -> ‖b − a‖² / ‖a‖², the mean over float outputs; of class scores with their mean over the classes taken off
    (softmax does not see it), of probabilities their logarithms. Unlike KL it does not saturate where the original is
    sure of itself, as nets are on samples that they were trained on: what a sensitivity is measured by."""
    kinds, kept = _reference(original, samples, batch, runtime, memory // 2)
    names = [n for n in kinds if kinds[n] != DIFFERENT] or list(kinds)

    def distance(model: Model) -> float:
        sums = np.zeros((len(names), 2))
        theirs = iter(kept) if kept is not None else _outputs(original, names, samples, batch, runtime)
        for a, b in zip(theirs, _outputs(model, names, samples, batch, runtime), strict=True):
            sums += [_compared(RELATIVE, _centred(kinds[n], a[n]), _centred(kinds[n], b[n])) for n in names]
        found = sums[:, 0] / np.maximum(sums[:, 1], np.finfo(np.float64).tiny)
        return float(found.mean()) if np.isfinite(found).all() else float("inf")

    return distance


@dataclass(frozen=True)
class Closeness:
    """error: as `squared_error` has it. agreement: share of samples (pixels) with the original's class, in the first
    output of floats; None where it has no classes. accuracy: None without labels."""

    error: float
    agreement: float | None = None
    accuracy: float | None = None


def closeness(
    original: Model, samples: Samples, batch: int, runtime: Runtime, memory: int
) -> Callable[[Model], Closeness]:
    """model -> all that tells how close it is, from one run of it over the samples. Raises UsageError where no output
    can be compared."""
    kinds, kept = _reference(original, samples, batch, runtime, memory // 2)
    names = [n for n in kinds if kinds[n] != DIFFERENT] or list(kinds)
    classes = kinds[names[0]] in (KL, PROBABILITIES)

    def judged(model: Model) -> Closeness:
        sums = np.zeros((len(names), 2))
        same = right = total = start = 0
        labels: IntArray | None = None
        theirs = iter(kept) if kept is not None else _outputs(original, names, samples, batch, runtime)
        for a, b in zip(theirs, _outputs(model, names, samples, batch, runtime), strict=True):
            sums += [_compared(RELATIVE, _centred(kinds[n], a[n]), _centred(kinds[n], b[n])) for n in names]
            if classes:
                wanted, found = (x[names[0]].argmax(axis=1) for x in (a, b))
                labels = usable_labels(samples, a[names[0]], kind_of(a[names[0]])) if labels is None else labels
                same += int((wanted == found).sum())
                if labels is not None:
                    right += int((found == labels[start : start + len(found)]).sum())
                total, start = total + found.size, start + len(found)
        with np.errstate(all="ignore"):
            shares = sums[:, 0] / np.maximum(sums[:, 1], np.finfo(np.float64).tiny)
        error = float(shares.mean()) if np.isfinite(shares).all() else float("inf")
        if not classes:
            return Closeness(error)
        return Closeness(error, same / total, None if labels is None else right / total)

    return judged


def kinds_of(model: Model, samples: Samples, batch: int, runtime: Runtime) -> dict[str, str]:
    """How each output that counts is compared, by what it is on the first batch. Raises UsageError."""
    with closing(_outputs(model, None, samples, batch, runtime)) as batches:
        return _kinds(next(batches))


def _centred(kind: str, output: AnyArray) -> AnyArray:
    if kind not in (KL, PROBABILITIES):
        return output
    scores = np.log(np.maximum(output, CERTAIN)) if kind == PROBABILITIES else output
    return np.asarray(scores - scores.mean(axis=1, keepdims=True))


def _reference(
    original: Model, samples: Samples, batch: int, runtime: Runtime, most: int
) -> tuple[dict[str, str], list[Outputs] | None]:
    """How each output is compared, and all batches of them; None in place of more than `most` bytes."""
    kept: list[Outputs] = []
    kinds: dict[str, str] = {}
    size = 0
    with closing(_outputs(original, None, samples, batch, runtime)) as batches:
        for outputs in batches:
            kinds = kinds or _kinds(outputs)
            kept.append({n: outputs[n] for n in kinds})
            size += sum(a.nbytes for a in kept[-1].values())
            if size > most:
                return kinds, None
    return kinds, kept


def _outputs(
    model: Model, names: Sequence[str] | None, samples: Samples, batch: int, runtime: Runtime
) -> Generator[Outputs, None, None]:
    """Outputs of each batch (None: all that are arrays), of its own samples only. Optimized, as users run it."""
    with open_session(model, runtime, True) as session:
        wanted = [o.name for o in session.get_outputs()] if names is None else names
        for feed, valid in samples.batches(batch):
            found = run(session, wanted, feed)
            yield {n: of_samples(a, batch, valid) for n, a in found.items() if isinstance(a, np.ndarray)}


def _kinds(outputs: Outputs) -> dict[str, str]:
    """How each output that counts is compared. Raises UsageError where none can be."""
    floats = {n: a for n, a in outputs.items() if a.dtype.kind == "f" and a.size}
    if floats:
        return {n: _float_kind(a) for n, a in floats.items()}
    found = {n: DIFFERENT for n, a in outputs.items() if a.dtype.kind in "iub" and a.size}
    if not found:
        raise UsageError("the model has no output of numbers, by which a pruned one could be compared with it")
    return found


def _float_kind(output: AnyArray) -> str:
    if kind_of(output) == "relative_l2":
        return RELATIVE
    sums = output.sum(axis=1, dtype=np.float64)
    return PROBABILITIES if output.min() >= 0 and np.allclose(sums, 1, atol=1e-2) else KL


def _compared(kind: str, a: AnyArray, b: AnyArray) -> tuple[float, float]:
    """(what differs, of how much) between the original's output and another's."""
    if a.shape != b.shape:
        return 1.0, 1.0
    if kind == DIFFERENT:
        return float((a != b).sum()), float(a.size)
    with np.errstate(all="ignore"):  # what is not finite ends as inf
        wide = np.float32 if a.ndim > 2 and a.dtype != np.float64 else np.float64  # maps of classes are large
        a, b = a.astype(wide), b.astype(wide)
        if kind == RELATIVE:
            a, b = (np.where(np.isfinite(a), x, 0) for x in (a, b))
            return float(((a - b) ** 2).sum(dtype=np.float64)), float((a**2).sum(dtype=np.float64))
        if kind == PROBABILITIES:
            a, b = (np.log(np.maximum(x, CERTAIN)) for x in (a, b))
        return _divergence(a, b), a.size / a.shape[1]


def _divergence(a: AnyArray, b: AnyArray) -> float:
    """Σ KL(softmax(a) ‖ softmax(b)), the classes along axis 1: Σ_c p_c (a_c - b_c) + log Z_b - log Z_a."""
    a = a - a.max(axis=1, keepdims=True)
    b = b - b.max(axis=1, keepdims=True)
    p = np.exp(a)
    total = p.sum(axis=1)
    np.subtract(a, b, out=a)
    a[p == 0] = 0  # -inf - -inf where a class is ruled out
    each = (p * a).sum(axis=1) / total - np.log(total) + np.log(np.exp(b).sum(axis=1))
    return float(np.maximum(each, 0).sum(dtype=np.float64))
