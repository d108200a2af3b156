"""`ocnna-onnx search`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from .options import FILE, data_options, guarded, library_arguments, runtime_options, verbosity_options
from .output import check_targets
from .progress import progress_bar

if TYPE_CHECKING:
    from ..evolution.clock import Standing

INTERRUPTED = 130


@click.command()
@click.argument("model", metavar="IN", type=FILE)
@click.argument("folder", metavar="OUTDIR", type=FILE)
@click.option("--generations", type=int, metavar="N", help="[default: 40; --classic: 10]")
@click.option("--population", type=int, default=30, show_default=True, metavar="N", help="Three of them are parents.")
@click.option(
    "--mutation",
    type=float,
    default=0.1,
    show_default=True,
    metavar="P",
    help="Probability that a bit flips; of led flips the mean share of a group's bits that flip at once.",
)
@click.option(
    "--objective",
    default="macs",
    show_default=True,
    metavar="COST",
    help="What goes down besides the error: macs, params, latency (measured here).",
)
@click.option(
    "--seed-with",
    metavar="A,B",
    help="Criteria whose cuts the search starts from, and which lead the flips; or none.  [default: ocnna,obs,l2]",
)
@click.option(
    "--repair",
    metavar="HOW",
    help="least-squares (in closed form in every evaluation, layer by layer for the three), bias, moments, none.  "
    "[default: least-squares; --classic: none]",
)
@click.option("--align", metavar="N", help="As for prune.  [default: auto; --classic: 1]")
@click.option("--flips", metavar="HOW", help="led (by the scores) or uniform.  [default: led; --classic: uniform]")
@click.option(
    "--max-error",
    type=float,
    metavar="SHARE",
    help="Candidates with more are not wanted.  [default: a quarter of what the original has over chance must be left]",
)
@click.option("--classic", is_flag=True, help="The published scheme, without its training.")
@click.option(
    "--exclude", "--nodes-to-exclude", multiple=True, metavar="GLOB", help="Keep the channels of these nodes."
)
@click.option("--exclude-op", "--op-types-to-exclude", multiple=True, metavar="TYPE", help="… of these operators.")
@click.option("--min-channels", type=int, default=1, show_default=True, metavar="N", help="Units every group keeps.")
@click.option("--time-limit", metavar="10m", help="End after the generation that fits: seconds, or 90s, 10m, 2h.")
@click.option(
    "--distill",
    metavar="DURATION",
    help="Each of the three then learns from IN for so long (10m, 90s, or steps=N): see `ocnna-onnx distill --help`.",
)
@click.option("--jobs", type=int, metavar="N", help="Processes of this machine.  [default: one per core]")
@click.option("--dask", metavar="ADDRESS", help="The scheduler of a Dask cluster that evaluates instead (extra: dask).")
@click.option("--resume", is_flag=True, help="Go on with the search in OUTDIR; with more --generations, go further.")
@click.option(
    "--memory", metavar="SIZE", help="What calibration may hold, as 2GB.  [default: a quarter of the machine]"
)
@click.option("--no-cache", is_flag=True, help="Measure scores anew, and keep nothing for later runs.")
@data_options
@runtime_options
@click.option("--json", "as_json", is_flag=True, help="Print front.json instead of a table.")
@verbosity_options
@guarded
def search_command(
    model: Path,
    folder: Path,
    time_limit: str | None,
    as_json: bool,
    quiet: bool,
    verbose: int,
    **shared: Any,
) -> None:
    """Search for three smaller nets of IN, heavy, knee and light, and write them to OUTDIR with the whole front.

    DeepPruningES: an evolution strategy over which channels stay; error against cost. Ctrl-C ends with the best three
    so far (exit code 130). Takes 1024 samples unless --samples says otherwise, and divides them: a half evaluates, a
    quarter chooses the three, a quarter gives their figures.

    \b
    ocnna-onnx search in.onnx found/ --data pictures/ --time-limit 10m
    ocnna-onnx search in.onnx found/ --data pictures/ --resume --generations 100
    ocnna-onnx search in.onnx found/ --data pictures/ --classic
    """
    check_targets(model, None, False, data=shared["data"])
    from ..evolution.found import THREE
    from ..evolution.search import search
    from ..evolution.state import NAME as STATE
    from ..report.searched import print_search

    if any((folder / f"{name}.onnx").exists() and model.samefile(folder / f"{name}.onnx") for name in THREE):
        raise UsageError(f"{folder}: IN is one of the files that would be written there; choose another OUTDIR")
    try:
        with progress_bar(quiet) as progress:
            found = search(
                model,
                folder=folder,
                time_limit=time_limit,
                watch=_silent if quiet else _tell,
                progress=progress,
                **library_arguments(shared),
            )
    except KeyboardInterrupt:  # before the first generation, or while the three were made
        if (folder / STATE).exists():
            raise KeyboardInterrupt("--resume goes on from what was evaluated") from None
        raise
    written = found.save(folder)
    if as_json:
        click.echo(json.dumps(found.to_json(), allow_nan=False, default=str))
    elif not quiet:
        print_search(found, verbose)
        click.echo(f"written: {', '.join(str(p) for p in written if p.suffix in ('.onnx', '.svg'))}, …")
    if found.interrupted:
        click.echo(f"interrupted: the best so far are in {folder} (--resume goes on)", err=True)
        sys.exit(INTERRUPTED)


def _tell(standing: Standing) -> None:
    from ..report.searched import standing_line

    click.echo(standing_line(standing), err=True)


def _silent(standing: Standing) -> None:
    """Nothing."""
