"""Durations as people write them."""

from __future__ import annotations

import re

from .errors import UsageError


def seconds_of(time: str | float, name: str = "time") -> float:
    """`90s`, `10m`, `1.5h`, `1h30m`, or a number of seconds. name: of the option. Raises UsageError."""
    wrong = UsageError(f"{name} {time!r}: expected a duration as 90s, 10m or 1.5h")
    if isinstance(time, (int, float)) and not isinstance(time, bool):
        found = float(time)
    else:
        parts = re.findall(r"(\d+(?:\.\d+)?)\s*([hms]?)", str(time))
        if not parts or re.sub(r"(\d+(?:\.\d+)?)\s*([hms]?)", "", str(time)).strip():
            raise wrong
        found = sum(float(n) * {"h": 3600, "m": 60}.get(unit, 1) for n, unit in parts)
    if not 0 < found < float("inf"):
        raise wrong
    return found
