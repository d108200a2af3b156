"""Three nets by search: published form, default, random masks and score-based cuts, at as many evaluations."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bench_measure import Judges, Setting, calibrating, left, timed
from bench_nets import Net, calibration_labels
from bench_rows import Row, grouped, resumed, short

import ocnna_onnx
from ocnna_onnx.evolution.asked import asked_of
from ocnna_onnx.evolution.evolve import Archive
from ocnna_onnx.evolution.finish import finished
from ocnna_onnx.evolution.found import THREE, Search
from ocnna_onnx.evolution.front import hypervolume
from ocnna_onnx.evolution.genome import legal
from ocnna_onnx.evolution.run import Run, prepared
from ocnna_onnx.evolution.workers import workforce
from ocnna_onnx.model.session import Runtime, open_session, run
from ocnna_onnx.opened import open_model
from ocnna_onnx.settings import settings_of

WHAT = "search"
METHODS = ("default", "classic", "random", "scores")
SWITCHES = ("uniform flips", "no seeds", "no repair", "align auto")
"""The default with one of its additions off (or on): whether each earns its place."""

OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "classic": {"classic": True},
    "uniform flips": {"flips": "uniform"},
    "no seeds": {"seed_with": "none"},
    "no repair": {"repair": "none"},
    "align auto": {"align": "auto"},
}
WITHIN = 0.65
"""Of the front, the candidate that the selection samples like best at no more than this share of the cost is judged,
too."""

HEAD = (
    "net",
    "method",
    "candidates",
    "hypervolume",
    *THREE,
    f"≤ {WITHIN:.0%}",
    "seconds a candidate",
    "passes a candidate",
)
HEAD += ("seconds",)


def rows(
    nets: Sequence[Net],
    methods: Sequence[str],
    generations: int,
    population: int,
    seeds: Sequence[int],
    jobs: int,
    setting: Setting,
) -> Iterator[Row]:
    """One per net, seed and method. Every method evaluates population + generations · (population − 3) candidates at
    most; `equal` is no method: whether a run that is interrupted and resumed, and one of two workers, come out the
    same."""
    judges = Judges(setting)
    for net in nets:
        for seed in seeds:
            for method in methods:
                about = {**setting.about(WHAT, net, seed), "method": method, "align": setting.align}
                about |= {"generations": generations, "population": population}
                options = {"generations": generations, "population": population, "jobs": jobs}
                make = partial(_measured, net, method, seed, options, setting, judges)
                yield from resumed(setting.file, [about], make)


def _measured(net: Net, method: str, seed: int, options: dict[str, Any], setting: Setting, judges: Judges) -> list[Row]:
    data = {"input": calibrating(net, seed, setting)}
    common: dict[str, Any] = {"samples": len(data["input"]), "seed": seed, "threads": setting.threads}
    if net.labelled:
        data["y"] = calibration_labels(net, seed, setting.images, setting.cache)
    common["data"] = data
    if method == "equal":
        return [timed(lambda: _equal(net, options, common, setting))]
    made: list[Search] = []

    def work() -> Row:
        started = time.perf_counter()
        found, spent = _found(net, method, options, common, setting)
        made.append(found)
        count = max(1, len(found.archive) - 1)
        each = spent / count
        worth = found.archive.worth
        return {
            "candidates": count,
            "stopped": int(worth.stopped.sum()),
            "hypervolume": round(hypervolume(worth.error, worth.cost), 5),
            "each": round(each, 4),
            "passes": round(each / _pass(net, found.told["samples"]["search"], data["input"], options["jobs"]), 3),
            "whole": round(time.perf_counter() - started, 1),
        }

    row = timed(work)
    for found in made:
        for name in THREE:
            result = found.results[name]
            row[name] = {**left(result.report), **judges(net, seed)(result.model)}
        within = [m for m in found.front if m.cost <= WITHIN]
        if within:
            best = min(within, key=lambda m: m.selection_error)
            repair = OPTIONS.get(method, {}).get("repair", "none" if method == "classic" else "least-squares")
            result = ocnna_onnx.apply(best.plan, net.path, repair=repair, **common)
            row["within"] = {**left(result.report), **judges(net, seed)(result.model)}
    return [row]


def _found(
    net: Net, method: str, options: dict[str, Any], common: dict[str, Any], setting: Setting
) -> tuple[Search, float]:
    """What a method comes to, and the seconds of its evaluations."""
    if method in OPTIONS:
        align = {} if method == "classic" else {"align": setting.alignment}
        standings: list[tuple[float, int]] = []
        found = ocnna_onnx.search(
            net.path,
            **{**align, **options, **OPTIONS[method]},
            **common,
            watch=lambda s: standings.append((time.perf_counter(), s.evaluated)),
        )
        (start, first), (end, last) = standings[0], standings[-1]
        count = max(1, last - first)
        return found, (end - start) * (len(found.archive) - 1) / count
    ready = _prepared(net, options, common, setting)
    count = options["population"] + options["generations"] * (options["population"] - 3) - 1
    masks = _random(ready, count) if method == "random" else ready.seeds(count)
    masks = np.array([np.ones(ready.space.bits, bool), *masks])
    with workforce(ready.evaluator, options["jobs"]) as work:
        started = time.perf_counter()
        worth = ready.worth(work, masks, None)
        spent = time.perf_counter() - started
    return finished(ready, Archive(masks, worth, np.zeros(len(masks), np.int64))), spent


def _prepared(net: Net, options: dict[str, Any], common: dict[str, Any], setting: Setting) -> Run:
    settings = settings_of(**common)
    asked = asked_of(
        mutation=0.1, objective="macs", seed_with=None, repair=None, align=setting.alignment, flips=None,
        max_error=None, classic=False, exclude=(), exclude_op=(), min_channels=1, time_limit=None, dask=None,
        runtime=settings.runtime, **options,
    )  # fmt: skip
    return prepared(open_model(net.path, settings), asked)


def _random(ready: Run, count: int) -> list[np.ndarray[Any, Any]]:
    """Masks that drop any share of the channels, whichever; legal and aligned as all others."""
    rng = np.random.default_rng(ready.job.settings.seed)
    drawn = [rng.random(ready.space.bits) >= rng.random() for _ in range(count)]
    return [legal(ready.space, mask, rng.random(ready.space.total)) for mask in drawn]


def _pass(net: Net, images: int, inputs: np.ndarray[Any, Any], cores: int) -> float:
    """Seconds in which so many images go through the original, on as many cores."""
    batches = np.array_split(inputs[:images], max(1, images // 64))
    with open_session(_model(net.path), Runtime(threads=cores), True) as session:
        names = [o.name for o in session.get_outputs()]
        spent = []
        for _ in range(3):
            started = time.perf_counter()
            for batch in batches:
                run(session, names, {"input": batch})
            spent.append(time.perf_counter() - started)
    return min(spent)


def _model(path: Path) -> Any:
    import onnx

    return onnx.load(path)


def _equal(net: Net, options: dict[str, Any], common: dict[str, Any], setting: Setting) -> Row:
    """Interrupted and resumed, and by two workers, against the same search in one go by one."""

    def stop(standing: ocnna_onnx.Standing) -> None:
        if standing.generation == options["generations"] // 2:
            raise KeyboardInterrupt

    given = {**options, **common, "align": setting.alignment}
    whole = ocnna_onnx.search(net.path, **{**given, "jobs": 1}).to_csv()
    two = ocnna_onnx.search(net.path, **{**given, "jobs": 2}).to_csv()
    with tempfile.TemporaryDirectory() as folder:
        ocnna_onnx.search(net.path, folder=folder, watch=stop, **given)
        again = ocnna_onnx.search(net.path, folder=folder, resume=True, **given).to_csv()
    return {"resumed": again == whole, "two workers": two == whole}


def table(found: Sequence[Row]) -> list[Sequence[str]]:
    """A line per net, seed and method; of the three nets: test accuracy (MACs / parameters left)."""
    lines: list[Sequence[str]] = [HEAD]
    for (net, _, method), (*_, row) in grouped(found, "net", "seed", "method").items():
        if "hypervolume" not in row:
            said = row.get("refused") or ", ".join(f"{k}: {row[k]}" for k in ("resumed", "two workers") if k in row)
            lines.append((short(net), method, said, *[""] * (len(HEAD) - 3)))
            continue
        cells = [
            f"{row[n]['after']:.2f} ({row[n]['macs']:.1%} / {row[n]['rpr']:.1%})" if n in row else "–"
            for n in (*THREE, "within")
        ]
        speed = (f"{row['each']:.3f}", f"{row['passes']:.2f}", f"{row['whole']:.0f}")
        lines.append((short(net), method, str(row["candidates"]), f"{row['hypervolume']:.4f}", *cells, *speed))
    return lines
