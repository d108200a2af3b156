"""Other pruners beside ours at equal multiply–accumulates: the same files, the same images, nothing trained.

Torch-Pruning prunes what onnx2torch makes of a file (`peers_share.py`, a process of its own), onnxsim the file itself
(`peers_onnxsim.py`). The peer's own ratio is searched until the multiply–accumulates are within TOLERANCE.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from bench_measure import MADE, SHARES, Judges, Setting, calibrating, cut_to, measured, timed
from bench_nets import Net
from bench_rows import Row, grouped, resumed, short
from peers import ONNXSIM, TORCH_PRUNING, run
from zoo import TOOLS

import ocnna_onnx

WHAT = "peers"
OURS = "ocnna-onnx"
TORCH_WAYS = ("group-l2", "group-l2-global", "fpgm", "bn-scale")
ONNXSIM_WAYS = ("l2", "wanda")
REESTIMATED = "BatchNormalization re-estimated"
TOLERANCE = 0.01
"""Of the share of the multiply–accumulates that is asked for, either way."""

STEPS = 14
DEEPEST = 0.97
FEW = 8
Reached = tuple[float, float]


class Unreachable(Exception):
    """A share that no ratio of the peer gives; the text says how far it gets."""


def search(left_at: Callable[[float], float], share: float) -> Reached:
    """(the peer's ratio, share of the multiply–accumulates left) as near to `share` as its steps allow, by bisection.

    left_at(ratio): what is left, which falls as the ratio grows. Raises Unreachable.
    """
    low, high = 0.0, DEEPEST
    best = (0.0, 1.0)
    for _ in range(STEPS):  # from mild to deep: a peer that breaks at a ratio that is not needed has not failed
        middle = (low + high) / 2
        found = left_at(middle)
        if abs(found - share) < abs(best[1] - share):
            best = (middle, found)
        if abs(best[1] / share - 1) <= TOLERANCE / 10:
            break
        low, high = (middle, high) if found > share else (low, middle)
    if low > DEEPEST * (1 - 2 / 2**STEPS) and best[1] > share * (1 + TOLERANCE):
        raise Unreachable(f"leaves {best[1]:.1%} of the MACs at least")
    return best


def rows(
    nets: Sequence[Net],
    shares: Sequence[float],
    criterion: str,
    seed: int,
    setting: Setting,
    python: Path,
    folder: Path,
    limit: float,
) -> Iterator[Row]:
    """One per net, share, tool and way. python: has onnxsim; folder: has Torch-Pruning and onnx2torch; limit: seconds
    that a peer may take on a net and share."""
    judges = Judges(setting)
    for net in nets:
        for asked in shares or SHARES.get(net.name, MADE):
            base = {**setting.about(WHAT, net, seed), "share": asked}
            mine = [{**base, "tool": OURS, "way": f"{criterion}, repaired"}]
            yield from resumed(setting.file, mine, partial(_ours, net, asked, criterion, seed, setting, judges))
            for way in TORCH_WAYS:
                theirs = [{**base, "tool": TORCH_PRUNING, "way": w} for w in (way, f"{way}, {REESTIMATED}")]
                make = partial(_of_torch, net, asked, way, seed, setting, folder, limit)
                yield from resumed(setting.file, theirs, make)
            for way in ONNXSIM_WAYS:
                make = partial(_of_onnxsim, net, asked, way, seed, setting, python, limit, judges)
                yield from resumed(setting.file, [{**base, "tool": ONNXSIM, "way": way}], make)


def _ours(net: Net, asked: float, criterion: str, seed: int, setting: Setting, judges: Judges) -> list[Row]:
    return [measured(lambda: cut_to(net, asked, criterion, seed, setting), lambda: judges(net, seed))[0]]


def _of_torch(net: Net, asked: float, way: str, seed: int, setting: Setting, folder: Path, limit: float) -> list[Row]:
    """Without and with re-estimated statistics, from a process of its own."""
    given = {"share": asked, "way": way, "seed": seed, "images": setting.images, "judge": setting.judge}
    given |= {"threads": setting.threads, "cache": str(setting.cache)}
    root = net.path.parent.parent
    command = [sys.executable, TOOLS / "peers_share.py", root, net.name, json.dumps(given)]

    made: list[Row] = []

    def work() -> Row:
        output, wrong = run(command, limit, folder)
        made.extend([{"failed": wrong}] * 2 if wrong else json.loads(output.strip().splitlines()[-1]))
        return {}

    about = timed(work)
    return [{**row, **about} for row in made]


def _of_onnxsim(
    net: Net, asked: float, way: str, seed: int, setting: Setting, python: Path, limit: float, judges: Judges
) -> list[Row]:
    with tempfile.TemporaryDirectory() as place:
        simple, pruned, images, few = (Path(place) / n for n in ("s.onnx", "p.onnx", "images.npy", "few.npy"))
        seen = way == "wanda"

        def tool(*given: Any) -> None:
            _, why = run([python, TOOLS / "peers_onnxsim.py", *map(str, given)], limit)
            if why:
                raise Unreachable(why)

        def left_at(ratio: float) -> float:
            tool(simple, pruned, "--simple", "--sparsity", ratio, *(["--wanda", few] if seen else []))
            return _cost(pruned)[0] / whole[0]

        def work() -> Row:
            try:
                tool(net.path, simple, "--sparsity", 0)
                if seen:  # how many channels go depends on the ratio alone: a few images do for the search
                    np.save(images, calibrating(net, seed, setting))
                    np.save(few, calibrating(net, seed, setting)[:FEW])
                ratio, _ = search(left_at, asked)
                tool(simple, pruned, "--simple", "--sparsity", ratio, *(["--wanda", images] if seen else []))
            except Unreachable as error:
                return {"failed": str(error)}
            macs, params = (a / b for a, b in zip(_cost(pruned), whole, strict=True))
            return {"ratio": ratio, "macs": round(macs, 5), "rpr": round(params, 5)}

        whole = _cost(net.path)
        row = timed(work)
        return [row if "failed" in row else {**row, **judges(net, seed)(onnx.load(pruned))}]


def _cost(path: Path) -> tuple[float, float]:
    """Multiply–accumulates and parameters of a file. Raises Unreachable where it does not run."""
    try:
        found = ocnna_onnx.inspect(path, threads=1)
    except ocnna_onnx.OcnnaError as error:
        raise Unreachable(f"does not run: {str(error).splitlines()[0]}") from error
    return found.macs, found.params


def table(found: Sequence[Row]) -> list[Sequence[str]]:
    """A line per tool and way, a column per net and share: Δ in percentage points (MACs left), or why not."""
    places = list(grouped(found, "net", "share"))
    lines: list[Sequence[str]] = [("tool", "way", *(f"{short(n)} at {s:.0%}" for n, s in places))]
    for (tool, way), some in grouped(found, "tool", "way").items():
        at = {(r["net"], r["share"]): r for r in some}
        lines.append((tool.replace("==", " "), way, *(_cell(at.get(p)) for p in places)))
    return lines


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    if "delta" not in row:
        return str(row.get("failed") or row.get("refused")).replace("|", "/")[:90]
    text = f"{row['delta']:+.2f} ({row['macs']:.1%})"
    return f"{text}, trunk left alone" if "crash" in row else text


def notes(found: Sequence[Row]) -> Iterator[str]:
    """What went wrong, in full: once for every tool and reason."""
    crashed = [r for r in found if "crash" in r]
    for (tool, why), some in grouped(crashed, "tool", "crash").items():
        where = ", ".join(dict.fromkeys(short(r["net"]) for r in some))
        ways = ", ".join(dict.fromkeys(r["way"] for r in some if REESTIMATED not in r["way"]))
        yield f"- {tool.replace('==', ' ')} ({ways}) on {where}: {why}; what feeds a residual sum was then left alone"


__all__ = ["Unreachable", "notes", "rows", "search", "table"]
