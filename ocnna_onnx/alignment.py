"""`--align auto`: on which multiples of channels this runtime, on this machine, gets faster (METHODS.md §5)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import time

import numpy as np
import onnx
from onnx import numpy_helper, parser

from .criteria.cache import cache_folder
from .errors import OcnnaError
from .model.light import light
from .model.save import write_atomically
from .model.session import Runtime, open_session, run

WIDTH, SIZE, RUNS = 64, 28, 15

PROBES = {1: 57, 4: 52, 8: 56, 16: 48, 32: 32}
"""Multiple -> a number of channels that is a multiple of it, and of nothing larger."""

WORTH = 0.5
"""Share of the ideal saving that a cut must bring, else it buys no time."""


def measured_alignment(runtime: Runtime) -> int:
    """The smallest multiple on which a cut buys time. Measured once per machine and runtime, where the cache can be
    written: so that the same prune gives the same bytes again."""
    import onnxruntime

    about = [platform.node(), platform.processor(), onnxruntime.__version__, runtime.providers, runtime.threads]
    path = cache_folder() / f"alignment-{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]}.json"
    try:
        known = json.loads(path.read_text("utf-8"))["multiple"]
        if known in PROBES:
            return int(known)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    found = _measured(runtime)
    with contextlib.suppress(OSError, OcnnaError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda stream: stream.write(json.dumps({"multiple": found}).encode()))
    return found


def _measured(runtime: Runtime) -> int:
    models = {c: _net(c) for c in (WIDTH, *PROBES.values())}
    x = np.random.default_rng(0).standard_normal((1, WIDTH, SIZE, SIZE)).astype(np.float32)
    seconds: dict[int, list[float]] = {c: [] for c in models}
    for _ in range(3):  # several sessions: where a buffer lies has a say, too
        for c, model in models.items():
            with open_session(light(model), runtime, optimize=True) as session:
                for k in range(RUNS // 3 + 1):
                    started = time.perf_counter()
                    run(session, ["y"], {"x": x})
                    if k:
                        seconds[c].append(time.perf_counter() - started)
    median = {c: float(np.median(s)) for c, s in seconds.items()}
    for multiple, c in PROBES.items():
        if 1 - median[c] / median[WIDTH] >= WORTH * (1 - c / WIDTH):
            return multiple
    return max(PROBES)


def _net(channels: int) -> onnx.ModelProto:
    """Two Convs with so many channels in between."""
    model = parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]>
    g (float[1,{WIDTH},{SIZE},{SIZE}] x) => (float[1,{WIDTH},{SIZE},{SIZE}] y) {{
        a = Conv<pads=[1,1,1,1]>(x, w1)
        b = Relu(a)
        y = Conv<pads=[1,1,1,1]>(b, w2)
    }}""")
    for name, shape in (("w1", (channels, WIDTH, 3, 3)), ("w2", (WIDTH, channels, 3, 3))):
        model.graph.initializer.append(numpy_helper.from_array(np.full(shape, 0.01, np.float32), name))
    return model
