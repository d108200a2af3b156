"""DepGraph (Fang et al. 2023, arXiv 2301.12900): the norm of everything that goes together."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..trace.types import Trace
from .request import Criterion, Options, Request, Subject
from .slices import slices

FloatArray = npt.NDArray[np.float64]


def group_norms(trace: Trace, subject: Subject) -> list[FloatArray]:
    """sqrt(Σ ‖w[k]‖²) over the group's parameters w (equation 4), the same for every channel of a class.

    The parameters are those of the paper's implementation: slices of the members' filters, of the consumers' input
    channels, and the γ of normalisations between them; neither biases nor statistics, and a BatchNormalization is not
    folded. A class all of whose filters are zero scores 0: what reads a dead channel does not matter. Slices that
    several classes share (whole groups of a normalisation) count in equal parts. Returns [channels] per layer.
    """
    base = trace.pairing.base
    wanted = np.unique(np.concatenate([base[s.units] for s in subject.layers])) if subject.layers else base[:0]
    total, made = (np.zeros(int(base.max(initial=0)) + 1) for _ in range(2))
    for part in slices(trace, wanted):
        found = np.bincount(part.classes, part.energy, minlength=len(total))
        total += found
        if part.made and part.kernel:
            made += found
    norms = np.where(made > 0, np.sqrt(total), 0.0)
    return [norms[base[s.units]] for s in subject.layers]


def request(subject: Subject, options: Options) -> Request:
    """Of every layer."""
    return Request((), lambda: group_norms(subject.trace, subject))


GROUP_L2 = Criterion(request, "Fang 2023", images=False)
