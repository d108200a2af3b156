"""`--criterion auto`: the order is chosen by what it does to the net, on samples that nothing else has seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nets import MODELS, build, cli, done, images, infer, tiny, weights, written

import ocnna_onnx
from ocnna_onnx import measuring
from ocnna_onnx.auto import CANDIDATES, Chosen, _divided, choose_criterion
from ocnna_onnx.opened import Opened, open_model
from ocnna_onnx.plan.select import Cut
from ocnna_onnx.settings import settings_of

QUICK: dict[str, Any] = {"data": "digits", "samples": 64, "threads": 1, "align": 1, "allocate": "uniform"}
VGG = MODELS / "digits_vgg.onnx"
NOBODY = np.zeros(0, np.int64)


def opened(model: Any, data: Any, **options: Any) -> Opened:
    return open_model(model, settings_of(data=data, threads=1, **options))


def unread() -> Any:
    """A net whose loudest filters nobody reads: the odd channels of `conv1` meet zeros."""
    text = """g (float[N,1,8,8] x) => (float[N,5] y) {
        [conv1] a = Conv<pads=[1,1,1,1]>(x, w1, b1)
        b = Relu(a)
        [conv2] c = Conv<pads=[1,1,1,1]>(b, w2)
        d = Relu(c)
        e = GlobalAveragePool(d)
        f = Flatten(e)
        [fc] y = Gemm<transB=1>(f, w3)
    }"""
    made = weights({"w1": (8, 1, 3, 3), "b1": (8,), "w2": (6, 8, 3, 3), "w3": (5, 6)})
    made["w1"][1::2] *= 20
    made["w2"][:, 1::2] = 0
    return build(text, made)


def test_the_candidate_with_the_least_error_is_taken_and_leaves_what_it_leaves_by_name() -> None:
    result = ocnna_onnx.prune(VGG, criterion="auto", target="macs=60%", **QUICK)
    choice = result.report["criterion_choice"]
    rows = {row["criterion"]: row for row in choice["candidates"]}
    assert tuple(rows) == CANDIDATES
    errors = {name: row["error"] for name, row in rows.items()}
    assert choice["criterion"] == min(errors, key=errors.__getitem__) == result.plan.criterion
    assert len(set(errors.values())) == len(errors)
    assert all(0.5 < row["macs_ratio"] <= 0.6 for row in rows.values())
    assert (choice["fitted_on"], choice["held_out"], choice["cut"]) == (48, 16, "macs=60%")
    assert f"{errors[choice['criterion']]:.3g}" in choice["why"]
    by_name = ocnna_onnx.prune(VGG, criterion=choice["criterion"], target="macs=60%", **QUICK)
    assert by_name.model.SerializeToString() == result.model.SerializeToString()
    assert by_name.report["criterion_choice"] is None
    assert by_name.plan == result.plan


@pytest.mark.parametrize("repair", ["none", "least-squares"])
def test_errors_are_those_of_the_nets_that_would_leave(repair: str) -> None:
    model, data = tiny(), images(64)
    seen, held = _divided(opened(model, data).samples, 0)
    assert (seen.count, held.count) == (48, 16)
    parts = [s.arrays["x"][:] for s in (seen, held)]
    assert len(np.unique(np.concatenate(parts), axis=0)) == 64  # disjoint
    options: dict[str, Any] = {"ratio": 0.4, "repair": repair, "threads": 1}
    choice = ocnna_onnx.prune(model, criterion="auto", data=data, **options).report["criterion_choice"]
    (wanted,) = infer(model, {"x": parts[1]})
    wanted = wanted - wanted.mean(axis=1, keepdims=True)
    for row in choice["candidates"]:
        small = ocnna_onnx.prune(model, criterion=row["criterion"], data=parts[0], **options).model
        (found,) = infer(small, {"x": parts[1]})
        off = found - found.mean(axis=1, keepdims=True) - wanted
        assert row["error"] == pytest.approx((off**2).sum() / (wanted**2).sum(), rel=1e-3)


@pytest.mark.parametrize("cut", [{"ratio": 0.5}, {"percentile": 40}, {"target": "params=60%"}])
def test_an_order_that_sees_who_reads_wins_where_loud_filters_are_not_read(cut: dict[str, Any]) -> None:
    options = {"max_cut": {"conv2": 0}} if "target" in cut else {"exclude": ["conv2"]}
    result = ocnna_onnx.prune(unread(), criterion="auto", data=images(48), threads=1, align=1, **options, **cut)
    choice = result.report["criterion_choice"]
    errors = {row["criterion"]: row["error"] for row in choice["candidates"]}
    assert choice["criterion"] in ("obs", "wanda", "group-l2")
    assert errors[choice["criterion"]] < 1e-6
    assert errors["activation-l2"] > 1e-3  # it keeps what is loud
    assert set(result.plan.remove["conv1"]) <= {1, 3, 5, 7}


def test_candidates_share_out_the_budget_as_the_prune_will() -> None:
    """Half of `conv1` may go for nothing, nothing of `conv2`: equal shares would hide what an order is good for."""
    options: dict[str, Any] = {
        "criterion": "auto",
        "target": "params=55%",
        "data": images(48),
        "threads": 1,
        "align": 1,
    }
    errors = {}
    for allocate in ("sensitivity", "uniform"):
        choice = ocnna_onnx.prune(unread(), allocate=allocate, **options).report["criterion_choice"]
        errors[allocate] = {row["criterion"]: row["error"] for row in choice["candidates"]}
    assert errors["sensitivity"]["obs"] < 1e-6 < 1e-3 < errors["uniform"]["obs"]


def test_candidates_are_scored_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    real = measuring.stream

    def counted(graph: Any, shapes: Any, taps: Any, samples: Any, *rest: Any) -> None:
        passes.append(samples.count)
        real(graph, shapes, taps, samples, *rest)

    monkeypatch.setattr(measuring, "stream", counted)
    job = opened(tiny(), images(40), cache=False)
    found = choose_criterion(job, Cut(0.3), "mean", NOBODY, "none")
    assert passes == [30]
    assert found == choose_criterion(job, Cut(0.3), "mean", NOBODY, "none")


def test_at_most_so_many_samples_are_looked_at() -> None:
    job = opened(tiny(), images(400), samples=400)
    found = choose_criterion(job, Cut(0.3), "mean", NOBODY, "none", ("l2", "wanda"))
    assert (found.fitted, found.held) == (192, 64)


def test_a_candidate_that_does_not_apply_is_left_out_with_its_reason() -> None:
    found = choose_criterion(opened(tiny(), images(40)), Cut(0.3), "mean", NOBODY, "none", ("chip:images=-1", "l2"))
    assert found.criterion == "l2"
    assert list(found.left_out) == ["chip:images=-1"]
    assert found.left_out["chip:images=-1"]
    with pytest.raises(ocnna_onnx.UsageError, match="none of chip"):
        choose_criterion(opened(tiny(), images(40)), Cut(0.3), "mean", NOBODY, "none", ("chip:images=-1",))


def test_what_removes_nothing_says_so() -> None:
    result = ocnna_onnx.prune(tiny(), criterion="auto", data=images(40), ratio=0.01)
    assert "removes nothing" in result.report["criterion_choice"]["why"]
    assert result.plan.criterion == CANDIDATES[0]


@pytest.mark.parametrize(("data", "why"), [(None, "no samples of yours"), (images(5), "5 samples are too few")])
def test_without_a_comparison_it_says_why(data: Any, why: str) -> None:
    result = ocnna_onnx.prune(tiny(), criterion="auto", data=data, ratio=0.4)
    choice = result.report["criterion_choice"]
    assert not choice["measured"]
    assert choice["criterion"] == result.plan.criterion == "obs"
    assert why in choice["why"]
    assert any(w.startswith("criterion auto: ") and why in w for w in result.report["warnings"])


def test_samples_that_judge_a_drop_do_not_choose() -> None:
    result = ocnna_onnx.prune(tiny(), criterion="auto", data=images(200), target="drop=20%", align=1, threads=1)
    choice = result.report["criterion_choice"]
    assert choice["cut"] == "macs=60%"
    assert choice["fitted_on"] + choice["held_out"] == 100
    assert result.report["obtained"]["targets"][0]["measured"]["samples"] == 100


def test_a_latency_is_compared_at_as_much_of_the_macs() -> None:
    options: dict[str, Any] = {"criterion": "auto", "data": images(40), "repair": "none", "best_effort": True}
    result = ocnna_onnx.prune(tiny(), target="latency=75%", align=1, threads=1, **options)
    assert result.report["criterion_choice"]["cut"] == "macs=75%"


@pytest.mark.parametrize("text", ["auto", "auto:variance=1", "blend:criteria=auto+l2"])
def test_scores_of_auto_are_refused_in_one_line(tmp_path: Path, text: str) -> None:
    source = written(tmp_path, tiny())
    result = cli("score", source, "--criterion", text)
    assert result.exit_code == 2
    assert "auto is for prune alone" in result.stderr
    assert result.stderr.count("\n") == 1


def test_auto_takes_neither_options_nor_what_brings_scores(tmp_path: Path) -> None:
    source, scores = written(tmp_path, tiny()), tmp_path / "scores.json"
    done("score", source, "--criterion", "l2", "-o", scores)
    assert cli("prune", source, "--dry-run", "--criterion", "auto:x=1").exit_code == 2
    result = cli("prune", source, "--dry-run", "--criterion", "auto", "--scores", scores)
    assert result.exit_code == 2
    assert "scores are given" in result.stderr
    measured = tmp_path / "sensitivities.json"
    done("sensitivity", source, "--criterion", "l2", "-o", measured)
    result = cli("prune", source, "--dry-run", "--criterion", "auto", "--sensitivities", measured)
    assert result.exit_code == 2
    assert "sensitivities are given" in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_command_line_says_which_and_what_the_others_came_to(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=images(40))
    source, report = written(tmp_path, tiny()), tmp_path / "r.json"
    options = ("--criterion", "auto", "--ratio", 0.4, "--dry-run", "--threads", 1)
    text = " ".join(done("prune", source, *options, "--data", tmp_path / "x.npz", "--report", report).stdout.split())
    choice = json.loads(report.read_text())["criterion_choice"]
    assert f"criterion auto: {choice['criterion']}; squared error on 10 held-out samples, ratio 0.4" in text
    assert all(f"{row['criterion']} {row['error']:.3g}" in text for row in choice["candidates"])
    blind = done("prune", source, *options)
    assert "criterion auto: obs, not compared" in blind.stdout
    assert "note: criterion auto: no samples of yours" in blind.stderr


def test_what_is_chosen_is_plain_data() -> None:
    rows = Chosen("obs", "why").to_json()
    assert json.loads(json.dumps(rows)) == rows
