"""Seeded random scores: a control that every other criterion must beat."""

from __future__ import annotations

import numpy as np

from .request import Criterion, Options, Request, Subject


def request(subject: Subject, options: Options) -> Request:
    """Uniform in (0, 1], drawn layer by layer."""
    rng = np.random.default_rng(subject.seed)
    scores = [1.0 - rng.random(len(s.units)) for s in subject.layers]
    return Request((), lambda: scores)


RANDOM = Criterion(request, "a control", images=False)
