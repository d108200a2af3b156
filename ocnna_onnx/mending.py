"""The repair, as the pipeline asks for it: by which method, on which samples, and what is said where it is left out."""

from __future__ import annotations

from .data.samples import Samples
from .errors import UsageError
from .repair.job import Repaired
from .repair.repair import repair
from .rewrite.rewrite import Rewritten
from .settings import Settings
from .trace.types import Trace

METHODS = ("least-squares", "moments", "bias", "none")


def check_method(method: str) -> None:
    """Raises UsageError."""
    if method not in METHODS:
        raise UsageError(f"unknown repair '{method}'; choose one of {', '.join(METHODS)}")


def repaired(trace: Trace, rewritten: Rewritten, samples: Samples, settings: Settings, method: str) -> Repaired:
    """New values of weights; none where nothing was cut. A model whose pieces do not run is left as it is, with a
    note."""
    if method == "none" or rewritten.kept.keep.all():
        return Repaired()
    return repair(
        trace,
        rewritten,
        samples,
        settings.runtime,
        settings.memory,
        lambda done, total: settings.progress("repair", done, total),
        method=method,
    )
