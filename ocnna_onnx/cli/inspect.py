"""`ocnna-onnx inspect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .options import FILE, guarded, library_arguments, runtime_options, verbosity_options


@click.command()
@click.argument("model", metavar="IN", type=FILE)
@runtime_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON (docs/formats.md) instead of tables.")
@verbosity_options
@guarded
def inspect_command(
    model: Path,
    as_json: bool,
    quiet: bool,
    verbose: int,
    **shared: Any,
) -> None:
    """Show what can be pruned in IN: layers and coupled groups with their cost, and every wall with its reason."""
    from ..pipeline import inspect
    from ..report.tables import print_inspection

    found = inspect(model, **library_arguments(shared))
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=1))
    elif not quiet:
        print_inspection(found, verbose)
