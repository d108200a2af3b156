"""Sensitivities: measured once, kept, written, drawn; and prunes that start from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
import support
from nets import MODELS, RESNET, cli, done, images, tiny, written
from test_grouped import CHAINED, WIDE

import ocnna_onnx
from ocnna_onnx import finishing, pipeline
from ocnna_onnx.criteria import cache as kept_results
from ocnna_onnx.plan.sensitivities import Sensitivities, Sensitivity
from ocnna_onnx.report.damage import WIDTH, curve_text
from ocnna_onnx.report.plot import NAMED, picture
from ocnna_onnx.report.scale import Scale, scale_of

QUICK: dict[str, Any] = {"data": "digits", "samples": 32, "threads": 1, "cache": False}
SHALLOW: dict[str, Any] = {**QUICK, "repair": "none"}


@pytest.fixture(scope="module")
def measured() -> Sensitivities:
    """Of the digits ResNet, by l2."""
    return ocnna_onnx.sensitivity(RESNET, criterion="l2", **QUICK)


def again(found: Sensitivities, folder: Path) -> Sensitivities:
    """Written and read."""
    found.save(folder / "s.json")
    return ocnna_onnx.read_sensitivities(folder / "s.json")


def test_what_is_measured(measured: Sensitivities) -> None:
    inspected = {g.members: g for g in ocnna_onnx.inspect(RESNET).groups if g.removable}
    assert {g.members for g in measured.groups} == inspected.keys()
    for group in measured.groups:
        assert (group.units, group.removable) == (inspected[group.members].units, inspected[group.members].removable)
        counts, damage = zip(*group.cuts, strict=True)
        assert list(counts) == sorted(set(counts))
        assert 0 < counts[0] < counts[-1] < group.units
        assert damage[0] < damage[-1]
        assert 0 < group.macs < 1
        for member in group.members:
            assert sorted(measured.goes[member].tolist()) == list(range(group.units))
            best = measured.scores.layers[member].scores[measured.goes[member] == group.units - 1]
            assert best > measured.scores.layers[member].scores.min()


@pytest.mark.parametrize("options", [{}, {"target": "params=40%", "align": 8}])
def test_prunes_from_a_file_are_those_that_measure(
    measured: Sensitivities, tmp_path: Path, options: dict[str, Any]
) -> None:
    asked = {"target": "macs=50%", "align": 4, **SHALLOW, **options}
    found = ocnna_onnx.prune(RESNET, sensitivities=again(measured, tmp_path), **asked)
    wanted = ocnna_onnx.prune(RESNET, criterion="l2", **asked)
    assert found.plan == wanted.plan
    assert found.model.SerializeToString() == wanted.model.SerializeToString()
    assert found.report["reused"] == ["sensitivities", "scores"]
    assert wanted.report["reused"] == []


@pytest.mark.parametrize("text", [WIDE, CHAINED])
def test_channels_of_grouped_convolutions_are_paired_again(text: str, tmp_path: Path) -> None:
    model = support.build(text)
    asked: dict[str, Any] = {"data": images(24, (3, 8, 8)), "cache": False}
    sensed = again(ocnna_onnx.sensitivity(model, criterion="wanda", normalize="rank", **asked), tmp_path)
    asked |= {"target": "macs=60%", "align": 1}
    found = ocnna_onnx.prune(model, sensitivities=sensed, **asked)
    wanted = ocnna_onnx.prune(model, criterion="wanda", normalize="rank", **asked)
    assert found.plan.remove == wanted.plan.remove
    assert found.plan.remove
    assert found.plan.options["normalize"] == "rank"


def test_scores_of_some_layers_are_enough(tmp_path: Path) -> None:
    scores = ocnna_onnx.score(tiny(), criterion="l2")
    part = ocnna_onnx.Scores("l2", {}, {"conv1": scores.layers["conv1"]})
    sensed = again(ocnna_onnx.sensitivity(tiny(), data=images(), scores=part), tmp_path)
    assert [g.members for g in sensed.groups] == [("conv1",)]
    result = ocnna_onnx.prune(tiny(), data=images(), sensitivities=sensed, target="macs=60%", align=1)
    assert set(result.plan.remove) == {"conv1"}


def test_other_files_and_options_are_refused(measured: Sensitivities) -> None:
    for options, error, text in (
        ({"model": MODELS / "digits_vgg.onnx"}, ocnna_onnx.DataError, "belong to another model ('digits_resnet.onnx'"),
        ({"criterion": "l1"}, ocnna_onnx.DataError, "measured by criterion l2, not by l1"),
        ({"normalize": "rank"}, ocnna_onnx.DataError, "measured with --normalize mean, not rank"),
        ({"scores": measured.scores}, ocnna_onnx.UsageError, "bring their scores"),
        ({"allocate": "uniform"}, ocnna_onnx.UsageError, "uniform allocation"),
        ({"target": None, "ratio": 0.3}, ocnna_onnx.UsageError, "uniform allocation"),
        ({"sensitivities": 3}, ocnna_onnx.UsageError, "sensitivities of type int"),
    ):
        asked = {"model": RESNET, "target": "macs=50%", "sensitivities": measured, **SHALLOW, **options}
        with pytest.raises(error) as caught:
            ocnna_onnx.prune(asked.pop("model"), **asked)
        assert text in str(caught.value)
    same = ocnna_onnx.prune(
        RESNET, criterion="l2", normalize="mean", sensitivities=measured, target="macs=80%", **SHALLOW
    )
    assert same.plan.criterion == "l2"


def test_what_stays_must_have_stayed() -> None:
    """A group of two layers of which one half is excluded: its curve would be another one."""
    model = support.build(
        """g (float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[8,3,1,1] w1, float[8,3,1,1] w2, float[12,16,1,1] w3, float[8,12,1,1] w4, float[4,8,1,1] w5> {
          a = Conv(x, w1)  b = Conv(x, w2)  c = Concat<axis=1>(a, b)  d = Relu(c)  e = Conv(d, w3)  f = Relu(e)
          h = Conv(f, w4)  i = Add(h, a)  y = Conv(i, w5) }"""
    )
    options: dict[str, Any] = {"data": images(24, (3, 8, 8)), "criterion": "l2"}
    target: dict[str, Any] = {"target": "macs=80%", "align": 1}
    sensed = ocnna_onnx.sensitivity(model, **options)
    names = [g.members for g in sensed.groups]
    whole = next(m for m in names if len(m) == 1)
    kept = ocnna_onnx.prune(model, sensitivities=sensed, exclude=[whole[0]], **options, **target)  # others still fit
    assert whole[0] not in kept.plan.remove
    narrower = ocnna_onnx.sensitivity(model, exclude=[whole[0]], **options)
    assert [g.members for g in narrower.groups] == [m for m in names if m != whole]
    with pytest.raises(ocnna_onnx.DataError, match=f"say nothing of the group of node '{whole[0]}'"):
        ocnna_onnx.prune(model, sensitivities=narrower, **options, **target)
    content = sensed.to_json()
    for positions in content["goes"].values():
        positions.reverse()
    other = ocnna_onnx.plan.sensitivities.sensitivities_from_json(content, "it")
    with pytest.raises(ocnna_onnx.DataError, match="in another order"):
        ocnna_onnx.prune(model, sensitivities=other, **options, **target)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda c: c.update(schema=9), "schema 9"),
        (lambda c: c.pop("groups"), "no 'groups'"),
        (lambda c: c.pop("layers"), "no scores"),
        (lambda c: c.pop("model"), "no 'model'"),
        (lambda c: c["groups"][0].update(cuts=[]), "do not ascend"),
        (lambda c: c["groups"][0]["cuts"].reverse(), "do not ascend"),
        (lambda c: c["groups"][0]["cuts"][0].update(damage=-1), "below 0"),
        (lambda c: c["groups"].__setitem__(0, 3), "no sensitivities"),
        (lambda c: c["goes"].update(conv1="x"), "no list of positions"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, change: Any, text: str) -> None:
    content = ocnna_onnx.sensitivity(tiny(), data=images(), criterion="l2").to_json()
    change(content)
    path = tmp_path / "s.json"
    path.write_text(json.dumps(content))
    result = cli(
        "prune", written(tmp_path, tiny()), tmp_path / "o.onnx", "--sensitivities", path, "--target", "macs=50%"
    )
    assert result.exit_code == 4
    assert f"{path}: " in result.stderr
    assert text in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_damage_that_is_no_number_survives_the_file(tmp_path: Path) -> None:
    found = ocnna_onnx.sensitivity(tiny(), data=images(), criterion="l2")
    first = found.groups[0]
    hurt = Sensitivity(first.members, 8, 8, 8, 0.5, ((1, 0.25), (4, float("inf"))))
    broken = Sensitivities(**{**vars(found), "groups": (hurt,)})
    assert again(broken, tmp_path).groups == (hurt,)
    assert curve_text(hurt, scale_of(broken)).strip()
    ElementTree.tostring(picture(broken))


# --- what is kept for later runs, and what is measured only once


def test_other_targets_measure_nothing_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kept_results.FOLDER, str(tmp_path))
    asked: dict[str, Any] = {"data": images(24), "criterion": "wanda", "align": 1}
    first = ocnna_onnx.prune(tiny(), target="macs=70%", **asked)
    assert first.report["reused"] == []
    second = ocnna_onnx.prune(tiny(), target="macs=50%", **asked)
    assert second.report["reused"] == ["scores", "sensitivities"]
    fresh = ocnna_onnx.prune(tiny(), target="macs=50%", cache=False, **asked)
    assert fresh.report["reused"] == []
    assert second.model.SerializeToString() == fresh.model.SerializeToString()
    assert ocnna_onnx.sensitivity(tiny(), data=images(24), criterion="wanda").to_json() == json.loads(
        next(p for p in tmp_path.iterdir() if '"goes"' in p.read_text()).read_text()
    )
    for changed in ({"normalize": "rank"}, {"exclude": ["conv1"]}, {"data": images(23)}, {"criterion": "l2"}):
        result = ocnna_onnx.prune(tiny(), target="macs=70%", **{**asked, **changed})
        assert "sensitivities" not in result.report["reused"]


def test_the_cut_that_a_search_ends_with_is_repaired_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cuts: list[bytes] = []
    repaired = finishing.repaired

    def counted(trace: Any, rewritten: Any, *rest: Any) -> Any:
        cuts.append(rewritten.kept.keep.tobytes())
        return repaired(trace, rewritten, *rest)

    asked: dict[str, Any] = {"data": images(128), "criterion": "l2", "align": 1, "target": "drop=40%", "cache": False}
    monkeypatch.setattr(finishing, "repaired", counted)
    result = ocnna_onnx.prune(tiny(), **asked)
    assert result.report["obtained"]["removed"]
    assert result.report["repaired"]
    assert len(cuts) == len(set(cuts)) > 1
    monkeypatch.undo()
    carry_out = finishing.carry_out
    monkeypatch.setattr(pipeline, "carry_out", lambda *args: carry_out(*args[:-1]))  # which repairs it once more
    twice = ocnna_onnx.prune(tiny(), **asked)
    assert twice.model.SerializeToString() == result.model.SerializeToString()


# --- what people see


def test_the_picture_is_an_image_of_every_group(measured: Sensitivities, tmp_path: Path) -> None:
    root = ElementTree.fromstring(ElementTree.tostring(picture(measured)))
    space = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{space}svg"
    titles = [t.text or "" for t in root.iter(f"{space}title")]
    assert len(titles) == len(list(root.iter(f"{space}polyline"))) == len(measured.groups)
    for group in measured.groups:
        assert any(all(m in t for m in group.members) for t in titles)
    size = [float(root.get(k, "0")) for k in ("width", "height")]
    for line in root.iter(f"{space}polyline"):
        places = np.array([p.split(",") for p in line.get("points", "").split()], float)
        assert ((places >= 0) & (places <= size)).all()
        assert (np.diff(places[:, 0]) > 0).all()
        assert (np.diff(places[:, 1]) <= 0).all()  # up is worse


def test_a_picture_of_many_groups_with_odd_names() -> None:
    odd = tuple(
        Sensitivity((f'<&"ü\x00{k}>' * 9, "b"), 8, 8, 8, 0.1, ((2, 10.0 ** (-k / 9)), (6, 1.0))) for k in range(60)
    )
    scores = ocnna_onnx.Scores("l2", {}, {})
    many = Sensitivities("0", "<net>\n", scores, "mean", 0, 4, "", {}, odd)
    root = ElementTree.fromstring(ElementTree.tostring(picture(many)))
    texts = [t.text or "" for t in root.iter("{http://www.w3.org/2000/svg}text")]
    assert any(f"{60 - NAMED} groups that lose less" in t for t in texts)


def test_curves_in_characters() -> None:
    group = Sensitivity(("a",), 8, 8, 8, 0.1, ((4, 1e-3), (8, 1.0)))
    drawn = curve_text(group, Scale(1e-4, 1.0))
    assert len(drawn) == WIDTH
    assert drawn[0] < drawn[WIDTH // 2] < drawn[-1]
    half = curve_text(Sensitivity(("a",), 8, 8, 4, 0.1, ((4, 1.0),)), Scale(1e-4, 1.0))
    assert len(half) == WIDTH
    assert len(half.rstrip()) == WIDTH // 2  # nobody knows about the rest


def test_the_command_line(tmp_path: Path) -> None:
    net, common = MODELS / "digits_vgg.onnx", ("--data", "digits", "--samples", 64, "--threads", 1)
    out, plot = tmp_path / "s.json", tmp_path / "s.svg"
    shown = done("sensitivity", net, "--criterion", "l2", "-o", out, "--plot", plot, *common).stdout
    found = ocnna_onnx.read_sensitivities(out)
    for group in found.groups:
        assert all(m in shown for m in group.members)
        assert f"{group.cuts[0][0]}: {group.cuts[0][1]:.2g}" in shown
    assert any(c in shown for c in "▂▃▄▅▆▇█")
    assert str(out) in shown
    ElementTree.parse(plot)
    printed = done("sensitivity", net, "--criterion", "l2", "--json", *common).stdout
    assert json.loads(printed) == json.loads(out.read_text())
    pruned = done("prune", net, tmp_path / "o.onnx", "--sensitivities", out, "--target", "macs=60%", *common).stdout
    assert "measured before, not in this run: sensitivities, scores" in pruned
    onnx.checker.check_model(onnx.load(tmp_path / "o.onnx"))
    assert ocnna_onnx.read_scores(out).criterion == "l2"  # a scores file, too
    assert done("sensitivity", net, "-q", "--criterion", "l2", *common).stdout == ""


def test_wrong_use_of_the_command(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    assert cli("sensitivity", RESNET, "--plot", tmp_path / "s.png").exit_code == 2
    assert cli("sensitivity", RESNET, "-o", path, "--plot", path).exit_code == 2
    assert cli("prune", RESNET, tmp_path / "o.onnx", "--sensitivities", path, "--target", "macs=50%").exit_code == 2
    flat = support.build("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    assert cli("sensitivity", written(tmp_path, flat)).exit_code == 6
