"""`ocnna-onnx inspect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .options import FILE, data_option, guarded, library_arguments, runtime_options, verbosity_options


@click.command()
@click.argument("model", metavar="IN", type=FILE)
@click.option("--why", metavar="NAME", help="Answer for one tensor or node: its channels, what can go, what holds it.")
@data_option
@runtime_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON (docs/formats.md) instead of a tree.")
@verbosity_options
@guarded
def inspect_command(
    model: Path,
    why: str | None,
    as_json: bool,
    quiet: bool,
    verbose: int,
    **shared: Any,
) -> None:
    """Show what can be pruned in IN: coupled groups with what half of each would save, and walls with their reasons.

    \b
    ocnna-onnx inspect in.onnx
    ocnna-onnx inspect in.onnx --why layer3.0.conv1     # or a tensor: what holds it
    """
    from ..pipeline import inspect
    from ..report.tree import print_inspection, print_why

    found = inspect(model, **library_arguments(shared))
    answer = None if why is None else found.why(why)
    if not quiet:
        for warning in found.warnings:
            click.echo(f"note: {warning}", err=True)
    if as_json:
        click.echo(json.dumps((found if answer is None else answer).to_json(), indent=1))
    elif not quiet and answer is not None:
        print_why(answer, verbose)
    elif not quiet:
        print_inspection(found, verbose)
