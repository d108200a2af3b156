"""`score`, scores files, what a prune makes of them, and what is kept for later runs."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nets import MODELS, RESNET, cli, done, images, tiny

import ocnna_onnx
from ocnna_onnx.criteria import cache as score_cache
from ocnna_onnx.data.digits import digits, fit

Array = np.ndarray[Any, np.dtype[Any]]


class Reader:
    """onnxruntime's CalibrationDataReader, duck-typed, with batches of its own size."""

    def __init__(self, name: str, x: Array, size: int) -> None:
        self.feeds: Iterator[dict[str, Array]] = iter([{name: x[k : k + size]} for k in range(0, len(x), size)])

    def get_next(self) -> dict[str, Array] | None:
        return next(self.feeds, None)


def resnet_images(count: int) -> Array:
    return fit(digits().train_images[:count], 1, 16, 16)


@pytest.mark.parametrize("criterion", ["ocnna", "obs", "activation-entropy"])
def test_the_same_scores_by_every_way_in(criterion: str, tmp_path: Path) -> None:
    x = resnet_images(37)
    np.savez(tmp_path / "x.npz", input=x)
    np.save(tmp_path / "x.npy", x)
    out = tmp_path / "s.json"
    done("score", RESNET, "--data", tmp_path / "x.npz", "--criterion", criterion, "-o", out, "--no-cache")
    wanted = json.loads(out.read_text())
    assert wanted["schema"] == 1
    assert wanted["criterion"] == criterion
    for data in (x, {"input": x}, tmp_path / "x.npy", Reader("input", x, 5), ({"input": i[None]} for i in x)):
        found = ocnna_onnx.score(RESNET, data=data, criterion=criterion, cache=False)
        assert found.to_json()["layers"] == wanted["layers"]


def test_every_layer_is_scored_by_name() -> None:
    found = ocnna_onnx.score(tiny(), data=images())
    shapes = {name: (layer.output, layer.scores.shape) for name, layer in found.layers.items()}
    assert shapes == {"conv1": ("a", (8,)), "conv2": ("d", (6,)), "fc": ("y", (5,))}


def test_a_prune_from_a_file_is_the_prune_itself(tmp_path: Path) -> None:
    common = ("--data", "digits", "--samples", 64)
    done("score", RESNET, *common, "--criterion", "l2", "-o", tmp_path / "s.json")
    done("prune", RESNET, tmp_path / "a.onnx", *common, "--scores", tmp_path / "s.json", "--ratio", 0.3)
    done("prune", RESNET, tmp_path / "b.onnx", *common, "--criterion", "l2", "--ratio", 0.3)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_layers_without_scores_stay() -> None:
    found = ocnna_onnx.score(tiny(), data=images(), criterion="l2")
    some = ocnna_onnx.Scores("mine", {}, {"conv2": found.layers["conv2"]})
    plan = ocnna_onnx.prune(tiny(), data=images(), scores=some, ratio=0.5).plan
    assert set(plan.remove) == {"conv2"}
    assert plan.criterion == "mine"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{", "no JSON"),
        ('{"schema": 1}', "no 'layers'"),
        ('{"schema": 7, "layers": {}}', "schema 7"),
        ('{"schema": 1, "layers": {"nobody": {"output": "y", "scores": [1, 2]}}}', "nobody"),
        ('{"schema": 1, "layers": {"conv1": {"output": "a", "scores": [1, 2]}}}', "conv1"),
        ('{"schema": 1, "layers": {"conv1": {"output": "a", "scores": [1, "x"]}}}', "conv1"),
        ('{"schema": 1, "layers": {"conv1": {"output": "a", "scores": [NaN, 1, 1, 1, 1, 1, 1, 1]}}}', "finite"),
    ],
)
def test_broken_scores_are_data_errors(content: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text(content)
    with pytest.raises(ocnna_onnx.DataError, match=text):
        ocnna_onnx.prune(tiny(), data=images(), scores=path, ratio=0.5)


def test_scores_as_a_table(tmp_path: Path) -> None:
    out = tmp_path / "s.csv"
    done("score", MODELS / "digits_vgg.onnx", "--data", "digits", "--samples", 16, "--criterion", "l1", "-o", out)
    rows = list(csv.DictReader(out.read_text().splitlines()))
    found = ocnna_onnx.score(MODELS / "digits_vgg.onnx", data="digits", samples=16, criterion="l1")
    wanted = [(n, c, s) for n, x in found.layers.items() for c, s in enumerate(x.scores.tolist())]
    assert [(r["node"], int(r["channel"]), float(r["score"])) for r in rows] == wanted


def test_wrong_use_of_the_command(tmp_path: Path) -> None:
    for options, text in (
        (("-o", tmp_path / "s.txt"), ".json or .csv"),
        (("--criterion", "best"), "unknown criterion"),
        (("--criterion", "ocnna:variance=x"), "must be a number"),
        (("--criterion", "ocnna:shape=1"), "no option of ocnna"),
        (("--criterion", "ocnna:variance=2"), "out of range"),
        (("--memory", "much"), "not understood"),
        (("--memory", "1k"), "at least 64MB"),
    ):
        result = cli("score", RESNET, *options)
        assert (result.exit_code, text in result.stderr) == (2, True), result.stderr


# --- what is kept for later runs


def test_scores_are_kept_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(score_cache.FOLDER, str(tmp_path))
    first = ocnna_onnx.score(tiny(), data=images())
    assert len(list(tmp_path.iterdir())) == 1
    again = ocnna_onnx.score(tiny(), data=images().copy())
    assert len(list(tmp_path.iterdir())) == 1
    assert again.to_json() == first.to_json()
    other = images()
    other[0, 0, 0, 0] += 1
    ocnna_onnx.score(tiny(), data=other)
    ocnna_onnx.score(tiny(), data=images(), criterion="ocnna:variance=1")
    ocnna_onnx.score(tiny(seed=1), data=images())
    assert len(list(tmp_path.iterdir())) == 4
    ocnna_onnx.score(tiny(), data=images(9), cache=False)
    assert len(list(tmp_path.iterdir())) == 4


def test_a_kept_score_is_read_and_a_broken_one_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(score_cache.FOLDER, str(tmp_path))
    wanted = ocnna_onnx.score(tiny(), data=images()).to_json()
    (path,) = tmp_path.iterdir()
    kept = json.loads(path.read_text())
    kept["layers"]["conv1"]["scores"][0] = 123.0
    path.write_text(json.dumps(kept))
    assert ocnna_onnx.score(tiny(), data=images()).layers["conv1"].scores[0] == 123
    path.write_text("{broken")
    assert ocnna_onnx.score(tiny(), data=images()).to_json() == wanted


def test_a_folder_that_cannot_be_written_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(score_cache.FOLDER, str(tmp_path / "file" / "below"))
    assert len(ocnna_onnx.score(tiny(), data=images()).layers) == 3


def test_memory_and_threads_do_not_change_what_goes() -> None:
    plans = [
        ocnna_onnx.prune(RESNET, data="digits", samples=48, ratio=0.3, cache=False, **options).plan.remove
        for options in ({"memory": "64MB"}, {"memory": "2GB"}, {"memory": 1 << 31, "threads": 1})
    ]
    assert plans[0] == plans[1] == plans[2]
