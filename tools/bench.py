"""Benchmarks whose figures stand in docs/results.md.

python tools/bench.py calibration [MODEL ...] [--images FOLDER]
    scoring against plain forward passes; without models, torchvision's ResNet-50, MobileNetV2 and DenseNet-121
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parent))

NETS = ("resnet50", "mobilenet_v2", "densenet121")


@click.group()
def bench() -> None:
    """Benchmarks."""


@bench.command()
@click.argument("models", nargs=-1, type=click.Path(path_type=Path, exists=True))
@click.option("--images", type=click.Path(path_type=Path, exists=True), help="A folder of images; else photo crops.")
@click.option("--repeats", default=3, show_default=True)
def calibration(models: tuple[Path, ...], images: Path | None, repeats: int) -> None:
    """What scoring costs."""
    import bench_calibration

    with tempfile.TemporaryDirectory() as folder:
        if not models:
            exports = [sys.executable, str(Path(__file__).parent / "exports.py"), folder, "--only", *NETS]
            subprocess.run([*exports, "--exporter", "torchscript", "--init", "random"], check=True, stdout=sys.stderr)
            models = tuple(sorted(Path(folder).glob("*.onnx")))
        show(bench_calibration.rows(models, images, repeats))


def show(rows: Iterable[dict[str, Any]]) -> None:
    """A Markdown table, row by row as it comes."""
    first = True
    for row in rows:
        if first:
            click.echo("| " + " | ".join(row) + " |\n|" + "---|" * len(row))
            first = False
        click.echo("| " + " | ".join(v if isinstance(v, str) else json.dumps(v) for v in row.values()) + " |")


if __name__ == "__main__":
    bench()
