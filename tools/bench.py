"""Benchmarks whose figures stand in docs/results.md.

python tools/bench.py nets --data-root FOLDER
    the nets that they are measured on: where the weights come from, sha256
python tools/bench.py accuracy --data-root FOLDER --rows accuracy.jsonl
    what a cut to a share of the MACs leaves of the accuracy, repaired in closed form, against the bars
python tools/bench.py curves --data-root FOLDER --rows curves.jsonl
    accuracy over the share of the MACs: criteria, with and without repair of the same cuts
python tools/bench.py peers --data-root FOLDER --env FOLDER --rows peers.jsonl
    Torch-Pruning and onnxsim on the same files at equal MACs
python tools/bench.py latency --data-root FOLDER --rows latency.jsonl
    milliseconds in onnxruntime and OpenVINO, aligned or not
python tools/bench.py drop --data-root FOLDER --rows drop.jsonl
    the drop that is promised, and the drop on test images
python tools/bench.py time --data-root FOLDER --rows time.jsonl
    a whole prune in plain passes over the same images, its stages, its memory
python tools/bench.py distill --data-root FOLDER --rows distill.jsonl [--minutes 2,10] [--paper] [--env FOLDER]
    accuracy after minutes of distillation; OCNNA as published; a peer's minutes; steps per second beside a loop by hand
python tools/bench.py search --data-root FOLDER --rows search.jsonl
    heavy, knee, light and the hypervolume: default, classic, random masks, score-based cuts at as many evaluations
python tools/bench.py calibration [MODEL ...] [--images FOLDER]
    scoring against plain forward passes; without models, torchvision's ResNet-50, MobileNetV2 and DenseNet-121
python tools/bench.py criteria --data-root PATH [--nets GLOB,…] [--criteria a,b] [--ratios 0.1,0.3] [--images 512]
    accuracy right after pruning, for every criterion, net (`tools/bench_nets.py`) and ratio

With `--rows FILE` rows are added to a file of JSON lines as they come, and what is there is not measured again;
`--table` shows what is there.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parent))

NETS = ("resnet50", "mobilenet_v2", "densenet121")
Command = Callable[..., Any]


@click.group()
def bench() -> None:
    """Benchmarks."""


@bench.command()
@click.argument("models", nargs=-1, type=click.Path(path_type=Path, exists=True))
@click.option("--images", type=click.Path(path_type=Path, exists=True), help="A folder of images; else photo crops.")
@click.option("--repeats", default=3, show_default=True)
def calibration(models: tuple[Path, ...], images: Path | None, repeats: int) -> None:
    """What scoring costs."""
    import bench_calibration

    with tempfile.TemporaryDirectory() as folder:
        if not models:
            models = tuple(exported(NETS, Path(folder)))
        show(bench_calibration.rows(models, images, repeats))


@bench.command()
@click.option("--data-root", required=True, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--nets", default="*", show_default=True, help="Names of nets: globs, with commas in between.")
@click.option("--criteria", "names", default="", help="With commas in between; by default all.")
@click.option("--ratios", default="0.1,0.2,0.3,0.5", show_default=True)
@click.option("--images", default=512, show_default=True, help="Images that calibrate.")
@click.option("--judge", default=2000, show_default=True, help="Images that judge, at most.")
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--rows", type=click.Path(path_type=Path), help="A file of JSON lines to add to; what is there is kept.")
@click.option("--table", is_flag=True, help="Show what is there, measure nothing.")
def criteria(
    data_root: Path,
    nets: str,
    names: str,
    ratios: str,
    images: int,
    judge: int,
    seed: int,
    threads: int,
    rows: Path | None,
    table: bool,
) -> None:
    """Criteria side by side: accuracy right after pruning, no repair."""
    import bench_criteria
    import bench_nets
    from bench_rows import read

    from ocnna_onnx.criteria.table import CRITERIA

    chosen = tuple(names.split(",")) if names else tuple(CRITERIA)
    setting = bench_criteria.Setting(tuple(map(float, ratios.split(","))), images, judge, seed, threads)
    try:
        found = bench_nets.find_nets(data_root, nets)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    with tempfile.TemporaryDirectory() as folder:
        file = rows or Path(folder) / "rows.jsonl"
        if not table:
            show(bench_criteria.line(r, setting.ratios) for r in bench_criteria.measure(found, chosen, setting, file))
        mine = [r for r in read(file) if setting.about().items() <= r.items()]
        order = {net.name: k for k, net in enumerate(found)}
        mine = sorted((r for r in mine if r["net"] in order), key=lambda r: order[r["net"]])
        click.echo("")
        for text in bench_criteria.tables(mine, setting.ratios, chosen):
            click.echo(text)


def common(nets: str = "*", images: int = 512, criterion: str = "obs") -> Callable[[Command], Command]:
    """The options that benchmarks on trained nets share; `trained` takes them."""
    folder = click.Path(path_type=Path, exists=True, file_okay=False)
    options = (
        click.option("--data-root", type=folder, help="See tools/bench_nets.py."),
        click.option("--nets", default=nets, show_default=True, help="Names of nets: globs, with commas in between."),
        click.option("--criterion", default=criterion, show_default=True),
        click.option("--images", default=images, show_default=True, help="Images that prune is given, at most."),
        click.option("--judge", type=int, help="Images that judge, at most; by default all that may."),
        click.option("--threads", default=1, show_default=True, help="onnxruntime's."),
        click.option("--align", default="1", show_default=True, help="As for prune."),
        click.option("--rows", type=click.Path(path_type=Path), help="A file of JSON lines; what is there is kept."),
        click.option("--table", is_flag=True, help="Show what is there, measure nothing."),
    )

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def numbers(text: str) -> list[float]:
    """Numbers with commas in between."""
    return [float(n) for n in text.split(",") if n]


def trained(what: str, module: Any, measure: Callable[[Any, Any], Iterable[dict[str, Any]]], **given: Any) -> None:
    """Measure nets that are found (measure(nets, setting): rows, which are shown as they come), then the table."""
    import bench_nets
    from bench_measure import Setting
    from bench_rows import read
    from zoo_table import table

    with tempfile.TemporaryDirectory() as folder:
        file = given["rows"] or Path(folder) / "rows.jsonl"
        if not given["table"]:
            if given["data_root"] is None:
                raise click.UsageError("--data-root is needed to measure")
            try:
                found = bench_nets.find_nets(given["data_root"], given["nets"])
            except ValueError as error:
                raise click.ClickException(str(error)) from None
            setting = Setting(file, given["images"], given["judge"], given["threads"], given["align"])
            for row in measure(found, setting):
                click.echo(json.dumps(row, ensure_ascii=False), err=True)
        order = [net.name for net in bench_nets.NETS]
        mine = [r for r in read(file) if r.get("what") == what and asked(r, **given)]
        mine.sort(key=lambda r: order.index(r["net"]) if r["net"] in order else len(order))
        head, *lines = module.table(mine)
        click.echo(table(head, lines))
        for text in getattr(module, "notes", lambda rows: ())(mine):
            click.echo(text)


def asked(row: dict[str, Any], nets: str, criterion: str, images: int, judge: int | None, **given: Any) -> bool:
    """Whether a row was measured as the options say; only such rows belong into one table. photos: how many images
    nets have that are not in `--data-root`."""
    return (
        any(fnmatch.fnmatch(row["net"], p) for p in nets.split(","))
        and row.get("criterion", criterion) in criterion.split(",")
        and row["images"] in (images, given.get("photos"))
        and row.get("judge", judge) == judge
        and (row["what"] == "latency" or row.get("align", given["align"]) == given["align"])
    )


@bench.command("nets")
@click.option("--data-root", required=True, type=click.Path(path_type=Path, exists=True, file_okay=False))
def nets_command(data_root: Path) -> None:
    """The trained nets: weights, preprocessing, sha256 (of the files that are there)."""
    import bench_nets

    try:
        show(bench_nets.described(bench_nets.find_nets(data_root)))
    except ValueError as error:
        raise click.ClickException(str(error)) from None


@bench.command("accuracy")
@common()
@click.option("--shares", default="", help="Of the MACs, with commas in between; by default each net's own.")
@click.option("--seeds", default="0,1,2", show_default=True)
def accuracy_command(shares: str, seeds: str, **given: Any) -> None:
    """Accuracy at a share of the MACs, without training."""
    import bench_accuracy as module

    drawn = [int(s) for s in seeds.split(",")]
    trained(
        module.WHAT, module, lambda nets, s: module.rows(nets, numbers(shares), given["criterion"], drawn, s), **given
    )


@bench.command("curves")
@common("cifar10_*,imagenet_*", criterion="obs,ocnna")
@click.option("--shares", default="0.9,0.7,0.5,0.3", show_default=True)
@click.option("--seed", default=0, show_default=True)
def curves_command(shares: str, seed: int, **given: Any) -> None:
    """Accuracy over the share of the MACs."""
    import bench_curves as module

    names = given["criterion"].split(",")
    trained(module.WHAT, module, lambda nets, s: module.rows(nets, numbers(shares), names, seed, s), **given)


@bench.command("peers")
@common("cifar10_*,imagenet_*")
@click.option("--shares", default="", help="Of the MACs, with commas in between; by default each net's own.")
@click.option("--seed", default=0, show_default=True)
@click.option("--env", type=click.Path(path_type=Path), help="Folder for the other tools, which are installed there.")
@click.option("--limit", default=3600.0, show_default=True, help="Seconds that a peer may take on a net and share.")
def peers_command(shares: str, seed: int, env: Path | None, limit: float, **given: Any) -> None:
    """Other pruners at equal MACs, nothing trained."""
    import bench_peers as module
    import peers

    if env is None and not given["table"]:
        raise click.UsageError("--env is needed to measure")

    def measure(nets: Any, setting: Any) -> Iterable[dict[str, Any]]:
        assert env is not None
        python, folder = peers.install(env.resolve())
        return module.rows(nets, numbers(shares), given["criterion"], seed, setting, python, folder, limit)

    trained(module.WHAT, module, measure, **given)


@bench.command("latency")
@common("cifar10_*,imagenet_*", images=256)
@click.option("--shares", default="0.5", show_default=True)
@click.option("--exports", default="resnet50", show_default=True, help="Nets of torchvision besides, random weights.")
@click.option("--photos", default=64, show_default=True, help="Crops of photographs that these are given.")
def latency_command(shares: str, exports: str, photos: int, **given: Any) -> None:
    """Milliseconds before and after, in onnxruntime and OpenVINO."""
    import bench_latency as module
    from bench_measure import calibrating

    def measure(nets: Any, setting: Any) -> Iterable[dict[str, Any]]:
        for net in nets:  # one at a time: their images are mapped
            subject = module.Subject(net.name, net.path, calibrating(net, 0, setting))
            yield from module.rows([subject], numbers(shares), given["criterion"], setting)
        if exports:
            files = exported(exports.split(","), setting.cache / "exports")
            few = dataclasses.replace(setting, images=photos)
            yield from module.rows([module.Subject(f.stem, f) for f in files], numbers(shares), given["criterion"], few)

    given["nets"] += "".join(f",{name}*" for name in exports.split(",") if name)
    trained(module.WHAT, module, measure, photos=photos, **given)


@bench.command("drop")
@common("cifar10_*,imagenet_*")
@click.option("--drops", default="0.5,1,2", show_default=True, help="Percentage points.")
@click.option("--seeds", default="0", show_default=True)
@click.option("--labels/--no-labels", default=True, show_default=True, help="Whether prune is given labels.")
def drop_command(drops: str, seeds: str, labels: bool, **given: Any) -> None:
    """The drop that is promised, and the drop on images that nobody saw."""
    import bench_drop as module

    drawn = [int(s) for s in seeds.split(",")]

    def measure(nets: Any, setting: Any) -> Iterable[dict[str, Any]]:
        return module.rows(nets, numbers(drops), given["criterion"], drawn, labels, setting)

    trained(module.WHAT, module, measure, **given)


@bench.command("time")
@common("cifar10_resnet56*,imagenet_*")
@click.option("--shares", default="0.5", show_default=True)
@click.option("--seed", default=0, show_default=True)
def time_command(shares: str, seed: int, **given: Any) -> None:
    """A whole prune with its repair, in plain passes over the same images."""
    import bench_time as module

    trained(
        module.WHAT, module, lambda nets, s: module.rows(nets, numbers(shares), given["criterion"], seed, s), **given
    )


@bench.command("distill")
@common("cifar10_*", images=512)
@click.option("--minutes", default="2,10", show_default=True, help="Of distillation, with commas in between.")
@click.option("--paper", is_flag=True, help="OCNNA as published, too: every layer at percentile 20 and 40.")
@click.option("--env", type=click.Path(path_type=Path), help="Folder for Torch-Pruning; without it no peers.")
@click.option("--seed", default=0, show_default=True)
@click.option("--limit", default=3600.0, show_default=True, help="Seconds that a peer's cut may take.")
def distill_command(minutes: str, paper: bool, env: Path | None, seed: int, limit: float, **given: Any) -> None:
    """Minutes of distillation on unlabelled training images."""
    import bench_distill as module
    import peers

    def measure(nets: Any, setting: Any) -> Iterable[dict[str, Any]]:
        folder = peers.install(env.resolve())[1] if env is not None else None
        return module.rows(nets, numbers(minutes), given["criterion"], seed, setting, paper, folder, limit)

    trained(module.WHAT, module, measure, **given)


@bench.command("search")
@common("cifar10_resnet20,cifar10_resnet56,cifar10_vgg16_half_bn,cifar10_densenet_bc_6_12_24_k12", images=1024)
@click.option("--methods", default="default,classic,random,scores", show_default=True, help="Also: equal, switches.")
@click.option("--generations", default=40, show_default=True)
@click.option("--population", default=30, show_default=True)
@click.option("--seeds", default="0", show_default=True)
@click.option("--jobs", default=2, show_default=True, help="Processes that evaluate.")
def search_command(methods: str, generations: int, population: int, seeds: str, jobs: int, **given: Any) -> None:
    """DeepPruningES: three nets, against its published form, chance and scores."""
    import bench_search as module

    drawn = [int(s) for s in seeds.split(",")]
    names = [n for m in methods.split(",") for n in (module.SWITCHES if m == "switches" else (m,))]

    def measure(nets: Any, setting: Any) -> Iterable[dict[str, Any]]:
        return module.rows(nets, names, generations, population, drawn, jobs, setting)

    trained(module.WHAT, module, measure, **given)


def exported(names: Iterable[str], folder: Path) -> list[Path]:
    """Nets of torchvision with random weights, made where they are not there yet."""
    command = [sys.executable, str(Path(__file__).parent / "exports.py"), str(folder), "--only", *names]
    subprocess.run([*command, "--exporter", "torchscript", "--init", "random"], check=True, stdout=sys.stderr)
    return [folder / f"{name}-torchscript-random.onnx" for name in names]


def show(rows: Iterable[dict[str, Any]]) -> None:
    """A Markdown table, row by row as it comes."""
    first = True
    for row in rows:
        if first:
            click.echo("| " + " | ".join(row) + " |\n|" + "---|" * len(row))
            first = False
        click.echo("| " + " | ".join(v if isinstance(v, str) else json.dumps(v) for v in row.values()) + " |")


if __name__ == "__main__":
    bench()
