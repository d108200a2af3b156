"""Sessions timed side by side: a machine that slows down slows all of them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime as ort

from .graph import AnyArray
from .session import run

WARM = 2
"""Runs that do not count."""


def in_turns(
    sessions: Sequence[ort.InferenceSession], names: Sequence[str], feed: Mapping[str, AnyArray], runs: int
) -> list[float]:
    """Median seconds of a run of each, all of them run one after the other `runs` times. names: outputs."""
    seconds: list[list[float]] = [[] for _ in sessions]
    for k in range(runs + WARM):
        for session, times in zip(sessions, seconds, strict=True):
            started = time.perf_counter()
            run(session, names, feed)
            if k >= WARM:
                times.append(time.perf_counter() - started)
    return [float(np.median(times)) for times in seconds]
