"""Benchmarks: rows are resumed, peers are brought to a share, tables say what was measured."""

import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

import bench_accuracy
import bench_curves
import bench_drop
import bench_latency
import bench_measure
import bench_nets
import bench_peers
import bench_rows
import bench_search
import bench_time
from bench_measure import Setting
from bench_nets import Judging, Net


def chain() -> onnx.ModelProto:
    """Three Convs, a pooling, ten classes."""
    model = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
    g (float[N,3,8,8] input) => (float[N,10] logits) {
        a = Conv<pads=[1,1,1,1]>(input, w1)
        b = Relu(a)
        c = Conv<pads=[1,1,1,1]>(b, w2)
        d = Relu(c)
        e = GlobalAveragePool(d)
        f = Flatten(e)
        logits = Gemm<transB=1>(f, w3)
    }""")
    rng = np.random.default_rng(0)
    for name, shape in (("w1", (12, 3, 3, 3)), ("w2", (12, 12, 3, 3)), ("w3", (10, 12))):
        weight = rng.standard_normal(shape).astype(np.float32) / np.sqrt(np.prod(shape[1:]))
        model.graph.initializer.append(numpy_helper.from_array(weight.astype(np.float32), name))
    return model


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Net:
    """A net whose images are noise: what calibrates is positive, what judges negative."""
    path = tmp_path / "net.onnx"
    onnx.save(chain(), path)
    rng = np.random.default_rng(1)
    images = np.abs(rng.standard_normal((60, 3, 8, 8))).astype(np.float32)

    def calibration(net: Net, seed: int, count: int, cache: Path) -> Any:
        return images[:count]

    def judging(net: Net, seed: int, count: int | None, cache: Path) -> Judging:
        return Judging(-images[:50], np.arange(50) % 10)

    monkeypatch.setattr(bench_nets, "calibration", calibration)
    monkeypatch.setattr(bench_nets, "judging", judging)
    for module in (bench_drop, bench_search):
        monkeypatch.setattr(module, "calibration_labels", lambda *given: np.arange(60)[: given[2]] % 10)
    monkeypatch.setenv("OCNNA_ONNX_CACHE", str(tmp_path / "cache"))
    return Net("net", "cifar10", "A", 0.9, "made up", "", path=path)


def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path / "rows.jsonl", images=40, judge=None, threads=1, cache=tmp_path)


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    file, made = tmp_path / "rows.jsonl", []

    def make() -> Iterator[dict[str, Any]]:
        made.append(1)
        yield from ({"Δ": 1.0}, {"Δ": 2.0})

    abouts = [{"net": "a", "seed": k} for k in range(2)]
    assert bench_rows.resumed(file, abouts, make) == [
        {"net": "a", "seed": 0, "Δ": 1.0},
        {"net": "a", "seed": 1, "Δ": 2.0},
    ]
    assert bench_rows.resumed(file, abouts, make) == bench_rows.read(file)
    assert len(made) == 1
    bench_rows.resumed(file, [{"net": "b", "seed": k} for k in range(2)], make)
    assert [r["net"] for r in bench_rows.read(file)] == ["a", "a", "b", "b"]


def test_accuracy_at_a_share(net: Net, tmp_path: Path) -> None:
    found = list(bench_accuracy.rows([net], [0.6], "l2", [0], setting(tmp_path)))
    assert found[0]["macs"] <= 0.6
    assert found[0]["delta"] == pytest.approx(found[0]["after"] - found[0]["before"])
    assert found[0]["judged"] == 50
    assert list(bench_accuracy.rows([net], [0.6], "l2", [0], setting(tmp_path))) == found
    head, line = bench_accuracy.table(found)
    assert len(head) == len(line)


def test_searches_side_by_side(net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_search, "OPTIONS", {k: {**v, "max_error": 1.0} for k, v in bench_search.OPTIONS.items()})
    methods = ("default", "classic", "equal")
    found = list(bench_search.rows([net], methods, 2, 6, [0], 1, setting(tmp_path)))
    assert [r["method"] for r in found] == list(methods)
    assert 0 < found[0]["candidates"] <= 6 + 2 * 3
    assert found[0]["light"]["macs"] <= found[0]["knee"]["macs"] <= found[0]["heavy"]["macs"]
    assert found[0]["light"]["judged"] == 50
    assert (found[2]["resumed"], found[2]["two workers"]) == (True, True)
    head, *lines = bench_search.table(found)
    assert all(len(line) == len(head) for line in lines)


def test_bars_are_of_the_mean_over_the_seeds() -> None:
    base = {
        "net": "cifar10_resnet20",
        "share": 0.7,
        "macs": 0.7,
        "rpr": 0.8,
        "before": 91.7,
        "after": 91.0,
        "seconds": 1.0,
    }
    found = [{**base, "seed": k, "delta": d} for k, d in enumerate((-0.5, -0.9, -1.3))]
    _, line = bench_accuracy.table(found)
    assert line[6:9] == ("-0.90 (-1.30 … -0.50)", "-0.8", "no")
    _, line = bench_accuracy.table(found[:2])
    assert line[6:9] == ("-0.70 (-0.90 … -0.50)", "-0.8", "yes")
    _, line = bench_accuracy.table([{"net": "cifar10_resnet20", "share": 0.7, "seed": 0, "refused": "out of reach"}])
    assert line[2] == "out of reach"


def test_with_and_without_repair_the_cut_is_the_same(net: Net, tmp_path: Path) -> None:
    repaired, plain = bench_curves.rows([net], [0.6], ["l2"], 0, setting(tmp_path))
    assert (repaired["repair"], plain["repair"]) == ("least-squares", "none")
    assert (repaired["macs"], repaired["rpr"]) == (plain["macs"], plain["rpr"])
    assert len(bench_curves.table([repaired, plain])) == 3


def test_a_drop_beside_its_promise(net: Net, tmp_path: Path) -> None:
    (by_labels,) = bench_drop.rows([net], [30.0], "l2", [0], True, setting(tmp_path))
    (by_agreement,) = bench_drop.rows([net], [30.0], "l2", [0], False, setting(tmp_path))
    assert (by_labels["by"], by_agreement["by"]) == ("accuracy", "top1")
    assert by_labels["bound"] <= 0.3
    assert by_labels["held_out"] == 20
    assert len(bench_drop.table([by_labels, by_agreement])) == 3


def test_a_peer_is_brought_to_the_share() -> None:
    ratio, left = bench_peers.search(lambda ratio: (1 - round(64 * ratio) / 64) ** 2, 0.5)
    assert abs(left - 0.5) <= 0.01
    assert (1 - round(64 * ratio) / 64) ** 2 == left
    with pytest.raises(bench_peers.Unreachable, match=r"80\.0% of the MACs at least"):
        bench_peers.search(lambda ratio: 0.8, 0.5)


def test_what_a_peer_cannot_do_is_in_the_table() -> None:
    base = {"net": "cifar10_resnet20", "share": 0.7, "tool": "torch-pruning==1.6.1", "way": "fpgm"}
    row = {**base, "crash": "IndexError: index 64", "macs": 0.701, "delta": -9.0}
    table = bench_peers.table([row, {**base, "share": 0.5, "failed": "ValueError: no"}])
    assert table[1] == ("torch-pruning 1.6.1", "fpgm", "-9.00 (70.1%), trunk left alone", "ValueError: no")
    (note,) = bench_peers.notes([row])
    assert "IndexError: index 64" in note


def test_photographs_judge_by_seed_and_test_images_by_none(net: Net, tmp_path: Path) -> None:
    judges = bench_measure.Judges(setting(tmp_path))
    assert judges(net, 0) is judges(net, 1)
    photographs = Net(**{**vars(net), "images": "imagenet"})
    assert judges(photographs, 0) is not judges(photographs, 1)


def test_a_prune_in_plain_passes(net: Net, tmp_path: Path) -> None:
    (row,) = bench_time.rows([net], [0.6], "l2", 0, setting(tmp_path))
    assert row["passes"] == pytest.approx(row["prune_s"] / row["plain_s"], rel=0.05)
    assert {"score", "sensitivity", "repair"} <= row["timings"].keys()
    assert row["peak_mb"] > 20
    head, line = bench_time.table([row])
    assert len(head) == len(line)


def latencies(path: Path, folder: Path) -> list[dict[str, Any]]:
    """What the benchmark measures of a net, in runs that take no time."""
    bench_latency.SPELL = 0.001
    subject = bench_latency.Subject("net", path, np.ones((16, 3, 8, 8), np.float32))
    return list(bench_latency.rows([subject], [0.6], "l2", setting(folder)))


def test_latency_in_both_runtimes(net: Net, tmp_path: Path) -> None:
    """In a process of its own: where OpenVINO ran, the next Ctrl-C (of another test) is a segmentation fault."""
    pytest.importorskip("openvino", reason="OpenVINO is in the extra 'zoo'")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found = pool.submit(latencies, net.path, tmp_path).result()
    assert [(r["runtime"], r["align"]) for r in found] == [
        (runtime, align) for runtime in ("onnxruntime", "OpenVINO") for align in ("auto", "1")
    ]
    for row in found:
        assert row["yield"] == pytest.approx(row["before_ms"] / row["after_ms"] * row["macs"], rel=0.05)
    head, *lines = bench_latency.table(found)
    assert [len(line) for line in lines] == [len(head)] * 2
