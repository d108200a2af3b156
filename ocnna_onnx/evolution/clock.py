"""How a search stands, generation by generation, and when its time is up."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from .evolve import Archive, Rules, parents
from .front import hypervolume


@dataclass(frozen=True)
class Standing:
    """How a search stands after a generation. evaluated: candidates so far. per_second: of this run, 0 before its first
    generation. knee: (error, cost) of the best so far. left: seconds; None where nobody knows yet."""

    generation: int
    generations: int
    evaluated: int
    per_second: float
    hypervolume: float
    knee: tuple[float, float]
    left: float | None


Watch = Callable[[Standing], None]


@dataclass
class Clock:
    """Tells how a search stands. limit: seconds since `began`. first, generation: candidates and generations when
    this run started. times: of all tellings."""

    rules: Rules
    generations: int
    limit: float | None
    watch: Watch
    began: float
    first: int = -1
    generation: int = 0
    times: list[float] = field(default_factory=list)

    def tell(self, archive: Archive) -> None:
        """After a generation, and once before the first."""
        now = time.perf_counter()
        if self.first < 0:
            self.first, self.generation = len(archive), archive.done
        self.times.append(now)
        spent = now - self.times[0]
        three = parents(archive, self.rules)
        front = archive.front(self.rules)
        worth = archive.worth
        standing = Standing(
            generation=archive.done,
            generations=max(self.generations, archive.done),  # a run that is resumed may be asked for less
            evaluated=len(archive),
            per_second=(len(archive) - self.first) / spent if spent > 0 else 0.0,
            hypervolume=hypervolume(worth.error[front], worth.cost[front]),
            knee=(float(worth.error[three.knee]), float(worth.cost[three.knee])),
            left=self._left(archive.done, now),
        )
        self.watch(standing)

    def _left(self, done: int, now: float) -> float | None:
        limit = self.limit
        by_time = None if limit is None else max(0.0, limit - (now - self.began))
        if len(self.times) < 2:
            return by_time
        each = (now - self.times[0]) / (done - self.generation)
        by_count = each * (self.generations - done)
        return by_count if by_time is None else min(by_time, by_count)

    def is_up(self) -> bool:
        """Whether the time limit leaves no room for a generation like the last one."""
        limit = self.limit
        return limit is not None and self.times[-1] - self.began + (self.times[-1] - self.times[-2]) > limit
