"""The same nets pruned to half of every group by three tools: parameters removed, and whether the result runs.

    pip install '.[zoo]' && python tools/peers.py --out /tmp/zoo --env /tmp/peers [--wild FOLDER]

Ours (l2) and `onnxsim.pruning.apply_structured_pruning` prune the same ONNX files, Torch-Pruning (MagnitudePruner, the
classifier ignored) the same nets in torch. onnxsim lives in a virtual environment of its own and Torch-Pruning in a
folder, both made in `--env`. Parameters are elements of weights of two or more dimensions, so that folding a
BatchNormalization is no gain; a file runs where onnxruntime opens it and its outputs keep their shapes. Ours is proven
besides, the others are not. Writes a Markdown table to stdout.
"""

from __future__ import annotations

import fnmatch
import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from zoo import TOOLS, wild
from zoo_table import table

MODELS = TOOLS.parent / "models"
ONNXSIM, TORCH_PRUNING, ONNX2TORCH = "onnxsim==0.8.1", "torch-pruning==1.6.1", "onnx2torch==1.5.15"
TORCHVISION = """
    resnet18 resnet50 vgg11_bn densenet121 mobilenet_v2 mobilenet_v3_small shufflenet_v2_x1_0 squeezenet1_1 googlenet
    inception_v3 resnext50_32x4d regnet_y_400mf efficientnet_b0 mnasnet0_5 convnext_tiny deeplabv3_mobilenet_v3_large
    fcn_resnet50
""".split()
TIMM = """
    ghostnet_050 hrnet_w18_small res2net50_14w_8s dla34 resnest14d skresnet18 repvgg_a0 ese_vovnet19b_slim mixnet_s
    rexnet_100 dpn48b
""".split()


@dataclass(frozen=True)
class Net:
    """A file, and where torch has the same net its library."""

    name: str
    path: Path
    library: str = ""
    shapes: dict[str, list[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What a tool made of a net. gone: share of the parameters; why: what went wrong."""

    gone: float = 0.0
    runs: bool = False
    why: str = ""

    def __str__(self) -> str:
        if self.runs:
            return f"{self.gone:.1%}" if self.gone > 0.0005 else "nothing"
        return self.why.replace("|", "/")[:90]


def nets(out: Path, exporter: str, folder: Path | None) -> Iterator[Net]:
    """Everything that is compared."""
    for name in TORCHVISION:
        yield Net(name, out / f"{name}-{exporter}-random.onnx", "torchvision")
    for name in TIMM:
        yield Net(name, out / f"timm_{name}-{exporter}-random.onnx", "timm")
    for path in sorted(MODELS.glob("*.onnx")):
        yield Net(path.name, path)
    for net in wild(folder) if folder else ():
        yield Net(net.path.name, net.path, "", net.shapes)


def install(env: Path) -> tuple[Path, Path]:
    """(Python that has onnxsim, folder that has Torch-Pruning and onnx2torch), made where they are not there yet."""
    python, folder = env / "onnxsim" / "bin" / "python", env / "torch_pruning"
    if not python.exists():
        venv.create(env / "onnxsim", with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", ONNXSIM, "onnxruntime"], check=True)
    for package in (TORCH_PRUNING, ONNX2TORCH):
        if not (folder / package.partition("==")[0].replace("-", "_")).exists():
            command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder, package]
            subprocess.run(command, check=True)
    return python, folder


def run(command: list[Any], limit: float, path: Path | None = None) -> tuple[str, str]:
    """(standard output, what went wrong) of a process. path: a folder to import from, besides."""
    places = [str(path), os.environ.get("PYTHONPATH", "")] if path else []
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))} if path else None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, env=env)
    except subprocess.TimeoutExpired:
        return "", f"not done in {limit:g} s"
    if done.returncode < 0:
        return "", f"killed by signal {-done.returncode}"
    last = ((done.stderr or done.stdout).strip().splitlines() or [""])[-1]
    return done.stdout, "" if done.returncode == 0 else last or f"exit code {done.returncode}"


def verdict(output: str, wrong: str) -> Verdict:
    """A worker's line of JSON as a verdict."""
    if wrong:
        return Verdict(why=wrong)
    row = json.loads(output.strip().splitlines()[-1])
    return Verdict(row["gone"], row["runs"], "" if row["runs"] else f"does not run: {row['why']}")


def of_files(net: Net, pruner: list[Any], pruned: Path, limit: float) -> Verdict:
    """What a tool that prunes ONNX files makes of a net."""
    pruned.unlink(missing_ok=True)
    _, wrong = run(pruner, limit)
    if wrong:
        return Verdict(why=wrong)
    judge = [sys.executable, TOOLS / "peers_onnx.py", "judge", net.path, pruned, "--shapes", json.dumps(net.shapes)]
    found = verdict(*run(judge, limit))
    pruned.unlink()
    return found


def export(net: Net, exporter: str, limit: float) -> str:
    """Make the file where it is not there yet; what went wrong."""
    if net.path.exists():
        return ""
    tool = TOOLS / ("exports_timm.py" if net.library == "timm" else "exports.py")
    command = [sys.executable, tool, net.path.parent, "--only", net.name, "--exporter", exporter, "--init", "random"]
    return run(command, limit)[1]


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the exports (kept, reused).")
@click.option("--env", type=click.Path(path_type=Path), required=True, help="Folder for the other tools.")
@click.option("--wild", "folder", type=click.Path(exists=True, path_type=Path), help="Folder of files from the wild.")
@click.option("--only", multiple=True, metavar="GLOB", help="These nets only; may be repeated.")
@click.option("--exporter", type=click.Choice(["dynamo", "torchscript"]), default="dynamo", show_default=True)
@click.option("--limit", default=600.0, show_default=True, help="Seconds that a tool may take on a net.")
def main(out: Path, env: Path, folder: Path | None, only: tuple[str, ...], exporter: str, limit: float) -> None:
    """Install, export, prune by all three, print."""
    env, out = env.resolve(), out.resolve()
    python, torch_pruning = install(env)
    click.echo("Parameters removed (weights of two or more dimensions):\n")
    click.echo(table(("net", "ocnna-onnx (proven)", ONNXSIM.replace("==", " "), TORCH_PRUNING.replace("==", " ")), []))
    behind: list[str] = []
    for net in nets(out, exporter, folder):
        if only and not any(fnmatch.fnmatch(net.name, glob) for glob in only):
            continue
        if wrong := export(net, exporter, limit):
            click.echo(f"| {net.name} | no export: {wrong} | | |")
            continue
        own, pruned = TOOLS / "peers_onnx.py", env / "pruned.onnx"
        given = ["--shapes", json.dumps(net.shapes)]
        ours = of_files(net, [sys.executable, own, "prune", net.path, pruned, *given], pruned, limit)
        theirs = [of_files(net, [python, TOOLS / "peers_onnxsim.py", net.path, pruned], pruned, limit)]
        if net.library:
            command = [sys.executable, TOOLS / "peers_torch.py", net.library, net.name]
            theirs.append(verdict(*run(command, limit, torch_pruning)))
        cells = [net.name, str(ours), *map(str, theirs), *([] if net.library else ["–"])]
        click.echo(f"| {' | '.join(cells)} |")
        if any(peer.runs and peer.gone > ours.gone + 0.0005 for peer in theirs):
            behind.append(net.name)
    click.echo(f"\nAnother tool removes more on: {', '.join(behind) or 'none'}")


if __name__ == "__main__":
    main()
