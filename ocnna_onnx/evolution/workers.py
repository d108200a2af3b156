"""Who evaluates: this process, others on this machine (joblib's), or a Dask cluster by joblib's own backend. What comes
out is the same: every candidate is evaluated alone, with one thread."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import joblib

from ..errors import UsageError
from .fitness import Evaluator, Fitness, Task, fitness

Work = Callable[[Sequence[Task]], list[Fitness]]

PORTIONS = 4
"""Portions of a generation that a worker gets, one after the other: who is done early takes another."""

DEATHS = 3
"""How often workers may die within a generation before it is given up. The state on disk is of the one before."""


@contextmanager
def workforce(
    evaluator: Evaluator,
    jobs: int,
    dask: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Iterator[Work]:
    """A function that evaluates candidates, in order. jobs: processes of this machine (1: this one). dask: the address
    of a scheduler, whose workers do it instead. Raises UsageError where that cannot be reached."""
    if dask is None and jobs == 1:
        yield lambda tasks: _here(evaluator, tasks, progress)
        return
    with _backend(evaluator, jobs, dask) as workers, ExitStack() as stack:
        team = _Team(workers, stack)
        yield lambda tasks: _elsewhere(evaluator, tasks, team, progress)


@dataclass
class _Team:
    """Workers that stay for the whole run: large arrays are handed to them once. stack: ends them."""

    workers: int
    stack: ExitStack
    present: joblib.Parallel | None = None

    def parallel(self) -> joblib.Parallel:
        """Those that are there, or new ones."""
        if self.present is None:
            made = joblib.Parallel(return_as="generator", pre_dispatch="all", batch_size=1)
            self.present = self.stack.enter_context(made)
        return self.present

    def lost(self) -> None:
        """Some died, and took the others with them."""
        self.present = None


def _here(evaluator: Evaluator, tasks: Sequence[Task], progress: Callable[[int, int], None]) -> list[Fitness]:
    found = []
    for k, task in enumerate(tasks):
        progress(k, len(tasks))
        found.append(fitness(evaluator, task))
    progress(len(tasks), len(tasks))
    return found


@contextmanager
def _backend(evaluator: Evaluator, jobs: int, dask: str | None) -> Iterator[int]:
    """joblib's settings, and the number of workers."""
    if dask is None:
        with joblib.parallel_config(backend="loky", n_jobs=jobs, initializer=deaf):
            yield jobs
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise UsageError("--dask needs the extra: pip install 'ocnna-onnx[dask]'") from error
    try:
        client = Client(dask, set_as_default=True)
    except (OSError, ValueError) as error:
        raise UsageError(f"--dask {dask}: no scheduler answers there ({error})") from error
    with client:
        count = max(1, len(client.scheduler_info()["workers"]))
        with joblib.parallel_config(backend="dask", scatter=[evaluator]):  # sent once, not with each task
            yield count


def deaf() -> None:
    """An interrupt is for the process that waits: it ends its workers itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _results(generator: Generator[list[Fitness], None, None]) -> Iterator[Iterator[list[Fitness]]]:
    """Ended without a word where an interrupt leaves some unused."""
    try:
        yield generator
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            generator.close()


def some(evaluator: Evaluator, tasks: Sequence[Task]) -> list[Fitness]:
    """What a worker does."""
    return [fitness(evaluator, task) for task in tasks]


def _elsewhere(
    evaluator: Evaluator, tasks: Sequence[Task], team: _Team, progress: Callable[[int, int], None]
) -> list[Fitness]:
    """Whatever came back before a worker died is kept; the rest is done again by new ones."""
    found: list[Fitness] = []
    for _ in range(DEATHS):
        size = max(1, -(-(len(tasks) - len(found)) // (PORTIONS * team.workers)))
        rest = [tasks[k : k + size] for k in range(len(found), len(tasks), size)]
        if not rest:
            break
        try:
            calls = [joblib.delayed(some)(evaluator, portion) for portion in rest]
            with _results(team.parallel()(calls)) as results:
                for portion in results:
                    found.extend(portion)
                    progress(len(found), len(tasks))
        except BrokenProcessPool:
            team.lost()
    if len(found) < len(tasks):
        raise UsageError(f"workers died {DEATHS} times (out of memory?): give fewer --jobs; --resume goes on")
    return found


__all__ = ["Work", "some", "workforce"]
