"""Benchmarks whose figures stand in docs/results.md.

python tools/bench.py accuracy --data-root FOLDER
    what a cut to a share of the MACs leaves of the accuracy, repaired in closed form
python tools/bench.py calibration [MODEL ...] [--images FOLDER]
    scoring against plain forward passes; without models, torchvision's ResNet-50, MobileNetV2 and DenseNet-121
python tools/bench.py criteria --data-root PATH [--nets GLOB,…] [--criteria a,b] [--ratios 0.1,0.3] [--images 512]
    accuracy right after pruning, for every criterion, net (`tools/bench_nets.py`) and ratio
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


@bench.command()
@click.option("--data-root", required=True, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--nets", default="*", show_default=True, help="Names of nets: globs, with commas in between.")
@click.option("--criteria", "names", default="", help="With commas in between; by default all.")
@click.option("--ratios", default="0.1,0.2,0.3,0.5", show_default=True)
@click.option("--images", default=512, show_default=True, help="Images that calibrate.")
@click.option("--judge", default=2000, show_default=True, help="Images that judge, at most.")
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--rows", type=click.Path(path_type=Path), help="A file of JSON lines to add to; what is there is kept.")
@click.option("--table", is_flag=True, help="Show what is there, measure nothing.")
def criteria(
    data_root: Path,
    nets: str,
    names: str,
    ratios: str,
    images: int,
    judge: int,
    seed: int,
    threads: int,
    rows: Path | None,
    table: bool,
) -> None:
    """Criteria side by side: accuracy right after pruning, no repair."""
    import bench_criteria
    import bench_nets

    from ocnna_onnx.criteria.table import CRITERIA

    chosen = tuple(names.split(",")) if names else tuple(CRITERIA)
    setting = bench_criteria.Setting(tuple(map(float, ratios.split(","))), images, judge, seed, threads)
    try:
        found = bench_nets.find_nets(data_root, nets)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    with tempfile.TemporaryDirectory() as folder:
        file = rows or Path(folder) / "rows.jsonl"
        if not table:
            show(bench_criteria.line(r, setting.ratios) for r in bench_criteria.measure(found, chosen, setting, file))
        mine = [r for r in bench_criteria.read(file) if setting.about().items() <= r.items()]
        order = {net.name: k for k, net in enumerate(found)}
        mine = sorted((r for r in mine if r["net"] in order), key=lambda r: order[r["net"]])
        click.echo("")
        for text in bench_criteria.tables(mine, setting.ratios, chosen):
            click.echo(text)


@bench.command("accuracy")
@click.option("--data-root", required=True, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--nets", default="cifar10_*", show_default=True, help="Names of nets: globs, with commas in between.")
@click.option("--shares", default="", help="Of the MACs, with commas in between; by default each net's own.")
@click.option("--criterion", default="obs", show_default=True)
@click.option("--images", default=512, show_default=True, help="Images that calibrate, repair and judge sensitivities.")
@click.option("--seeds", default="0,1,2", show_default=True)
@click.option("--threads", default=2, show_default=True)
def accuracy_command(
    data_root: Path, nets: str, shares: str, criterion: str, images: int, seeds: str, threads: int
) -> None:
    """Accuracy at a share of the MACs, without training."""
    import bench_accuracy
    import bench_nets

    found = [n for n in bench_nets.find_nets(data_root, nets) if shares or n.name in bench_accuracy.SHARES]
    wanted = [float(s) for s in shares.split(",") if s]
    show(bench_accuracy.rows(found, wanted, criterion, images, [int(s) for s in seeds.split(",")], threads))


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
