"""What `inspect` shows people: a tree of groups and walls, or the answer for one place."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

if TYPE_CHECKING:
    from .inspection import GroupInfo, Inspection, LayerInfo, ReasonInfo
    from .why import HeldInfo, TensorInfo, Why

GROUPS = 16
REASONS = 10
PLACES = 2
NAMES = 3
PLAIN_WIDTH = 10_000
"""Without a terminal lines are not folded: they may be searched."""


def print_inspection(found: Inspection, verbose: int, console: Console | None = None) -> None:
    """Totals, then groups with members, consumers and savings, then walls by reason. verbose: all of it, nothing cut
    short, and a table of layers."""
    console = console or _console()
    inputs = ", ".join(f"{name} {list(shape)}" for name, shape in found.inputs.items())
    console.print(
        f"{found.model}: {found.params:,} parameters, {found.macs:,} MACs per sample at {inputs}", markup=False
    )
    free, units = sum(g.removable for g in found.groups), sum(g.units for g in found.groups)
    console.print(f"{free:,} of {units:,} units in {len(found.groups)} groups can go", markup=False)
    if free:
        half, reach = found.half, found.reachable
        console.print(
            f"half of every group saves {_share(half.macs, found.macs)} of MACs, "
            f"{_share(half.params, found.params)} of parameters; within reach are "
            f"{_share(reach.macs, found.macs)} and {_share(reach.params, found.params)}",
            markup=False,
        )
    if verbose and found.layers:
        console.print(_layer_table(found.layers))
    if found.groups:
        console.print(_group_tree(found, verbose))
    if found.reasons:
        console.print(_wall_tree(found, verbose))


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, highlight=False)


def _share(part: int, whole: int) -> str:
    return f"{part / whole if whole else 0:.1%}"


def _layer_table(layers: Sequence[LayerInfo]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("layer", "operator", "group"):
        table.add_column(name, overflow="fold")
    for name in ("channels", "can go", "parameters", "MACs"):
        table.add_column(name, justify="right", no_wrap=True)
    for x in layers:
        numbers = (x.channels, x.removable, x.params, x.macs)
        table.add_row(Text(x.node), Text(x.op), str(x.group), *(f"{v:,}" for v in numbers))
    return table


def _group_tree(found: Inspection, verbose: int) -> Tree:
    tree = Tree("groups", guide_style="dim")
    heavy = sorted(found.groups, key=lambda g: (-g.half_macs, -g.removable, g.id))
    shown = {g.id for g in (heavy if verbose else heavy[:GROUPS])}
    limit = None if verbose else NAMES
    for g in found.groups:
        if g.id not in shown:
            continue
        branch = tree.add(_group_line(g, found))
        grid = f"  [{g.grid}]" if g.grid else ""
        branch.add(_line(f"made by {_names(g.members, limit)}{grid}", verbose))
        if g.consumers:
            branch.add(_line(f"read by {_names(g.consumers, limit)}", verbose))
    rest = [g for g in found.groups if g.id not in shown]
    if rest:
        stuck = sum(not g.removable for g in rest)
        tree.add(f"… {len(rest)} more that save less, {stuck} of them nothing (-v shows all)")
    return tree


def _group_line(g: GroupInfo, found: Inspection) -> Text:
    text = Text(f"group {g.id}", style="bold" if g.removable else "")
    units = "" if g.units == g.channels else f" in {_units(g.units)}"
    count = _count(g.removable, g.units)
    text.append(f": {g.channels:,} channels{units}, {count} can go", style="not bold")
    if g.removable > 1:
        macs, params = _share(g.half_macs, found.macs), _share(g.half_params, found.params)
        text.append(f"; half saves {macs} of MACs, {params} of parameters", style="not bold")
    return text


def _wall_tree(found: Inspection, verbose: int) -> Tree:
    tree = Tree("walls", guide_style="dim")
    shown = found.reasons if verbose else found.reasons[:REASONS]
    for r in shown:
        branch = tree.add(_reason_line(r, found))
        own = [found.walls[k] for k in r.walls]
        places = own if verbose else own[:PLACES]
        for wall in places:
            held = f": {_units(wall.units)}" if len(own) > 1 and wall.units else ""
            branch.add(_line(f"{wall.node} ({wall.op}) on '{wall.tensor}'{held}", verbose))
        if len(places) < len(own):
            branch.add(f"… and {len(own) - len(places)} more (-v shows all)")
    if len(shown) < len(found.reasons):
        tree.add(f"… and {len(found.reasons) - len(shown)} more reasons (-v shows all)")
    return tree


def _reason_line(r: ReasonInfo, found: Inspection) -> Text:
    exact = {found.walls[k].reason for k in r.walls}
    text = Text(exact.pop() if len(exact) == 1 else r.reason, style="bold")
    if r.units:
        held = f": {_units(r.units)}, which keep {_share(r.macs, found.macs)} of MACs"
        text.append(held + f", {_share(r.params, found.params)} of parameters", style="not bold")
    return text


def _line(text: str, verbose: int) -> Text:
    """A line of names: on a terminal it is cut short rather than folded, unless all is wanted."""
    return Text(text) if verbose else Text(text, no_wrap=True, overflow="ellipsis")


def _units(count: int) -> str:
    return f"{count:,} unit{'' if count == 1 else 's'}"


def _names(names: Sequence[str], limit: int | None) -> str:
    shown = names if limit is None or len(names) <= limit + 1 else names[:limit]
    more = f" and {len(names) - len(shown)} more" if len(shown) < len(names) else ""
    return ", ".join(shown) + more


def print_why(why: Why, verbose: int) -> None:
    """The answer for one tensor or node."""
    limit = None if verbose else NAMES
    kind = {"weight": "initializer", "inner": f"in a body; {why.op}"}.get(why.kind, why.kind)
    tree = Tree(Text(f"{why.name} ({why.op if why.kind == 'node' else kind})", style="bold"), guide_style="dim")
    if why.rule and why.reads:
        tree.add(Text(f"rule: {why.rule}"))
    for note in why.notes:
        tree.add(Text(note))
    if why.made_by:
        tree.add(Text(f"made by {why.made_by} ({why.op})"))
    if why.read_by:
        tree.add(Text(f"read by {_names(why.read_by, limit)}"))
    for tensor in why.tensors:
        word = "makes " if tensor.name in why.makes else "reads " if tensor.name in why.reads else ""
        _add_tensor(tree, word, tensor, why.kind in ("weight", "constant"))
    if why.cuts:
        branch = tree.add("cut at" if why.kind != "node" else "cuts its constants")
        for c in why.cuts if verbose else why.cuts[:GROUPS]:
            place = f"input {c.input} '{c.tensor}'" if why.kind == "node" else f"{c.node}, input {c.input}"
            branch.add(Text(f"{place}, axis {c.axis}, with channels {_of_groups(c.groups)}: {c.removable:,} can go"))
        if not verbose and len(why.cuts) > GROUPS:
            branch.add(f"… and {len(why.cuts) - GROUPS} more (-v shows all)")
    if why.walls:
        walls = tree.add("walls")
        by_reason: dict[str, list[HeldInfo]] = {}
        for w in why.walls:
            by_reason.setdefault(w.reason, []).append(w)
        for reason, own in by_reason.items():
            branch = walls.add(Text(reason, style="bold"))
            places = own if verbose else own[:NAMES]
            for w in places:
                held = f": {_units(w.units)} of this place" if w.units else ""
                branch.add(Text(f"{w.node} ({w.op}) on '{w.tensor}'{held}"))
            if len(places) < len(own):
                branch.add(f"… and {len(own) - len(places)} more (-v shows all)")
    _console().print(tree)


def _add_tensor(tree: Tree, word: str, tensor: TensorInfo, constant: bool) -> None:
    shape = "shape not known" if tensor.shape is None else f"shape {list(tensor.shape)}"
    if not tensor.axes:
        tree.add(Text(f"{word}{tensor.name}, {shape}" + ("" if constant else ": no channels that could go")))
        return
    branch = tree.add(Text(f"{word}{tensor.name}, {shape}"))
    for a in tensor.axes:
        count = _count(a.removable, a.size)
        of = "" if a.channels == a.size else f" (of {a.size:,} positions)"
        branch.add(Text(f"axis {a.axis}: {a.channels:,} channels{of} {_of_groups(a.groups)}, {count} can go"))


def _count(removable: int, of: int) -> str:
    """How many can go; one stays in any case."""
    if not removable:
        return "none"
    return "any" if removable == of else f"{removable:,}"


def _of_groups(groups: Sequence[int]) -> str:
    if not groups:
        return "of no group"
    listed = _names([str(g) for g in groups], 6)
    return f"of group {listed}" if len(groups) == 1 else f"of groups {listed}"
