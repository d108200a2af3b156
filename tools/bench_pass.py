"""One prune, or one plain pass over the same images, in a process of its own: seconds, stages, peak memory.

    python tools/bench_pass.py {prune|plain} NET.onnx IMAGES.npy '{"target": "macs=50%", "threads": 1, …}'

Started by `bench_time.py`. Prints a line of JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from typing import Any

import numpy as np

import ocnna_onnx
from ocnna_onnx.model.load import load
from ocnna_onnx.model.session import Runtime, open_session, run

BATCH = 16


def plain(path: str, images: np.ndarray, threads: int) -> None:
    """The user's own pass: all optimizations, batches of BATCH, nothing kept."""
    with open_session(load(path).proto, Runtime(threads=threads), optimize=True) as session:
        names = [o.name for o in session.get_outputs()]
        for k in range(0, len(images), BATCH):
            run(session, names, {"input": np.ascontiguousarray(images[k : k + BATCH])})


def main() -> None:
    """The work, timed; imports are not what is timed."""
    what, path, file, text = sys.argv[1:]
    given = json.loads(text)
    images = np.load(file, mmap_mode="r")
    row: dict[str, Any] = {}
    prune = ocnna_onnx.prune  # imports the pipeline
    started = time.perf_counter()
    if what == "plain":
        plain(path, images, given["threads"])
    else:
        report = prune(path, data={"input": images}, samples=len(images), cache=False, **given).report
        row = {"timings": report["timings"], "macs": round(report["obtained"]["macs_ratio"], 4)}
    row["took"] = time.perf_counter() - started
    row["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps(row))


if __name__ == "__main__":
    main()
