"""The options of a search, once they are seen to be in range."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..alignment import measured_alignment
from ..criteria.table import parsed
from ..duration import seconds_of
from ..errors import UsageError
from ..mending import check_method
from ..model.session import Runtime
from ..plan.align import Alignment
from ..plan.select import patterns_of

GENERATIONS, CLASSIC_GENERATIONS = 40, 10

SEEDS = ("ocnna", "obs", "l2")

OBJECTIVES = ("macs", "params", "latency")

ALIGNMENTS = ("1", "2", "4", "8", "16", "32", "64")


@dataclass(frozen=True)
class Asked:
    """See `ocnna_onnx.search`. led: flips. worst: max_error (None: by the original's). align: the multiple, adaptive
    where it was measured. time_limit: seconds."""

    generations: int
    population: int
    mutation: float
    objective: str
    seed_with: tuple[str, ...]
    repair: str
    align: Alignment
    led: bool
    worst: float | None
    classic: bool
    exclude: tuple[str, ...]
    exclude_op: tuple[str, ...]
    min_channels: int
    time_limit: float | None
    jobs: int
    dask: str | None

    @property
    def measured(self) -> dict[str, Any]:
        """What was timed for it, for the plan."""
        return {"alignment": self.align.multiple} if self.align.adaptive else {}

    def to_json(self) -> dict[str, Any]:
        """What the outcome depends on, but for the number of generations."""
        return {
            "population": self.population,
            "mutation": self.mutation,
            "objective": self.objective,
            "seed_with": list(self.seed_with),
            "repair": self.repair,
            "align": self.align.multiple,
            "flips": "led" if self.led else "uniform",
            "max_error": self.worst,
            "min_channels": self.min_channels,
            "exclude": [*self.exclude, *(f"op:{op}" for op in self.exclude_op)],
        }


def asked_of(
    *,
    generations: int | None,
    population: int,
    mutation: float,
    objective: str,
    seed_with: Sequence[str] | str | None,
    repair: str | None,
    align: int | str | None,
    flips: str | None,
    max_error: float | None,
    classic: bool,
    exclude: Sequence[str],
    exclude_op: Sequence[str],
    min_channels: int,
    time_limit: str | float | None,
    jobs: int | None,
    dask: str | None,
    runtime: Runtime,
) -> Asked:
    """Defaults filled in: those of the published scheme where `classic` is asked for. Raises UsageError."""
    generations = (CLASSIC_GENERATIONS if classic else GENERATIONS) if generations is None else generations
    for name, number, least in (
        ("generations", generations, 0),
        ("population", population, 4),
        ("min_channels", min_channels, 1),
        ("jobs", 1 if jobs is None else jobs, 1),
    ):
        if not isinstance(number, int) or number < least:
            raise UsageError(f"{name} {number!r} is out of range: a whole number, at least {least}")
    if not 0 < mutation <= 1:
        raise UsageError(f"mutation {mutation:g} is out of range: 0 < mutation ≤ 1")
    if max_error is not None and not 0 < max_error <= 1:
        raise UsageError(f"max_error {max_error:g} is out of range: 0 < max_error ≤ 1")
    for name, text, known in (
        ("objective", objective, OBJECTIVES),
        ("flips", flips or "led", ("led", "uniform")),
    ):
        if text not in known:
            raise UsageError(f"unknown {name} '{text}'; choose one of {', '.join(known)}")
    repair = repair or ("none" if classic else "least-squares")
    check_method(repair)
    if max_error is None and classic:
        max_error = 1.0
    if jobs is None:
        jobs = 1 if objective == "latency" else runtime.threads or os.cpu_count() or 1
    return Asked(
        generations=generations,
        population=population,
        mutation=mutation,
        objective=objective,
        seed_with=_criteria(seed_with, classic),
        repair=repair,
        align=_alignment("1" if align is None and classic else "auto" if align is None else str(align), runtime),
        led=not classic if flips is None else flips == "led",
        worst=max_error,
        classic=classic,
        exclude=patterns_of("exclude", exclude),
        exclude_op=patterns_of("exclude_op", exclude_op),
        min_channels=min_channels,
        time_limit=None if time_limit is None else seconds_of(time_limit, "time_limit"),
        jobs=jobs,
        dask=dask,
    )


def _criteria(given: Sequence[str] | str | None, classic: bool) -> tuple[str, ...]:
    if given is None:
        return () if classic else SEEDS
    names = [n.strip() for text in ([given] if isinstance(given, str) else given) for n in text.split(",")]
    if names == ["none"]:
        return ()
    for name in names:
        if parsed(name)[0] in ("blend", "auto"):
            raise UsageError(f"seed_with {name}: give the single criteria")
    return tuple(dict.fromkeys(names))


def _alignment(given: str, runtime: Runtime) -> Alignment:
    if given == "auto":
        return Alignment(measured_alignment(runtime), adaptive=True)
    if given not in ALIGNMENTS:
        raise UsageError(f"align {given!r}: choose auto, 1, 4, 8, 16 or 32")
    return Alignment(int(given))
