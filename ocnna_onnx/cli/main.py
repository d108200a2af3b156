"""The command line: `ocnna-onnx prune | inspect | apply | check`. Parses, calls the library, prints; no logic."""

from __future__ import annotations

import click

from .. import __version__
from .apply import apply_command
from .check import check_command
from .inspect import inspect_command
from .prune import prune_command


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="ocnna-onnx")
def main() -> None:
    """Make trained convolutional networks smaller and faster as ONNX files, with a proof on every run.

    Exit codes: 0 done, 1 internal error, 2 wrong use, 3 the model, 4 data/plan, 6 nothing can go, 7 proof failed.
    """


main.add_command(prune_command, "prune")
main.add_command(inspect_command, "inspect")
main.add_command(apply_command, "apply")
main.add_command(check_command, "check")
