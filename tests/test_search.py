"""`search`: three proven nets, the same on any number of workers, and after any interruption."""

from __future__ import annotations

import csv
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
from joblib.externals.loky import reusable_executor
from nets import MODELS, TINY, build, cli, done, images, infer, initializers, snapshot, tiny, weights, written

import ocnna_onnx
from ocnna_onnx.errors import DataError, ProofFailed, TargetMissed, UsageError
from ocnna_onnx.evolution.division import divided
from ocnna_onnx.evolution.evolve import Archive
from ocnna_onnx.evolution.fitness import Evaluator, Task, candidate, evaluator_of, fitness, judge_of
from ocnna_onnx.evolution.found import THREE, Search
from ocnna_onnx.evolution.front import Bar, hypervolume
from ocnna_onnx.evolution.search import Standing
from ocnna_onnx.evolution.workers import workforce
from ocnna_onnx.model.session import Runtime
from ocnna_onnx.opened import Opened, open_model
from ocnna_onnx.sensing import readings
from ocnna_onnx.settings import settings_of

Array = np.ndarray[Any, Any]
VGG, RESNET = MODELS / "digits_vgg.onnx", MODELS / "digits_resnet.onnx"
QUICK: dict[str, Any] = {"generations": 3, "population": 10, "align": 1, "jobs": 1, "threads": 1, "seed": 3}


def opened(model: Any, data: Any, **options: Any) -> Opened:
    return open_model(model, settings_of(data=data, threads=1, **options))


def evaluator(job: Opened, repair: str = "least-squares") -> Evaluator:
    seen = readings(job.trace, job.samples, job.settings).settled()
    return evaluator_of(job.trace, seen, repair, judge_of(job.trace, job.samples, Runtime()), Runtime(), timed=False)


def some_classes(job: Opened, share: float, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(g.free)[: int(share * len(g.classes))] for g in job.groups])


def quick(**options: Any) -> Search:
    return ocnna_onnx.search(tiny(), **{**QUICK, "data": images(48), **options})


def same(a: Archive, b: Archive) -> bool:
    return bool(
        (a.masks == b.masks).all()
        and (a.worth.error == b.worth.error).all()
        and (a.worth.cost == b.worth.cost).all()
        and (a.generation == b.generation).all()
    )


def interrupt_at(generation: int) -> Callable[[Standing], None]:
    def watch(standing: Standing) -> None:
        if standing.generation == generation:
            raise KeyboardInterrupt

    return watch


# --- what one candidate is worth


def test_a_candidate_computes_what_its_refitted_original_computes_with_silenced_channels() -> None:
    """The refit gives what goes weights of zero: the small net must equal the original with all refitted weights."""
    job = opened(RESNET, "digits", samples=64)
    mine = evaluator(job)
    removed = some_classes(job, 0.4)
    small = candidate(mine, removed).whole()
    x = job.samples.arrays["input"][np.arange(16)]
    (y,) = infer(small, {"input": x})
    plain = evaluator(job, "none")
    (unfitted,) = infer(candidate(plain, removed).whole(), {"input": x})
    (original,) = infer(RESNET, {"input": x})
    assert np.abs(y - original).mean() < 0.5 * np.abs(unfitted - original).mean()
    shapes = {n: a.shape for n, a in initializers(candidate(plain, removed).whole()).items()}
    assert {n: a.shape for n, a in initializers(small).items()} == shapes


def test_an_error_is_the_share_of_wrong_labels() -> None:
    job = opened(VGG, "digits", samples=96)
    mine = evaluator(job)
    removed = some_classes(job, 0.7)
    (y,) = infer(candidate(mine, removed).whole(), {"input": job.samples.arrays["input"][np.arange(96)]})
    found = fitness(mine, Task(removed, 0.5))
    assert job.samples.labels is not None
    assert found.error == pytest.approx((y.argmax(axis=1) != job.samples.labels).mean())
    assert (found.cost, found.stopped) == (0.5, False)


def test_without_labels_it_is_the_disagreement_with_the_original_and_without_classes_the_distance() -> None:
    job = opened(tiny(), images(32))
    assert fitness(evaluator(job), Task(np.zeros(0, np.int64), 1.0)).error == 0
    flat = build(TINY.replace("y) {", "y) {").replace("[N,5] y", "[N,1] y"), {
        **weights({"w1": (8, 1, 3, 3), "b1": (8,), "gamma": (8,), "beta": (8,), "mean": (8,), "var": (8,),
                   "w2": (6, 8, 3, 3), "b2": (6,), "w3": (1, 6), "b3": (1,)}),
    })  # fmt: skip
    job = opened(flat, images(32))
    mine = evaluator(job)
    removed = some_classes(job, 0.5)
    (a,), (b,) = infer(flat, {"x": images(32)}), infer(candidate(mine, removed).whole(), {"x": images(32)})
    expected = min(1.0, float(np.linalg.norm(a - b) / np.linalg.norm(a)))
    assert fitness(mine, Task(removed, 0.5)).error == pytest.approx(expected, rel=1e-4)


def test_a_hopeless_candidate_is_stopped_and_a_good_one_is_not() -> None:
    job = opened(VGG, "digits", samples=256)
    mine = evaluator(job, "none")
    bar = Bar(np.array([0.01]), np.array([0.2]))
    hopeless = fitness(mine, Task(some_classes(job, 0.8), 0.3, bar))
    assert hopeless.stopped
    assert hopeless.error > 0.3
    assert not fitness(mine, Task(some_classes(job, 0.8), 0.1, bar)).stopped  # nothing on the front is as light
    assert not fitness(mine, Task(np.zeros(0, np.int64), 1.0, bar)).stopped


# --- the whole


@pytest.fixture(scope="module")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> tuple[Search, Path]:
    folder = tmp_path_factory.mktemp("search")
    options = {**QUICK, "population": 16, "seed_with": "obs", "align": 4}
    found = ocnna_onnx.search(VGG, data="digits", samples=192, folder=folder, **options)
    found.save(folder)
    return found, folder


def test_three_proven_nets_between_the_ends_of_the_front(vgg: tuple[Search, Path]) -> None:
    found, folder = vgg
    macs = {}
    for name in THREE:
        report = json.loads((folder / f"{name}.report.json").read_text())
        assert report["proof"]["passed"]
        assert report["accuracy"]["samples"] == 360
        assert report["obtained"]["repair"]["method"] == "least-squares"
        macs[name] = report["after"]["macs"]
        onnx.checker.check_model(onnx.load(folder / f"{name}.onnx"))
    assert macs["light"] < macs["knee"] < macs["heavy"] < report["before"]["macs"]
    assert found.heavy.report["accuracy"]["after"] > 0.9
    rows = json.loads((folder / "front.json").read_text())
    assert [r["cost"] for r in rows["front"]] == sorted(r["cost"] for r in rows["front"])
    assert found.rules.worst < 0.7  # ten classes: less than a quarter of what there is over one answer for all
    assert all(r["removed"] > 0 and r["error"] <= found.rules.worst for r in rows["front"])
    for name in THREE:
        number = rows["named"][name]["number"]
        assert rows["front"][number]["plan"] == json.loads((folder / f"{name}.plan.json").read_text())
        assert rows["named"][name]["macs_ratio"] == pytest.approx(rows["front"][number]["macs_ratio"], rel=1e-6)
    table = list(csv.DictReader((folder / "front.csv").read_text().splitlines()))
    assert len(table) == len(rows["front"])
    assert {n for r in table for n in r["name"].split("+") if n} == set(THREE)


def test_the_picture_shows_every_candidate_the_front_and_the_three(vgg: tuple[Search, Path]) -> None:
    found, folder = vgg
    root = ElementTree.parse(folder / "front.svg").getroot()
    tags = [e.tag.rpartition("}")[2] for e in root.iter()]
    assert tags.count("circle") >= len(found.archive) + len(found.front) + 3
    texts = " ".join(e.text or "" for e in root.iter())
    assert all(f"{name}:" in texts for name in ("original", *THREE))


def test_plans_replay_with_apply_and_so_does_the_repair(vgg: tuple[Search, Path]) -> None:
    found, folder = vgg
    plan = ocnna_onnx.read_plan(folder / "knee.plan.json")
    common: dict[str, Any] = {"data": "digits", "samples": 192, "threads": 1, "seed": 3}
    again = ocnna_onnx.apply(plan, VGG, repair="least-squares", **common)
    assert again.model.SerializeToString() == found.knee.model.SerializeToString()
    assert again.report["accuracy"] == found.knee.report["accuracy"]


def test_a_plan_replays_its_repair_where_the_figures_came_from_the_same_samples() -> None:
    found = quick(generations=1)
    plan = found.light.plan
    again = ocnna_onnx.apply(
        plan, tiny(), repair="least-squares", data=images(48), samples=plan.options["samples"], threads=1, seed=3
    )
    assert again.model.SerializeToString() == found.light.model.SerializeToString()
    assert again.report["agreement"] == found.light.report["agreement"]
    assert again.report["agreement"]["samples"] == 12


def test_search_selection_and_figures_are_on_disjoint_samples() -> None:
    job = opened(VGG, {"input": np.arange(90 * 256, dtype=np.float32).reshape(90, 1, 16, 16), "y": np.arange(90) % 10})
    parts = divided(job.samples, 0)
    assert parts.whole.evaluation is not None
    sets = [
        set(p.arrays["input"][:, 0, 0, 0].tolist()) for p in (parts.search, parts.selection, parts.whole.evaluation)
    ]
    assert [len(s) for s in sets] == [45, 22, 23]
    assert len(set.union(*sets)) == 90
    assert set(parts.whole.arrays["input"][:, 0, 0, 0].tolist()) == sets[0] | sets[1]
    labels = parts.search.labels
    assert labels is not None
    assert max(np.bincount(labels)) - min(np.bincount(labels)) <= 1


def test_the_default_is_far_better_than_the_classic_form(vgg: tuple[Search, Path]) -> None:
    worth = vgg[0].archive.worth
    options = {**QUICK, "population": 16, "classic": True, "align": None}
    classic = ocnna_onnx.search(VGG, data="digits", samples=192, **options).archive.worth
    assert hypervolume(worth.error, worth.cost) > hypervolume(classic.error, classic.cost) + 0.2


def test_classic_knows_no_weights_and_repairs_nothing() -> None:
    found = quick(classic=True, mutation=0.3, generations=4)
    assert found.told["options"]["seed_with"] == []
    assert (found.told["options"]["repair"], found.told["options"]["flips"]) == ("none", "uniform")
    assert found.archive.generation.min() == 0
    assert (found.archive.generation == 0).sum() == 1
    original = initializers(tiny())["w2"]
    for name in THREE:
        kept = initializers(found.results[name].model)["w2"]
        assert np.isin(kept, original).all()


@pytest.mark.parametrize(
    "option", [{"objective": "params"}, {"objective": "latency"}, {"seed_with": "none"}, {"repair": "bias"}]
)
def test_every_objective_and_switch_gives_three_proven_nets(option: dict[str, Any]) -> None:
    found = quick(**option, max_error=1.0)
    assert all(found.results[n].report["proof"]["passed"] for n in THREE)
    if option.get("objective") == "params":
        assert [m.cost for m in found.front] == [m.params for m in found.front]


def test_alignment_holds_for_every_candidate(vgg: tuple[Search, Path]) -> None:
    for member in vgg[0].front:
        assert all(len(c) % 4 == 0 for c in member.plan.remove.values())


def test_what_is_excluded_stays() -> None:
    found = quick(exclude=["conv1"], max_error=1.0)
    assert all(set(m.plan.remove) <= {"conv2"} for m in found.front)


def test_grouped_and_depthwise_nets_are_searched_too() -> None:
    options = {**QUICK, "generations": 1, "seed_with": "l2", "repair": "bias", "max_error": 1.0}
    found = ocnna_onnx.search(MODELS / "digits_mobilenet.onnx", data="digits", samples=48, **options)
    assert found.light.report["obtained"]["macs_ratio"] < 0.6


# --- workers, interruptions


def test_two_workers_find_what_one_finds_and_a_worker_that_dies_loses_nothing() -> None:
    whole = quick(population=30)
    assert same(quick(population=30, jobs=2).archive, whole.archive)
    job = opened(tiny(), images(48))
    tasks = [Task(some_classes(job, 0.5, k), 0.5) for k in range(24)]
    mine = evaluator(job)
    killed: list[int] = []

    def kill(done: int, total: int) -> None:
        if not killed:
            killed.append(next(iter(reusable_executor._executor._processes)))
            os.kill(killed[0], signal.SIGKILL)

    with workforce(mine, 2, progress=kill) as work:
        found = work(tasks)
    assert killed
    assert found == [fitness(mine, task) for task in tasks]


def test_a_resumed_run_is_the_unbroken_run(tmp_path: Path) -> None:
    whole = quick(generations=5)
    cut = quick(generations=5, folder=tmp_path, watch=interrupt_at(2))
    assert cut.interrupted
    assert cut.archive.done == 2
    assert all(cut.results[n].report["proof"]["passed"] for n in THREE)
    with pytest.raises(UsageError, match="was begun here"):
        quick(generations=5, folder=tmp_path)
    with pytest.raises(UsageError, match=r"begun otherwise \(seed was 3, is 4;"):
        quick(folder=tmp_path, resume=True, seed=4)
    resumed = quick(generations=5, folder=tmp_path, resume=True)
    assert same(resumed.archive, whole.archive)
    assert resumed.to_csv() == whole.to_csv()
    for name in THREE:
        assert resumed.results[name].model.SerializeToString() == whole.results[name].model.SerializeToString()
    further = quick(generations=6, folder=tmp_path, resume=True)
    assert further.archive.done == 6


def test_a_broken_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / "search.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(DataError, match="not the state of a search"):
        quick(folder=tmp_path, resume=True)


def test_the_command_writes_everything_and_an_interrupt_ends_with_130(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = written(tmp_path, tiny())
    data = tmp_path / "x.npy"
    np.save(data, images(48))
    options = ("--data", data, "--generations", 3, "--population", 8, "--jobs", 1, "--threads", 1, "--align", 1)
    result = done("search", source, tmp_path / "a", *options)
    assert "generation 3/3" in result.stderr
    assert "hypervolume" in result.stderr
    assert "knee" in result.stdout
    names = {f"{n}{end}" for n in THREE for end in (".onnx", ".plan.json", ".report.json")}
    assert set(snapshot(tmp_path / "a")) == names | {"front.json", "front.csv", "front.svg", "search.npz"}
    done("check", source, tmp_path / "a" / "knee.onnx", "--threads", 1)

    from ocnna_onnx.cli import search as command

    monkeypatch.setattr(command, "_tell", interrupt_at(2))
    stopped = cli("search", source, tmp_path / "b", *options)
    assert stopped.exit_code == 130
    assert "--resume goes on" in stopped.stderr
    assert set(snapshot(tmp_path / "b")) == set(snapshot(tmp_path / "a"))
    monkeypatch.undo()
    done("search", source, tmp_path / "b", *options, "--resume")
    for name in ("front.csv", "knee.onnx", "light.onnx", "heavy.onnx"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


HEADS = {
    "rows that are no samples": "f = Transpose<perm=[0,2,3,1]>(r) s = Shape<start=1, end=2>(w1) y = Reshape(f, rows)",
    "samples in the second axis": "f = Reshape(r, three) y = Transpose<perm=[2,0,1]>(f)",
    "one number": "y = ReduceMean<keepdims=0>(r)",
    "two heads": "y = Flatten(r) g = Conv(r, w2) z = ReduceMean<axes=[2,3], keepdims=0>(g)",
}


@pytest.mark.parametrize("head", HEADS)
def test_outputs_of_any_form(head: str) -> None:
    """And every output counts, not the first alone."""
    heads = "float[P,Q] y, float[N,K] z" if "two" in head else "float y" if "one" in head else "float[P,...] y"
    heads = heads.replace("float[P,...] y", "float[P,Q] y" if "rows" in head else "float[P,Q,R] y")
    text = f"""g (float[N,3,4,4] x) => ({heads}) {{
        a = Conv<pads=[1,1,1,1]>(x, w0) b = Relu(a) r = Conv(b, w1) {HEADS[head]} }}"""
    rng = np.random.default_rng(0)
    shapes = {"w0": (8, 3, 3, 3), "w1": (6, 8, 1, 1), "w2": (5, 6, 1, 1)}
    arrays = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items() if n in text}
    arrays |= {n: np.array(v) for n, v in {"rows": [-1, 6], "three": [0, 6, 16]}.items() if f", {n})" in text}
    found = ocnna_onnx.search(build(text, arrays), **{**QUICK, "max_error": 1.0, "data": images(48, (3, 4, 4))})
    assert 0 < found.front[0].error <= 1
    if "two" in head:
        job = opened(build(text, arrays), images(48, (3, 4, 4)))
        judge = judge_of(job.trace, job.samples, Runtime())
        assert [w.output for w in judge.wanted] == ["y", "z"]


def test_the_first_samples_stand_for_all() -> None:
    """Folders come class by class, and a candidate may be stopped after the first of them."""
    labels = np.repeat(np.arange(4), 64)
    samples = opened(tiny(), {"x": images(256), "y": labels}).samples
    parts = divided(samples, 0)
    assert parts.search.labels is not None
    assert set(parts.search.labels[:24].tolist()) == {0, 1, 2, 3}


def test_an_interrupt_before_anything_is_found_is_an_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt):
        quick(seed_with="none", watch=interrupt_at(0))


def test_a_broken_state_is_one_line(tmp_path: Path) -> None:
    quick(folder=tmp_path)
    (tmp_path / "search.npz").write_bytes(b"")
    with pytest.raises(DataError, match="not the state"):
        quick(folder=tmp_path, resume=True)


def test_an_alignment_that_was_measured_stays_when_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for multiple, resume in ((2, False), (4, True)):
        monkeypatch.setattr("ocnna_onnx.evolution.asked.measured_alignment", lambda runtime, m=multiple: m)
        found = quick(folder=tmp_path, resume=resume, align="auto", generations=1 + resume)
        assert found.told["options"]["align"] == 2


def test_a_time_limit_ends_after_a_generation() -> None:
    found = quick(generations=10**6, time_limit=0.2)
    assert not found.interrupted
    assert 1 <= found.archive.done < 10**6


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"population": 3}, UsageError, "population 3"),
        ({"mutation": 0}, UsageError, "mutation 0"),
        ({"objective": "flops"}, UsageError, "unknown objective 'flops'"),
        ({"seed_with": "obs,nope"}, UsageError, "nope"),
        ({"repair": "magic"}, UsageError, "unknown repair"),
        ({"align": 3}, UsageError, "align '3'"),
        ({"flips": "no"}, UsageError, "unknown flips"),
        ({"max_error": 2}, UsageError, "max_error 2"),
        ({"jobs": 0}, UsageError, "jobs 0"),
        ({"resume": True}, UsageError, "resume needs the folder"),
        ({"data": None}, UsageError, "give data"),
        ({"exclude": ["*"]}, UsageError, "nothing is left to search"),
        ({"data": images(8)}, DataError, "at least"),
        ({"generations": 0, "seed_with": "none"}, TargetMissed, "no candidate"),
    ],
)
def test_wrong_use_is_one_line(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        quick(**options)


def test_a_failed_proof_hands_back_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProofFailed):
        quick(rtol=1e-30)


def test_dask_asks_for_its_extra_or_a_scheduler_that_answers() -> None:
    try:
        import distributed  # noqa: F401
    except ImportError:
        with pytest.raises(UsageError, match=r"ocnna-onnx\[dask\]"):
            quick(dask="tcp://127.0.0.1:1")
