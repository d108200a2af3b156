"""What people read: tables on stdout."""

from __future__ import annotations

import statistics
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from ..verify import CheckResult

GROUP_ROWS = 24
WALL_ROWS = 8


def _console() -> Console:
    width = None if sys.stdout.isatty() else 140
    return Console(width=width, highlight=False, soft_wrap=False)


def print_result(report: dict[str, Any], out: str | None, verbose: int) -> None:
    """Before and after, the proof, the agreement, channels per group, walls."""
    console = _console()
    before, after, proof = report["before"], report["after"], report["proof"]
    data = report["data"]
    console.print(
        f"samples: {data['samples']} ({data['source']}); preprocessing: {data['preprocessing']}", markup=False
    )
    table = Table(box=None, pad_edge=False)
    for name, side in (("", "left"), ("before", "right"), ("after", "right"), ("left", "right")):
        table.add_column(name, justify=side, no_wrap=side == "right", overflow="fold")  # type: ignore[arg-type]
    for key, label in (("params", "parameters"), ("macs", "MACs"), ("bytes", "file bytes")):
        table.add_row(label, f"{before[key]:,}", f"{after[key]:,}", f"{after[key] / max(1, before[key]):.1%}")
    accuracy, agreement = report["accuracy"], report["agreement"]
    if accuracy is not None:
        drop = 100 * (accuracy["after"] - accuracy["before"])
        table.add_row("accuracy", f"{accuracy['before']:.2%}", f"{accuracy['after']:.2%}", f"{drop:+.2f} pp")
    console.print(table)
    _group_table(console, report["groups"], None if verbose else GROUP_ROWS)
    _wall_lines(console, [(w["node"], w["op"], w["tensor"], w["reason"]) for w in report["walls"]], verbose)
    if agreement is not None:
        where = f"{agreement['samples']} samples ({report['data']['evaluated_on']})"
        console.print(f"{_agreement(agreement['kind'], agreement['value'])} on {where}", markup=False)
    obtained = report["obtained"]
    if report["criterion_choice"] is not None:
        console.print(_choice(report["criterion_choice"]), markup=False)
    for row in obtained["targets"]:
        console.print(_target(row, report.get("distillation") is not None), markup=False)
    if obtained["alignment"] is not None:
        console.print(_aligned(obtained["alignment"]), markup=False)
    repair = obtained["repair"]
    if repair["weights"]:
        layers = _count(repair["layers"], "layer")
        console.print(f"repaired ({repair['method']}): {layers}, {_errors(report['layers_repaired'])}", markup=False)
    elif obtained["removed"]:
        console.print("not repaired", markup=False)
    if report.get("distillation"):
        console.print(_distilled(report["distillation"]), markup=False)
    asked = ", ".join(f"{k} {v}" for k, v in report["requested"].items())
    console.print(
        f"asked: {asked}; removed {obtained['removed']} of {obtained['removable']} removable units "
        f"({obtained['units']} in all)",
        markup=False,
    )
    if report["reused"]:
        console.print(f"measured before, not in this run: {', '.join(report['reused'])}", markup=False)
    if obtained["removed"] == 0:
        console.print(
            "note: nothing was removed (the request rounds to nothing, or all is excluded); the file is unchanged",
            markup=False,
        )
    if obtained["removed"]:
        error = f"largest relative error {proof['max_relative_error']:.2g} (limit {proof['tolerance']:g})"
        text = f"proof passed: {_count(proof['compared'], 'tensor')} equal to the masked original, {error}"
        console.print(text, markup=False)
    else:
        console.print("nothing to prove", markup=False)
    console.print(f"written: {out}" if out else "dry run: nothing was written", markup=False)


def _target(row: dict[str, Any], distilled: bool) -> str:
    """What was asked, what was reached, and on how many samples that was seen. distilled: whether the net was, since a
    drop is measured before."""
    measured = row.get("measured", {})
    state = "met" if row["met"] else "NOT met"
    if row["kind"] == "drop":
        if not measured:
            return f"target {row['asked']}: {state}; nothing could be measured"
        kind = {"accuracy": "accuracy", "top1": "disagreement", "pixel": "disagreement per pixel"}.get(
            measured["kind"], "relative L2 error"
        )
        seen = f"{kind} {100 * measured['value']:.2f} pp on {measured['samples']} samples that were held out"
        sure = f"at most {100 * measured['bound']:.2f} pp with 90 % confidence"
        if row["reached"] < measured["bound"]:
            shown = f"({measured['samples']} samples that were held out)"
            return f"target {row['asked']}: nothing goes; no cut that was tried is shown to stay within it {shown}"
        before = ", before the distillation" if distilled else ""
        return f"target {row['asked']}: {state}; {seen}, {sure}{before} (optimistic if the net was trained on them)"
    value = row["reached"]
    if row["kind"] == "latency":
        share = measured["after_ms"] / measured["before_ms"]
        times = f"{measured['before_ms']:.3g} → {measured['after_ms']:.3g} ms ({share:.1%}) on this machine"
        return f"target {row['asked']}: {state}; {times}"
    relative = "%" in row["asked"] or value <= 1
    shown, least = (f"{100 * v:.1f}%" if relative else f"{v:,.0f}" for v in (value, row["reachable"]))
    return f"target {row['asked']}: {state}; {shown} left (least within reach: {least})"


def _choice(choice: dict[str, Any]) -> str:
    """Which criterion `auto` took, and what the others came to."""
    if not choice["measured"]:
        return f"criterion auto: {choice['criterion']}, not compared with others (see the notes)"
    rows = sorted(choice["candidates"], key=lambda row: (row["error"] is None, row["error"] or 0.0))
    errors = ((r["criterion"], "not finite" if r["error"] is None else f"{r['error']:.3g}") for r in rows)
    mended = f"and {choice['repair']} repair" if choice["repair"] != "none" else "without repair"
    where = f"squared error on {choice['held_out']} held-out samples, {choice['cut']} {mended}"
    return f"criterion auto: {choice['criterion']}; {where}: {', '.join(map(' '.join, errors))}"


def _aligned(alignment: dict[str, Any]) -> str:
    """On which multiples channel counts were to end, and on which they do."""
    how = " (measured; less in narrow layers)" if alignment["measured"] else ""
    if not alignment["groups"]:
        return f"alignment {alignment['asked']}{how}: nothing was cut"
    ends = ", ".join(f"{count} on {multiple}" for multiple, count in alignment["multiples"].items())
    met = f"kept by {alignment['met']} of {_count(alignment['groups'], 'cut group')}"
    return f"alignment {alignment['asked']}{how}: {met}; they end: {ends}"


def _errors(layers: dict[str, dict[str, float]]) -> str:
    """The median over the layers, before and after."""
    before, after = (statistics.median([row[when] for row in layers.values()]) for when in ("before", "after"))
    return f"median squared error of their outputs on held-out samples {before:.2g} → {after:.2g}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _agreement(kind: str, value: float) -> str:
    if kind == "relative_l2":
        return f"relative L2 error of the output {value:.3g}"
    what = "top-1" if kind == "top1" else "arg max per pixel"
    return f"agreement of the {what} with the original {value:.2%}"


def _group_table(console: Console, groups: list[dict[str, Any]], limit: int | None) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("group", justify="right", no_wrap=True)
    table.add_column("channels", justify="right", no_wrap=True)
    table.add_column("layers", overflow="fold")
    shown = groups if limit is None else groups[:limit]
    for group in shown:
        change = f"{group['channels']} → {group['channels_after']}"
        table.add_row(
            str(group["id"]), change if group["removed"] else str(group["channels"]), escape(_names(group["members"]))
        )
    console.print(table)
    if len(shown) < len(groups):
        console.print(f"… and {len(groups) - len(shown)} more groups (-v shows all)", markup=False)


def _wall_lines(console: Console, walls: list[tuple[str, str, str, str]], verbose: int) -> None:
    shown = walls if verbose else walls[:WALL_ROWS]
    for node, op, tensor, reason in shown:
        console.print(f"wall: {node} ({op}) on '{tensor}': {reason}", markup=False)
    if len(shown) < len(walls):
        console.print(f"… and {len(walls) - len(shown)} more walls (-v shows all)", markup=False)


def _names(names: list[str] | tuple[str, ...], limit: int = 3) -> str:
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def print_distilled(report: dict[str, Any], out: str) -> None:
    """What a distillation did, and how close the net is now."""
    console = _console()
    data, agreement, accuracy = report["data"], report["agreement"], report["accuracy"]
    console.print(
        f"samples: {data['samples']} ({data['source']}); preprocessing: {data['preprocessing']}", markup=False
    )
    console.print(_distilled(report["distillation"]), markup=False)
    if agreement is not None:
        where = f"{agreement['samples']} samples ({data['evaluated_on']})"
        console.print(f"{_agreement(agreement['kind'], agreement['value'])} on {where}", markup=False)
    if accuracy is not None:
        console.print(f"accuracy {accuracy['before']:.2%} → {accuracy['after']:.2%}", markup=False)
    console.print(f"written: {out}", markup=False)


def _distilled(found: dict[str, Any]) -> str:
    """One line: the steps, and what the samples that were held out say."""
    before, after = found["before"], found["after"]
    text = (
        f"distilled: {found['done']} of {found['steps']} steps in {found['seconds']:.0f} s, {found['samples']} samples"
    )
    if before["agreement"] is not None:
        held = f"agreement {before['agreement']:.2%} → {after['agreement']:.2%}"
    else:
        told = ["not finite" if v["error"] is None else f"{v['error']:.3g}" for v in (before, after)]
        held = f"squared error {told[0]} → {told[1]}"
    text += f"; on {found['held_out']} held out: {held}"
    text += "; then the loss was no number any more" if found["diverged"] else ""
    return text + (
        f" (step {found['taken']})" if found["taken"] else " (no step did better: the weights are as they were)"
    )


def print_check(found: CheckResult) -> None:
    """The verdict of `check`."""
    console = _console()
    proof = found.proof
    error = f"largest relative error {proof.max_relative_error:.2g} (limit {proof.tolerance:g})"
    tensors = _count(proof.compared, "tensor")
    if not found.changed:
        console.print(f"proof passed: {tensors} equal to the masked original, {error}", markup=False)
    else:
        console.print(
            f"structure and shapes are proven (the surgery itself, with {tensors} compared: {error}); "
            f"{_count(len(found.changed), 'weight')} of the file hold other values, about which the proof says "
            f"nothing: {_names(found.changed)} (a repair or training may have changed them)",
            markup=False,
        )
    if found.steps > 1:
        console.print(f"{found.steps} prunes lead from the original to this file; each was proven", markup=False)
    if found.agreement is not None:
        kind, value = found.agreement.kind, found.agreement.value
        console.print(f"{_agreement(kind, value)} on {found.agreement.samples} samples ({found.samples})", markup=False)
        if found.agreement.accuracy_before is not None:
            before, after = found.agreement.accuracy_before, found.agreement.accuracy_after
            console.print(f"accuracy {before:.2%} → {after:.2%}", markup=False)
