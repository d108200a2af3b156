"""`ocnna-onnx apply`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import FILE, data_options, guarded, library_arguments, repair_option, runtime_options, verbosity_options
from .output import check_targets, deliver
from .progress import progress_bar


@click.command()
@click.argument("plan", metavar="PLAN", type=FILE)
@click.argument("model", metavar="IN", type=FILE)
@click.argument("out", metavar="OUT", type=FILE)
@repair_option("none")
@data_options
@runtime_options
@click.option("--report", "report_out", type=FILE, metavar="FILE", help="Write the whole report as JSON.")
@click.option("--overwrite", is_flag=True, help="Allow OUT to be IN.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON instead of a table.")
@verbosity_options
@guarded
def apply_command(
    plan: Path,
    model: Path,
    out: Path,
    report_out: Path | None,
    overwrite: bool,
    as_json: bool,
    repair: str,
    quiet: bool,
    verbose: int,
    **shared: Any,
) -> None:
    """Replay PLAN (a plan.json) on IN: the net that the prune made, before its repair;
    with --repair and the same samples, the repair again. Proven like every run."""
    check_targets(model, out, overwrite, report_out, plan=plan, data=shared["data"])
    from ..pipeline import apply
    from ..plan.plan import read_plan

    with progress_bar(quiet) as progress:
        result = apply(
            read_plan(plan),
            model,
            repair=repair,
            progress=progress,
            **library_arguments(shared),
        )
    deliver(result, out, None, report_out, as_json, quiet, verbose)
