"""Whether what went buys time: milliseconds of one sample before and after, in onnxruntime and OpenVINO."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from bench_measure import Setting, left, timed
from bench_rows import Row, grouped, resumed, short
from peers_onnx import feed

import ocnna_onnx
from ocnna_onnx.model.session import open_session, run

WHAT = "latency"
RUNTIMES = ("onnxruntime", "OpenVINO")
ALIGNS = ("auto", "1")
ROUNDS = 9
SPELL = 0.15
"""Seconds that a net runs in a round, over and over; the median of the rounds' medians is what counts."""

Feed = dict[str, npt.NDArray[np.generic]]
Run = Callable[[], object]


@dataclass(frozen=True)
class Subject:
    """images: that calibrate; None: crops of photographs."""

    name: str
    path: Path
    images: npt.NDArray[np.float32] | None = None


def rows(subjects: Sequence[Subject], shares: Sequence[float], criterion: str, setting: Setting) -> Iterator[Row]:
    """One per net, share, runtime and alignment; those of a net and share are timed in turns, batch 1. The weights are
    not repaired, which takes no time at inference."""
    for subject in subjects:
        for asked in shares:
            base: Row = {"what": WHAT, "net": subject.name, "share": asked, "criterion": criterion}
            base |= {"threads": setting.threads, "images": setting.images}
            abouts = [{**base, "runtime": r, "align": a} for r in RUNTIMES for a in ALIGNS]
            yield from resumed(setting.file, abouts, partial(_measured, subject, asked, criterion, setting))


def _measured(subject: Subject, asked: float, criterion: str, setting: Setting) -> list[Row]:
    models: dict[str, onnx.ModelProto] = {}

    def cut(align: str) -> Row:
        result = ocnna_onnx.prune(
            subject.path,
            data=None if subject.images is None else {"input": subject.images},
            samples=setting.images if subject.images is None else len(subject.images),
            criterion=criterion,
            target=f"macs={100 * asked:g}%",
            align="auto" if align == "auto" else int(align),
            threads=setting.threads,
            repair="none",
        )
        models[align] = result.model
        return {**left(result.report), "multiple": result.plan.options["align"]}

    about = {align: timed(partial(cut, align)) for align in ALIGNS}
    original = onnx.load(subject.path)
    taken = _side_by_side({"before": original, **models}, feed(original, {}), setting)
    made = []
    for runtime in RUNTIMES:
        before = taken[runtime, "before"]
        for align in ALIGNS:
            after = taken.get((runtime, align))
            row = dict(about[align])
            if after is not None:
                row |= {"before_ms": round(1e3 * before, 4), "after_ms": round(1e3 * after, 4)}
                row |= {"speedup": round(before / after, 3), "yield": round(before / after * row["macs"], 3)}
            made.append(row)
    return made


def _side_by_side(models: dict[str, onnx.ModelProto], values: Feed, setting: Setting) -> dict[tuple[str, str], float]:
    """(runtime, model) -> median seconds, in turns."""
    with ExitStack() as stack:
        runs: dict[tuple[str, str], Run] = {}
        for name, model in models.items():
            session = stack.enter_context(open_session(model, setting.runtime, optimize=True, shared=True))
            outputs = [o.name for o in session.get_outputs()]
            runs[RUNTIMES[0], name] = partial(run, session, outputs, values)
            runs[RUNTIMES[1], name] = _openvino(model, values, setting.threads)
        seconds: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
        for k in range(ROUNDS + 1):
            for key, work in runs.items():
                spell = _spell(work)
                if k:  # the first round warms up
                    seconds[key].append(spell)
        return {key: float(np.median(s)) for key, s in seconds.items()}


def _spell(work: Run) -> float:
    """Median seconds of runs one after the other; the first finds cold caches and does not count."""
    work()
    taken: list[float] = []
    began = time.perf_counter()
    while len(taken) < 3 or time.perf_counter() - began < SPELL:
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return float(np.median(taken))


def _openvino(model: onnx.ModelProto, values: Feed, threads: int) -> Run:
    """A run of the compiled model at the static shapes of the feed, in fp32 as onnxruntime's."""
    import openvino

    core = openvino.Core()
    read = core.read_model(model.SerializeToString())
    read.reshape({name: list(value.shape) for name, value in values.items()})
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    request = core.compile_model(read, "CPU", hints).create_infer_request()
    return partial(request.infer, values)


def table(found: Sequence[Row]) -> list[Sequence[str]]:
    """A line per net, share and runtime: both alignments."""
    head = ["net", "asked", "runtime", "threads", "before ms"]
    for align in ALIGNS:
        head += [
            f"{align}: MACs left",
            f"{align}: after ms",
            f"{align}: speed-up",
            f"{align}: speed-up / MACs reduction",
        ]
    lines: list[Sequence[str]] = [head]
    for (net, asked, runtime, threads), some in grouped(found, "net", "share", "runtime", "threads").items():
        at = {r["align"]: r for r in some}
        first = next((r for r in some if "before_ms" in r), None)
        cells = [short(net), f"{asked:.0%}", runtime, str(threads), f"{first['before_ms']:.2f}" if first else ""]
        for align in ALIGNS:
            row = at.get(align)
            if row is None or "speedup" not in row:
                cells += [row.get("refused", "") if row else "", "", "", ""]
                continue
            multiple = f" (×{row['multiple']})" if align == "auto" else ""
            cells += [f"{row['macs']:.1%}{multiple}", f"{row['after_ms']:.2f}"]
            cells += [f"{row['speedup']:.2f}", f"{row['yield']:.2f}"]
        lines.append(cells)
    return lines
