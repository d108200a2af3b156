"""What a user can get wrong: one clear line, the right exit code, and nothing written or lost."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from nets import TINY, TINY_SHAPES, build, cli, done, images, snapshot, tiny, weights, written
from onnx import helper, numpy_helper

FAST = ("--criterion", "l1")
OLD = b"what stood here before"


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """A good model, beside an OUT that exists."""
    (tmp_path / "out.onnx").write_bytes(OLD)
    return written(tmp_path, tiny())


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.onnx"


def refused(folder: Path, code: int, args: tuple[Any, ...], *words: str) -> str:
    """Run; the command must end with `code`, one line on stderr that has all words, and an untouched folder."""
    before = snapshot(folder)
    result = cli(*args)
    line = result.stderr.rstrip("\n")
    assert result.exit_code == code, (result.exit_code, line, result.exception)
    assert "Traceback" not in result.output
    assert len(line.splitlines()) == 1, line
    for word in words:
        assert word in line
    assert snapshot(folder) == before
    assert not result.stdout
    return line


# --- the model


@pytest.mark.parametrize("content", [b"", b"no model at all\n", bytes(range(256)) * 8, b"\x00" * 64, b"PK\x03\x04 zip"])
@pytest.mark.parametrize("command", ["prune", "inspect"])
def test_a_file_that_is_no_model(tmp_path: Path, out: Path, content: bytes, command: str) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(content)
    refused(tmp_path, 3, ("prune", bad, out) if command == "prune" else ("inspect", bad), "bad.onnx")


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9, 0.999])
def test_a_truncated_model(tmp_path: Path, out: Path, net: Path, share: float) -> None:
    data = net.read_bytes()
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(data[: int(len(data) * share)])
    refused(tmp_path, 3, ("prune", cut, out, *FAST))


def test_a_folder_as_model(tmp_path: Path, out: Path, net: Path) -> None:
    refused(tmp_path, 2, ("prune", tmp_path, out), "folder")
    refused(tmp_path, 2, ("inspect", tmp_path), "folder")


def test_a_missing_model(tmp_path: Path, out: Path, net: Path) -> None:
    for args in (("prune", "gone.onnx", out), ("inspect", "gone.onnx"), ("check", net, "gone.onnx")):
        refused(tmp_path, 2, args, "gone.onnx", "no such file")


def unknown_operator() -> onnx.ModelProto:
    model = tiny()
    model.opset_import.add(domain="my.domain", version=1)
    model.graph.node[2].CopyFrom(helper.make_node("Frobnicate", ["b"], ["c"], name="odd", domain="my.domain"))
    return model


def unknown_standard_operator() -> onnx.ModelProto:
    model = tiny()
    model.graph.node[2].op_type = "Frobnicate"
    return model


def broken_types() -> onnx.ModelProto:
    model = tiny()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((8, 1, 3, 3), np.int64), "w1"))
    return model


def missing_tensor() -> onnx.ModelProto:
    model = tiny()
    model.graph.node[3].input[1] = "nowhere"
    return model


def short_weight() -> onnx.ModelProto:
    model = tiny()
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]
    return model


def a_cycle() -> onnx.ModelProto:
    model = tiny()
    model.graph.node[2].input[0] = "e"
    return model


def future_opset() -> onnx.ModelProto:
    model = tiny()
    model.opset_import[0].version = 999
    return model


BROKEN: list[tuple[Callable[[], onnx.ModelProto], tuple[str, ...]]] = [
    (unknown_operator, ("Frobnicate",)),
    (unknown_standard_operator, ("Frobnicate",)),
    (broken_types, ("int64",)),
    (missing_tensor, ("nowhere",)),
    (short_weight, ("w1",)),
    (a_cycle, ()),
    (future_opset, ("999",)),
]


@pytest.mark.parametrize(("make", "words"), BROKEN, ids=[m.__name__ for m, _ in BROKEN])
def test_a_model_that_onnxruntime_cannot_open(
    tmp_path: Path, out: Path, net: Path, make: Callable[[], onnx.ModelProto], words: tuple[str, ...]
) -> None:
    bad = written(tmp_path, make(), "bad.onnx")
    refused(tmp_path, 3, ("prune", bad, out, *FAST), *words)


@pytest.mark.parametrize("make", [m for m, _ in BROKEN], ids=[m.__name__ for m, _ in BROKEN])
def test_inspect_of_a_broken_model_has_no_traceback(tmp_path: Path, make: Callable[[], onnx.ModelProto]) -> None:
    result = cli("inspect", written(tmp_path, make(), "bad.onnx"))
    assert result.exit_code in (0, 3), (result.stderr, result.exception)
    assert len(result.stderr.splitlines()) == (result.exit_code == 3)


def test_missing_external_data(tmp_path: Path, out: Path, net: Path) -> None:
    model = tiny()
    onnx.save_model(model, tmp_path / "ext.onnx", save_as_external_data=True, location="ext.data", size_threshold=0)
    (tmp_path / "ext.data").unlink()
    refused(tmp_path, 3, ("prune", tmp_path / "ext.onnx", out), "ext.data")


def test_short_external_data(tmp_path: Path, out: Path, net: Path) -> None:
    onnx.save_model(tiny(), tmp_path / "ext.onnx", save_as_external_data=True, location="ext.data", size_threshold=0)
    (tmp_path / "ext.data").write_bytes((tmp_path / "ext.data").read_bytes()[:100])
    refused(tmp_path, 3, ("prune", tmp_path / "ext.onnx", out, *FAST))


def test_nothing_to_prune(tmp_path: Path, out: Path, net: Path) -> None:
    plain = written(tmp_path, build("g (float[N,1,8,8] x) => (float[N,1,8,8] y) { y = Relu(x) }", {}), "plain.onnx")
    text = "g (float[N,1,8,8] x) => (float[N,8,6,6] y) { [last] y = Conv(x, w1) }"
    only_output = written(tmp_path, build(text, weights({"w1": (8, 1, 3, 3)})), "only.onnx")
    refused(tmp_path, 6, ("prune", plain, out), "nothing can be pruned")
    refused(tmp_path, 6, ("prune", only_output, out), "nothing can be pruned", "last", "output")
    for path in (plain, only_output):
        before = snapshot(tmp_path)
        assert "nothing can be pruned" in done("prune", path, out, "--dry-run").output
        assert snapshot(tmp_path) == before
        done("inspect", path)


def test_nothing_to_prune_as_json(tmp_path: Path) -> None:
    plain = written(tmp_path, build("g (float[N,1,8,8] x) => (float[N,1,8,8] y) { y = Relu(x) }", {}), "plain.onnx")
    json.loads(done("prune", plain, "--dry-run", "--json").stdout)


# --- the data


def npz(path: Path, **arrays: Any) -> Path:
    with path.open("wb") as stream:
        np.savez(stream, **arrays)
    return path


def with_data(tmp_path: Path, net: Path, out: Path, data: Path, code: int, *words: str) -> None:
    refused(tmp_path, code, ("prune", net, out, "--data", data), data.name, *words)
    gc.collect()  # a file left open warns here, and not in some later test


@pytest.mark.parametrize("name", ["gone.npz", "gone.npy", "gone", "digitz"])
def test_missing_data(tmp_path: Path, net: Path, out: Path, name: str) -> None:
    refused(tmp_path, 2, ("prune", net, out, "--data", name), name, "no such file")


@pytest.mark.parametrize("name", ["data.csv", "data"])
def test_data_of_an_unknown_kind(tmp_path: Path, net: Path, out: Path, name: str) -> None:
    (tmp_path / name).write_text("1,2,3\n")
    with_data(tmp_path, net, out, tmp_path / name, 2, ".npz")


def test_a_folder_as_data(tmp_path: Path, net: Path, out: Path) -> None:
    for name in ("folder.npz", "folder"):
        (tmp_path / name).mkdir()
        with_data(tmp_path, net, out, tmp_path / name, 2)


@pytest.mark.parametrize("name", ["bad.npz", "bad.npy"])
@pytest.mark.parametrize("content", [b"", b"garbage", bytes(range(256)), b"PK\x03\x04broken zip", b"\x93NUMPY\x01\x00"])
def test_a_garbage_data_file(tmp_path: Path, net: Path, out: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with_data(tmp_path, net, out, tmp_path / name, 4)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_data_file(tmp_path: Path, net: Path, out: Path, share: float) -> None:
    whole = npz(tmp_path / "cut.npz", x=images()).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: int(len(whole) * share)])
    with_data(tmp_path, net, out, tmp_path / "cut.npz", 4)
    np.save(tmp_path / "cut.npy", images())
    whole = (tmp_path / "cut.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[: int(len(whole) * share)])
    with_data(tmp_path, net, out, tmp_path / "cut.npy", 4)


def test_a_zip_that_holds_no_arrays(tmp_path: Path, net: Path, out: Path) -> None:
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("x", "no array")
    with_data(tmp_path, net, out, tmp_path / "text.npz", 4)


def test_an_empty_archive(tmp_path: Path, net: Path, out: Path) -> None:
    with_data(tmp_path, net, out, npz(tmp_path / "none.npz"), 4, "'x'", "missing")


def test_pickled_objects_are_not_loaded(tmp_path: Path, net: Path, out: Path) -> None:
    data = npz(tmp_path / "objects.npz", x=np.array([{}, None], object))
    with_data(tmp_path, net, out, data, 4)


def changed(index: int, value: float) -> np.ndarray[Any, Any]:
    x = images()
    x.reshape(-1)[index] = value
    return x


MISFITS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "rank 3": (images(shape=(8, 8)), ("4 dimensions", "3")),
    "rank 5": (images(shape=(1, 1, 8, 8)), ("4 dimensions", "5")),
    "height": (images(shape=(1, 9, 8)), ("[N, 1, 8, 8]", "[12, 1, 9, 8]")),
    "width": (images(shape=(1, 8, 7)), ("[12, 1, 8, 7]",)),
    "channels": (images(shape=(3, 8, 8)), ("[12, 3, 8, 8]",)),
    "channels last": (images(shape=(8, 8, 1)), ("[12, 8, 8, 1]",)),
    "int64": (np.zeros((4, 1, 8, 8), np.int64), ("float32", "int64")),
    "uint8": (np.zeros((4, 1, 8, 8), np.uint8), ("float32", "uint8")),
    "bool": (np.zeros((4, 1, 8, 8), bool), ("float32", "bool")),
    "complex": (np.zeros((4, 1, 8, 8), np.complex64), ("float32", "complex64")),
    "text": (np.full((4, 1, 8, 8), "a"), ("float32",)),
    "nan": (changed(5, np.nan), ("1 ", "NaN")),
    "inf": (changed(5, np.inf), ("NaN",)),
    "too large for float32": (np.full((4, 1, 8, 8), 1e300), ()),
    "no samples": (images(0), ("no samples",)),
    "a scalar": (np.float32(3), ("4 dimensions",)),
}


@pytest.mark.parametrize(("array", "words"), MISFITS.values(), ids=MISFITS)
def test_data_that_does_not_fit(tmp_path: Path, net: Path, out: Path, array: Any, words: tuple[str, ...]) -> None:
    np.save(tmp_path / "data.npy", array)
    with_data(tmp_path, net, out, tmp_path / "data.npy", 4, "'x'" if "no samples" not in words else "", *words)
    with_data(tmp_path, net, out, npz(tmp_path / "data.npz", x=array), 4, *words)


LABELS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "too few": (np.zeros(11, np.int64), ("11", "12")),
    "too many": (np.zeros(13, np.int64), ("13", "12")),
    "one-hot": (np.zeros((12, 5), np.int64), ("[12, 5]",)),
    "a scalar": (np.int64(3), ("labels",)),
    "floats": (np.zeros(12), ("integers", "float64")),
    "text": (np.full(12, "cat"), ("integers",)),
}


@pytest.mark.parametrize(("labels", "words"), LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("name", ["y", "labels"])
def test_labels_that_do_not_fit(
    tmp_path: Path, net: Path, out: Path, labels: Any, words: tuple[str, ...], name: str
) -> None:
    # the net's output is called y too: that must not matter
    data = npz(tmp_path / "labelled.npz", x=images(), **{name: labels})
    with_data(tmp_path, net, out, data, 4, "label", *words)


def test_an_array_that_is_no_input(tmp_path: Path, net: Path, out: Path) -> None:
    with_data(tmp_path, net, out, npz(tmp_path / "extra.npz", x=images(), z=images()), 4, "'z'")


TWO_INPUTS = """
g (float[N,1,8,8] a, float[N,3] b) => (float[N,5] y) {
    [conv1] c = Conv(a, w1)
    [pool] d = GlobalAveragePool(c)
    [flat] e = Flatten(d)
    [join] f = Concat<axis=1>(e, b)
    [fc] y = Gemm<transB=1>(f, w2)
}
"""


def test_two_inputs_with_incomplete_data(tmp_path: Path, out: Path, net: Path) -> None:
    two = written(tmp_path, build(TWO_INPUTS, weights({"w1": (8, 1, 3, 3), "w2": (5, 11)})), "two.onnx")
    vectors = np.zeros((12, 3), np.float32)
    with_data(tmp_path, two, out, npz(tmp_path / "one.npz", a=images()), 4, "'b'", "missing")
    with_data(tmp_path, two, out, npz(tmp_path / "names.npz", p=images(), q=vectors), 4, "'a'", "missing")
    with_data(tmp_path, two, out, npz(tmp_path / "counts.npz", a=images(), b=vectors[:7]), 4, "12", "7")
    np.save(tmp_path / "single.npy", images())
    with_data(tmp_path, two, out, tmp_path / "single.npy", 4, "missing")
    done("prune", two, out, "--data", npz(tmp_path / "both.npz", a=images(), b=vectors))


def test_digits_for_a_net_without_images(tmp_path: Path, net: Path, out: Path) -> None:
    text = "g (float[N,4] x) => (float[N,3] y) { h = MatMul(x, w1)  r = Relu(h)  y = MatMul(r, w2) }"
    dense = written(tmp_path, build(text, weights({"w1": (4, 8), "w2": (8, 3)})), "dense.onnx")
    refused(tmp_path, 2, ("prune", dense, out, "--data", "digits"), "digits", "image")


# --- options


@pytest.mark.parametrize("value", ["1.0", "1.5", "-0.1", "nan", "inf", "abc", ""])
def test_ratio_out_of_range(tmp_path: Path, net: Path, out: Path, value: str) -> None:
    refused(tmp_path, 2, ("prune", net, out, "--ratio", value), "ratio")


@pytest.mark.parametrize("value", ["100", "250", "-1", "nan", "x"])
def test_percentile_out_of_range(tmp_path: Path, net: Path, out: Path, value: str) -> None:
    refused(tmp_path, 2, ("prune", net, out, "--percentile", value), "percentile")


OPTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "ratio and percentile": (("--ratio", "0.2", "--percentile", "20"), ("ratio", "percentile")),
    "criterion": (("--criterion", "ocna"), ("ocna", "ocnna", "l1")),
    "min-channels": (("--min-channels", "0"), ("channels",)),
    "samples": (("--samples", "0"), ("samples",)),
    "negative samples": (("--samples", "-3"), ("samples",)),
    "seed": (("--seed", "-1"), ("seed",)),
    "rtol nan": (("--rtol", "nan"), ("rtol",)),
    "rtol inf": (("--rtol", "inf"), ("rtol",)),
    "rtol negative": (("--rtol", "-1"), ("rtol",)),
    "threads": (("--threads", "-2"), ("threads",)),
    "provider": (("--providers", "GpuExecutionProvider"), ("GpuExecutionProvider", "CPUExecutionProvider")),
    "regular expression": (("--exclude", "re:("), ("re:(",)),
    "align with a ratio": (("--align", "8", "--ratio", "0.3"), ("align", "target")),
    "shapes without name": (("--input-shapes", "1,1,8,8"), ("--input-shapes", "NAME:1,3,224,224")),
    "shapes without sizes": (("--input-shapes", "x"), ("--input-shapes",)),
    "shapes with an empty size list": (("--input-shapes", "x:"), ("--input-shapes",)),
    "shapes with letters": (("--input-shapes", "x:1,a,8,8"), ("--input-shapes",)),
    "shapes with fractions": (("--input-shapes", "x:1,1,8.5,8"), ("--input-shapes",)),
    "shapes of no input": (("--input-shapes", "image:1,1,8,8"), ("'image'", "x")),
    "shapes of another rank": (("--input-shapes", "x:1,8,8"), ("'x'", "3", "4")),
    "shapes of another size": (("--input-shapes", "x:1,1,9,8"), ("'x'", "9", "8")),
}


@pytest.mark.parametrize(("options", "words"), OPTIONS.values(), ids=OPTIONS)
def test_wrong_options(tmp_path: Path, net: Path, out: Path, options: tuple[str, ...], words: tuple[str, ...]) -> None:
    refused(tmp_path, 2, ("prune", net, out, *options), *words)


def test_a_misspelled_command_or_option(tmp_path: Path, net: Path, out: Path) -> None:
    for args in (("prun", net, out), ("prune", net, out, "--ration", "0.3"), ("prune",), ("prune", net)):
        result = cli(*args)
        assert result.exit_code == 2
        assert "Traceback" not in result.output


LENGTHS = """
g (float[N,4,L] x) => (float[N,5] y) {
    [conv1] a = Conv(x, w1)
    [relu1] b = Relu(a)
    [pool] c = GlobalAveragePool(b)
    [flat] d = Flatten(c)
    [fc] y = Gemm<transB=1>(d, w2)
}
"""


def test_a_symbolic_size_that_cannot_be_guessed(tmp_path: Path, net: Path, out: Path) -> None:
    long = written(tmp_path, build(LENGTHS, weights({"w1": (8, 4, 3), "w2": (5, 8)})), "long.onnx")
    for args in (("prune", long, out), ("inspect", long)):
        refused(tmp_path, 2, args, "'x'", "L", "--input-shapes x:")
    for spelling in ("x:2,4,32", "x:2x4x32", "x:[2,4,32]"):
        done("prune", long, out, "--input-shapes", spelling)
        done("inspect", long, "--shapes", spelling)
    np.save(tmp_path / "data.npy", images(6, (4, 32)))
    done("prune", long, out, "--data", tmp_path / "data.npy")  # the data has the size


# --- targets


def test_a_target_in_a_missing_folder(tmp_path: Path, net: Path, out: Path) -> None:
    nowhere = tmp_path / "nowhere"
    for args in ((nowhere / "o.onnx",), (out, "--plan-out", nowhere / "p.json"), (out, "--report", nowhere / "r.json")):
        refused(tmp_path, 2, ("prune", net, *args), "nowhere", "no such folder")


def test_a_folder_as_target(tmp_path: Path, net: Path, out: Path) -> None:
    (tmp_path / "folder").mkdir()
    folder = tmp_path / "folder"
    for args in ((folder,), (out, "--plan-out", folder), (out, "--report", folder)):
        refused(tmp_path, 2, ("prune", net, *args), "folder")


def test_a_file_as_the_target_folder(tmp_path: Path, net: Path) -> None:
    refused(tmp_path, 2, ("prune", net, net / "out.onnx"), "in.onnx")


def test_a_read_only_folder(tmp_path: Path, net: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    if os.access(locked, os.W_OK):
        pytest.skip("permissions do not bind this user")
    refused(tmp_path, 2, ("prune", net, locked / "out.onnx"), "locked", "read-only")


def test_no_out(tmp_path: Path, net: Path) -> None:
    refused(tmp_path, 2, ("prune", net), "OUT")


def test_two_targets_of_one_name(tmp_path: Path, net: Path, out: Path) -> None:
    refused(tmp_path, 2, ("prune", net, out, "--plan-out", out), "out.onnx")
    same = tmp_path / "same.json"
    refused(tmp_path, 2, ("prune", net, out, "--plan-out", same, "--report", same), "same.json")


def spellings(net: Path) -> list[Path]:
    """Other names of the same file."""
    link, hard = net.with_name("link.onnx"), net.with_name("hard.onnx")
    link.symlink_to(net)
    os.link(net, hard)
    return [net, link, hard, net.parent / ".." / net.parent.name / net.name]


def test_in_is_out(tmp_path: Path, net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for same in [*spellings(net), Path("in.onnx"), Path("./in.onnx")]:
        refused(tmp_path, 2, ("prune", net, same, *FAST), "--overwrite")
        refused(tmp_path, 2, ("prune", same, net, *FAST), "--overwrite")


def test_plan_and_report_never_replace_the_input(tmp_path: Path, net: Path, out: Path) -> None:
    for option in ("--plan-out", "--report"):
        refused(tmp_path, 2, ("prune", net, out, option, net, "--overwrite", *FAST), "in.onnx")


@pytest.mark.parametrize("which", range(4))
def test_in_is_out_with_overwrite(tmp_path: Path, net: Path, which: int) -> None:
    original = onnx.load(net)
    target = spellings(net)[which]
    done("prune", net, target, "--overwrite", *FAST)
    assert onnx.load(target).ByteSize() != original.ByteSize()
    onnx.checker.check_model(onnx.load(target))
    onnx.checker.check_model(onnx.load(net))


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_disk_that_is_full(
    tmp_path: Path, net: Path, out: Path, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, fail)
    refused(tmp_path, 2, ("prune", net, out, *FAST, "--data", "photos", "-q"), "out.onnx", "No space left")


def test_a_target_that_is_no_regular_file(tmp_path: Path, net: Path, out: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for args in ((pipe,), (out, "--plan-out", pipe), (out, "--report", pipe)):
        refused(tmp_path, 2, ("prune", net, *args, *FAST, "-q"), "pipe")
        assert pipe.is_fifo()


@pytest.mark.parametrize(("raised", "code", "words"), [(KeyboardInterrupt, 130, "no result"), (KeyError, 1, "report")])
def test_interrupts_and_defects(
    tmp_path: Path, net: Path, out: Path, raised: type, code: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise raised("a reason\nin two lines")

    monkeypatch.setattr("ocnna_onnx.finishing.rewrite", fail)
    refused(tmp_path, code, ("prune", net, out, *FAST), words)


# --- plans


@pytest.fixture
def plan(tmp_path: Path, net: Path) -> dict[str, Any]:
    done("prune", net, "--dry-run", "--plan-out", tmp_path / "good.json", *FAST)
    found: dict[str, Any] = json.loads((tmp_path / "good.json").read_text())
    return found


def with_plan(tmp_path: Path, net: Path, content: Any, code: int, *words: str) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    refused(tmp_path, code, ("apply", path, net, tmp_path / "out.onnx"), *words)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"null", b'{"remove": 3}', b"\xff\xfe\x00", b"\x80abc"])
def test_a_file_that_is_no_plan(tmp_path: Path, net: Path, content: bytes) -> None:
    with_plan(tmp_path, net, content, 4, "plan.json", "not a plan")


def test_a_missing_plan(tmp_path: Path, net: Path, out: Path) -> None:
    refused(tmp_path, 2, ("apply", "gone.json", net, out), "gone.json")
    refused(tmp_path, 2, ("apply", tmp_path, net, out), tmp_path.name)


@pytest.mark.parametrize("schema", [2, 0, "1", None])
def test_a_plan_of_another_schema(tmp_path: Path, net: Path, plan: dict[str, Any], schema: Any) -> None:
    with_plan(tmp_path, net, {**plan, "schema": schema}, 4, "schema")


def test_a_plan_of_another_model(tmp_path: Path, net: Path, plan: dict[str, Any]) -> None:
    other = written(tmp_path, tiny(seed=5), "other.onnx")
    with_plan(tmp_path, other, plan, 4, "another model", "in.onnx")


@pytest.mark.parametrize("key", ["model", "remove"])
def test_a_plan_that_lacks_something(tmp_path: Path, net: Path, plan: dict[str, Any], key: str) -> None:
    with_plan(tmp_path, net, {k: v for k, v in plan.items() if k != key}, 4, "not a plan")


@pytest.mark.parametrize("channels", [None, 3, "12", [1.5], ["1"], [None], [[1]], {"1": 2}, [True]])
def test_a_plan_whose_channels_are_no_numbers(tmp_path: Path, net: Path, plan: dict[str, Any], channels: Any) -> None:
    with_plan(tmp_path, net, {**plan, "remove": {"conv1": channels}}, 4)


@pytest.mark.parametrize("channel", [8, 99, -1])
def test_a_plan_with_a_channel_out_of_range(tmp_path: Path, net: Path, plan: dict[str, Any], channel: int) -> None:
    with_plan(tmp_path, net, {**plan, "remove": {"conv1": [2, channel]}}, 4, "conv1", f"{channel}", "8")


def test_a_plan_with_an_unknown_node(tmp_path: Path, net: Path, plan: dict[str, Any]) -> None:
    with_plan(tmp_path, net, {**plan, "remove": {"conv9": [1]}}, 4, "conv9")


def test_a_plan_that_empties_a_layer(tmp_path: Path, net: Path, plan: dict[str, Any]) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**plan, "remove": {"conv1": list(range(8))}}))
    before = snapshot(tmp_path)
    # in a process of its own: onnxruntime may never come back from a Conv without channels
    command = [sys.executable, "-m", "ocnna_onnx", "apply", str(path), str(net), str(tmp_path / "out.onnx")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    assert result.returncode == 4
    assert "conv1" in result.stderr
    assert snapshot(tmp_path) == before


def test_a_plan_that_removes_what_cannot_go(tmp_path: Path, net: Path, plan: dict[str, Any]) -> None:
    with_plan(tmp_path, net, {**plan, "remove": {"fc": [1]}}, 4, "fc")


def test_a_plan_that_breaks_a_coupling(tmp_path: Path, out: Path) -> None:
    text = """
    g (float[N,1,8,8] x) => (float[N,5] y) {
        [left] a = Conv(x, w1)
        [right] b = Conv(x, w2)
        [sum] c = Add(a, b)
        [pool] d = GlobalAveragePool(c)
        [flat] e = Flatten(d)
        [fc] y = Gemm<transB=1>(e, w3)
    }
    """
    shapes = {"w1": (8, 1, 3, 3), "w2": (8, 1, 3, 3), "w3": (5, 8)}
    net = written(tmp_path, build(text, weights(shapes)))
    done("prune", net, "--dry-run", "--plan-out", tmp_path / "good.json", *FAST)
    plan = json.loads((tmp_path / "good.json").read_text())
    assert plan["remove"]["left"] == plan["remove"]["right"]
    with_plan(tmp_path, net, {**plan, "remove": {"left": [1, 2]}}, 4, "coupling", "right")
    with_plan(tmp_path, net, {**plan, "remove": {"left": [1, 2], "right": [2, 3]}}, 4, "coupling")


def test_apply_with_bad_targets(tmp_path: Path, net: Path, out: Path, plan: dict[str, Any]) -> None:
    good = tmp_path / "good.json"
    refused(tmp_path, 2, ("apply", good, net, net), "--overwrite")
    refused(tmp_path, 2, ("apply", good, net, tmp_path / "nowhere" / "o.onnx"), "no such folder")
    refused(tmp_path, 2, ("apply", good, net, out, "--report", tmp_path / "nowhere" / "r.json"), "no such folder")
    refused(tmp_path, 2, ("apply", good, "gone.onnx", out), "gone.onnx")


def test_apply_does_not_replace_its_plan(tmp_path: Path, net: Path, plan: dict[str, Any]) -> None:
    refused(tmp_path, 2, ("apply", tmp_path / "good.json", net, tmp_path / "good.json"), "good.json")


def test_check_with_bad_files(tmp_path: Path, net: Path, plan: dict[str, Any]) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"garbage")
    refused(tmp_path, 3, ("check", net, bad), "bad.onnx")
    refused(tmp_path, 3, ("check", bad, net), "bad.onnx")
    refused(tmp_path, 7, ("check", net, net), "stamp", "--plan")
    (tmp_path / "bad.json").write_text("{}")
    refused(tmp_path, 4, ("check", net, net, "--plan", tmp_path / "bad.json"), "bad.json")
    refused(tmp_path, 2, ("check", net, net, "--plan", "gone.json"), "gone.json")


# --- the library raises what the command line prints


def test_python_raises_the_same_errors(tmp_path: Path) -> None:
    import ocnna_onnx

    model = build(TINY, weights(TINY_SHAPES))
    for kwargs, kind in (
        ({"ratio": 1.0}, ocnna_onnx.UsageError),
        ({"criterion": "?"}, ocnna_onnx.UsageError),
        ({"data": "gone.npz"}, ocnna_onnx.UsageError),
        ({"data": images(shape=(1, 9, 9))}, ocnna_onnx.DataError),
        ({"data": {"z": images(), "x": images()}}, ocnna_onnx.DataError),
        ({"data": 17}, ocnna_onnx.UsageError),
    ):
        with pytest.raises(kind) as caught:
            ocnna_onnx.prune(model, **kwargs)  # type: ignore[arg-type]
        assert isinstance(caught.value, ocnna_onnx.OcnnaError)
    with pytest.raises(ocnna_onnx.ModelError):
        ocnna_onnx.prune(b"")
    with pytest.raises(ocnna_onnx.UsageError):
        ocnna_onnx.prune(3)
    with pytest.raises(ocnna_onnx.UsageError):
        ocnna_onnx.prune(tmp_path / "gone.onnx")


def test_debug_shows_a_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ocnna_onnx", "inspect", "gone.onnx"]
    plain = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert plain.returncode == 2
    assert len(plain.stderr.splitlines()) == 1
    debug = subprocess.run([*command, "--debug"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert debug.returncode != 0
    assert "Traceback" in debug.stderr
    assert "gone.onnx" in debug.stderr
