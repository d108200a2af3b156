"""One row of the zoo: half of every group of one ONNX file goes at random, and the proof says whether that is right.

python tools/zoo_row.py NET.onnx [--shapes '{"input": [1, 3, 224, 224]}']      # prints one line of JSON
"""

from __future__ import annotations

import json
import resource
import time
import traceback
from pathlib import Path
from typing import Any

import click
import numpy as np

import ocnna_onnx
from ocnna_onnx import Inspection

Shapes = dict[str, tuple[int, ...]]
LOW = 0.2
"""A net that loses a smaller share of its MACs says which walls hold it."""


def reachable(found: Inspection) -> float:
    """Share of the MACs in layers that can lose channels, or whose input channels can."""
    free = {group.id for group in found.groups if group.removable}
    return sum(x.macs for x in found.layers if free & {x.group, *x.reads}) / max(1, found.macs)


def held(found: Inspection, most: int = 6) -> list[dict[str, Any]]:
    """The walls that hold most units, alike ones (operator and reason) together, with one of them as the example."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for wall in found.walls:
        empty = {"op": wall.op, "reason": wall.reason, "walls": 0, "units": 0, "node": wall.node, "tensor": wall.tensor}
        row = rows.setdefault((wall.op, wall.reason), empty)
        row["walls"] += 1
        row["units"] += wall.units
    return sorted(rows.values(), key=lambda row: -int(row["units"]))[:most]


def noise(shapes: Shapes, values: dict[str, int]) -> dict[str, np.ndarray] | None:
    """Data for a model that needs inputs of certain values; None where it does not."""
    rng = np.random.default_rng(0)
    found = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return {**found, **{name: np.array(value) for name, value in values.items()}} if values else None


def prune(path: Path, shapes: Shapes, values: dict[str, int], samples: int) -> dict[str, Any]:
    """What a proven run obtained."""
    data = noise(shapes, values)
    report = ocnna_onnx.prune(
        path, data=data, criterion="random", ratio=0.5, samples=samples, input_shapes=shapes, repair="none"
    ).report
    obtained, proof = report["obtained"], report["proof"]
    return {
        "status": "proven",
        "units": obtained["units"],
        "removable": obtained["removable"],
        "params": report["before"]["params"],
        "macs": report["before"]["macs"],
        "params_gone": 1 - obtained["params_ratio"],
        "macs_gone": 1 - obtained["macs_ratio"],
        "error": proof["max_relative_error"],
        "tolerance": proof["tolerance"],
        "compared": proof["compared"],
        "trace_s": report["timings"]["trace"],
        "prove_s": report["timings"]["prove"],
    }


def measure(path: Path, shapes: Shapes, values: dict[str, int], samples: int) -> dict[str, Any]:
    """The row: what was obtained, or why not, and how long and how much memory it took."""
    started = time.perf_counter()
    try:
        row = prune(path, shapes, values, samples)
    except (ocnna_onnx.ProofFailed, ocnna_onnx.OcnnaError) as error:
        failed = isinstance(error, ocnna_onnx.ProofFailed)
        row = {"status": "failed" if failed else "refused", "why": f"{type(error).__name__}: {error}"}
    except Exception as error:  # a defect of ours is a row as well
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        row = {"status": "failed", "why": f"{type(error).__name__} at {where}: {error}"}
    row["total_s"] = time.perf_counter() - started
    row["memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if row["status"] != "proven" or row["macs_gone"] < LOW:
        try:
            found = ocnna_onnx.inspect(path, input_shapes=shapes)
        except Exception as error:  # said already
            row["inspect"] = f"{type(error).__name__}: {error}"
        else:
            row.update(reachable=reachable(found), walls=held(found))
    return row


@click.command()
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--shapes", default="{}", help="Probe shapes as JSON.")
@click.option("--values", default="{}", help="Values of inputs that need certain ones, as JSON.")
@click.option("--samples", default=4, show_default=True, help="Crops of photographs for the proof and the comparison.")
def main(path: Path, shapes: str, values: str, samples: int) -> None:
    """Prune, prove, print."""
    given = {name: tuple(shape) for name, shape in json.loads(shapes).items()}
    row = measure(path, given, json.loads(values), samples)
    click.echo(json.dumps(row, default=lambda x: x.item() if isinstance(x, np.generic) else str(x)))


if __name__ == "__main__":
    main()
