"""The rows of the zoo as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

LOW = 0.2
Row = dict[str, Any]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def of_kinds(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of every kind of net, in the order in which kinds appear."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["kind"], []).append(row)
    return found


def summary(rows: Sequence[Row]) -> str:
    """Counts by kind of net, and the share of rows that lose at least a fifth of their MACs."""
    cells = []
    for kind, some in [*of_kinds(rows).items(), ("all", list(rows))]:
        count = {status: sum(row["status"] == status for row in some) for status in ("proven", "refused", "failed")}
        tried = sum(count.values())
        high = sum(row["status"] == "proven" and row["macs_gone"] >= LOW for row in some)
        nets = len({(row["kind"], row["name"]) for row in some})
        share = f"{high} ({high / max(1, tried):.1%})"
        counts = (count["proven"], count["refused"], count["failed"], len(some) - tried)
        cells.append((kind, str(nets), str(tried), *map(str, counts), share))
    head = ("nets", "different", "files", "proven", "refused by name", "failed", "no export", "≥ 20 % of MACs gone")
    return table(head, cells)


def proven(rows: Sequence[Row]) -> str:
    """What every proven row obtained."""
    head = (
        *("net", "file", "removable", "parameters gone", "MACs gone"),
        *("error (limit)", "trace s", "total s", "peak MB"),
    )
    cells = [
        (
            row["name"],
            row["variant"],
            f"{row['removable']:,} of {row['units']:,}",
            f"{row['params_gone']:.1%}",
            f"{row['macs_gone']:.1%}",
            f"{row['error']:.1e} ({row['tolerance']:.0e})",
            f"{row['trace_s']:.2f}",
            f"{row['total_s']:.1f}",
            f"{row['memory_mb']:.0f}",
        )
        for row in rows
        if row["status"] == "proven"
    ]
    return table(head, cells)


def short(rows: Sequence[Row]) -> str:
    """Rows that did not prove or lose little, with their reachable share and the walls that hold most."""
    lines = []
    for row in rows:
        if row["status"] == "proven" and row["macs_gone"] >= LOW:
            continue
        said = f"{row['macs_gone']:.1%} of MACs gone" if row["status"] == "proven" else f"{row['status']}: {row['why']}"
        reach = f"; layers with {row['reachable']:.0%} of the MACs can be reached" if "reachable" in row else ""
        lines.append(f"- **{row['name']}** {row['variant']}: {said}{reach}")
        lines += [
            f"    - {wall['op']}: {wall['reason']} — {wall['units']:,} units at {wall['walls']} places, "
            f"the first `{wall['node']}` on `{wall['tensor']}`"
            for wall in row.get("walls", [])[:4]
        ]
    return "\n".join(lines)


def tables(rows: Sequence[Row]) -> str:
    """Everything: the summary, one table a kind, and what falls short."""
    parts = [summary(rows)]
    for kind, some in of_kinds(rows).items():
        parts += [f"## {kind}", proven(some)]
        if rest := short(some):
            parts += ["What falls short:", rest]
    return "\n\n".join(parts)
