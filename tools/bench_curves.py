"""Accuracy over the share of the multiply–accumulates, for criteria, before and after the repair of the same cuts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from bench_criteria import PROVEN_ON
from bench_measure import Judges, Setting, calibrating, cut_to, measured
from bench_nets import Net
from bench_rows import Row, grouped, resumed, short

import ocnna_onnx

WHAT = "curves"
REPAIRS = ("least-squares", "none")


def rows(
    nets: Sequence[Net], shares: Sequence[float], criteria: Sequence[str], seed: int, setting: Setting
) -> Iterator[Row]:
    """Two per net, criterion and share: repaired, and the same cut as it is."""
    judges = Judges(setting)
    for net in nets:
        for criterion in criteria:
            for asked in shares:  # one after the other: scores and sensitivities are kept
                base = {**setting.about(WHAT, net, seed), "share": asked, "criterion": criterion}
                abouts = [{**base, "align": setting.align, "repair": r} for r in REPAIRS]
                yield from resumed(setting.file, abouts, partial(_both, net, asked, criterion, seed, setting, judges))


def _both(net: Net, asked: float, criterion: str, seed: int, setting: Setting, judges: Judges) -> list[Row]:
    repaired, result = measured(lambda: cut_to(net, asked, criterion, seed, setting), lambda: judges(net, seed))
    if result is None:
        return [repaired, repaired]
    few = calibrating(net, seed, setting)[:PROVEN_ON]
    given = {"data": {"input": few}, "samples": len(few), "seed": seed, "threads": setting.threads}
    plan = result.plan
    plain, _ = measured(lambda: ocnna_onnx.apply(plan, net.path, repair="none", **given), lambda: judges(net, seed))
    return [repaired, plain]


def table(found: Sequence[Row]) -> list[Sequence[str]]:
    """A line per net, criterion and repair; a cell per share: Δ in percentage points (MACs left / RPR)."""
    shares = sorted({r["share"] for r in found}, reverse=True)
    lines: list[Sequence[str]] = [("net", "criterion", "repair", *(f"{s:.0%}" for s in shares))]
    for (net, criterion, repair), some in grouped(found, "net", "criterion", "repair").items():
        at = {r["share"]: r for r in some}
        lines.append((short(net), criterion, repair, *(_cell(at.get(s)) for s in shares)))
    return lines


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    return f"{row['delta']:+.2f} ({row['macs']:.1%} / {row['rpr']:.1%})" if "delta" in row else row["refused"]
