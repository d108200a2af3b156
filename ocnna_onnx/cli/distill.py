"""`ocnna-onnx distill`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from .options import (
    FILE,
    data_options,
    guarded,
    library_arguments,
    memory_option,
    runtime_options,
    verbosity_options,
)
from .output import check_targets, write_json
from .progress import progress_bar


@click.command()
@click.argument("original", metavar="ORIGINAL", type=FILE)
@click.argument("pruned", metavar="PRUNED", type=FILE)
@click.argument("out", metavar="OUT", type=FILE)
@click.option("--time", metavar="DURATION", help="As 90s, 10m, 1.5h; turned into steps at the start.  [default: 10m]")
@click.option("--steps", type=int, metavar="N", help="Instead of a time: so many steps.")
@click.option(
    "--temperature", type=float, default=4.0, show_default=True, metavar="T", help="Of the softmax in the loss."
)
@click.option(
    "--augment",
    default="auto",
    show_default=True,
    metavar="WAYS",
    help="Of pictures: shift, flip, mix, with commas in between, or none; auto: shift, and flip where a folder's "
    "preset allows it.",
)
@click.option("--plan", type=FILE, metavar="FILE", help="How PRUNED came about.  [default: the stamp in PRUNED]")
@click.option("--checkpoint", type=FILE, metavar="FILE", help="Where to go on from.  [default: OUT.checkpoint]")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint, to the same weights.")
@data_options
@memory_option
@runtime_options
@click.option("--report", "report_out", type=FILE, metavar="FILE", help="Write the whole report as JSON.")
@click.option("--overwrite", is_flag=True, help="Allow OUT to be PRUNED.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON instead of a table.")
@verbosity_options
@guarded
def distill_command(
    original: Path,
    pruned: Path,
    out: Path,
    time: str | None,
    steps: int | None,
    temperature: float,
    augment: str,
    plan: Path | None,
    checkpoint: Path | None,
    resume: bool,
    report_out: Path | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    verbose: int,
    **shared: Any,
) -> None:
    """Bring PRUNED closer to ORIGINAL with a gradient, on samples without labels, and write it to OUT: the same net
    with other weights, or the same weights where none did better on samples that are held out.

    \b
    ocnna-onnx distill in.onnx pruned.onnx out.onnx --data pictures/ --time 10m

    Needs `pip install 'ocnna-onnx[distill]'`. Ctrl-C writes the best so far and ends with code 130; --resume goes on.
    """
    place = out.with_name(f"{out.name}.checkpoint") if checkpoint is None else checkpoint
    check_targets(pruned, out, overwrite, report_out, place, plan=plan, data=shared["data"])
    check_targets(original, None, False, out, report_out, place, plan=plan)
    from ..distilling import distill
    from ..report.tables import print_distilled

    with progress_bar(quiet) as progress:
        found = distill(
            original,
            pruned,
            time=time,
            steps=steps,
            temperature=temperature,
            augment=augment,
            plan=plan,
            checkpoint=place,
            resume=resume,
            progress=progress,
            **library_arguments(shared),
        )
    for warning in () if quiet else found.report["warnings"]:
        click.echo(f"note: {warning}", err=True)
    # A resumed run starts from PRUNED as it was; the best so far is in the checkpoint.
    spared = found.interrupted and found.resumable and out.exists() and out.samefile(pruned)
    if not spared:
        found.save(out, overwrite=True)
    write_json(report_out, found.report)
    if as_json:
        click.echo(json.dumps(found.report, allow_nan=False, default=str))
    elif not quiet:
        print_distilled(found.report, "nothing" if spared else str(out))
    if found.interrupted:
        done = f"{out} is as it was, since --resume starts from it" if spared else "the best so far was written"
        further = f"go on with --resume ({place})" if found.resumable else "there is no checkpoint to go on from"
        click.echo(f"interrupted: {done}; {further}", err=True)
        sys.exit(130)
