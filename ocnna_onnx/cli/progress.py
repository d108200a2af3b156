"""A progress bar on stderr, for what takes longer than a second, and only on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE = 1.0


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A callback (stage, done, total) that draws a bar once PATIENCE seconds have passed."""
    if quiet or not sys.stderr.isatty():
        yield lambda stage, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    tasks: dict[str, object] = {}
    started = time.monotonic()
    running = False

    def update(stage: str, done: int, total: int) -> None:
        nonlocal running
        if not running and time.monotonic() - started > PATIENCE:
            bar.start()
            running = True
        if running:
            task = tasks.setdefault(stage, bar.add_task(stage, total=total) if stage not in tasks else tasks[stage])
            bar.update(task, completed=done, total=total)  # type: ignore[arg-type]

    try:
        yield update
    finally:
        if running:
            bar.stop()
