"""Distillation in minutes: accuracy after the repair, after two minutes and after ten; OCNNA as published with nothing,
repaired and distilled; the same minutes spent by a peer; and steps per second against a loop written by hand.

Labels are nobody's: the 3,000 training images of CIFAR-10 teach, the test images judge and are used for nothing else.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import onnx
from bench_measure import Judges, Setting, calibrating, left, timed
from bench_nets import Net
from bench_rows import Row, grouped, resumed, short
from peers import TORCH_PRUNING, run

import ocnna_onnx

TOOLS = Path(__file__).parent
WHAT = "distill"
BARS: dict[tuple[str, float], tuple[float, float]] = {
    ("cifar10_resnet20", 0.5): (-2.0, -1.0),
    ("cifar10_resnet56", 0.5): (-0.6, 0.0),
    ("cifar10_resnet56", 0.3): (-3.0, -1.5),
    ("cifar10_vgg16_half_bn", 0.25): (-1.0, -0.3),
    ("cifar10_mobilenet_v1_half", 0.4): (-2.0, -0.7),
    ("cifar10_densenet_bc_6_12_24_k12", 0.5): (-2.0, -0.8),
}
"""(net, share of the MACs) -> percentage points that it may lose after the longest time: the bar, the dream."""

PAPER_NETS = (
    "cifar10_vgg16_half_bn",
    "cifar10_resnet56_bn",
    "cifar10_densenet_bc_6_12_24_k12",
    "cifar10_mobilenet_v1_half",
)
PERCENTILES = (20, 40)
BY_HAND = "cifar10_resnet20"
"""The net whose class is written out in `distill_by_hand.py`."""

TEACHING = 3000
"""Images that teach; `--images` of them calibrate and repair."""

AUGMENT = "shift,flip"
PEER_WAY = "group-l2"
HEAD = ("net", "how", "MACs", "RPR", "nothing", "repaired", "minutes: Δ pp (steps)", "bar", "met", "dream")


def rows(
    nets: Sequence[Net],
    minutes: Sequence[float],
    criterion: str,
    seed: int,
    setting: Setting,
    paper: bool,
    peers: Path | None,
    limit: float,
) -> Iterator[Row]:
    """One per net, share (or percentile) and number of minutes (0: the repair alone; None: nothing). paper: OCNNA as
    published, too. peers: folder that has Torch-Pruning; None leaves them out. limit: seconds for a
    peer's cut, besides the minutes of its training."""
    judges = Judges(setting)
    for net in nets:
        for name, share in BARS:
            if name != net.name:
                continue
            about = {**_about(net, seed, setting), "share": share, "criterion": criterion, "tool": "ocnna-onnx"}
            cut = {"target": f"macs={100 * share:g}%", "criterion": criterion, "align": setting.alignment}
            yield from _ours(net, cut, about, (0, *minutes), seed, setting, judges)
            if peers is not None:
                base = {**_about(net, seed, setting), "share": share, "tool": TORCH_PRUNING}
                for time_ in minutes:
                    make = partial(_peer, net, share, time_, seed, setting, peers, limit)
                    yield from resumed(setting.file, [{**base, "minutes": time_}], make)
        if paper and net.name in PAPER_NETS:
            for percentile in PERCENTILES:
                about = {**_about(net, seed, setting), "percentile": percentile, "tool": "ocnna-onnx"}
                cut = {"percentile": percentile, "criterion": "ocnna"}
                yield from _ours(net, cut, about, (None, 0, *minutes), seed, setting, judges)
        if net.name == BY_HAND:
            about = {**_about(net, seed, setting), "tool": "steps"}
            yield from resumed(setting.file, [about], partial(_speed, net, setting))


def _about(net: Net, seed: int, setting: Setting) -> Row:
    return {**setting.about(WHAT, net, seed), "threads": setting.threads}


def _ours(
    net: Net,
    cut: dict[str, Any],
    about: Row,
    minutes: Sequence[float | None],
    seed: int,
    setting: Setting,
    judges: Judges,
) -> Iterator[Row]:
    """The same cut for all times, distilled from the same file; made when it is first needed."""
    made: dict[str, Any] = {}

    def pruned(repair: str) -> ocnna_onnx.Result:
        if repair not in made:
            images = calibrating(net, seed, setting)
            given = {"samples": len(images), "seed": seed, "threads": setting.threads, "repair": repair}
            made[repair] = ocnna_onnx.prune(net.path, data={"input": images}, **given, **cut)
        found: ocnna_onnx.Result = made[repair]
        return found

    def measured(time_: float | None) -> list[Row]:
        models: list[onnx.ModelProto] = []

        def work() -> Row:
            result = pruned("none" if time_ is None else "least-squares")
            row, model = left(result.report), result.model
            if time_:
                found = ocnna_onnx.distill(
                    net.path,
                    model,
                    data={"input": teaching(net, seed, setting)},
                    samples=TEACHING,
                    seed=seed,
                    time=60 * time_,
                    augment=AUGMENT,
                    threads=setting.threads,
                )
                model = found.model
                section = found.report["distillation"]
                keys = ("steps", "taken", "steps_per_second", "before", "after", "seconds")
                row["distillation"] = {k: section[k] for k in keys}
            models.append(model)
            return row

        row = timed(work)
        return [{**row, **judges(net, seed)(models[0])} if models else row]

    for time_ in minutes:
        yield from resumed(setting.file, [{**about, "minutes": time_}], partial(measured, time_))


def teaching(net: Net, seed: int, setting: Setting) -> Any:
    """All images that may be seen; the first of them are those that calibrate."""
    import bench_nets

    return bench_nets.calibration(net, seed, TEACHING, setting.cache)


def _peer(net: Net, share: float, minutes: float, seed: int, setting: Setting, folder: Path, limit: float) -> list[Row]:
    """Torch-Pruning's cut, then a plain loop of distillation, in a process of its own."""
    given = {"share": share, "way": PEER_WAY, "seed": seed, "images": setting.images, "judge": setting.judge}
    given |= {"threads": setting.threads, "cache": str(setting.cache), "teaching": TEACHING, "seconds": 60 * minutes}
    return [timed(lambda: _of(run(_command("peer", net, given), limit + 60 * minutes, folder)))]


def _speed(net: Net, setting: Setting) -> list[Row]:
    """Steps per second, ours and by hand on the model's own class."""
    given = {"threads": setting.threads, "cache": str(setting.cache), "images": setting.images, "seed": 0}
    return [timed(lambda: _of(run(_command("speed", net, given), 1800.0)))]


def _command(what: str, net: Net, given: Row) -> list[Any]:
    return [sys.executable, TOOLS / "distill_by_hand.py", what, net.path.parent.parent, net.name, json.dumps(given)]


def _of(answer: tuple[str, str]) -> Row:
    output, wrong = answer
    if wrong:
        return {"failed": wrong}
    found: Row = json.loads(output.strip().splitlines()[-1])
    return found


def table(found: Sequence[Row]) -> list[Sequence[str]]:
    """A line per net, cut and tool."""
    lines: list[Sequence[str]] = [HEAD]
    mine = [r for r in found if r["tool"] != "steps"]
    for (net, share, percentile, tool), some in grouped(mine, "net", "share", "percentile", "tool").items():
        how = f"{tool.replace('==', ' ')}, " + (f"{share:.0%}" if share is not None else f"OCNNA, K = {percentile}")
        good = {r["minutes"]: r for r in some if "delta" in r}
        if not good:
            why = some[0].get("failed") or some[0].get("refused") or ""
            lines.append((short(net), how, str(why).replace("|", "/")[:90], *[""] * (len(HEAD) - 3)))
            continue
        any_ = next(iter(good.values()))
        times = sorted(m for m in good if m)
        cells = [f"{m:g}: {good[m]['delta']:+.2f} ({_steps(good[m])})" for m in times]
        bar, dream = BARS.get((net, share), (None, None)) if share is not None else (None, None)
        last = good[times[-1]]["delta"] if times else None
        lines.append(
            (
                short(net),
                how,
                f"{any_['macs']:.1%}",
                f"{any_['rpr']:.1%}",
                _delta(good.get(None)),
                _delta(good.get(0)),
                ", ".join(cells),
                "" if bar is None else f"{bar:+.1f}",
                "" if bar is None or last is None else ("yes" if last >= bar else "no"),
                "" if dream is None else f"{dream:+.1f}",
            )
        )
    return lines


def _steps(row: Row) -> str:
    return str(row.get("steps") or row.get("distillation", {}).get("steps", ""))


def _delta(row: Row | None) -> str:
    return "" if row is None else f"{row['delta']:+.2f}"


def notes(found: Sequence[Row]) -> Iterator[str]:
    """Steps per second, ours and by hand."""
    for r in found:
        if r["tool"] == "steps" and "ours" in r:
            ratio = r["by_hand"] / r["ours"]
            text = f"- {short(r['net'])}: {r['ours']:.2f} steps/s, by hand {r['by_hand']:.2f}: ratio {ratio:.2f}"
            yield f"{text} (bar 1.3), {r['threads']} threads, batch {r['batch']}"


__all__ = ["WHAT", "notes", "rows", "table"]
