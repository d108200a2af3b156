"""Criterion × net × ratio: accuracy right after pruning. Nothing is repaired, so this is what a choice is worth."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from bench_nets import CACHE, Judging, Net, calibration, judging
from bench_rows import Row, append, matching, read, short
from zoo_table import table

import ocnna_onnx
from ocnna_onnx.errors import OcnnaError, ProofFailed
from ocnna_onnx.model.session import Runtime, open_session, run

BATCH = 50
PROVEN_ON = 32
"""Calibration images that a prune is given: scores are known, so they serve the proof only."""

RANDOM_SEEDS = 3
ALIVE = 0.2
"""Where no criterion reaches this accuracy, which of them is best is chance."""

SPREAD = 0.02
UNPRUNED = "(unpruned)"


@dataclass(frozen=True)
class Setting:
    """images: for scores. judge: that accuracy is measured on. threads: onnxruntime's."""

    ratios: tuple[float, ...]
    images: int
    judge: int
    seed: int
    threads: int

    def about(self) -> Row:
        """What a row depends on besides its net, criterion and ratio."""
        return {"images": self.images, "judge": self.judge, "seed": self.seed}


def measure(nets: Iterable[Net], criteria: Sequence[str], setting: Setting, file: Path) -> Iterator[list[Row]]:
    """Rows of each net and criterion, appended to the file as they come; those that are there are not made again."""
    os.environ.setdefault("OCNNA_ONNX_CACHE", str(CACHE / "scores"))
    for net in nets:
        calibrating = calibration(net, setting.seed, setting.images)
        judge = judging(net, setting.seed, setting.judge)
        for criterion in (UNPRUNED, *criteria):
            known = matching(read(file), {"net": net.name, "criterion": criterion, **setting.about()})
            done = {r["ratio"] for r in known}
            missing = [r for r in ((0.0,) if criterion == UNPRUNED else setting.ratios) if r not in done]
            made = []
            if missing:
                made = list(_rows(net, criterion, missing, setting, calibrating, judge))
                append(file, made)
            yield [*known, *made]


def _rows(
    net: Net,
    criterion: str,
    ratios: Sequence[float],
    setting: Setting,
    calibrating: npt.NDArray[np.float32],
    judge: Judging,
) -> Iterator[Row]:
    about = {"net": net.name, "criterion": criterion, **setting.about(), "judged": len(judge.inputs)}
    about |= {"calibrated": len(calibrating), "date": time.strftime("%Y-%m-%d")}
    if criterion == UNPRUNED:
        runtime = Runtime(threads=setting.threads)
        yield {**about, "ratio": 0.0, "accuracy": accuracy(onnx.load(net.path), judge, net, runtime)}
        return
    seeds = [setting.seed + k for k in range(RANDOM_SEEDS)] if criterion == "random" else [setting.seed]
    data = {"input": calibrating}
    started = time.perf_counter()
    try:
        scores = [
            ocnna_onnx.score(
                net.path, criterion=criterion, data=data, samples=len(calibrating), seed=s, threads=setting.threads
            )
            for s in seeds
        ]
    except OcnnaError as error:
        yield from ({**about, "ratio": r, "refused": str(error)} for r in ratios)
        return
    about["score_s"] = round(time.perf_counter() - started, 1)
    about["load"] = round(os.getloadavg()[0], 1)
    for ratio in ratios:
        each = [_pruned(net, s, ratio, seed, setting, data, judge) for s, seed in zip(scores, seeds, strict=True)]
        failed = [e for e in each if "unproven" in e]
        if failed:
            yield {**about, "ratio": ratio, **failed[0]}
            continue
        yield {
            **about,
            "ratio": ratio,
            **{k: float(np.mean([e[k] for e in each])) for k in each[0]},
            **({"each": [e["accuracy"] for e in each]} if len(each) > 1 else {}),
        }


def _pruned(
    net: Net, scores: ocnna_onnx.Scores, ratio: float, seed: int, setting: Setting, data: dict[str, Any], judge: Judging
) -> Row:
    """Accuracy and what is left, or why the proof failed."""
    few = {name: array[:PROVEN_ON] for name, array in data.items()}
    try:
        result = ocnna_onnx.prune(
            net.path,
            scores=scores,
            ratio=ratio,
            data=few,
            seed=seed,
            threads=setting.threads,
            samples=PROVEN_ON,
            repair="none",
        )
    except ProofFailed as error:
        return {"unproven": str(error)}
    obtained = result.report["obtained"]
    return {
        "accuracy": accuracy(result.model, judge, net, Runtime(threads=setting.threads)),
        "parameters": obtained["params_ratio"],
        "macs": obtained["macs_ratio"],
    }


def accuracy(model: onnx.ModelProto, judge: Judging, net: Net, runtime: Runtime) -> float:
    """Share of right answers; without labels, the share of pixels with the class that the unpruned net gives them."""
    right = total = 0
    batch = BATCH if net.labelled else 1
    original = model if net.labelled else onnx.load(net.path)
    with open_session(model, runtime, optimize=True) as ours, open_session(original, runtime, optimize=True) as theirs:
        for k in range(0, len(judge.inputs), batch):
            feed = {"input": np.ascontiguousarray(judge.inputs[k : k + batch])}
            found = run(ours, ["logits"], feed)["logits"].argmax(axis=1)
            wanted = judge.labels[k : k + batch] if judge.labels is not None else _classes(theirs, feed)
            right += int((found == wanted).sum())
            total += found.size
    return right / total


def _classes(session: Any, feed: dict[str, npt.NDArray[np.float32]]) -> npt.NDArray[np.int64]:
    return run(session, ["logits"], feed)["logits"].argmax(axis=1)


def line(rows: Sequence[Row], ratios: Sequence[float]) -> dict[str, str]:
    """Net, criterion, and a cell for every ratio."""
    by_ratio = {r["ratio"]: r for r in rows}
    unpruned = by_ratio.get(0.0)
    cells = {f"{ratio:g}": _cell(unpruned or by_ratio.get(ratio)) for ratio in ratios}
    seconds = next((f"{r['score_s']:g}" for r in rows if "score_s" in r), "–")
    return {"net": rows[0]["net"], "criterion": rows[0]["criterion"], **cells, "score s": seconds}


def _cell(row: Row | None, macs: bool = False) -> str:
    """macs: with the share of the MACs that is left, in brackets."""
    if row is None:
        return ""
    if "refused" in row:
        return "n/a"
    if "unproven" in row:
        return "unproven"
    return f"{row['accuracy']:.1%}" + (f" ({row['macs']:.0%})" if macs else "")


def tables(rows: Sequence[Row], ratios: Sequence[float], criteria: Sequence[str]) -> Iterator[str]:
    """One table for each ratio (criterion × net, and what is left), and footnotes. rows: of one setting.

    Where what is left of a net's MACs differs between criteria (by more than SPREAD), each cell says how much it is,
    and the net has no say in places.
    """
    at = {(r["net"], r["criterion"], r["ratio"]): r for r in rows}
    nets = list(dict.fromkeys(r["net"] for r in rows))
    for ratio in ratios:
        yield f"### Ratio {ratio:g}\n"
        lines = [["criterion", *(short(n) for n in nets), "place"]]
        lines.append([UNPRUNED, *(_cell(at.get((n, UNPRUNED, 0.0))) for n in nets), ""])
        uneven = [len(m := _all_left(rows, n, ratio, "macs")) > 0 and max(m) - min(m) > SPREAD for n in nets]
        even = [n for n, differs in zip(nets, uneven, strict=True) if not differs]
        for name in criteria:
            cells = [at.get((n, name, ratio)) for n in nets]
            if any(cells):
                lines.append([name, *map(_cell, cells, uneven), _place(at, even, name, ratio, criteria)])
        for what in ("macs", "parameters"):
            lines.append([f"{what.replace('macs', 'MACs')} left", *(_left(rows, n, ratio, what) for n in nets), ""])
        yield table(lines[0], lines[1:])
        yield ""
    refused = {(r["criterion"], r["refused"]): None for r in rows if "refused" in r}
    for criterion, why in refused:
        where = ", ".join(dict.fromkeys(short(r["net"]) for r in rows if r.get("refused") == why))
        yield f"- n/a: `{criterion}` on {where}: {why}"
    for r in rows:
        if "unproven" in r:
            yield f"- unproven: `{r['criterion']}` on {short(r['net'])} at {r['ratio']:g}: {r['unproven']}"


def _all_left(rows: Sequence[Row], net: str, ratio: float, what: str) -> list[float]:
    return [r[what] for r in rows if r["net"] == net and r["ratio"] == ratio and what in r]


def _left(rows: Sequence[Row], net: str, ratio: float, what: str) -> str:
    """What is left, as a range over the criteria."""
    found = _all_left(rows, net, ratio, what)
    if not found:
        return ""
    low, high = f"{min(found):.0%}", f"{max(found):.0%}"
    return low if low == high else f"{low[:-1]}–{high}"


def _place(at: dict[Any, Row], nets: Sequence[str], name: str, ratio: float, criteria: Sequence[str]) -> str:
    """Place among the criteria (0: best, 1: worst; ties in the middle), averaged over the nets that are ALIVE."""
    places = []
    for net in nets:
        found = {c: r["accuracy"] for c in criteria if "accuracy" in (r := at.get((net, c, ratio), {}))}
        if name in found and len(found) > 1 and max(found.values()) >= ALIVE:
            others = [v for c, v in found.items() if c != name]
            better = sum(v > found[name] for v in others) + 0.5 * sum(v == found[name] for v in others)
            places.append(better / len(others))
    return f"{np.mean(places):.2f}" if places else ""
