"""What people read of sensitivities: a table with a small curve per group."""

from __future__ import annotations

import sys

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..plan.sensitivities import Sensitivities, Sensitivity
from .scale import Scale, scale_of

WIDTH = 20
"""Characters of a curve, from nothing of a group to all of it."""

BLOCKS = "▁▂▃▄▅▆▇█"

ROWS = 32
NAMES = 3
PLAIN_WIDTH = 160


def print_sensitivities(found: Sensitivities, verbose: int, console: Console | None = None) -> None:
    """One line per group: layers, channels, share of the MACs, damage at each cut, and its curve. verbose: all groups
    and all names."""
    console = console or Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)
    scale = scale_of(found)
    cuts = max((len(g.cuts) for g in found.groups), default=0)
    table = Table(box=None, pad_edge=False)
    table.add_column("channels", justify="right", no_wrap=True)
    table.add_column("MACs", justify="right", no_wrap=True)
    for k in range(cuts):
        table.add_column("gone: damage" if not k else "", no_wrap=True)
    table.add_column(f"0 … all of it gone{' ' * (WIDTH - 18)}", no_wrap=True)
    table.add_column("layers", overflow="fold")
    shown = found.groups if verbose else found.groups[:ROWS]
    for group in shown:
        cells = [f"{n}: {damage:.2g}" for n, damage in group.cuts]
        table.add_row(
            _channels(group),
            f"{group.macs:.1%}",
            *cells,
            *[""] * (cuts - len(cells)),
            curve_text(group, scale),
            Text(_names(group.members, len(group.members) if verbose else NAMES)),
        )
    console.print(table)
    if len(shown) < len(found.groups):
        console.print(f"… and {len(found.groups) - len(shown)} more groups (-v shows all)", markup=False)
    console.print(
        "damage: relative squared error of the outputs when so many units of one group are gone, lowest by "
        f"{found.scores.criterion} first, and what reads them is refitted; on {found.samples} samples "
        f"({found.source}); curves on a logarithmic scale from {scale.low:g} to {scale.high:g}. MACs: of what makes or "
        "reads the channels",
        markup=False,
    )


def curve_text(group: Sensitivity, scale: Scale) -> str:
    """The damage at WIDTH shares of the group's units, straight between what was measured; blank beyond that."""
    shares, damage = group.points()
    at = (np.arange(WIDTH) + 0.5) / WIDTH
    heights = [scale.height(v) for v in np.interp(at, shares, np.minimum(damage, scale.high)).tolist()]
    drawn = [BLOCKS[min(len(BLOCKS) - 1, int(h * len(BLOCKS)))] for h in heights]
    return "".join(b for b, x in zip(drawn, at, strict=True) if x <= max(shares[-1], at[0])).ljust(WIDTH)


def _channels(group: Sensitivity) -> str:
    """How many, and in how many units they go, where that differs."""
    return f"{group.channels:,}" if group.units == group.channels else f"{group.channels:,} in {group.units:,}"


def _names(names: tuple[str, ...], limit: int) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
