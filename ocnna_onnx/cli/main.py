"""The command line: `prune`, `inspect`, `score`, `sensitivity`, `search`, `apply`, `check`, `distill`. Parses, calls
the library, prints; no logic."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import Any

import click

from .. import __version__
from .apply import apply_command
from .check import check_command
from .distill import distill_command
from .inspect import inspect_command
from .prune import prune_command
from .score import score_command
from .search import search_command
from .sensitivity import sensitivity_command


class Commands(click.Group):
    """A group whose usage errors are one line, as all our errors are (click prints three)."""

    def main(self, args: Sequence[str] | None = None, *, standalone_mode: bool = True, **kwargs: Any) -> Any:  # type: ignore[override]
        """As click's, besides the form of errors."""
        for stream in (sys.stdout, sys.stderr):  # a terminal that lacks a character gets a '?', not an error
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")
        if not standalone_mode:
            return super().main(args, standalone_mode=False, **kwargs)
        try:
            sys.exit(super().main(args, standalone_mode=False, **kwargs) or 0)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except click.ClickException as error:
            context = getattr(error, "ctx", None)
            hint = f" (see {context.command_path} --help)" if context is not None else ""
            click.echo(f"error: {error.format_message()}{hint}", err=True)
            sys.exit(error.exit_code)
        except click.Abort:
            click.echo("interrupted: no result was written", err=True)
            sys.exit(130)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="ocnna-onnx")
def main() -> None:
    """Make trained convolutional networks smaller and faster as ONNX files, with a proof on every run.

    Exit codes: 0 done, 1 internal error, 2 wrong use, 3 the model, 4 data/plan, 5 out of reach, 6 nothing can go,
    7 proof failed, 130 interrupted.
    """


main.add_command(prune_command, "prune")
main.add_command(inspect_command, "inspect")
main.add_command(score_command, "score")
main.add_command(sensitivity_command, "sensitivity")
main.add_command(search_command, "search")
main.add_command(apply_command, "apply")
main.add_command(check_command, "check")
main.add_command(distill_command, "distill")
