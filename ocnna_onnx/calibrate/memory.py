"""How much memory calibration may hold."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import UsageError

SHARE = 4
"""By default a quarter of the machine's (or the container's) memory."""

UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
LEAST = 1 << 26
FALLBACK = 8 << 30


def memory_limit(asked: int | str | None) -> int:
    """Bytes that tapped outputs and accumulators may take together. asked: bytes, a text as `2GB` or `512M` (powers of
    1,024), or None for a quarter of what the machine has. Raises UsageError."""
    if asked is None:
        return max(LEAST, _machine() // SHARE)
    if isinstance(asked, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([kmgt]?)i?b?\s*", asked.lower())
        if found is None:
            raise UsageError(f"memory '{asked}' is not understood: give bytes, or a size such as 512MB or 2GB")
        asked = int(float(found[1]) * UNITS[found[2]])
    if not isinstance(asked, int) or asked < LEAST:
        raise UsageError(f"memory {asked!r} is out of range: at least 64MB")
    return asked


def _machine() -> int:
    """Bytes of memory: the machine's, or the control group's where that is less."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows
        total = FALLBACK
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text("ascii").strip()
    except OSError:
        text = ""
    return min(total, int(text)) if text.isdigit() else total
