"""Prune half of every group of torchvision's nets at random, from both exporters, and show that every one proves.

    pip install '.[zoo]' && python tools/zoo.py --out /tmp/zoo          # 68 exports, some minutes, 5 GB

Writes a Markdown table to stdout. Exits with 1 when a net does not prove.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import get_args

import click
from exports import NAMES, Exporter, Init, export

import ocnna_onnx


def row(path: Path, samples: int) -> tuple[bool, str]:
    """Whether the net proves, and its row: time to trace, what can go, the proof's error, the share that went."""
    try:
        started = time.perf_counter()
        ocnna_onnx.inspect(path)
        inspected = time.perf_counter() - started
        report = ocnna_onnx.prune(path, criterion="random", ratio=0.5, samples=samples).report
    except ocnna_onnx.OcnnaError as error:
        return False, f"| {path.stem} | {type(error).__name__}: {error} |"
    obtained, proof = report["obtained"], report["proof"]
    cells = (
        path.stem,
        f"{report['timings']['trace']:.2f}",
        f"{inspected:.2f}",
        f"{obtained['removable']:,} of {obtained['units']:,}",
        f"{1 - obtained['params_ratio']:.1%}",
        f"{1 - obtained['macs_ratio']:.1%}",
        f"{proof['max_relative_error']:.1e}",
        str(proof["compared"]),
        f"{report['timings']['prove']:.1f}",
    )
    return bool(proof["passed"]), f"| {' | '.join(cells)} |"


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the exports (kept, reused).")
@click.option("--only", multiple=True, type=click.Choice(NAMES), help="These nets only; may be repeated.")
@click.option("--exporter", multiple=True, type=click.Choice(get_args(Exporter)), help="This exporter only.")
@click.option("--init", multiple=True, type=click.Choice(get_args(Init)), help="This initialisation only.")
@click.option("--samples", default=4, show_default=True, help="Photographs' crops for the proof and the comparison.")
def main(out: Path, only: tuple[str, ...], exporter: tuple[str, ...], init: tuple[str, ...], samples: int) -> None:
    """Export, prune, prove, print."""
    out.mkdir(parents=True, exist_ok=True)
    click.echo("| net | trace s | inspect s | removable | parameters gone | MACs gone | error | compared | prove s |")
    click.echo("|---|---|---|---|---|---|---|---|---|")
    failed = 0
    for name in only or NAMES:
        for kind in exporter or get_args(Exporter):
            for start in init or get_args(Init):
                passed, text = row(export(name, kind, start, out), samples)
                failed += not passed
                click.echo(text)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
