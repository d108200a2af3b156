"""The blend criterion: its parts on constructed numbers, and the whole against nets that are pruned and run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nets import MODELS, RESNET, TINY, TINY_SHAPES, build, cli, done, images, infer, tiny, weights, written
from onnx import numpy_helper
from scipy.special import log_softmax, rel_entr, softmax
from scipy.stats import spearmanr

import ocnna_onnx
from ocnna_onnx import measuring
from ocnna_onnx.criteria.blend import (
    STEPS,
    blended_scores,
    clusters,
    evolve,
    on_simplex,
    representative,
    similarity,
)
from ocnna_onnx.criteria.request import Criterion, Options, Request, Subject
from ocnna_onnx.criteria.scores import Scores
from ocnna_onnx.criteria.table import CRITERIA
from ocnna_onnx.data.samples import Samples
from ocnna_onnx.errors import DataError, NothingFree, UsageError
from ocnna_onnx.model.session import Runtime
from ocnna_onnx.report.fidelity import fidelity

Array = np.ndarray[Any, np.dtype[Any]]

RUNTIME = Runtime(threads=1)
ENOUGH = 1 << 30

# --- which criteria say the same


def drawn(seed: int = 0, layers: tuple[int, ...] = (8, 30, 5)) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.random(n) for n in layers]


def test_similarity_is_the_mean_of_spearman_over_layers() -> None:
    a, b = drawn(0), [np.round(x, 1) for x in drawn(1)]  # with ties
    wanted = np.mean([spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)])
    found = similarity([a, b])
    assert found[0, 1] == found[1, 0] == pytest.approx(wanted)
    assert found.diagonal().tolist() == [1, 1]


def test_similarity_sees_the_order_only() -> None:
    a = drawn()
    found = similarity([a, [np.exp(9 * x) for x in a], [-(x**3) for x in a]])
    np.testing.assert_allclose(found, [[1, 1, -1], [1, 1, -1], [-1, -1, 1]])


def test_layers_that_say_nothing() -> None:
    """One channel has no order; what is all equal resembles only its like."""
    a, b = drawn(0), drawn(1)
    alone = [np.array([3.0])]
    assert similarity([a + alone, b + alone])[0, 1] == pytest.approx(similarity([a, b])[0, 1])
    assert similarity([alone, alone]).tolist() == [[1, 1], [1, 1]]
    dead = [np.zeros(6)]
    assert similarity([[np.arange(6.0)], dead, dead])[:, 1].tolist() == [0, 1, 1]


def test_the_same_fall_together_and_opposites_apart() -> None:
    a, other = drawn(0), drawn(5)
    same, opposite = [2 * x + 1 for x in a], [-x for x in a]
    assert clusters(similarity([a, same])) == [[0, 1]]
    assert clusters(similarity([a, opposite])) == [[0], [1]]
    assert clusters(similarity([a, opposite, same])) == [[0, 2], [1]]
    assert clusters(similarity([a, other, same, other, opposite, opposite])) == [[0, 2], [1, 3], [4, 5]]
    assert clusters(similarity([a])) == [[0]]
    assert clusters(similarity([a, same, same, a])) == [[0, 1, 2, 3]]


@pytest.mark.parametrize("count", range(1, 8))
def test_as_many_clusters_as_asked_for(count: int) -> None:
    found = clusters(similarity([drawn(k) for k in range(5)]), count)
    assert len(found) == min(count, 5)
    assert sorted(k for members in found for k in members) == [0, 1, 2, 3, 4]
    assert [m[0] for m in found] == sorted(m[0] for m in found)


def test_the_medoid_speaks_for_a_cluster() -> None:
    similar = np.array([[1, 0.5, 0.9, 0], [0.5, 1, 0.8, 0], [0.9, 0.8, 1, 0], [0, 0, 0, 1]])
    assert representative(similar, [0, 1, 2]) == 2
    assert representative(similar, [0, 1]) == 0  # of two, the first
    assert representative(similar, [3]) == 3


# --- weights


@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=9))
@example([-0.0, 1.0])
@example([0.0, 516112351702757.0, 195766754113643.0])
@example([5e-324, 0.0])
def test_weights_lie_on_the_simplex(values: list[float]) -> None:
    found = on_simplex(np.array(values))
    assert (found >= 0).all()
    assert found.sum() == pytest.approx(1, abs=1e-12)
    assert np.array_equal(found, np.round(found * STEPS) / STEPS)
    assert not np.signbit(found).any()
    assert np.array_equal(on_simplex(found), found)
    if max(values) > 0:
        share = np.maximum(values, 0) / np.max(values)
        assert np.abs(found - share / share.sum()).max() < 1 / STEPS


@given(st.integers(1, 6), st.integers(1, 8), st.integers(0, 4), st.integers(0, 99))
def test_every_search_stays_on_the_simplex(dims: int, population: int, generations: int, seed: int) -> None:
    asked: list[Array] = []
    calls: list[tuple[int, int]] = []

    def fitness(w: Array) -> float:
        asked.append(w)
        return float(np.sin(50 * w).sum())

    found = evolve(
        fitness, dims, np.random.default_rng(seed), population, generations, lambda *done: calls.append(done)
    )
    assert all(w.min() >= 0 and w.sum() == pytest.approx(1) for w in asked)
    assert len({w.tobytes() for w in asked}) == len(asked) == found.tried  # nothing twice
    assert found.value == min(map(fitness, list(asked))) <= found.alone.min()
    assert fitness(found.weights) == found.value
    assert [fitness(w) for w in np.eye(dims)] == found.alone.tolist()
    assert calls[-1][0] == calls[-1][1] >= max(done for done, _ in calls)
    assert found.tried <= max(dims + 1, population) + generations * population


@pytest.mark.parametrize("optimum", [(0.2, 0.3, 0.5), (0.0, 0.9, 0.1), (1.0, 0.0, 0.0), (0.4, 0.1, 0.1, 0.4)])
def test_a_known_optimum_is_found(optimum: tuple[float, ...]) -> None:
    target = np.array(optimum)
    found = evolve(lambda w: float(((w - target) ** 2).sum()), len(optimum), np.random.default_rng(0), 12, 12)
    assert np.abs(found.weights - target).max() <= 0.06


def test_fitness_that_is_no_number_never_wins() -> None:
    found = evolve(lambda w: float("nan") if w[0] != 1 else 7.0, 3, np.random.default_rng(0))
    assert found.weights.tolist() == [1, 0, 0]
    assert found.alone.tolist() == [7, np.inf, np.inf]


def test_equals_keep_the_first_criterion() -> None:
    assert evolve(lambda w: 0.0, 3, np.random.default_rng(0)).weights.tolist() == [1, 0, 0]


def test_blended_scores() -> None:
    a, b = drawn(0), drawn(1)
    for found, x, y in zip(blended_scores(np.array([0.25, 0.75]), [a, b]), a, b, strict=True):
        np.testing.assert_allclose(found, 0.25 * x + 0.75 * y)


# --- how far two nets are apart


def head(tail: str, out: str) -> onnx.ModelProto:
    return build(f"g (float[N,4] x) => ({out}) {{ a = MatMul(x, w) {tail} }}", {"w": np.eye(4, dtype=np.float32)})


def scaled(model: onnx.ModelProto, by: float) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    w = numpy_helper.to_array(copy.graph.initializer[0]) * np.float32(by)
    copy.graph.initializer[0].CopyFrom(numpy_helper.from_array(w, "w"))
    return copy


X = images(11, (4,))
P, Q = softmax(X.astype(np.float64), axis=1), softmax(2 * X.astype(np.float64), axis=1)
DIVERGENCE = rel_entr(P, Q).sum() / len(X)
HEADS = {
    "logits": ("y = Identity(a)", "float[N,4] y", DIVERGENCE),
    "logits as 1 × 1 maps": ("n = Constant<value_ints=[2,3]>() y = Unsqueeze(a, n)", "float[N,4,1,1] y", DIVERGENCE),
    "probabilities": ("y = Softmax<axis=1>(a)", "float[N,4] y", DIVERGENCE),
    "log probabilities": ("y = LogSoftmax<axis=1>(a)", "float[N,4] y", DIVERGENCE),
    "no classes": ("n = Constant<value_ints=[1]>() y = ReduceSum(a, n)", "float[N,1] y", 1.0),
    "a sequence": ("n = Constant<value_ints=[2,2]>() s = Constant<value_ints=[-1,2,2]>() y = Reshape(a, s)", "", 1.0),
    "whole numbers": ("o = Constant<value_float=1.0>() b = Greater(a, o) y = Cast<to=7>(b)", "int64[N,4] y", None),
}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("memory", [ENOUGH, 1], ids=["kept", "run again"])
@pytest.mark.parametrize("batch", [4, 11])
def test_distance(name: str, memory: int, batch: int) -> None:
    tail, out, wanted = HEADS[name]
    model = head(tail, out or "float[N,2,2] y")
    if wanted is None:
        wanted = float(((X > 1) != (2 * X > 1)).mean())
    _, distance = fidelity(model, Samples({"x": X}), batch, RUNTIME, memory)
    assert distance(model) == pytest.approx(0, abs=1e-9)
    assert distance(scaled(model, 2)) == pytest.approx(wanted, rel=1e-5)


def test_maps_of_classes_count_per_pixel() -> None:
    model = build(
        "g (float[N,3,5,6] x) => (float[N,7,5,6] y) { y = Conv(x, w) }", weights({"w": (7, 3, 1, 1)}), opset=17
    )
    x = images(5, (3, 5, 6))
    kinds, distance = fidelity(model, Samples({"x": x}), 2, RUNTIME, ENOUGH)
    assert kinds == {"y": "kl"}
    a = infer(model, {"x": x})[0].astype(np.float64)
    p, q = log_softmax(a, axis=1), log_softmax(3 * a, axis=1)
    assert distance(scaled(model, 3)) == pytest.approx((np.exp(p) * (p - q)).sum() / (5 * 5 * 6), rel=1e-4)


def test_classes_that_are_ruled_out_and_outputs_that_overflow() -> None:
    model = head("k = Constant<value_floats=[1.0,1.0,1.0,0.0]>() l = Log(k) y = Add(a, l)", "float[N,4] y")
    _, distance = fidelity(model, Samples({"x": X}), 4, RUNTIME, ENOUGH)
    p, q = softmax(X[:, :3].astype(np.float64), axis=1), softmax(2 * X[:, :3].astype(np.float64), axis=1)
    assert distance(model) == pytest.approx(0, abs=1e-9)
    assert distance(scaled(model, 2)) == pytest.approx(rel_entr(p, q).sum() / len(X), rel=1e-5)
    assert distance(scaled(model, 3e38)) == np.inf


def test_several_outputs_share_equally() -> None:
    model = head("y = Identity(a) n = Constant<value_ints=[1]>() z = ReduceSum(a, n)", "float[N,4] y, float[N,1] z")
    kinds, distance = fidelity(model, Samples({"x": X}), 4, RUNTIME, ENOUGH)
    assert kinds == {"y": "kl", "z": "relative_l2"}
    assert distance(scaled(model, 2)) == pytest.approx((DIVERGENCE + 1) / 2, rel=1e-5)


def test_outputs_without_numbers() -> None:
    model = head("y = SequenceConstruct(a)", "seq(float[N,4]) y")
    with pytest.raises(UsageError, match="no output of numbers"):
        fidelity(model, Samples({"x": X}), 4, RUNTIME, ENOUGH)


# --- the criterion


def scored(model: Any, options: str = "", **common: Any) -> Scores:
    text = "blend:" + ",".join(filter(None, ("criteria=l1+ocnna+random" if "criteria" not in options else "", options)))
    return ocnna_onnx.score(model, criterion=text, threads=1, **common)


def outputs_on(model: onnx.ModelProto, x: Array) -> Array:
    return infer(model, {"x": x})[0].astype(np.float64)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_told_is_what_pruning_gives(seed: int) -> None:
    """Prune by the scores, run both nets on the samples that were held out, compare by hand."""
    model, x = tiny(seed), images(40)
    found = scored(model, "clusters=3,ratio=0.5", data=x, seed=seed, cache=False)
    told = found.options["fitness"]
    held = np.sort(np.random.default_rng(seed).permutation(40)[:10])
    assert (told["samples"], told["held_out"], told["kind"]) == (10, True, {"y": "kl"})
    pruned = ocnna_onnx.prune(model, scores=found, ratio=0.5, data=x, threads=1, repair="none").model
    p, q = (log_softmax(outputs_on(m, x[held]), axis=1) for m in (model, pruned))
    assert told["blend"] == pytest.approx((np.exp(p) * (p - q)).sum() / 10, rel=1e-4)
    assert told["blend"] <= min(told["single"].values())
    assert set(told["single"]) == set(found.options["representatives"]) == set(found.options["weights"])
    assert sum(found.options["weights"].values()) == pytest.approx(1)


def test_a_blend_of_one_ranks_as_that_one() -> None:
    for name in ("l2", "ocnna:variance=1"):
        alone = ocnna_onnx.score(tiny(), criterion=name, data=images(6))  # too few to hold some out
        found = scored(tiny(), f"criteria={name}", data=images(6))
        assert found.options["weights"] == {name: 1}
        assert found.options["fitness"]["tried"] == 1
        assert found.options["fitness"]["held_out"] is False
        assert list(found.layers) == list(alone.layers)  # the classifier, too, though it cannot be pruned
        for layer, wanted in zip(found.layers.values(), alone.layers.values(), strict=True):
            assert np.argsort(layer.scores).tolist() == np.argsort(wanted.scores).tolist()
            assert (layer.scores.min(), layer.scores.max()) == (0, 1)


def test_blend_is_no_worse_than_every_single_on_a_trained_net() -> None:
    found = scored(RESNET, "images=16", data="digits", samples=64)
    told = found.options["fitness"]
    assert told["samples"] == 16
    assert told["blend"] <= min(told["single"].values())


def test_the_same_seed_gives_the_same_bits() -> None:
    runs = [scored(tiny(), "clusters=3,ratio=0.5", data=images(40), seed=s, cache=False).to_json() for s in (3, 3, 4)]
    assert json.dumps(runs[0]) == json.dumps(runs[1])
    assert json.dumps(runs[0]) != json.dumps(runs[2])


def test_memory_has_no_say() -> None:
    runs = [scored(tiny(), "ratio=0.5", data=images(40), cache=False, memory=m).to_json() for m in ("64MB", "2GB")]
    assert runs[0] == runs[1]


def test_members_share_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[list[str]] = []
    real = measuring.stream

    def counted(graph: Any, shapes: Any, taps: Any, *rest: Any) -> None:
        passes.append([t.tensor for t in taps])
        real(graph, shapes, taps, *rest)

    monkeypatch.setattr(measuring, "stream", counted)
    stages: list[str] = []
    scored(
        tiny(),
        "criteria=l1+ocnna+ocnna:variance=1",
        data=images(20),
        cache=False,
        progress=lambda stage, done, total: stages.append(stage),
    )
    assert passes[0] == ["a", "d", "a", "d"]  # and what follows is the classifier, which only gets scores
    assert all(tensors == ["y"] for p in passes[1:] for tensors in [sorted(set(p))])
    assert {"calibrate", "blend"} <= set(stages)


def refusing(where: str) -> Criterion:
    def fail(subject: Subject, options: Options) -> Any:
        raise UsageError("no filter of this net has a colour")

    def request(subject: Subject, options: Options) -> Request:
        return Request((), lambda: fail(subject, options))

    return Criterion(fail if where == "request" else request, "nobody", images=False)


@pytest.mark.parametrize("where", ["request", "finish"])
def test_a_criterion_that_does_not_apply_is_left_out_by_name(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CRITERIA, "colour", refusing(where))
    found = scored(tiny(), "criteria=l1+colour+random", data=images(20), cache=False)
    assert found.options["criteria"] == ["l1", "random"]
    assert found.options["left_out"] == {"colour": "no filter of this net has a colour"}
    with pytest.raises(UsageError, match="none of colour applies to this model; no filter"):
        scored(tiny(), "criteria=colour", data=images(20), cache=False)


def test_defaults_are_those_of_the_table() -> None:
    found = ocnna_onnx.score(tiny(), criterion="blend", data=images(20), threads=1)
    named = [*found.options["criteria"], *found.options["left_out"]]
    assert {"l1", "l2", "ocnna"} <= set(named) <= set(CRITERIA)


NO_CLASSES = TINY.replace("float[N,5] y", "float[N,1,8,8] y").replace("[pool] f = GlobalAveragePool(e)", "")
NO_CLASSES = NO_CLASSES.replace("[flat] h = Flatten(f)", "").replace(
    "[fc] y = Gemm<transB=1>(h, w3, b3)", "[out] y = Conv(e, w3)"
)


def test_a_net_whose_outputs_are_no_classes() -> None:
    shapes = {k: v for k, v in TINY_SHAPES.items() if k not in ("w3", "b3")}
    model, x = build(NO_CLASSES, weights({**shapes, "w3": (1, 6, 1, 1)})), images(40)
    found = scored(model, "clusters=3,ratio=0.5", data=x)
    told = found.options["fitness"]
    assert told["kind"] == {"y": "relative_l2"}
    held = np.sort(np.random.default_rng(0).permutation(40)[:10])
    pruned = ocnna_onnx.prune(model, scores=found, ratio=0.5, data=x, repair="none").model
    a, b = outputs_on(model, x[held]), outputs_on(pruned, x[held])
    assert told["blend"] == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(a), rel=1e-4)


GROUPED = """
g (float[N,1,8,8] x) => (float[N,5] y) {
    [first] a = Conv<pads=[1,1,1,1]>(x, w1)
    [relu1] b = Relu(a)
    [grouped] c = Conv<pads=[1,1,1,1],group=2>(b, w2)
    [relu2] d = Relu(c)
    [pool] e = GlobalAveragePool(d)
    [flat] f = Flatten(e)
    [fc] y = Gemm<transB=1>(f, w3)
}
"""


def test_channels_of_grouped_convs_are_paired_as_in_the_prune() -> None:
    model, x = build(GROUPED, weights({"w1": (8, 1, 3, 3), "w2": (8, 4, 3, 3), "w3": (5, 8)})), images(40)
    found = scored(model, "clusters=3,ratio=0.5", data=x)
    held = np.sort(np.random.default_rng(0).permutation(40)[:10])
    pruned = ocnna_onnx.prune(model, scores=found, ratio=0.5, data=x, repair="none").model
    p, q = (log_softmax(outputs_on(m, x[held]), axis=1) for m in (model, pruned))
    assert found.options["fitness"]["blend"] == pytest.approx((np.exp(p) * (p - q)).sum() / 10, rel=1e-4)


def test_a_net_that_cannot_be_pruned() -> None:
    model = build("g (float[N,4] x) => (float[N,5] y) { y = Gemm<transB=1>(x, w) }", weights({"w": (5, 4)}))
    with pytest.raises(NothingFree, match="nothing can be pruned"):
        scored(model, data=images(9, (4,)))


def test_outputs_that_are_not_finite_are_refused() -> None:
    arrays: Mapping[str, Array] = weights(TINY_SHAPES)
    arrays["w2"][:] *= np.float32(1e37)
    with pytest.raises(DataError, match=r"conv2.*not finite"):
        scored(build(TINY, arrays), data=images() * np.float32(1e3))


# --- the command line

OPTIONS = "blend:criteria=l1+ocnna+random,clusters=3,generations=2,population=4,ratio=0.4,images=8,normalize=mean"


def test_scores_go_to_a_file_and_back_into_a_prune(tmp_path: Path) -> None:
    source = MODELS / "digits_vgg.onnx"
    shared = ("--data", "digits", "--samples", 48, "--threads", 1)
    done("score", source, "--criterion", OPTIONS, "-o", tmp_path / "s.json", *shared)
    done("prune", source, tmp_path / "a.onnx", "--scores", tmp_path / "s.json", "--ratio", 0.3, *shared)
    report = ("--plan-out", tmp_path / "p.json", "--report", tmp_path / "r.json", "--no-cache")
    done("prune", source, tmp_path / "b.onnx", "--criterion", OPTIONS, "--ratio", 0.3, *shared, *report)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    scores, plan = (json.loads((tmp_path / f"{name}.json").read_text()) for name in "sp")
    assert (scores["criterion"], plan["criterion"]) == ("blend", "blend")
    assert plan["options"]["criterion"] == scores["options"]
    assert scores["options"]["fitness"]["samples"] == 8
    done("check", source, tmp_path / "b.onnx")
    done("score", source, "--criterion", OPTIONS, "-o", tmp_path / "again.json", *shared)  # from the cache
    assert (tmp_path / "again.json").read_text() == (tmp_path / "s.json").read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("clusters=-1", "clusters -1 is out of range"),
        ("population=0", "population 0 is out of range"),
        ("generations=-1", "generations -1 is out of range"),
        ("images=0", "images 0 is out of range"),
        ("ratio=1", "ratio 1 is out of range"),
        ("normalize=best", "unknown normalization 'best'"),
        ("criteria=l1+l9", "unknown criterion 'l9'"),
        ("criteria=l1+blend", "cannot be blended with itself"),
        ("criteria=l1+ocnna:variance=7", "variance 7 is out of range"),
        ("images=many", "must be a number, not 'many'"),
        ("speed=9", "'speed=9' is no option of blend"),
    ],
)
def test_options_that_are_no_good(options: str, words: str, tmp_path: Path) -> None:
    result = cli("score", written(tmp_path, tiny()), "--criterion", f"blend:{options}", "--samples", 9)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert words in result.stderr
