"""`ocnna-onnx sensitivity`."""

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
    order_options,
    runtime_options,
    verbosity_options,
)
from .output import check_targets
from .progress import progress_bar


@click.command()
@click.argument("model", metavar="IN", type=FILE)
@click.option("-o", "--out", type=FILE, metavar="FILE", help="Write what was measured as JSON (docs/formats.md).")
@click.option("--plot", type=FILE, metavar="FILE.svg", help="Draw the curves of all groups.")
@calibration_options
@order_options
@data_options
@runtime_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@verbosity_options
@guarded
def sensitivity_command(
    model: Path,
    out: Path | None,
    plot: Path | None,
    criterion: str,
    scores: Path | None,
    normalize: str,
    exclude: tuple[str, ...],
    exclude_op: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    verbose: int,
    **shared: Any,
) -> None:
    """Measure how much the outputs of IN suffer when a group of coupled layers loses its lowest channels, for a few
    cuts of every group: which layers are sensitive. Any number of prunes can start from the file.

    \b
    ocnna-onnx sensitivity in.onnx --data pictures/ --plot curves.svg
    ocnna-onnx sensitivity in.onnx --data pictures/ --criterion obs -o sensitivities.json
    ocnna-onnx prune in.onnx out.onnx --data pictures/ --sensitivities sensitivities.json --target macs=50%
    """
    check_targets(model, None, False, out, plot, plan=scores, data=shared["data"])
    from ..gauging import sensitivity
    from ..report.damage import print_sensitivities
    from ..report.plot import check_picture, save_picture

    if plot is not None:
        check_picture(plot)
    with progress_bar(quiet) as progress:
        found = sensitivity(
            model,
            criterion=criterion,
            scores=scores,
            normalize=normalize,
            exclude=exclude,
            exclude_op=exclude_op,
            progress=progress,
            **library_arguments(shared),
        )
    if out is not None:
        found.save(out)
    if plot is not None:
        save_picture(found, plot)
    if as_json:
        click.echo(json.dumps(found.to_json(), allow_nan=False))
    elif not quiet:
        print_sensitivities(found, verbose)
        for path in filter(None, (out, plot)):
            click.echo(f"written: {path}")
