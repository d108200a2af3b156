"""What calibration costs, against the plain forward pass over the same images, both on two threads in one run."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import ocnna_onnx
from ocnna_onnx.calibrate.stream import Tap, stream, tapped_batch
from ocnna_onnx.model.session import open_session, run
from ocnna_onnx.opened import Opened, open_model
from ocnna_onnx.scoring import scores_of
from ocnna_onnx.settings import settings_of

THREADS = 2
REPEATS = 3
IMAGES = 64
OBS_IMAGES = 512


def rows(models: Sequence[Path], images: Path | None, repeats: int) -> Iterable[dict[str, Any]]:
    """One per net: seconds and ratios."""
    for model in models:
        yield _row(model, images, repeats)


def _row(model: Path, images: Path | None, repeats: int) -> dict[str, Any]:
    job = _opened(model, images, IMAGES)
    tensors = [job.trace.sources[k].tensor for k in job.trace.free_sources()]
    timed = {
        "plain": lambda: _plain(job),
        "tapped": lambda: _tapped(job, tensors),
        "ocnna": lambda: scores_of(job, "ocnna", job.trace.free_sources()),
        "variance=1": lambda: scores_of(job, "ocnna:variance=1", job.trace.free_sources()),
    }
    seconds = _side_by_side(timed, repeats)
    many = _opened(model, images, OBS_IMAGES)
    long = _side_by_side(
        {"plain": lambda: _plain(many), "obs": lambda: scores_of(many, "obs", many.trace.free_sources())}, 1
    )
    exact, quick = (scores_of(job, c, job.trace.free_sources()) for c in ("ocnna", "ocnna:variance=1"))
    ours, theirs = (seconds["ocnna"] - seconds["tapped"]) / IMAGES, _sklearn_seconds(job)
    return {
        "net": model.stem,
        "plain s": round(seconds["plain"], 2),
        "tapped / plain": round(seconds["tapped"] / seconds["plain"], 2),
        "ocnna / tapped": round(seconds["ocnna"] / seconds["tapped"], 2),
        "ocnna / plain": round(seconds["ocnna"] / seconds["plain"], 2),
        "variance=1 / tapped": round(seconds["variance=1"] / seconds["tapped"], 2),
        "rank agreement": round(_agreement(exact, quick), 4),
        "obs / plain": round(long["obs"] / long["plain"], 2),
        "sklearn loop / ours": round(theirs / ours, 1),
        "peak 1000 / 100": round(_peak(model, 1000) / _peak(model, 100), 2),
    }


def _opened(model: Path, images: Path | None, count: int) -> Opened:
    settings = settings_of(data=images, samples=count, threads=THREADS, cache=False)
    return open_model(model, settings)


def _side_by_side(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each, in turns."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, work in runs.items():
            started = time.perf_counter()
            work()
            found[name].append(time.perf_counter() - started)
    return {name: float(np.median(seconds)) for name, seconds in found.items()}


def _plain(job: Opened) -> None:
    """The user's own run: all optimizations, batches of 16, the model's outputs."""
    names = list(job.trace.graph.outputs)
    with open_session(job.loaded.model, job.settings.runtime, optimize=True) as session:
        for feed, _ in job.samples.batches(16):
            run(session, names, feed)


def _tapped(job: Opened, tensors: Sequence[str]) -> None:
    taps = [Tap(t, lambda output, batch, valid: None) for t in tensors]
    stream(job.trace.graph, job.trace.shapes, taps, job.samples, job.settings.runtime, job.settings.memory)


def _agreement(a: ocnna_onnx.Scores, b: ocnna_onnx.Scores) -> float:
    """Spearman correlation of the ranks in a layer, averaged over layers."""
    from scipy.stats import spearmanr

    pairs = [(x.scores, b.layers[name].scores) for name, x in a.layers.items()]
    return float(np.mean([spearmanr(x, y).statistic for x, y in pairs if np.ptp(x) > 0 and np.ptp(y) > 0]))


def _sklearn_seconds(job: Opened) -> float:
    """Seconds that a loop over scikit-learn's PCA takes for the maps of one image, by a seeded choice of them."""
    from sklearn.decomposition import PCA

    from ocnna_onnx.calibrate.maps import as_maps

    rng = np.random.default_rng(0)
    spent = [0.0]

    def watch(axis: int) -> Callable[[Any, int, int], None]:
        def take(output: Any, batch: int, valid: int) -> None:
            maps = as_maps(output, axis, batch)
            flat = maps.reshape(-1, *maps.shape[2:])
            if min(flat.shape[1:]) < 2:
                return
            chosen = flat[rng.choice(len(flat), min(len(flat), 16), replace=False)]
            started = time.perf_counter()
            for m in chosen:
                if np.ptp(m) > 0:
                    np.linalg.norm(PCA(n_components=0.95, svd_solver="full").fit_transform(m))
            spent[0] += (time.perf_counter() - started) / len(chosen) * maps.shape[1]

        return take

    taps = [Tap(s.tensor, watch(s.axis)) for k in job.trace.free_sources() if (s := job.trace.sources[k])]
    few = job.samples.take(np.arange(tapped_batch(job.trace.shapes, [t.tensor for t in taps], job.samples)))
    stream(job.trace.graph, job.trace.shapes, taps, few, settings_of(threads=1).runtime, job.settings.memory)
    return spent[0]


def _peak(model: Path, count: int) -> float:
    """Peak memory (bytes) of a process that scores so many images, which lie in a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        job = _opened(model, None, 1)
        shape = next(iter(job.samples.arrays.values())).shape[1:]
        held = np.lib.format.open_memmap(path, "w+", np.float32, (count, *shape))
        rng = np.random.default_rng(0)
        for k in range(count):
            held[k] = rng.standard_normal(shape, np.float32)
        held.flush()
        del held
        code = (
            "import ocnna_onnx, resource, sys;"
            "ocnna_onnx.score(sys.argv[1], data=sys.argv[2], criterion='ocnna:variance=1', cache=False,"
            f"samples={count}, threads={THREADS});"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run([sys.executable, "-c", code, str(model), str(path)], capture_output=True, check=True)
        return float(done.stdout)
