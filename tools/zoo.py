"""Prune half of every group of many nets at random, and show which prove, which are refused, and how much goes.

    pip install '.[zoo]'
    python tools/zoo.py --out /tmp/zoo --rows rows.jsonl                    # every suite; an interrupted run resumes
    python tools/zoo.py --out /tmp/zoo --rows rows.jsonl --suite timm --only 'res*' --exporter dynamo --init random
    python tools/zoo.py --rows rows.jsonl --table                           # Markdown tables of what is there

Suites: torchvision's classification, segmentation and video nets and timm's from both of PyTorch's exporters, the
light nets of the onnx package, and files from the wild (`--wild FOLDER` with a manifest.json). Every row runs in its
own process with a time limit. Ends with 1 where a row failed (a refusal by name is none).
"""

from __future__ import annotations

import fnmatch
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from zoo_table import LOW, tables

TOOLS = Path(__file__).parent
EXPORTERS = ("dynamo", "torchscript")
INITS = ("random", "default")
EXPORTED = {  # suite -> tool that exports it, kinds of nets
    "timm": ("exports_timm.py", ("timm CNN", "timm hybrid")),
    "torchvision": ("exports.py", ("torchvision CNN", "torchvision transformer")),
    "segmentation": ("exports.py", ("torchvision segmentation",)),
    "video": ("exports.py", ("torchvision video",)),
}
SUITES = (*EXPORTED, "light", "wild")
AHEAD = 8
"""How many nets one exporting process makes: starting it takes longer than a small net."""


@dataclass(frozen=True)
class Net:
    """One file to prune. variant: exporter and initialisation of an export, whose tool is `exports`."""

    name: str
    kind: str
    path: Path
    exports: str = ""
    variant: tuple[str, str] = ("", "")
    shapes: dict[str, list[int]] = field(default_factory=dict)
    values: dict[str, int] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """What the row is called."""
        return f"{self.kind}/{self.path.stem}"


def exported(suite: str, out: Path, variants: list[tuple[str, str]]) -> Iterator[Net]:
    """The nets of a suite that an exporting tool knows."""
    tool, kinds = EXPORTED[suite]
    listed = subprocess.run([sys.executable, TOOLS / tool, "--list"], capture_output=True, check=True).stdout
    names = json.loads(listed)
    prefix = "timm_" if suite == "timm" else ""
    for variant in variants:
        for kind, name in [(k, name) for k in kinds for name in names[k]]:
            yield Net(name, kind, out / f"{prefix}{name}-{'-'.join(variant)}.onnx", tool, variant)


def light() -> Iterator[Net]:
    """The nets of the onnx package whose weights come out of ConstantOfShape."""
    import onnx

    for path in sorted((Path(onnx.__file__).parent / "backend/test/data/light").glob("light_*.onnx")):
        yield Net(path.stem, "onnx light", path)


def wild(folder: Path) -> Iterator[Net]:
    """The files of a folder, at the shapes and values that its manifest tells.

    It spells them `name:1x3x8x8`, `name:1x3x8x8:float16`, `name::int64=16000`.
    """
    for name, entry in json.loads((folder / "manifest.json").read_text()).items():
        shapes, values = {}, {}
        for text in entry["run_inputs"]:
            tensor, _, shape = text.removesuffix(":float16").rpartition(":")
            if "=" in shape:
                values[tensor.removesuffix(":")] = int(shape.split("=")[1])
            else:
                shapes[tensor] = [int(size) for size in shape.split("x")]
        yield Net(Path(name).stem, "wild", folder / name, shapes=shapes, values=values)


def nets(suites: tuple[str, ...], out: Path | None, folder: Path | None, variants: list[tuple[str, str]]) -> list[Net]:
    """Everything that the suites hold."""
    found: list[Net] = []
    for suite in suites or SUITES:
        if suite == "light":
            found += light()
        elif suite == "wild":
            found += wild(folder) if folder else []
        elif out is None:
            raise click.UsageError("--out FOLDER is needed for the exports")
        else:
            found += exported(suite, out, variants)
    return found


def run(command: list[Any], limit: float) -> tuple[str, str]:
    """(standard output, what went wrong) of a Python tool."""
    try:
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return "", f"time limit of {limit:g} s"
    last = ((done.stderr or done.stdout).strip().splitlines() or [""])[-1]
    return done.stdout, "" if done.returncode == 0 else f"exit code {done.returncode}: {last}"


def export(some: list[Net], limit: float) -> dict[str, str]:
    """Export nets of one tool and variant in one process, which is quicker; name -> what went wrong."""
    exporter, init = some[0].variant
    command: list[Any] = [TOOLS / some[0].exports, some[0].path.parent, "--only", *(net.name for net in some)]
    output, wrong = run([*command, "--exporter", exporter, "--init", init], limit * len(some))
    said = dict(text.split(": ", 1) for text in output.splitlines() if ": " in text)
    return {net.name: said.get(f"{net.name}-{exporter}-{init}", wrong) for net in some if not net.path.exists()}


def measured(net: Net, limit: float) -> dict[str, Any]:
    """The row of a file."""
    given = ["--shapes", json.dumps(net.shapes), "--values", json.dumps(net.values)]
    output, wrong = run([TOOLS / "zoo_row.py", net.path, *given], limit)
    if wrong:
        return {"status": "failed", "why": wrong}
    row: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return row


def read_rows(path: Path) -> dict[str, dict[str, Any]]:
    """The last row of every net."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {row["key"]: row for row in map(json.loads, lines)}


def line(row: dict[str, Any]) -> str:
    """A row in brief."""
    if row["status"] != "proven":
        return f"{row['key']:64} {row['status']}: {row['why']}"
    gone = f"MACs {-row['macs_gone']:.0%}, parameters {-row['params_gone']:.0%}"
    return f"{row['key']:64} {gone}, error {row['error']:.1e}, {row['total_s']:.1f} s, {row['memory_mb']:.0f} MB"


@click.command()
@click.option("--rows", type=click.Path(path_type=Path), required=True, help="JSON-lines file; rows are appended.")
@click.option("--table", is_flag=True, help="Print Markdown tables of the rows that are there, and run nothing.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the exports.")
@click.option("--keep", is_flag=True, help="Keep the exports; else each goes after its row.")
@click.option("--suite", multiple=True, type=click.Choice(SUITES), help="This suite only; may be repeated.")
@click.option("--only", multiple=True, metavar="GLOB", help="Nets whose name or row matches; may be repeated.")
@click.option("--exporter", multiple=True, type=click.Choice(EXPORTERS), help="This exporter only.")
@click.option("--init", multiple=True, type=click.Choice(INITS), help="This initialisation only.")
@click.option("--wild", "folder", type=click.Path(exists=True, path_type=Path), help="Folder of files from the wild.")
@click.option("--limit", default=900.0, show_default=True, help="Seconds that an export or a row may take.")
@click.option("--redo", is_flag=True, help="Run rows again that are there already.")
@click.option("--redo-bad", is_flag=True, help="Run rows again that did not prove or lose less than 20 % of MACs.")
def main(
    rows: Path,
    table: bool,
    out: Path | None,
    keep: bool,
    suite: tuple[str, ...],
    only: tuple[str, ...],
    exporter: tuple[str, ...],
    init: tuple[str, ...],
    folder: Path | None,
    limit: float,
    redo: bool,
    redo_bad: bool,
) -> None:
    """Export, prune, prove; or print the tables."""
    there = read_rows(rows)
    if table:
        click.echo(tables(list(there.values())))
        return
    variants = [(e, i) for i in init or INITS for e in exporter or EXPORTERS]
    failed = 0
    todo = []
    for net in nets(suite, out, folder, variants):
        row = there.get(net.key)
        bad = row is not None and (row["status"] != "proven" or row["macs_gone"] < LOW)
        wanted = not only or any(fnmatch.fnmatch(name, glob) for glob in only for name in (net.name, net.key))
        if wanted and (row is None or redo or (redo_bad and bad)):
            todo.append(net)
    for k, net in enumerate(todo):
        if not net.path.exists():
            alike = [n for n in todo[k:] if (n.exports, n.variant) == (net.exports, net.variant)]
            wrong = export([n for n in alike if not n.path.exists()][:AHEAD], limit)
            if net.name in wrong and len(wrong) > 1:
                wrong = export([net], limit)  # a crash took the others with it
        row = {"key": net.key, "name": net.name, "kind": net.kind, "variant": "-".join(net.variant).strip("-")}
        row |= measured(net, limit) if net.path.exists() else {"status": "no export", "why": wrong[net.name]}
        failed += row["status"] == "failed"
        with rows.open("a") as file:
            file.write(json.dumps(row) + "\n")
        click.echo(line(row))
        if net.exports and not keep:
            net.path.unlink(missing_ok=True)
            net.path.with_suffix(".data").unlink(missing_ok=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
