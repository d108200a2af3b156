"""`ocnna-onnx check`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .options import FILE, data_options, guarded, library_arguments, runtime_options, verbosity_options
from .progress import progress_bar


@click.command()
@click.argument("original", metavar="ORIGINAL", type=FILE)
@click.argument("pruned", metavar="PRUNED", type=FILE)
@click.option("--plan", type=FILE, metavar="FILE", help="The plan.  [default: the stamp in PRUNED]")
@data_options
@runtime_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@verbosity_options
@guarded
def check_command(
    original: Path,
    pruned: Path,
    plan: Path | None,
    as_json: bool,
    quiet: bool,
    verbose: int,
    **shared: Any,
) -> None:
    """Repeat the proof that PRUNED is ORIGINAL with channels silenced, and their agreement on data.

    Exit code 7 when they do not belong together or the proof fails.
    """
    from ..report.tables import print_check
    from ..verify import check

    with progress_bar(quiet) as progress:
        found = check(
            original,
            pruned,
            plan=plan,
            progress=progress,
            **library_arguments(shared),
        )
    for warning in () if quiet else found.warnings:
        click.echo(f"note: {warning}", err=True)
    if as_json:
        click.echo(json.dumps(found.to_json()))
    elif not quiet:
        print_check(found)
