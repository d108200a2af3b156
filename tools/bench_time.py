"""What a whole prune with its repair costs, in plain passes over the same images, stage by stage, and its memory."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bench_measure import Setting, calibrating, timed
from bench_nets import Net
from bench_rows import Row, resumed, short

WORKER = Path(__file__).parent / "bench_pass.py"
WHAT = "time"
AIMS = {"cifar10_resnet56": 25, "cifar10_resnet56_bn": 25, "imagenet": 40}
"""Net, or what its name begins with -> plain passes that a prune may take."""

STAGES = ("load", "trace", "score", "sensitivity", "rewrite", "prove", "repair", "evaluate")
HEAD = ("net", "asked", "images", "threads", "plain s", "prune s", "prune / plain", "aim", *STAGES, "rest")
HEAD += ("peak MB", "peak of plain MB", "load of the machine")


def rows(nets: Sequence[Net], shares: Sequence[float], criterion: str, seed: int, setting: Setting) -> Iterator[Row]:
    """One per net and share: processes of their own, a plain pass before and after the prune; nothing comes from a
    cache."""
    for net in nets:
        for asked in shares:
            about = {**setting.about(WHAT, net, seed), "share": asked, "criterion": criterion}
            about |= {"threads": setting.threads, "align": setting.align}
            yield from resumed(setting.file, [about], partial(_row, net, asked, criterion, seed, setting))


def _row(net: Net, asked: float, criterion: str, seed: int, setting: Setting) -> list[Row]:
    return [timed(lambda: _measured(net, asked, criterion, seed, setting))]


def _measured(net: Net, asked: float, criterion: str, seed: int, setting: Setting) -> Row:
    given = {"target": f"macs={100 * asked:g}%", "criterion": criterion, "threads": setting.threads, "seed": seed}
    given |= {"align": setting.alignment}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "images.npy"
        images = calibrating(net, seed, setting)
        np.save(file, images)
        before, prune, after = (_process(what, net.path, file, given) for what in ("plain", "prune", "plain"))
    if wrong := next((d["failed"] for d in (before, prune, after) if "failed" in d), None):
        return {"refused": wrong}
    plain = (before["took"] + after["took"]) / 2
    return {
        "calibrated": len(images),
        "plain_s": round(plain, 6),
        "prune_s": round(prune["took"], 3),
        "passes": round(prune["took"] / plain, 2),
        "timings": prune["timings"],
        "macs": prune["macs"],
        "peak_mb": round(prune["peak"] / 2**20),
        "plain_peak_mb": round(before["peak"] / 2**20),
    }


def _process(what: str, path: Path, images: Path, given: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, WORKER, what, path, images, json.dumps(given)], capture_output=True, text=True
    )
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def table(found: Sequence[Row]) -> list[Sequence[str]]:
    """A line per net and share; of every stage its share of the prune."""
    lines: list[Sequence[str]] = [HEAD]
    for r in found:
        front = [short(r["net"]), f"{r['share']:.0%}"]
        if "passes" not in r:
            lines.append([*front, r.get("refused", ""), *[""] * (len(HEAD) - 3)])
            continue
        parts = [r["timings"].get(s, 0.0) / r["prune_s"] for s in STAGES]
        aim = AIMS.get(r["net"], AIMS.get(r["net"].partition("_")[0], ""))
        cells = [r["calibrated"], r["threads"], f"{r['plain_s']:.2f}", f"{r['prune_s']:.1f}", f"{r['passes']:.1f}", aim]
        cells += [f"{p:.0%}" for p in (*parts, 1 - sum(parts))]
        lines.append([*front, *map(str, (*cells, r["peak_mb"], r["plain_peak_mb"], r["load"]))])
    return lines
