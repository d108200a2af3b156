"""A progress bar on stderr for every stage, for what takes longer than a second, and only on a terminal."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import TaskID

PATIENCE = 1.0


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A callback (stage, done, total) that keeps a bar for each stage; what stands behind a stage's name in parentheses
    is a note that may change. They are drawn after PATIENCE seconds, even if no stage says a word from then on; a stage
    that starts again (a repair within a search) begins anew."""
    if quiet or not sys.stderr.isatty():
        yield lambda stage, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    tasks: dict[str, TaskID] = {}

    def update(stage: str, done: int, total: int) -> None:
        name = stage.partition(" (")[0]
        if name not in tasks:
            tasks[name] = bar.add_task(stage, total=total)
        elif not done:
            bar.reset(tasks[name])
        bar.update(tasks[name], description=stage, completed=done, total=total)

    clock = threading.Timer(PATIENCE, bar.start)
    clock.daemon = True
    clock.start()
    try:
        yield update
    finally:
        clock.cancel()
        clock.join()
        if bar.live.is_started:
            bar.stop()
