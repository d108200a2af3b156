"""Where a command's results go: the model, the plan, the report, each whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError

if TYPE_CHECKING:
    from ..finishing import Result


def check_targets(
    source: Path,
    out: Path | None,
    overwrite: bool,
    *others: Path | None,
    plan: Path | None = None,
    data: str | None = None,
) -> None:
    """Refuse targets that cannot be written, or that are read, before any work is done. Raises UsageError."""
    from ..model.load import external_files
    from ..model.save import check_target

    for path in (source, plan):
        if path is not None and not path.exists():
            raise UsageError(f"{path}: no such file")
    named = [p for p in (out, *others) if p is not None]
    read = {"is read": [plan], "is the data": [Path(data) if data else None]}
    read["holds weights of IN"] = [source.parent / name for name in external_files(source)]
    for k, path in enumerate(named):
        if path is out:
            check_target(path, source, overwrite)
        else:
            check_target(path, None, False, "target")
            read["is IN"] = [source]
        for what, files in read.items():
            if any(f is not None and f.exists() and path.exists() and path.samefile(f) for f in files):
                raise UsageError(f"{path}: {what}; choose another target")
        if any(path.resolve() == other.resolve() for other in named[:k]):
            raise UsageError(f"{path}: named twice as a target")


def write_json(path: Path | None, content: dict[str, Any]) -> None:
    """Write a JSON file atomically, where a path is given."""
    if path is not None:
        from ..model.save import write_atomically

        data = (json.dumps(content, indent=1, allow_nan=False, default=str) + "\n").encode()
        write_atomically(path, lambda stream: stream.write(data))


def deliver(
    result: Result,
    out: Path | None,
    plan_out: Path | None,
    report_out: Path | None,
    as_json: bool,
    quiet: bool,
    verbose: int,
) -> None:
    """Write what was asked for, then print the table (or, with --json, the report)."""
    from ..report.tables import print_result

    report = result.report
    for warning in report["warnings"]:
        if not quiet:
            click.echo(f"note: {warning}", err=True)
    if out is not None:
        report["after"]["bytes"] = result.save(out, overwrite=True)
    write_json(plan_out, result.plan.to_json())
    write_json(report_out, report)
    if as_json:
        click.echo(json.dumps(report, allow_nan=False, default=str))
    elif not quiet:
        print_result(report, str(out) if out is not None else None, verbose)
