"""Options that several commands share, so that they are spelled the same everywhere, and how errors end a command."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..errors import OcnnaError, UsageError

Command = Callable[..., Any]

FILE = click.Path(path_type=Path)

IMAGE_OPTIONS = ("preset", "mean", "std", "scale", "resize", "crop", "layout", "color")


def data_option(command: Command) -> Command:
    """--data, and how pictures are prepared."""
    for option in (
        click.option(
            "--color",
            "--colour",
            "color",
            metavar="ORDER",
            help="rgb, bgr or grey.  [default: by the input's channels]",
        ),
        click.option("--layout", metavar="LAYOUT", help="NCHW or NHWC.  [default: by the input's shape]"),
        click.option("--crop", metavar="N|HxW", help="Centre crop, or none.  [default: the input's size]"),
        click.option(
            "--resize",
            metavar="N|HxW",
            help="Short side or size, or letterbox, stretch, none.  [default: the preset's]",
        ),
        click.option("--scale", metavar="F", help="What pixels 0 … 255 are multiplied by, as 1/255."),
        click.option("--std", metavar="A,B,C", help="What they are divided by then, per channel."),
        click.option("--mean", metavar="A,B,C", help="What is subtracted from them after --scale, per channel."),
        click.option(
            "--preset",
            metavar="NAME",
            help="How pictures are prepared: imagenet (x/255, mean and deviation), tf (x/127.5 - 1), yolo (letterbox, "
            "x/255), none (0 … 255).  [default: imagenet; bytes where the input takes bytes]",
        ),
        click.option(
            "--data",
            "--data-loader-script",
            "--load-inputs",
            "data",
            metavar="SOURCE",
            help="Samples: a folder of pictures (sub-folders or labels.csv: classes), an .npz (arrays named after the "
            "inputs; labels in 'y' or 'labels'), an .npy, polygraphy's saved inputs (.json), script.py[:load_data] "
            "(which is run, as your own code), 'digits', or 'photos'.  [default: photos, crops of two photographs; "
            "real samples score better; search and distill need yours]",
        ),
    ):
        command = option(command)
    return command


def data_options(command: Command) -> Command:
    """--data, --samples, --seed, --rtol: what scores and proofs run on."""
    for option in (
        click.option("--rtol", type=float, metavar="R", help="Tolerance of the proof.  [default: follows the type]"),
        click.option(
            "--seed", type=int, default=0, show_default=True, metavar="S", help="Seed of everything that is drawn."
        ),
        click.option(
            "--samples",
            type=int,
            metavar="N",
            help="Use at most N samples.  [default: 256; for a drop and to search 1024, to distill 4096, to apply and "
            "check 64]",
        ),
        data_option,
    ):
        command = option(command)
    return command


def runtime_options(command: Command) -> Command:
    """--input-shapes, --strict-inputs, --providers, --threads."""
    for option in (
        click.option(
            "--threads", type=int, default=0, metavar="N", help="onnxruntime's threads.  [default: its choice]"
        ),
        click.option(
            "--providers", default="CPUExecutionProvider", metavar="A,B", help="onnxruntime's execution providers."
        ),
        click.option(
            "--strict-inputs",
            is_flag=True,
            help="Leave weights alone that are inputs of the graph too, so that a caller may feed others (IR version 4 "
            "on).  [default: they are cut together with the input's shape]",
        ),
        click.option(
            "--input-shapes",
            "--shapes",
            "--override-input-shapes",
            "input_shapes",
            multiple=True,
            metavar="NAME:1,3,224,224",
            help="Probe shape of an input with symbolic dimensions; may be repeated.",
        ),
    ):
        command = option(command)
    return command


def memory_option(command: Command) -> Command:
    """--memory."""
    text = "What calibration (and a distillation) may hold, as 2GB.  [default: a quarter of the machine]"
    return click.option("--memory", metavar="SIZE", help=text)(command)


def calibration_options(command: Command) -> Command:
    """--criterion, --memory, --no-cache: how filters are scored."""
    for option in (
        click.option(
            "--no-cache", is_flag=True, help="Measure anew (scores, sensitivities), and keep nothing for later runs."
        ),
        memory_option,
        click.option(
            "--criterion",
            default="ocnna",
            show_default=True,
            metavar="NAME[:OPTION=VALUE,…]",
            help="Score of a filter (higher stays): see `ocnna-onnx score --help`; or auto (prune alone): the one of "
            "several with which the cut and repaired net is closest to the original on held-out samples.",
        ),
    ):
        command = option(command)
    return command


def order_options(command: Command) -> Command:
    """--scores, --normalize, --exclude, --exclude-op: which channels go first, and which stay."""
    for option in (
        click.option(
            "--exclude-op",
            "--op-types-to-exclude",
            multiple=True,
            metavar="TYPE",
            help="Keep the channels of all nodes of this operator; may be repeated.",
        ),
        click.option(
            "--exclude",
            "--nodes-to-exclude",
            multiple=True,
            metavar="GLOB",
            help="Keep the channels of nodes whose name matches ('re:' in front: a regular expression); may be "
            "repeated.",
        ),
        click.option(
            "--normalize",
            default="mean",
            show_default=True,
            metavar="HOW",
            help="What makes the layers of a group comparable: mean (divide by it), rank, lamp.",
        ),
        click.option("--scores", type=FILE, metavar="FILE", help="Start from a scores.json of `ocnna-onnx score`."),
    ):
        command = option(command)
    return command


def repair_option(default: str) -> Callable[[Command], Command]:
    """--repair."""
    return click.option(
        "--repair",
        default=default,
        show_default=True,
        metavar="HOW",
        help="How the weights that stay make up for what went: least-squares (layer by layer, on the samples), "
        "moments, bias, none.",
    )


def parse_globs(texts: tuple[str, ...], option: str, kind: Callable[[str], Any]) -> dict[str, Any]:
    """`GLOB=VALUE` pairs. Raises UsageError."""
    found = {}
    for text in texts:
        pattern, equals, value = text.rpartition("=")
        try:
            if not (pattern and equals):
                raise ValueError
            found[pattern] = kind(value)
        except ValueError:
            raise UsageError(f"{option} {text}: expected GLOB=VALUE") from None
    return found


def verbosity_options(command: Command) -> Command:
    """--debug, -q, -v."""
    for option in (
        click.option("--debug", is_flag=True, help="Show a traceback with an error."),
        click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors."),
        click.option("-v", "--verbose", count=True, help="Print more: every group, every wall."),
    ):
        command = option(command)
    return command


def guarded(command: Command) -> Command:
    """End with one line on stderr and the right exit code instead of a traceback."""

    @functools.wraps(command)
    def run(*args: Any, debug: bool = False, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except OcnnaError as error:
            if debug:
                raise
            click.echo(f"error: {error}", err=True)
            sys.exit(error.exit_code)
        except KeyboardInterrupt as interrupt:
            hint = "".join(f" ({line})" for line in str(interrupt).splitlines()[:1])
            click.echo(f"interrupted: no result was written{hint}", err=True)
            sys.exit(130)
        except Exception as error:
            if debug:
                raise
            kind = type(error).__name__
            text = (str(error).splitlines() or [""])[0]
            click.echo(
                f"internal error: {kind}: {text} (a defect of ocnna-onnx; please report it with the output of the same "
                "command with --debug)",
                err=True,
            )
            sys.exit(1)

    return run


def library_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """The shared options as the library's keyword arguments: shapes and providers parsed, those of pictures in one."""
    image = {name: options[name] for name in IMAGE_OPTIONS if options[name] is not None}
    cache = {"cache": not options["no_cache"]} if "no_cache" in options else {}
    options = {name: value for name, value in options.items() if name not in (*IMAGE_OPTIONS, "no_cache")}
    parsed: dict[str, Any] = {
        "input_shapes": parse_shapes(options["input_shapes"]),
        "providers": parse_providers(options["providers"]),
    }
    return {**options, **parsed, **cache, "image": image}


def parse_shapes(texts: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """`NAME:1,3,224,224`, also `NAME:1x3x224x224` and `NAME:[1,3,224,224]`. Raises UsageError."""
    found: dict[str, tuple[int, ...]] = {}
    for text in texts:
        for part in re.split(r"[;\s]+|,(?=[^,:\[\]]*[A-Za-z_./][^,:]*:)", text):
            name, colon, sizes = part.rpartition(":")
            try:
                if not (colon and name):
                    raise ValueError
                found[name] = tuple(int(s) for s in re.split(r"[x,]", sizes.strip("[]()")) if s.strip())
            except ValueError:
                raise UsageError(f"--input-shapes {text}: expected NAME:1,3,224,224") from None
    return found


def parse_providers(text: str) -> tuple[str, ...]:
    """Names separated by commas; `cpu`, `cuda` and `tensorrt` are understood."""
    short = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
    names = tuple(short.get(p.strip().lower(), p.strip()) for p in text.split(",") if p.strip())
    return names or ("CPUExecutionProvider",)
