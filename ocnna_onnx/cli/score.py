"""`ocnna-onnx score`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .options import (
    FILE,
    calibration_options,
    data_options,
    guarded,
    library_arguments,
    runtime_options,
    verbosity_options,
)
from .output import check_targets
from .progress import progress_bar


class ScoreCommand(click.Command):
    """Lists the criteria below the options; the table is loaded only when the help is asked for."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """One line per criterion."""
        from ..criteria.table import CRITERIA

        with formatter.section("Criteria"):
            rows = []
            for name, criterion in CRITERIA.items():
                options = ", ".join(f"{k}={v}" for k, v in criterion.options.items())
                rows.append((name, criterion.source + (f"; options {options}" if options else "")))
            formatter.write_dl(rows)


@click.command(cls=ScoreCommand)
@click.argument("model", metavar="IN", type=FILE)
@click.option("-o", "--out", type=FILE, metavar="FILE", help="Write scores.json or scores.csv.  [default: print JSON]")
@calibration_options
@data_options
@runtime_options
@verbosity_options
@guarded
def score_command(model: Path, out: Path | None, criterion: str, quiet: bool, verbose: int, **shared: Any) -> None:
    """Score every filter of IN: one number per output channel of every layer; the higher stays.

    \b
    ocnna-onnx score in.onnx --data images/ -o scores.json
    ocnna-onnx score in.onnx --data images/ --criterion ocnna:variance=1 -o scores.csv
    ocnna-onnx prune in.onnx out.onnx --scores scores.json --ratio 0.3
    """
    check_targets(model, None, False, out, data=shared["data"])
    from ..criteria.scores import is_csv
    from ..scoring import score

    if out is not None:
        is_csv(out)
    with progress_bar(quiet) as progress:
        found = score(model, criterion=criterion, progress=progress, **library_arguments(shared))
    if out is None:
        click.echo(json.dumps(found.to_json(), allow_nan=False))
        return
    found.save(out)
    if not quiet:
        channels = sum(len(layer.scores) for layer in found.layers.values())
        click.echo(f"{found.criterion}: {channels} channels of {len(found.layers)} layers; written: {out}")
