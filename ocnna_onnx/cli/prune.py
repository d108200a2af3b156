"""`ocnna-onnx prune`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from ..errors import NothingFree, UsageError
from .options import (
    FILE,
    calibration_options,
    data_options,
    guarded,
    library_arguments,
    order_options,
    parse_globs,
    repair_option,
    runtime_options,
    verbosity_options,
)
from .output import check_targets, deliver
from .progress import progress_bar


@click.command()
@click.argument("model", metavar="IN", type=FILE)
@click.argument("out", metavar="OUT", type=FILE, required=False)
@calibration_options
@order_options
@click.option(
    "--sensitivities",
    type=FILE,
    metavar="FILE",
    help="Share out the target by what `ocnna-onnx sensitivity` wrote, with the scores in it, instead of measuring.",
)
@click.option(
    "--target",
    multiple=True,
    metavar="KIND=VALUE",
    help="macs=50%, params=1.2M, bytes=5MB, latency=70% (measured here), drop=1% (percentage points, judged on samples "
    "that are held out); several: the tightest holds.  [default: drop=1% with --data, else macs=90%]",
)
@click.option("--ratio", type=float, metavar="R", help="Instead of a target: remove this share of every group (floor).")
@click.option(
    "--percentile",
    type=float,
    metavar="K",
    help="OCNNA as published: in every group, what scores at or below the K-th percentile goes.",
)
@click.option("--min-channels", type=int, default=1, show_default=True, metavar="N", help="Units every group keeps.")
@click.option(
    "--allocate",
    default="sensitivity",
    show_default=True,
    metavar="HOW",
    help="Which groups give how much for a target: by measured sensitivity, or uniform.",
)
@click.option(
    "--align",
    default="auto",
    show_default=True,
    metavar="N",
    help="Channel counts end on multiples of 1, 4, 8, 16 or 32 (of a target); auto: as this runtime needs, measured.",
)
@click.option("--keep", multiple=True, metavar="GLOB=N", help="Layers keep at least N channels; may be repeated.")
@click.option("--max-cut", multiple=True, metavar="GLOB=SHARE", help="Layers lose at most this share; may be repeated.")
@repair_option("least-squares")
@click.option(
    "--distill",
    metavar="DURATION",
    help="After the repair, learn from IN for so long (10m, 90s, or steps=N), on up to 4096 samples: see "
    "`ocnna-onnx distill --help`.",
)
@click.option("--best-effort", is_flag=True, help="Where a target cannot be met, go as far as possible (else exit 5).")
@data_options
@runtime_options
@click.option("--plan-out", type=FILE, metavar="FILE", help="Write the plan (which channels go) as JSON.")
@click.option("--report", "report_out", type=FILE, metavar="FILE", help="Write the whole report as JSON.")
@click.option("--dry-run", is_flag=True, help="Do everything but writing OUT.")
@click.option("--overwrite", is_flag=True, help="Allow OUT to be IN.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON instead of a table.")
@verbosity_options
@guarded
def prune_command(
    model: Path,
    out: Path | None,
    criterion: str,
    scores: Path | None,
    normalize: str,
    sensitivities: Path | None,
    target: tuple[str, ...],
    ratio: float | None,
    percentile: float | None,
    exclude: tuple[str, ...],
    exclude_op: tuple[str, ...],
    min_channels: int,
    allocate: str,
    align: str,
    keep: tuple[str, ...],
    max_cut: tuple[str, ...],
    repair: str,
    distill: str | None,
    best_effort: bool,
    plan_out: Path | None,
    report_out: Path | None,
    dry_run: bool,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    verbose: int,
    **shared: Any,
) -> None:
    """Remove channels from IN and write the smaller model to OUT, proven equal to IN with those channels silenced.

    \b
    ocnna-onnx prune in.onnx out.onnx --data pictures/ --target macs=50%
    ocnna-onnx prune in.onnx out.onnx --data pictures/ --target drop=1%
    ocnna-onnx prune in.onnx out.onnx --data samples.npz --percentile 25     # OCNNA as published
    """
    if out is None and not dry_run:
        raise UsageError("OUT is missing: ocnna-onnx prune IN OUT (or --dry-run)")
    check_targets(
        model,
        None if dry_run else out,
        overwrite,
        plan_out,
        report_out,
        plan=scores or sensitivities,
        data=shared["data"],
    )
    from ..pipeline import prune

    with progress_bar(quiet) as progress:
        try:
            result = prune(
                model,
                criterion=criterion,
                scores=scores,
                normalize=normalize,
                sensitivities=sensitivities,
                target=target or None,
                ratio=ratio,
                allocate=allocate,
                align=align,
                keep={p: int(n) for p, n in parse_globs(keep, "--keep", int).items()},
                max_cut=parse_globs(max_cut, "--max-cut", float),
                repair=repair,
                best_effort=best_effort,
                distill=distill,
                percentile=percentile,
                exclude=exclude,
                exclude_op=exclude_op,
                min_channels=min_channels,
                progress=progress,
                **library_arguments(shared),
            )
        except NothingFree as error:
            if not dry_run:
                raise
            rows = [dict(zip(("node", "op", "tensor", "reason"), wall, strict=True)) for wall in error.walls]
            click.echo(json.dumps({"schema": 1, "nothing_free": str(error), "walls": rows}) if as_json else str(error))
            return
    deliver(result, None if dry_run else out, plan_out, report_out, as_json, quiet, verbose)
    if result.report["distillation"] is not None and result.report["distillation"]["interrupted"]:
        click.echo("interrupted: the best so far was written", err=True)
        sys.exit(130)
