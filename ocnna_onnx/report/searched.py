"""What people read of a search: a line per generation, and the three nets side by side."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from ..evolution.clock import Standing
    from ..evolution.found import Search

ROWS = 12
"""Rows of the front that are shown without --verbose."""


def standing_line(s: Standing) -> str:
    """generation 3/40  111 evaluated, 19.1/s  hypervolume 0.8532  knee: error 6.64% at 20.6% of the cost  0:12 left"""
    error, cost = s.knee
    speed = f", {s.per_second:.1f}/s" if s.per_second else ""
    left = "" if s.left is None else f"  {int(s.left) // 60}:{int(s.left) % 60:02d} left"
    return (
        f"generation {s.generation}/{s.generations}  {s.evaluated} evaluated{speed}  hypervolume {s.hypervolume:.4f}  "
        f"knee: error {error:.2%} at {cost:.1%} of the cost{left}"
    )


def print_search(found: Search, verbose: int) -> None:
    """The original and the three, with final figures; then the front."""
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    told, samples = found.told, found.told["samples"]
    console.print(
        f"samples: {samples['search']} searched, {samples['selection']} chose, {samples['final']} judged the three "
        f"({found.results['knee'].report['data']['evaluated_on']}); error: {samples['error']}",
        markup=False,
    )
    console.print(
        f"{told['evaluated']} candidates in {told['generations']} generations, {told['stopped_early']} stopped early; "
        f"{told['bits']} bits, about {told['expected_flips']:.0f} flips a child; hypervolume {told['hypervolume']:.4f}",
        markup=False,
    )
    console.print(_three(found))
    console.print(_front(found, verbose))
    for warning in sorted({w for r in found.results.values() for w in r.report["warnings"]}):
        console.print(f"note: {warning}", markup=False)


def _three(found: Search) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("", "accuracy", "agreement", "MACs", "left", "parameters", "left", "channels gone", "proof"):
        table.add_column(name, justify="left" if not name else "right")
    first = next(iter(found.results.values())).report
    accuracy, before = first["accuracy"], first["before"]
    own = "" if accuracy is None else f"{accuracy['before']:.2%}"
    table.add_row("original", own, "", f"{before['macs']:,}", "100.0%", f"{before['params']:,}", "100.0%", "0", "")
    for name, result in found.results.items():
        report = result.report
        after, obtained, agreement = report["after"], report["obtained"], report["agreement"]
        table.add_row(
            name,
            "" if report["accuracy"] is None else f"{report['accuracy']['after']:.2%}",
            "" if agreement is None else f"{agreement['value']:.2%}",
            f"{after['macs']:,}",
            f"{obtained['macs_ratio']:.1%}",
            f"{after['params']:,}",
            f"{obtained['params_ratio']:.1%}",
            f"{obtained['removed']:,}",
            f"{report['proof']['max_relative_error']:.1e}",
        )
    return table


def _front(found: Search, verbose: int) -> Table:
    """All of it, or evenly spaced rows with the three among them."""
    count = len(found.front)
    shown = set(range(count))
    if not verbose and count > ROWS:
        shown = {round(k * (count - 1) / (ROWS - 1)) for k in range(ROWS)} | set(found.chosen.values())
    table = Table(box=None, pad_edge=False, title=f"front: {count} nets, before their repair layer by layer")
    table.title_justify = "left"
    for name in ("cost", "error", "on other samples", "MACs", "parameters", ""):
        table.add_column(name, justify="right" if name else "left")
    for k in sorted(shown):
        m = found.front[k]
        shares = (m.cost, m.error, m.selection_error, m.macs, m.params)
        table.add_row(*(f"{s:.1%}" if i != 1 else f"{s:.2%}" for i, s in enumerate(shares)), ", ".join(found.names(k)))
    return table
