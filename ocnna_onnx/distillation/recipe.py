"""How a distillation is run: what the user may say, and what is settled for all nets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..duration import seconds_of
from ..errors import UsageError

DEFAULT_TIME = 600.0
TEMPERATURE = 4.0
FEATURES = 200.0
"""β: features have far more numbers than outputs, and keep what is learned from few samples general."""
RATE = 1e-3
BATCH = 32
"""Samples per step: gradients of several batches are added up where the net or the memory takes fewer at once."""

SAMPLES = 4096
"""Samples that a distillation takes where nobody said how many."""

CHECKS = 20
"""How often the weights are judged on the way."""

LEAST = 10
"""Steps between two such judgements, at least."""

WARM = 0.05
"""The share of the steps in which the rate rises from zero."""

AVERAGED = 0.99
"""Of the running mean of the weights that is judged: what one step keeps of it."""


@dataclass(frozen=True)
class Recipe:
    """seconds: to be turned into steps at the start; None where `steps` says how many. augment: see
    `distillation.views`."""

    seconds: float | None = DEFAULT_TIME
    steps: int | None = None
    temperature: float = TEMPERATURE
    augment: str | Sequence[str] = "auto"
    seed: int = 0


def recipe_of(
    time: str | float | None, steps: int | None, temperature: float, augment: str | Sequence[str], seed: int
) -> Recipe:
    """The user's options, once they are seen to be in range. Raises UsageError."""
    from .views import ways_of

    if time is not None and steps is not None:
        raise UsageError("give either a time or a number of steps, not both")
    if steps is not None and (not isinstance(steps, int) or steps < 1):
        raise UsageError(f"steps {steps!r} is out of range: a whole number, at least 1")
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float)) or not 0 < temperature <= 1000:
        raise UsageError(f"temperature {temperature!r} is out of range: 0 < temperature ≤ 1000")
    ways_of(augment, frozenset())
    seconds = None if steps is not None else seconds_of(DEFAULT_TIME if time is None else time)
    return Recipe(seconds, steps, float(temperature), augment, seed)


def recipe_named(text: str | float, seed: int) -> Recipe:
    """As `prune --distill` takes it: a time, or `steps=N`. Raises UsageError."""
    name, equals, number = str(text).partition("=")
    if not equals:
        return recipe_of(text, None, TEMPERATURE, "auto", seed)
    if name.strip() != "steps" or not number.strip().isdigit():
        raise UsageError(f"distill {text!r}: expected a duration as 10m, or steps=N")
    return recipe_of(None, int(number), TEMPERATURE, "auto", seed)
