"""The steps: the student's weights follow the gradient, are judged on the way, and the best of them are kept."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..model.graph import AnyArray
from ..report.fidelity import Closeness
from .bridge import Bridge
from .feeding import Feeding
from .judging import better, to_json
from .loss import Loss
from .optimizing import Optimizer
from .recipe import AVERAGED, CHECKS, LEAST, RATE, WARM

if TYPE_CHECKING:
    import torch

Values = dict[str, AnyArray]

SAVED_EVERY = 60.0
"""Seconds after which a checkpoint is due."""

TRIED = 4
"""Steps that are timed, behind a first one that is not, to turn seconds into steps."""


@dataclass(frozen=True)
class Nets:
    """student, teacher: their tensors are compared by `loss` on the feeds of `feeding`, of which `runs` make a step."""

    student: Bridge
    teacher: Bridge
    loss: Loss
    feeding: Feeding
    runs: int


@dataclass
class State:
    """Where a run stands. step: done so far. averaged: running mean of each weight. best: values of the best candidate,
    None for the starting weights; taken: the step that it is of. checks: what was judged, for the report."""

    steps: int
    step: int = 0
    averaged: dict[str, torch.Tensor] = field(default_factory=dict)
    best: Values | None = None
    verdict: Closeness | None = None
    taken: int = 0
    checks: list[dict[str, Any]] = field(default_factory=list)
    loss: float = 0.0
    interrupted: bool = False
    diverged: bool = False


def gradient(nets: Nets, step: int) -> float:
    """Add up the gradients of one step; returns the loss."""
    import torch

    total = 0.0
    for k in range(nets.runs):
        feed = nets.feeding(step * nets.runs + k)
        with torch.no_grad():
            wanted = nets.teacher(feed)
        loss = nets.loss(nets.student(feed), wanted) / nets.runs
        loss.backward()
        total += loss.item()
    for part, whole in nets.student.ties:
        if part.grad is not None:
            whole.grad = part.grad.T.clone() if whole.grad is None else whole.grad + part.grad.T
            part.grad = None
    return total


def timed(nets: Nets) -> float:
    """Seconds that a step takes, as it is now. Nothing is changed."""
    gradient(nets, 0)
    started = time.perf_counter()
    for k in range(TRIED):
        gradient(nets, k)
    for weight in nets.student.weights.values():
        weight.grad = None
    return (time.perf_counter() - started) / TRIED


def rate(step: int, steps: int) -> float:
    """The share of the rate at a step: it rises, then falls to zero along a cosine (Loshchilov, Hutter 2017, eq. 5)."""
    warm = max(1.0, WARM * steps)
    return min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / steps))


def follow(
    nets: Nets,
    state: State,
    optimizer: Optimizer,
    start: Closeness,
    held: int,
    judge: Callable[[Values], Closeness],
    save: Callable[[], None],
    progress: Callable[[State], None],
) -> None:
    """Take the steps that are left, in place. judge: on values of the weights; held: on how many samples. save: writes
    a checkpoint, at the end too: what follows can fail, and need not cost the run. Ctrl-C ends it, and a loss that is
    no number: what was best so far stays."""
    import torch

    weights = nets.student.weights
    if not state.averaged:
        state.averaged = {n: w.detach().clone() for n, w in weights.items()}
    every = max(LEAST, -(-state.steps // CHECKS))
    saved = time.monotonic()
    with _asked_to_stop() as stopped:
        while state.step < state.steps:
            loss = gradient(nets, state.step)
            if not math.isfinite(loss):
                state.diverged = True
                return
            optimizer.step(RATE * rate(state.step, state.steps))
            state.step += 1
            keep = min(AVERAGED, state.step / (state.step + 9))
            with torch.no_grad():
                for name, mean in state.averaged.items():
                    mean.lerp_(weights[name].detach(), 1 - keep)
            state.loss = loss if state.step == 1 else 0.9 * state.loss + 0.1 * loss
            if state.step % every == 0 or state.step == state.steps:
                _check(nets, state, start, held, judge)
            progress(state)
            state.interrupted = stopped() and state.step < state.steps
            if time.monotonic() - saved > SAVED_EVERY or state.interrupted or state.step == state.steps:
                save()
                saved = time.monotonic()
            if state.interrupted:
                return


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed: the step at hand is finished first, so that a checkpoint holds whole steps. Pressed
    again it raises KeyboardInterrupt, as it does outside the main thread."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def note(number: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = signal.signal(signal.SIGINT, note)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def _check(nets: Nets, state: State, start: Closeness, held: int, judge: Callable[[Values], Closeness]) -> None:
    """Judge the weights and their running mean."""
    row: dict[str, Any] = {"step": state.step, "loss": state.loss}
    for what, values in (("averaged", _averaged(nets.student, state)), ("last", _values(nets.student))):
        if not all(np.isfinite(v).all() for v in values.values()):
            continue
        verdict = judge(values)
        row[what] = to_json(verdict)
        if better(verdict, state.verdict, start, held):
            state.best, state.verdict, state.taken = values, verdict, state.step
    state.checks.append(row)


def _values(student: Bridge) -> Values:
    return {name: student.value(name) for name in student.weights}


def _averaged(student: Bridge, state: State) -> Values:
    return {name: student.value(name, state.averaged[name]) for name in student.weights}
