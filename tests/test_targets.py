"""Budgets: what is asked, what is reached, and what is said where it is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from nets import MODELS, RESNET, cli, done, images, tiny, traced
from support import build

import ocnna_onnx
from ocnna_onnx.plan.align import Alignment, aligned
from ocnna_onnx.plan.allocate import Curve, allocate
from ocnna_onnx.plan.costs import cost_model
from ocnna_onnx.plan.targets import parse_targets
from ocnna_onnx.report.bound import mean_bound, paired_bound, share_bound
from ocnna_onnx.report.savings import Savings

QUICK: dict[str, Any] = {"data": "digits", "samples": 64, "criterion": "l2", "align": 1, "threads": 1}


@pytest.mark.parametrize(
    ("text", "kind", "value", "relative"),
    [
        ("macs=50%", "macs", 0.5, True),
        ("macs=0.5", "macs", 0.5, True),
        ("macs=1.2G", "macs", 1.2e9, False),
        ("params=300k", "params", 3e5, False),
        ("bytes=5MB", "bytes", 5e6, False),
        ("bytes=5MiB", "bytes", 5 * 2**20, False),
        ("latency=10ms", "latency", 0.01, False),
        ("latency=70%", "latency", 0.7, True),
        ("drop=1%", "drop", 0.01, True),
        ("drop=0.5", "drop", 0.005, True),
        ("drop=2pp", "drop", 0.02, True),
    ],
)
def test_targets_as_people_write_them(text: str, kind: str, value: float, relative: bool) -> None:
    (found,) = parse_targets(text)
    assert (found.kind, found.relative) == (kind, relative)
    assert found.value == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "macs", "macs=", "macs=x%", "flops=1", "macs=150%", "drop=100%", "macs=1,macs=2"])
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(ocnna_onnx.UsageError, match="target"):
        parse_targets(text)


@pytest.mark.parametrize("name", ["resnet", "vgg", "mobilenet", "densenet"])
def test_costs_in_closed_form_are_those_of_the_labels(name: str) -> None:
    trace = traced(onnx.load(MODELS / f"digits_{name}.onnx"), input=(2, 1, 16, 16))
    model, exact = cost_model(trace), Savings(trace)
    rng = np.random.default_rng(0)
    free = np.flatnonzero(trace.free)[1:]
    for share in (0.0, 0.2, 0.6):
        gone = np.zeros(len(trace.free), bool)
        classes = exact.spared(rng.choice(free, int(share * len(free)), replace=False))
        gone[classes] = True
        saved = exact.saved(classes)
        assert model.macs_left(gone) == pytest.approx(exact.total.macs - saved.macs)
        assert model.params_left(gone) == pytest.approx(exact.total.params - saved.params)


@pytest.mark.parametrize("allocate_by", ["sensitivity", "uniform"])
@pytest.mark.parametrize("target", ["macs=60%", "params=50%", "bytes=250kB", "macs=60%,params=40%"])
def test_counted_targets_are_met_and_not_overshot(target: str, allocate_by: str) -> None:
    result = ocnna_onnx.prune(RESNET, target=target, allocate=allocate_by, repair="none", **QUICK)
    report = result.report
    limits = {
        "macs": 0.6 * report["before"]["macs"],
        "params": (0.4 if "," in target else 0.5) * report["before"]["params"],
        "bytes": 250e3,
    }
    shares = []
    for row in report["obtained"]["targets"]:
        assert row["met"]
        found = report["after"][row["kind"]] if row["kind"] != "bytes" else len(result.model.SerializeToString())
        assert found <= limits[row["kind"]]
        shares.append(found / limits[row["kind"]])
    assert max(shares) > 0.85  # as much stays as may


def test_a_target_out_of_reach_says_how_far_it_got(tmp_path: Path) -> None:
    arguments = ("prune", RESNET, tmp_path / "o.onnx", "--data", "digits", "--samples", 32, "--criterion", "l2")
    result = cli(*arguments, "--target", "macs=1%", "--align", 1, "--min-channels", 8)
    assert result.exit_code == 5
    assert "macs=1%" in result.stderr
    assert "as far as it goes" in result.stderr
    assert "node_linear" in result.stderr
    assert not list(tmp_path.iterdir())
    done(*arguments, "--target", "macs=1%", "--align", 1, "--min-channels", 8, "--best-effort", "--repair", "none")
    assert (tmp_path / "o.onnx").exists()


@pytest.mark.parametrize(
    "bounds",
    [
        {},
        {"min_channels": 8},
        {"max_cut": {"*": 0.5}, "keep": {"node_Conv_224": 12}},
        {"exclude": ["node_Conv_24*"], "align": 4},
        {"allocate": "sensitivity", "min_channels": 3, "samples": 32},
    ],
)
def test_what_is_reachable_is_what_comes_of_asking_for_everything(bounds: dict[str, Any]) -> None:
    options = {**QUICK, "repair": "none", "best_effort": True, "allocate": "uniform", **bounds}
    target = "macs=0.1%,params=0.1%,bytes=1kB"
    report = ocnna_onnx.prune(RESNET, target=target, **options).report
    reach = report["reachable"]
    assert {k: reach[k] for k in ("macs", "params")} == {k: report["after"][k] for k in ("macs", "params")}
    assert reach["macs_ratio"] == pytest.approx(report["obtained"]["macs_ratio"])
    assert reach["removed"] == report["obtained"]["removed"]
    rows = {row["kind"]: row for row in report["obtained"]["targets"]}
    assert not any(row["met"] for row in rows.values())
    for row in rows.values():
        assert row["reached"] == pytest.approx(row["reachable"])
    assert rows["params"]["reachable"] == pytest.approx(reach["params_ratio"])
    milder = ocnna_onnx.prune(RESNET, target="macs=90%", **options).report
    assert milder["reachable"] == reach
    assert milder["obtained"]["targets"][0]["reachable"] < milder["obtained"]["targets"][0]["reached"]


def test_what_is_reachable_by_a_ratio_and_by_a_plan() -> None:
    options = {k: v for k, v in QUICK.items() if k != "align"} | {"repair": "none", "min_channels": 5}
    most = ocnna_onnx.prune(RESNET, ratio=0.99, **options).report
    mild = ocnna_onnx.prune(RESNET, ratio=0.1, **options)
    assert mild.report["reachable"] == most["reachable"]
    assert most["reachable"]["macs"] == most["after"]["macs"]
    replayed = ocnna_onnx.apply(mild.plan, RESNET, data="digits", samples=8).report["reachable"]
    assert replayed["macs"] < most["reachable"]["macs"]  # a plan says nothing of the bounds it was made with
    whole = ocnna_onnx.inspect(RESNET).to_json()
    assert replayed["params"] == whole["params"] - whole["reachable"]["params"]


def test_asked_reachable_reached_and_alignment_are_printed(tmp_path: Path) -> None:
    report = tmp_path / "r.json"
    options = ("--data", "digits", "--samples", 32, "--threads", 1, "--criterion", "l2", "--dry-run")
    shown = done("prune", RESNET, *options, "--target", "macs=70%,bytes=400kB", "--align", 8, "--report", report)
    text, found = " ".join(shown.stdout.split()), json.loads(report.read_text())
    rows = {row["kind"]: row for row in found["obtained"]["targets"]}
    macs = f"{100 * rows['macs']['reached']:.1f}% left (least within reach: {100 * rows['macs']['reachable']:.1f}%)"
    assert f"target macs=70%: met; {macs}" in text
    assert f"target bytes=400kB: met; {rows['bytes']['reached']:,.0f} left" in text
    cut = sum(g["removed"] > 0 for g in found["groups"])
    assert found["obtained"]["alignment"] == {
        "asked": 8,
        "measured": False,
        "groups": cut,
        "met": cut,
        "multiples": {"8": cut},
    }
    assert f"alignment 8: kept by {cut} of {cut} cut groups" in text
    assert f"repaired (least-squares): {found['obtained']['repair']['layers']} layers" in text
    assert found["requested"]["repair"] == found["obtained"]["repair"]["method"] == "least-squares"
    assert found["obtained"]["repair"]["weights"] == len(found["repaired"])


def test_a_search_tells_what_it_measured_on_the_way() -> None:
    quick = {**QUICK, "samples": 120, "allocate": "uniform"}
    report = ocnna_onnx.prune(RESNET, target="drop=8%", repair="bias", **quick).report
    tried, (row,) = report["obtained"]["tried"]["drop"], report["obtained"]["targets"]
    assert len(tried) >= 3
    best = min((t for t in tried if t["holds"]), key=lambda t: t["macs_ratio"])
    assert best["bound"] == row["reached"] <= 0.08
    assert best["macs_ratio"] == pytest.approx(report["obtained"]["macs_ratio"], rel=1e-3)
    assert row["reachable"] == best["floor"]
    slow = ocnna_onnx.prune(RESNET, target="latency=1%", repair="none", best_effort=True, **quick).report
    (row,) = slow["obtained"]["targets"]
    seen = [t["after_ms"] / t["before_ms"] for t in slow["obtained"]["tried"]["latency"]]
    assert row["reachable"] == min(seen) <= row["reached"]
    assert not row["met"]


@pytest.mark.parametrize("align", [4, 8])
def test_channels_end_on_multiples(align: int) -> None:
    result = ocnna_onnx.prune(RESNET, target="macs=60%", repair="none", **{**QUICK, "align": align})
    changed = [g for g in result.report["groups"] if g["removed"]]
    assert changed
    assert all(g["channels_after"] % align == 0 for g in changed)
    assert result.report["obtained"]["macs_ratio"] <= 0.6


def test_alignment_gives_back_the_best_scored() -> None:
    score = np.array([0.0, 5, 1, 4, 2, 3, 9, 8, 7])
    classes = np.arange(1, 9)
    found = aligned(np.array([2, 3, 4]), [classes], score, Alignment(2))
    assert found.tolist() == [2, 4]  # class 3 scores best of the three
    assert Alignment(16, adaptive=True).of(16) == 4
    assert Alignment(16, adaptive=True).of(256) == 16


def test_allocation_takes_the_least_damage_per_cost() -> None:
    cheap = Curve(np.array([1, 2, 3, 4]), np.array([0, 0.1, 0.2, 0.3, 0.4]), 5)
    dear = Curve(np.array([6, 7, 8, 9]), np.array([0, 1.0, 2.0, 3.0, 4.0]), 5)
    taken = allocate([cheap, dear], [4, 4], lambda gone: 10.0 - gone.sum(), 10, 5.0)
    assert taken == [4, 1]
    steep = Curve(np.array([1, 2, 3, 4]), np.array([0, 1.0, 1.0, 1.0, 1.0]), 5)  # a plateau: the later ones are free
    assert allocate([steep, dear], [4, 4], lambda gone: 10.0 - gone.sum(), 10, 6.0) == [4, 0]
    assert allocate([steep, dear], [4, 4], lambda gone: 10.0 - gone.sum(), 10, 7.0) == [3, 0]  # no more than asked


def test_what_a_budget_has_room_for_comes_back() -> None:
    small = Curve(np.array([0, 1]), np.array([0, 0.1, 0.2]), 3)
    large = Curve(np.array([2]), np.array([0, 1.0]), 2)
    weigh = np.array([1.0, 1.0, 20.0, 0, 0])
    taken = allocate([small, large], [2, 1], lambda gone: 30.0 - float(weigh[gone].sum()), 5, 11.0)
    assert taken == [0, 1]  # the large one was needed, the small ones then were not


def test_bounds() -> None:
    assert share_bound(0, 100) == pytest.approx(1 - 0.1 ** (1 / 100))
    assert share_bound(5, 5) == 1
    assert 0 < paired_bound(0, 0, 100) < paired_bound(0, 0, 50) < 0.03
    assert paired_bound(3, 0, 100) > 0.04 > paired_bound(3, 3, 100) > 0
    values = np.random.default_rng(0).random(1000)
    assert values.mean() < mean_bound(values) < values.mean() + 0.02


def test_a_drop_is_judged_on_samples_that_nothing_else_sees() -> None:
    result = ocnna_onnx.prune(RESNET, target="drop=3%", **{**QUICK, "samples": 400})
    (row,) = result.report["obtained"]["targets"]
    assert row["met"]
    assert row["measured"]["samples"] == 200
    assert row["measured"]["bound"] <= 0.03
    assert result.report["obtained"]["removed"] > 0
    assert result.report["accuracy"]["after"] > 0.93


@pytest.mark.parametrize("align", [1, 16])
def test_every_size_within_reach_is_met(align: int) -> None:
    given = {**QUICK, "align": align, "repair": "none"}
    for share in (0.9, 0.75, 0.6, 0.5, 0.4, 0.3):
        result = ocnna_onnx.prune(MODELS / "digits_vgg.onnx", target=f"bytes={share:.0%}", **given)
        (row,) = result.report["obtained"]["targets"]
        assert row["met"]
        assert row["reached"] <= share
        assert result.model.ByteSize() <= share * (MODELS / "digits_vgg.onnx").stat().st_size


def test_a_drop_beside_a_budget_is_that_of_the_net_that_is_written() -> None:
    result = ocnna_onnx.prune(RESNET, target=["drop=50%", "macs=80%"], **{**QUICK, "samples": 200})
    by_kind = {row["kind"]: row for row in result.report["obtained"]["targets"]}
    (tried,) = result.report["obtained"]["tried"]["drop"]  # the budget's own cut holds: no other is tried
    assert tried["macs_ratio"] == pytest.approx(result.report["obtained"]["macs_ratio"])
    assert by_kind["macs"]["met"]
    assert 0.7 < by_kind["macs"]["reached"] <= 0.8
    assert by_kind["drop"]["measured"]["value"] < 0.05


def test_where_a_drop_allows_less_than_a_budget_asks_for_both_are_told_of_the_same_net() -> None:
    given = {**QUICK, "samples": 200, "repair": "none", "best_effort": True}
    result = ocnna_onnx.prune(RESNET, target="macs=20%,latency=90%,drop=3%", **given)
    by_kind = {row["kind"]: row for row in result.report["obtained"]["targets"]}
    assert not by_kind["macs"]["met"]
    assert by_kind["drop"]["met"]
    assert by_kind["macs"]["reached"] == pytest.approx(result.report["obtained"]["macs_ratio"])
    bounds = [r["bound"] for r in result.report["obtained"]["tried"]["drop"] if r["holds"]]
    assert by_kind["drop"]["measured"]["bound"] in bounds


def test_bounds_of_layers_are_for_targets_and_are_reported() -> None:
    with pytest.raises(ocnna_onnx.UsageError, match="keep and max_cut bound what a target takes"):
        ocnna_onnx.prune(RESNET, ratio=0.3, keep={"*": 16}, **QUICK)
    result = ocnna_onnx.prune(RESNET, target="macs=80%", keep={"nowhere*": 4}, repair="none", **QUICK)
    assert result.report["requested"]["keep"] == {"nowhere*": 4}
    assert any("--keep 'nowhere*' matches nothing" in w for w in result.report["warnings"])


@pytest.mark.parametrize("target", [0.5, [0.5], {"macs": "50%"}.items()])
def test_a_target_that_is_no_text(target: Any) -> None:
    with pytest.raises(ocnna_onnx.UsageError, match="is no budget: give macs=50%"):
        ocnna_onnx.prune(RESNET, target=target, **QUICK)


def test_scores_of_another_criterion_than_the_one_asked_for() -> None:
    scores = ocnna_onnx.score(RESNET, criterion="l1", threads=1)
    given = {"data": "digits", "scores": scores, "ratio": 0.1, "repair": "none", "threads": 1, "samples": 16}
    with pytest.raises(ocnna_onnx.DataError, match="scores were measured by criterion l1, not by l2"):
        ocnna_onnx.prune(RESNET, criterion="l2", **given)
    assert ocnna_onnx.prune(RESNET, **given).plan.criterion == "l1"


def test_too_few_samples_for_a_drop_say_so() -> None:
    result = ocnna_onnx.prune(tiny(), data={"x": images(12), "y": np.arange(12) % 5}, target="drop=1%", align=1)
    assert result.report["obtained"]["removed"] == 0
    assert any("more samples" in w for w in result.report["warnings"])


def test_by_default_too_few_samples_promise_nothing_and_a_little_goes() -> None:
    result = ocnna_onnx.prune(RESNET, data="digits", samples=32, criterion="l2", align=1, threads=1)
    assert result.report["requested"]["target"] == ["macs=90%"]
    assert 0.8 < result.report["obtained"]["macs_ratio"] <= 0.9
    assert any("too few to promise drop=1%" in w for w in result.report["warnings"])


def test_latency_is_measured_and_kept_in_the_plan() -> None:
    result = ocnna_onnx.prune(RESNET, target="latency=99%", repair="none", best_effort=True, **QUICK)
    (row,) = result.plan.measured["targets"]
    assert set(row["measured"]) == {"before_ms", "after_ms"}


def test_single_layers_are_bounded() -> None:
    options = {**QUICK, "target": "macs=50%", "repair": "none"}
    free = ocnna_onnx.prune(RESNET, **options).plan.remove
    layer = max(free, key=lambda n: len(free[n]))
    kept = ocnna_onnx.prune(RESNET, keep={layer: 1000}, **options).plan.remove
    assert layer not in kept
    bounded = ocnna_onnx.prune(RESNET, max_cut={"*": 0.5}, best_effort=True, **options)
    assert all(g["removed"] <= 0.5 * g["units"] for g in bounded.report["groups"])


def test_a_plan_of_a_target_is_replayed_and_its_repair_repeated(tmp_path: Path) -> None:
    common = ("--data", "digits", "--samples", 64, "--threads", 1)
    out, plan = tmp_path / "o.onnx", tmp_path / "p.json"
    done("prune", RESNET, out, "--target", "macs=60%", "--criterion", "l2", "--plan-out", plan, *common)
    done("apply", plan, RESNET, tmp_path / "again.onnx", "--repair", "least-squares", *common)
    assert (tmp_path / "again.onnx").read_bytes() == out.read_bytes()
    checked = json.loads(done("check", RESNET, out, "--json", *common).stdout)
    assert checked["changed"]  # what the repair changed is named
    done("apply", plan, RESNET, tmp_path / "plain.onnx", *common)
    assert json.loads(done("check", RESNET, tmp_path / "plain.onnx", "--json", *common).stdout)["changed"] == []


@pytest.mark.parametrize("method", ["bias", "moments", "least-squares"])
def test_repairs_help_in_order(method: str) -> None:
    options = {**QUICK, "samples": 200, "ratio": 0.3}
    plain = ocnna_onnx.prune(RESNET, repair="none", **options).report["agreement"]["relative_l2"]
    mended = ocnna_onnx.prune(RESNET, repair=method, **options).report
    assert mended["agreement"]["relative_l2"] < plain
    assert mended["repaired"]
    if method == "least-squares":
        assert mended["accuracy"]["after"] > 0.95


def test_a_net_without_classes_has_its_drop_in_relative_error() -> None:
    model = build(
        """g (float[N,3,8,8] x) => (float[N,4,8,8] y) <float[8,3,3,3] w1, float[16,8,3,3] w2, float[4,16,1,1] w3>
        { a = Conv<pads=[1,1,1,1]>(x, w1)  b = Relu(a)  c = Conv<pads=[1,1,1,1]>(b, w2)  d = Relu(c)  e = Conv(d, w3)
          y = Reshape(e, s) }""".replace("float[4,16,1,1] w3>", "float[4,16,1,1] w3, int64[3] s>").replace(
            "float[N,4,8,8] y", "float[N,4,64] y"
        ),
        s=np.array([0, 4, 64]),
    )
    x = np.random.default_rng(0).standard_normal((96, 3, 8, 8)).astype(np.float32)
    result = ocnna_onnx.prune(model, data=x, target="drop=30%", align=1, criterion="l2", samples=96)
    (row,) = result.report["obtained"]["targets"]
    assert row["measured"]["kind"] == "relative_l2"
    assert row["measured"]["bound"] <= 0.3


def test_apply_repairs_on_samples_of_the_users_alone() -> None:
    plan = ocnna_onnx.prune(RESNET, ratio=0.3, **QUICK).plan
    for data, repaired in ((None, False), ("digits", True)):
        again = ocnna_onnx.apply(plan, RESNET, repair="least-squares", data=data, samples=64, threads=1)
        assert bool(again.report["obtained"]["repair"]["weights"]) == repaired
        assert (again.report["obtained"]["repair"]["method"] == "none") != repaired
