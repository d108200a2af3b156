"""Distillation: what leaves is the same net with other weights, closer to the original or as it was; runs that are
broken off go on; what cannot be distilled says why."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from nets import MODELS
from onnx import numpy_helper
from support import build, run_model, tensors

import ocnna_onnx
from ocnna_onnx.cli.main import main
from ocnna_onnx.data.inputs import ImageInput
from ocnna_onnx.data.open import open_data
from ocnna_onnx.distillation import extra, loop
from ocnna_onnx.distillation.bridge import Bridge, cross
from ocnna_onnx.distillation.feeding import tensors as as_torch
from ocnna_onnx.distillation.judging import better, to_json
from ocnna_onnx.distillation.nets import _views as views_of
from ocnna_onnx.distillation.optimizing import orthogonal
from ocnna_onnx.distillation.plain import plain
from ocnna_onnx.distillation.recipe import Recipe, recipe_named
from ocnna_onnx.distillation.split import split_of
from ocnna_onnx.distillation.views import Views, ways_of
from ocnna_onnx.duration import seconds_of
from ocnna_onnx.errors import DataError, ModelError, OcnnaError, UsageError
from ocnna_onnx.model.graph import Graph
from ocnna_onnx.model.light import light
from ocnna_onnx.model.session import Runtime
from ocnna_onnx.model.stamp import KEY, read_stamp
from ocnna_onnx.repair.values import with_values
from ocnna_onnx.report.evaluate import evaluate
from ocnna_onnx.report.fidelity import Closeness
from ocnna_onnx.rewrite.only import only_values

torch = pytest.importorskip("torch", reason="the extra [distill] is not installed: no torch")
if find_spec("onnx2torch") is None:
    pytest.skip("the extra [distill] is not installed: no onnx2torch", allow_module_level=True)

Array = np.ndarray[Any, np.dtype[Any]]
RUNTIME = Runtime(threads=1)
NET = MODELS / "digits_vgg.onnx"
COMMON: dict[str, Any] = {"data": "digits", "threads": 1}


@pytest.fixture(scope="module", autouse=True)
def _few_steps_but_large() -> Iterator[None]:
    """Small nets, tens of steps: not the rate that thousands of steps on large ones need."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "RATE", 2e-3)
        yield


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """digits_vgg with a third of every group, repaired on few samples."""
    path = tmp_path_factory.mktemp("distill") / "pruned.onnx"
    ocnna_onnx.prune(NET, criterion="l2", ratio=0.7, samples=64, **COMMON).save(path)
    return path


@pytest.fixture(scope="module")
def distilled(pruned: Path) -> ocnna_onnx.Distilled:
    return ocnna_onnx.distill(NET, pruned, steps=40, samples=800, **COMMON)


def images(count: int = 64, shape: tuple[int, ...] = (3, 6, 6), seed: int = 1) -> Array:
    noise = np.random.default_rng(seed).standard_normal((count, *shape))
    return (noise + noise.mean(axis=-1, keepdims=True) * 2).astype(np.float32)


def small(body: str = "", weights: str = "", out: str = "float[N,5] y", kind: str = "float") -> onnx.ModelProto:
    """Two Convs, a mean, a Gemm; `body` makes y of h [N, 8]."""
    body = body or "y = Gemm<transB=1>(h, f, g)"
    weights = weights or f"{kind}[5,8] f, {kind}[5] g"
    text = f"""g ({kind}[N,3,6,6] x) => ({out}) <{kind}[12,3,3,3] w0, {kind}[12] b0, {kind}[8,12,3,3] w1, {weights}> {{
        a = Conv<pads=[1,1,1,1]>(x, w0, b0) r = Relu(a) c = Conv<pads=[1,1,1,1]>(r, w1) q = Relu(c)
        p = GlobalAveragePool(q) h = Flatten(p) {body} }}"""
    return build(text.replace("=> (float[", f"=> ({kind}["))


def stored(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without its stamp."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.metadata_props[:]
    return copy


def test_it_gains_on_samples_that_are_held_out(distilled: ocnna_onnx.Distilled, pruned: Path) -> None:
    section = distilled.report["distillation"]
    assert section["taken"] > 0
    assert section["after"]["agreement"] > section["before"]["agreement"]
    assert section["after"]["error"] < 0.9 * section["before"]["error"]
    assert section["bridge_error"] < 1e-5


def test_the_test_part_that_nobody_saw_gains(distilled: ocnna_onnx.Distilled, pruned: Path) -> None:
    original = onnx.load(NET)
    judged = open_data("digits", Graph(original), {}).evaluation
    assert judged is not None
    before, after = (evaluate(original, m, judged, 16, RUNTIME) for m in (onnx.load(pruned), distilled.model))
    assert before is not None
    assert after is not None
    assert after.relative_l2 < before.relative_l2
    assert after.value >= before.value - 0.01  # of 360 digits, three are noise


def test_only_weights_differ(distilled: ocnna_onnx.Distilled, pruned: Path) -> None:
    before = onnx.load(pruned)
    changed = only_values(before, light(distilled.model))
    assert len(changed) == distilled.report["distillation"]["weights"]
    assert [n.SerializeToString() for n in before.graph.node] == [
        n.SerializeToString() for n in distilled.model.graph.node
    ]
    onnx.checker.check_model(distilled.model)


def test_check_and_a_later_prune_follow_the_stamp(
    distilled: ocnna_onnx.Distilled, pruned: Path, tmp_path: Path
) -> None:
    path, again = tmp_path / "distilled.onnx", tmp_path / "again.onnx"
    distilled.save(path)
    entries = json.loads(next(p.value for p in distilled.model.metadata_props if p.key == KEY))
    assert [sorted(e) for e in entries] == [
        ["plan", "source_sha256", "version"],
        ["distilled", "source_sha256", "version"],
    ]
    assert len(read_stamp(distilled.model)) == 1
    assert ocnna_onnx.check(NET, path, **COMMON).steps == 1
    ocnna_onnx.prune(path, criterion="l2", ratio=0.2, repair="none", samples=64, **COMMON).save(again)
    assert ocnna_onnx.check(NET, again, **COMMON).steps == 2
    twice = ocnna_onnx.distill(NET, again, steps=2, samples=200, **COMMON)  # features follow two cuts
    assert twice.report["distillation"]["taps"] > 3


def test_same_seed_same_bytes(pruned: Path) -> None:
    one, two, other = (
        ocnna_onnx.distill(NET, pruned, steps=20, samples=300, seed=seed, **COMMON) for seed in (0, 0, 1)
    )
    assert one.report["distillation"]["taken"], "nothing to compare"
    assert one.model.SerializeToString() == two.model.SerializeToString()
    assert one.model.SerializeToString() != other.model.SerializeToString()


def interrupting(step: int) -> Callable[[str, int, int], None]:
    """Presses Ctrl-C at a step."""

    def progress(stage: str, done: int, total: int) -> None:
        if stage.startswith("distil") and done == step:
            signal.raise_signal(signal.SIGINT)

    return progress


def test_resumed_equals_unbroken(pruned: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"steps": 8, "samples": 300, **COMMON}
    whole = ocnna_onnx.distill(NET, pruned, **given)
    place = tmp_path / "checkpoint"
    part = ocnna_onnx.distill(NET, pruned, checkpoint=place, progress=interrupting(3), **given)
    assert part.interrupted
    assert part.report["distillation"]["done"] == 3
    assert place.exists()
    with pytest.raises(DataError, match="another run"):
        ocnna_onnx.distill(NET, pruned, checkpoint=place, resume=True, **{**given, "steps": 9})
    rest = ocnna_onnx.distill(NET, pruned, checkpoint=place, resume=True, **given)
    assert rest.report["distillation"]["resumed_at"] == 3
    assert rest.model.SerializeToString() == whole.model.SerializeToString()
    assert place.exists(), "nothing is saved yet"
    again = ocnna_onnx.distill(NET, pruned, checkpoint=place, resume=True, **given)
    assert again.report["distillation"]["resumed_at"] == 8
    assert again.model.SerializeToString() == whole.model.SerializeToString()
    rest.save(tmp_path / "out.onnx")
    assert not place.exists(), "a run that is saved leaves no checkpoint"


def command(pruned: Path, out: Path, *more: str) -> Result:
    arguments = ["distill", str(NET), str(pruned), str(out), "--data", "digits", "--samples", "300", *more]
    return CliRunner().invoke(main, [*arguments, "--steps", "6", "--threads", "1"])


def press_ctrl_c(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    monkeypatch.setattr("ocnna_onnx.cli.distill.progress_bar", lambda quiet: nullcontext(interrupting(step)))


def test_ctrl_c_writes_the_best_so_far_and_ends_with_130(
    pruned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    press_ctrl_c(monkeypatch, 2)
    out = tmp_path / "out.onnx"
    done = command(pruned, out)
    assert done.exit_code == 130, done.output
    assert "2 of 6 steps" in done.output
    assert only_values(onnx.load(pruned), light(onnx.load(out))) is not None
    assert out.with_name("out.onnx.checkpoint").exists()


def test_ctrl_c_spares_pruned_where_it_is_to_be_replaced(
    pruned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tmp_path / "one.onnx", tmp_path / "two.onnx"
    for path in (one, two):
        path.write_bytes(pruned.read_bytes())
    assert command(one, one, "--overwrite").exit_code == 0
    with monkeypatch.context() as patch:
        press_ctrl_c(patch, 2)
        done = command(two, two, "--overwrite")
    assert done.exit_code == 130, done.output
    assert f"{two} is as it was" in done.output
    assert two.read_bytes() == pruned.read_bytes()
    rest = command(two, two, "--overwrite", "--resume")
    assert rest.exit_code == 0, rest.output
    assert two.read_bytes() == one.read_bytes()
    assert not two.with_name("two.onnx.checkpoint").exists()


def test_a_result_that_could_not_be_written_is_not_lost(
    pruned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any) -> int:
        raise UsageError("out.onnx: cannot be written (No space left on device)")

    out = tmp_path / "out.onnx"
    with monkeypatch.context() as patch:
        patch.setattr("ocnna_onnx.distilling.save_beside", full)
        assert command(pruned, out).exit_code == 2
    done = command(pruned, out, "--resume")
    assert done.exit_code == 0, done.output
    assert out.exists()
    assert not out.with_name("out.onnx.checkpoint").exists()


def test_a_checkpoint_that_cannot_be_written_is_a_note(
    pruned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any) -> None:
        raise UsageError("checkpoint: cannot be written (No space left on device)")

    monkeypatch.setattr("ocnna_onnx.distillation.checkpoint.write_atomically", full)
    found = ocnna_onnx.distill(NET, pruned, steps=2, samples=300, checkpoint=tmp_path / "checkpoint", **COMMON)
    assert found.report["distillation"]["done"] == 2
    assert not found.resumable
    assert any("No space left" in w for w in found.report["warnings"])


@pytest.mark.parametrize("what", "folder original pruned out plan data report".split())
def test_a_checkpoint_has_a_place_of_its_own(pruned: Path, tmp_path: Path, what: str) -> None:
    names = {n: tmp_path / n for n in "original pruned out plan data report".split()}
    for name in ("original", "plan", "data"):
        names[name].write_bytes(NET.read_bytes())
    names["pruned"].write_bytes(pruned.read_bytes())
    place = names.get(what, tmp_path / "missing" / "checkpoint")
    arguments = ["distill", *(str(names[n]) for n in ("original", "pruned", "out"))]
    for name in ("plan", "data", "report"):
        arguments += [f"--{name}", str(names[name])]
    done = CliRunner().invoke(main, [*arguments, "--checkpoint", str(place)])
    assert done.exit_code == 2, done.output
    assert len(done.output.splitlines()) == 1
    assert str(place.parent if what == "folder" else place) in done.output
    if what not in ("out", "report"):
        with pytest.raises(UsageError, match="no such folder" if what == "folder" else "is read by this run"):
            ocnna_onnx.distill(
                names["original"], names["pruned"], data=str(names["data"]), plan=names["plan"], checkpoint=place
            )


@pytest.mark.parametrize("rate", [0.1, 1e6])
def test_it_cannot_hurt(pruned: Path, monkeypatch: pytest.MonkeyPatch, rate: float) -> None:
    monkeypatch.setattr(loop, "RATE", rate)
    found = ocnna_onnx.distill(NET, pruned, steps=3, samples=300, **COMMON)
    section = found.report["distillation"]
    assert section["taken"] == 0
    assert section["diverged"] == (rate > 1)
    assert section["before"] == section["after"]
    assert found.model.SerializeToString() == onnx.load(pruned).SerializeToString()


def test_a_verdict_is_better_only_where_nothing_got_worse() -> None:
    start = Closeness(0.1, 0.9, 0.8)
    assert better(Closeness(0.2, 0.95, 0.8), None, start, 1000)
    assert not better(Closeness(0.05, 0.95, 0.79), None, start, 1000), "right less often"
    assert not better(Closeness(0.05, 0.89, 0.9), None, start, 1000), "agrees less"
    assert better(Closeness(0.05, 0.949, 0.8), Closeness(0.06, 0.95, 0.8), start, 1000), "one sample decides nothing"
    assert better(Closeness(0.05, 0.997, 0.8), Closeness(0.06, 1.0, 0.8), start, 300), "nor where nearly all agree"
    assert not better(Closeness(0.05, 0.92, 0.8), Closeness(0.06, 0.95, 0.8), start, 1000)
    assert not better(Closeness(float("nan"), 0.95, 0.8), None, start, 1000)
    assert better(Closeness(0.05, None, None), None, Closeness(0.1, None, None), 10)
    assert not better(Closeness(0.2, None, None), None, Closeness(0.1, None, None), 10)


def test_prune_distils_after_the_repair(tmp_path: Path) -> None:
    given: dict[str, Any] = {"criterion": "l2", "ratio": 0.7, "repair": "moments", "samples": 250, **COMMON}
    plain_prune = ocnna_onnx.prune(NET, **given)
    found = ocnna_onnx.prune(NET, distill="steps=20", **given)
    assert plain_prune.report["distillation"] is None
    assert found.plan == plain_prune.plan, "the cut is the same"
    section = found.report["distillation"]
    assert section["taken"] > 0
    assert only_values(plain_prune.model, light(found.model))
    out = tmp_path / "out.onnx"
    found.save(out)
    assert ocnna_onnx.check(NET, out, **COMMON).changed


def test_float16_is_trained_as_float32_and_rounded() -> None:
    model = small(kind="float16")
    data = images().astype(np.float16)
    cut = ocnna_onnx.prune(model, data=data, criterion="l2", ratio=0.5, repair="none", threads=1)
    found = ocnna_onnx.distill(model, cut.model, data=data, steps=30, threads=1)
    assert found.report["distillation"]["taken"] > 0
    assert {t.data_type for t in found.model.graph.initializer} <= {onnx.TensorProto.FLOAT16}
    before, after = (run_model(m, {"x": data})["y"] for m in (cut.model, found.model))
    wanted = run_model(model, {"x": data})["y"].astype(np.float32)
    assert np.linalg.norm(after - wanted) < np.linalg.norm(before - wanted)


NETS = {
    "a Conv's weight read twice": ("y = Gemm<transB=1>(h, f, g)", "float[5,8] f, float[5] g"),
    "a matrix read as it is and transposed": (
        "k = Gemm<transB=1>(h, f, g) m = Gemm(k, f, g) n = Relu(m) y = Gemm(n, e)",
        "float[8,8] f, float[8] g, float[8,5] e",
    ),
    "alpha, beta, not transposed": ("y = Gemm<alpha=0.5, beta=2.0>(h, f, g)", "float[8,5] f, float[5] g"),
    "MatMul behind a Transpose, Add": ("t = Transpose(f) m = MatMul(h, t) y = Add(m, g)", "float[5,8] f, float[5] g"),
    "BatchNormalization": (
        "b = BatchNormalization(h, s, o, m, v) y = Gemm<transB=1>(b, f, g)",
        "float[5,8] f, float[5] g, float[8] s, float[8] o, float[8] m, float[8] v",
    ),
    "a Constant node": (
        "k = Constant<value=float[5] {0.1,0.2,0.3,0.4,0.5}>() m = MatMul(h, f) y = Add(m, k)",
        "float[8,5] f",
    ),
}


def bridged(model: onnx.ModelProto, count: int = 4) -> Bridge:
    return cross(plain(light(model), {"x": (count, 3, 6, 6)}, RUNTIME, {}), train=True)


@pytest.mark.parametrize("name", NETS)
def test_values_go_there_and_back(name: str) -> None:
    """Whatever the weights are moved to, onnxruntime computes with the file what the torch net does."""
    model = small(*NETS[name])
    if name.startswith("a Conv"):
        text = model.graph.node[2]
        text.input[1] = "w1"
        model.graph.node[0].input[1] = "w0"
    bridge = bridged(model)
    before = tensors(model)
    assert {"w0", "b0", "w1", "f"} <= set(bridge.weights)
    assert not {"m", "v"} & set(bridge.weights), "running statistics stay"
    for weight in bridge.weights:
        np.testing.assert_allclose(bridge.value(weight), before[weight], rtol=1e-6)
    rng = np.random.default_rng(0)
    moved = {n: (bridge.value(n) + rng.normal(0, 0.3, before[n].shape)).astype(np.float32) for n in bridge.weights}
    with torch.no_grad():
        for weight, parameter in bridge.weights.items():
            parameter.copy_(bridge.parameter(weight, moved[weight]))
    x = images(4)
    found = bridge(as_torch({"x": x}))[0].detach().numpy()
    values = {n: bridge.value(n) for n in bridge.weights}
    np.testing.assert_allclose(found, run_model(with_values(model, values), {"x": x})["y"], rtol=1e-4, atol=1e-4)


COMPUTED = {
    "Gemm of Mul": ("k = Mul(f, s) y = Gemm<transB=1>(h, k, g)", "float[5,8] f, float[5] g, float[1] s"),
    "Gemm of Reshape": (
        "o = Constant<value=int64[2] {5,8}>() k = Reshape(f, o) y = Gemm<transB=1>(h, k, g)",
        "float[40] f, float[5] g",
    ),
    "Gemm of Cast": ("k = Cast<to=1>(f) y = Gemm<transB=1>(h, k, g)", "float16[5,8] f, float[5] g"),
    "Conv of Mul": (
        "k = Mul(f, s) u = Conv(q, k) v = GlobalAveragePool(u) y = Flatten(v)",
        "float[5,8,1,1] f, float[1] s",
    ),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_a_weight_that_the_graph_computes_stays_as_it_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "better", lambda *verdicts: True)  # it is about what is written, not about a gain
    model = small(*COMPUTED[name])
    cut = ocnna_onnx.prune(model, data=images(), criterion="l2", ratio=0.5, repair="none", threads=1)
    found = ocnna_onnx.distill(model, cut.model, data=images(), steps=3, threads=1)
    assert found.report["distillation"]["taken"] > 0
    before, after = tensors(cut.model), tensors(found.model)
    assert (before["f"] == after["f"]).all()
    assert (before["w1"] != after["w1"]).any()


def test_a_weight_that_another_is_computed_from_stays_as_it_is() -> None:
    nodes = "k = Mul(f, s) m = Gemm<transB=1>(h, k, g) j = Gemm<transB=1>(h, f) y = Add(m, j)"
    model = small(nodes, "float[5,8] f, float[5] g, float[1] s")
    assert set(bridged(model).weights) == {"w0", "b0", "w1", "g"}


def test_a_weight_that_is_read_twice_has_the_sum_of_both_gradients() -> None:
    model = small(*NETS["a matrix read as it is and transposed"])
    bridge = bridged(model)
    assert bridge.ties
    x = images(4)
    bridge(as_torch({"x": x}))[0].square().sum().backward()
    master = bridge.weights["f"]
    gradient = master.grad + sum(part.grad.T for part, whole in bridge.ties if whole is master)
    gradient = gradient.T if bridge.places["f"].transposed else gradient
    base = bridge.value("f").astype(np.float64)
    step = 1e-2 * np.random.default_rng(0).standard_normal(base.shape)
    up, down = (
        float((run_model(with_values(model, {"f": (base + s * step).astype(np.float32)}), {"x": x})["y"] ** 2).sum())
        for s in (1, -1)
    )
    assert (up - down) / 2 == pytest.approx(float((gradient.numpy() * step).sum()), rel=2e-2)


def test_matrices_go_along_orthogonal_factors() -> None:
    gradient = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 20)).astype(np.float32))
    for matrix in (gradient, gradient.T * 1e-3):
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        found = torch.linalg.svdvals(orthogonal(matrix))
        assert found.min() > 0.6
        assert found.max() < 1.3
        assert (orthogonal(matrix) * (u @ v)).sum() > 0.9 * orthogonal(matrix).norm() * (u @ v).norm()


def test_outputs_without_classes_come_closer_too() -> None:
    model = small("y = Reshape(q, s)", "int64[4] s", out="float[N,1,8,36] y")
    shape = next(t for t in model.graph.initializer if t.name == "s")
    shape.CopyFrom(numpy_helper.from_array(np.array([-1, 1, 8, 36]), "s"))
    data = images()
    cut = ocnna_onnx.prune(model, data=data, criterion="l2", ratio=0.5, repair="none", threads=1)
    found = ocnna_onnx.distill(model, cut.model, data=data, steps=30, threads=1)
    section = found.report["distillation"]
    assert section["before"]["agreement"] is None
    assert section["after"]["error"] < section["before"]["error"]


def test_the_plan_says_what_a_file_without_a_stamp_does_not(pruned: Path) -> None:
    result = ocnna_onnx.prune(NET, criterion="l2", ratio=0.7, repair="none", samples=64, **COMMON)
    bare = stored(result.model)
    with pytest.raises(DataError, match="no readable stamp"):
        ocnna_onnx.distill(NET, bare, steps=1, **COMMON)
    found = ocnna_onnx.distill(NET, bare, plan=result.plan, steps=2, samples=300, **COMMON)
    assert found.report["distillation"]["done"] == 2


def test_views_move_and_mirror_and_blend_what_is_there() -> None:
    image = ImageInput("x", np.dtype(np.float32), 3, 16, 16, False)
    x = torch.arange(2 * 3 * 16 * 16, dtype=torch.float32).reshape(2, 3, 16, 16)
    none = Views(image, frozenset())(x, torch.Generator().manual_seed(0))
    assert torch.equal(none, x)
    flipped = {
        bool(torch.equal(Views(image, frozenset(("flip",)))(x, torch.Generator().manual_seed(k))[0], x[0].flip(2)))
        for k in range(8)
    }
    assert flipped == {True, False}
    shifted = Views(image, frozenset(("shift",)))(x, torch.Generator().manual_seed(3))
    assert not torch.equal(shifted, x)
    assert set(shifted[0].flatten().tolist()) <= set(x[0].flatten().tolist())
    last = Views(ImageInput("x", np.dtype(np.float32), 3, 16, 16, True), frozenset(("shift",)))
    moved = last(x.permute(0, 2, 3, 1).contiguous(), torch.Generator().manual_seed(3))
    assert torch.equal(moved.permute(0, 3, 1, 2), shifted)
    mixed = Views(image, frozenset(("mix",)))(x, torch.Generator().manual_seed(1))
    assert mixed.min() >= x.min()
    assert mixed.max() <= x.max()
    assert ways_of("auto", frozenset(("shift",))) == {"shift"}
    assert ways_of("none", frozenset(("shift",))) == frozenset()


def shots(kind: str = "float", inputs: str = "x") -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A net for pictures [N, 3, 16, 16] at each input, and samples for it."""
    names = inputs.split()
    declared = ", ".join(f"{kind}[N,3,16,16] {n}" for n in names)
    total = "t = Cast<to=1>(x)" if len(names) == 1 else "u = Add(x, z) t = Cast<to=1>(u)"
    model = build(f"""g ({declared}) => (float[N,5] y) <float[8,3,3,3] w0, float[6,8,1,1] w1, float[5,6] f> {{
        {total} a = Conv<pads=[1,1,1,1]>(t, w0) r = Relu(a) c = Conv(r, w1) q = Relu(c)
        p = GlobalAveragePool(q) h = Flatten(p) y = Gemm<transB=1>(h, f) }}""")
    made = images(32, (3, 16, 16))
    data = made if kind == "float" else np.clip(made * 40 + 128, 0, 255).astype(np.uint8)
    return model, dict.fromkeys(names, data)


@pytest.mark.parametrize(
    ("kind", "inputs", "named", "text"),
    [("uint8", "x", "shift,mix", "augment mix.*uint8"), ("float", "x z", "shift", "augment shift: 2 inputs")],
)
def test_views_that_are_named_and_cannot_be_had_are_told(kind: str, inputs: str, named: str, text: str) -> None:
    model, data = shots(kind, inputs)
    cut = ocnna_onnx.prune(model, data=data, criterion="l2", ratio=0.5, repair="none", threads=1).model
    given: dict[str, Any] = {"data": data, "steps": 1, "threads": 1}
    with pytest.raises(UsageError, match=text):
        ocnna_onnx.distill(model, cut, augment=named, **given)
    found = ocnna_onnx.distill(model, cut, **given)
    assert found.report["distillation"]["augment"] == (["shift"] if inputs == "x" else [])


def test_the_layout_says_which_input_takes_pictures() -> None:
    model, data = shots()
    split = split_of(open_data(data, Graph(model), {}), False)
    shape = {"x": (4, 3, 16, 16)}
    views = {w: views_of(Graph(model), shape, split, Recipe(), w) for w in ("auto", "NCHW", "NHWC")}
    assert views["auto"] == views["NCHW"] is not None
    assert views["NHWC"] is None
    with pytest.raises(UsageError, match="no input takes pictures"):
        views_of(Graph(model), shape, split, Recipe(augment="flip"), "NHWC")


def test_a_net_beyond_the_limit_of_protobuf_is_refused_at_once(pruned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = sum(4 * int(np.prod(t.dims)) for t in onnx.load(NET).graph.initializer)
    monkeypatch.setattr("ocnna_onnx.distillation.asked.PROTOBUF_LIMIT", weights - 100)
    with pytest.raises(ModelError, match="GB of weights"):
        ocnna_onnx.distill(NET, pruned, steps=1, **COMMON)


def test_what_is_no_number_is_null_in_the_report() -> None:
    found = to_json(Closeness(float("inf"), float("nan"), 0.5))
    assert json.loads(json.dumps(found, allow_nan=False)) == {"error": None, "agreement": None, "accuracy": 0.5}


def test_times() -> None:
    assert [seconds_of(t) for t in ("90s", "10m", "1.5h", "1h30m", 20)] == [90, 600, 5400, 5400, 20]
    assert recipe_named("steps=7", 0).steps == 7
    assert recipe_named("10m", 0).seconds == 600
    for wrong in ("", "10 parsecs", "-5m", "0s", "m", float("inf")):
        with pytest.raises(UsageError, match="expected a duration"):
            seconds_of(wrong)


def test_a_time_is_turned_into_steps_once(pruned: Path) -> None:
    found = ocnna_onnx.distill(NET, pruned, time=3, samples=300, **COMMON)
    section = found.report["distillation"]
    assert section["time"] == 3
    assert section["done"] == section["steps"] >= 1


def quantized() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    model = small("d = DequantizeLinear(u, s) y = MatMul(h, d)", "int8[8,5] u, float[1] s", out="float[N,5] y")
    cut = ocnna_onnx.prune(model, data=images(), criterion="l2", ratio=0.3, repair="none", threads=1)
    return model, cut.model


def unconvertible() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    model = small(
        "z = Unsqueeze(h, o) k, u = GRU<hidden_size=5>(z, e, f) y = Squeeze(u, o)",
        "int64[1] o, float[1,15,8] e, float[1,15,5] f",
    )
    axis = next(t for t in model.graph.initializer if t.name == "o")
    axis.CopyFrom(numpy_helper.from_array(np.array([0]), "o"))
    cut = ocnna_onnx.prune(model, data=images(), criterion="l2", ratio=0.3, repair="none", threads=1)
    return model, cut.model


@pytest.mark.parametrize(
    ("nets", "more", "kind", "code", "text"),
    [
        (quantized, {}, ModelError, 3, r"DequantizeLinear\).*quantized"),
        (unconvertible, {}, ModelError, 3, r"\(GRU\) cannot be converted"),
        (lambda: (small(), small()), {}, DataError, 4, "no readable stamp"),
        (lambda: (NET, MODELS / "digits_resnet.onnx"), {"data": "digits"}, DataError, 4, "no readable stamp"),
        (lambda: (small(), small()), {"data": None}, UsageError, 2, "--data"),
        (lambda: (small(), small()), {"steps": 0}, UsageError, 2, "steps 0"),
        (lambda: (small(), small()), {"time": "1m"}, UsageError, 2, "not both"),
        (lambda: (small(), small()), {"temperature": 0}, UsageError, 2, "temperature 0"),
        (lambda: (small(), small()), {"augment": "rotate"}, UsageError, 2, "augment 'rotate'"),
        (lambda: (small(), small()), {"resume": True}, UsageError, 2, "checkpoint"),
    ],
    ids="quantized GRU stranger another-net no-data steps both temperature augment resume".split(),
)
def test_refusals(
    nets: Callable[[], tuple[Any, Any]], more: dict[str, Any], kind: type[OcnnaError], code: int, text: str
) -> None:
    original, cut = nets()
    with pytest.raises(kind, match=text) as caught:
        ocnna_onnx.distill(original, cut, **{"data": images(), "steps": 2, "threads": 1, **more})
    assert caught.value.exit_code == code
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_that_was_edited_is_no_descendant(pruned: Path) -> None:
    edited = onnx.load(pruned)
    gemm = next(n for n in edited.graph.node if n.op_type == "Gemm")
    next(a for a in gemm.attribute if a.name == "alpha").f = 0.5
    with pytest.raises(DataError, match="not what its plan makes of ORIGINAL"):
        ocnna_onnx.distill(NET, edited, steps=1, **COMMON)


def test_a_torch_net_that_computes_something_else_is_refused(pruned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ocnna_onnx.distillation.nets.EQUAL", 1e-12)
    with pytest.raises(ModelError, match="ORIGINAL as a PyTorch net differs from onnxruntime"):
        ocnna_onnx.distill(NET, pruned, steps=1, **COMMON)


def test_without_the_extra_one_line_says_what_to_install(pruned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extra.onnx2torch.cache_clear()
    monkeypatch.setattr(extra.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'ocnna-onnx\[distill\]'"):
        ocnna_onnx.distill(NET, pruned, steps=1, **COMMON)
    with pytest.raises(UsageError, match=r"pip install 'ocnna-onnx\[distill\]'"):
        ocnna_onnx.prune(NET, distill="1m", **COMMON)
    extra.onnx2torch.cache_clear()


def test_search_distils_the_three(tmp_path: Path) -> None:
    given: dict[str, Any] = {"generations": 1, "population": 6, "seed_with": "l2", "align": 1, "jobs": 1, **COMMON}
    found = ocnna_onnx.search(NET, samples=200, distill="steps=3", **given)
    for result in found.results.values():
        section = result.report["distillation"]
        assert section["done"] == 3
        assert (
            section["samples"] + section["held_out"]
            == found.told["samples"]["search"] + (found.told["samples"]["selection"])
        )
    plain = ocnna_onnx.search(NET, samples=200, **given)
    assert plain.to_csv() == found.to_csv(), "the front is of the search alone"
    with pytest.raises(UsageError, match="duration"):
        ocnna_onnx.search(NET, samples=200, distill="soon", **given)
