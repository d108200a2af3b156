"""The command line end to end: prune, inspect, apply and check on the four nets, and what each option means."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from nets import MODELS, NETS, RESNET, build, cli, done, images, infer, initializers, snapshot, tiny, weights, written
from onnx import numpy_helper

import ocnna_onnx

Json = dict[str, Any]


def net(name: str) -> Path:
    return MODELS / f"digits_{name}.onnx"


def prune_tiny(folder: Path, *options: Any, seed: int = 0) -> tuple[Path, Path, Json]:
    """(IN, OUT, report) of one run on the tiny net."""
    source, out = written(folder, tiny(seed)), folder / "out.onnx"
    result = done("prune", source, out, "--criterion", "l1", "--json", *options)
    return source, out, json.loads(result.stdout)


# --- end to end


@pytest.mark.parametrize("name", NETS)
def test_prune_apply_check(tmp_path: Path, name: str) -> None:
    source, out, plan, report = net(name), tmp_path / "o.onnx", tmp_path / "plan.json", tmp_path / "report.json"
    before = source.read_bytes()
    options = ("--data", "digits", "--samples", "48", "--ratio", "0.25", "--repair", "none")
    table = done("prune", source, out, *options, "--plan-out", plan, "--report", report)
    assert source.read_bytes() == before
    assert str(out) in table.stdout
    assert "proof passed" in table.stdout

    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    assert infer(out, {"input": images(5, (1, 16, 16))})[0].shape == (5, 10)
    found = json.loads(report.read_text())
    _is_a_report(found)
    assert found["after"]["bytes"] == out.stat().st_size < found["before"]["bytes"] == len(before)
    assert found["accuracy"]["samples"] == 360
    assert 0.05 <= found["accuracy"]["after"] <= 1
    assert found["accuracy"]["before"] > 0.99
    _cuts_rebuild_the_weights(source, out, found)

    replayed = tmp_path / "again.onnx"
    done("apply", plan, source, replayed, "--data", "digits", "--samples", "8")
    assert replayed.read_bytes() == out.read_bytes()

    for extra in ((), ("--plan", plan)):
        checked = json.loads(done("check", source, out, "--data", "digits", "--json", *extra).stdout)
        assert checked["proof"]["passed"]
        assert checked["changed"] == []
        assert checked["accuracy"]["after"] == found["accuracy"]["after"]
        assert checked["agreement"]["value"] == found["agreement"]["value"]


def _is_a_report(report: Json) -> None:
    """DESIGN §8."""
    assert report["schema"] == 1
    assert report["tool"].startswith("ocnna-onnx ")
    for when in ("before", "after"):
        assert all(isinstance(report[when][key], int) for key in ("params", "macs", "bytes"))
    assert report["after"]["params"] < report["before"]["params"]
    assert report["after"]["macs"] < report["before"]["macs"]
    proof = report["proof"]
    assert proof["passed"] is True
    assert 0 <= proof["max_relative_error"] <= proof["tolerance"]
    assert proof["samples"] > 0
    assert proof["compared"] > 0
    assert report["agreement"]["kind"] in ("top1", "pixel", "relative_l2")
    assert 0 <= report["agreement"]["value"] <= 1
    for key in ("requested", "obtained", "timings"):
        assert isinstance(report[key], dict)
    for key in ("groups", "walls", "cuts", "rewrites", "repaired", "warnings"):
        assert isinstance(report[key], list)
    assert all({"node", "input", "tensor", "new_tensor", "axis", "kept"} <= cut.keys() for cut in report["cuts"])
    assert all({"node", "what", "before", "after"} <= edit.keys() for edit in report["rewrites"])
    assert all({"node", "op", "tensor", "reason"} <= wall.keys() for wall in report["walls"])
    assert all(isinstance(name, str) for name in report["repaired"])


def _cuts_rebuild_the_weights(source: Path, out: Path, report: Json) -> None:
    """Anybody can redo the surgery with numpy from the report alone."""
    before, after = initializers(onnx.load(source)), initializers(onnx.load(out))
    rebuilt: dict[str, Any] = {}
    seen: set[tuple[str, int]] = set()
    for cut in report["cuts"]:
        if (cut["new_tensor"], cut["axis"]) not in seen:
            array = rebuilt.get(cut["new_tensor"], before[cut["tensor"]])
            rebuilt[cut["new_tensor"]] = np.take(array, cut["kept"], cut["axis"])
            seen.add((cut["new_tensor"], cut["axis"]))
    assert rebuilt
    for name, array in rebuilt.items():
        np.testing.assert_array_equal(after[name], array)


@pytest.mark.parametrize("name", NETS)
def test_inspect(name: str) -> None:
    path = net(name)
    table = done("inspect", path).stdout
    assert path.name in table
    assert "logits" in table
    found = json.loads(done("inspect", path, "--json").stdout)
    assert found["schema"] == 1
    assert found["model"] == path.name
    assert found["groups"]
    members = [m for g in found["groups"] for m in g["members"]]
    assert sorted(members) == sorted(layer["node"] for layer in found["layers"])
    for group in found["groups"]:
        assert {"id", "members", "consumers", "channels", "removable", "params", "macs"} <= group.keys()
        assert 0 <= group["removable"] <= group["channels"]
    assert all({"node", "op", "tensor", "reason"} <= wall.keys() for wall in found["walls"])
    assert any("output" in wall["reason"] for wall in found["walls"])
    nodes = {n.name or n.output[0] for n in onnx.load(path).graph.node}
    assert set(members) <= nodes


def test_a_whole_run_in_processes_of_its_own(tmp_path: Path) -> None:
    """The console script, as a user calls it, twice: same seed, same bytes, also across processes."""
    script = Path(sys.executable).with_name("ocnna-onnx")
    for k in range(2):
        out = tmp_path / f"{k}.onnx"
        command = [script, "prune", RESNET, out, "--data", "digits", "--samples", "32", "--ratio", "0.3", "--json"]
        result = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=True)
        _is_a_report(json.loads(result.stdout))
        assert not result.stderr
    assert (tmp_path / "0.onnx").read_bytes() == (tmp_path / "1.onnx").read_bytes()
    assert len(snapshot(tmp_path)) == 2


# --- what is printed


def test_what_cannot_be_pruned_says_so(tmp_path: Path) -> None:
    """A stack of matrices, as attention heads have it: pruned, or named with a reason."""
    text = (
        "g (float[N,3,7,4] x) => (float[N,3,7,5] y) { [heads] a = MatMul(x, w1)  b = Relu(a)  [out] y = MatMul(b, w2) }"
    )
    stack = written(tmp_path, build(text, weights({"w1": (3, 4, 8), "w2": (3, 8, 5)})))
    found = json.loads(done("inspect", stack, "--json").stdout)
    named = {m for g in found["groups"] for m in g["members"]} | {wall["node"] for wall in found["walls"]}
    assert {"heads", "out"} <= named


def run_with(folder: Path, *args: Any, **options: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "ocnna_onnx", *(str(a) for a in args)]
    return subprocess.run(command, check=False, cwd=folder, stderr=subprocess.PIPE, **options)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_terminal_that_knows_few_characters(tmp_path: Path, encoding: str) -> None:
    source = written(tmp_path, tiny())
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    result = run_with(tmp_path, "prune", source, "out.onnx", env=environment, stdout=subprocess.PIPE)
    assert result.returncode == 0, result.stderr
    assert b"proof passed" in result.stdout


def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    """`ocnna-onnx prune … | head -1`."""
    source = written(tmp_path, tiny())
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = run_with(tmp_path, "prune", source, "out.onnx", stdout=writer)
    finally:
        os.close(writer)
    assert b"internal error" not in result.stderr
    assert b"Traceback" not in result.stderr
    assert (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("verbosity", ["-q", "-v", "-vv"])
def test_quiet_and_verbose(tmp_path: Path, verbosity: str) -> None:
    source, out = written(tmp_path, tiny()), tmp_path / "out.onnx"
    result = done("prune", source, out, verbosity)
    assert bool(result.output) == (verbosity != "-q")
    assert out.exists()
    for args in (("inspect", source), ("check", source, out)):
        assert bool(done(*args, verbosity).output) == (verbosity != "-q")


def test_without_data_a_note_says_so(tmp_path: Path) -> None:
    source = written(tmp_path, tiny())
    result = done("prune", source, tmp_path / "out.onnx")
    assert "no samples of yours" in result.stderr
    np.save(tmp_path / "x.npy", images())
    given = ("--data", tmp_path / "x.npy", "--ratio", 0.3)
    assert not done("prune", source, tmp_path / "out.onnx", *given).stderr


def test_json_is_the_report_file(tmp_path: Path) -> None:
    _, out, printed = prune_tiny(tmp_path, "--report", tmp_path / "r.json")
    _is_a_report(printed)
    stored = json.loads((tmp_path / "r.json").read_text())
    assert stored == printed
    assert stored["after"]["bytes"] == out.stat().st_size


def test_the_plan_file(tmp_path: Path) -> None:
    source, _, report = prune_tiny(tmp_path, "--plan-out", tmp_path / "p.json", "--ratio", "0.5", "--seed", "3")
    plan = json.loads((tmp_path / "p.json").read_text())
    assert plan["schema"] == 1
    assert plan["model"] == {"sha256": report["model"]["sha256"], "name": source.name}
    assert (plan["criterion"], plan["seed"], plan["measured"]) == ("l1", 3, {})
    assert plan["options"]["ratio"] == 0.5
    assert {node: len(channels) for node, channels in plan["remove"].items()} == {"conv1": 4, "conv2": 3}
    assert all(channels == sorted(set(channels)) for channels in plan["remove"].values())


def test_the_plan_lists_every_member_of_a_group(tmp_path: Path) -> None:
    done("prune", net("mobilenet"), "--dry-run", "--plan-out", tmp_path / "p.json", "--criterion", "l1", "--ratio", 0.3)
    remove = json.loads((tmp_path / "p.json").read_text())["remove"]
    groups = json.loads(done("inspect", net("mobilenet"), "--json").stdout)["groups"]
    coupled = [g for g in groups if len(g["members"]) > 1]
    assert coupled
    for group in coupled:
        assert len({tuple(remove[m]) for m in group["members"]}) == 1, group["members"]


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    source = written(tmp_path, tiny())
    before = snapshot(tmp_path)
    for out in ((), (tmp_path / "out.onnx",), (source,), (tmp_path / "nowhere" / "out.onnx",)):
        result = done("prune", source, *out, "--dry-run", "--json", "--criterion", "l1")
        _is_a_report(json.loads(result.stdout))
        assert snapshot(tmp_path) == before
    done("prune", source, "--dry-run", "--plan-out", tmp_path / "p.json", "--criterion", "l1")
    assert set(snapshot(tmp_path)) == {"in.onnx", "p.json"}


# --- seeds


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path: Path) -> None:
    source = written(tmp_path, tiny())

    def run(*options: Any) -> bytes:
        done("prune", source, tmp_path / "out.onnx", *options)
        return (tmp_path / "out.onnx").read_bytes()

    assert run("--seed", 1) == run("--seed", 1)
    drawn = [run("--criterion", "random", "--seed", k, "--ratio", 0.3) for k in (0, 0, 1, 2)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 3


def test_apply_gives_the_same_bytes_whatever_the_data(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", images())
    source, out, _ = prune_tiny(tmp_path, "--plan-out", tmp_path / "p.json", "--seed", 5)
    for options in ((), ("--data", tmp_path / "x.npy"), ("--samples", "2"), ("--seed", "9")):
        done("apply", tmp_path / "p.json", source, tmp_path / "again.onnx", *options)
        assert (tmp_path / "again.onnx").read_bytes() == out.read_bytes()


# --- what goes


def kept(out: Path) -> tuple[int, int]:
    """Channels of conv1 and conv2 (8 and 6 at first)."""
    found = initializers(onnx.load(out))
    assert found["w2"].shape[:2] == (len(found["w2"]), len(found["w1"]))
    return len(found["w1"]), len(found["w2"])


@pytest.mark.parametrize(
    ("ratio", "wanted"),
    [(0, (8, 6)), (0.1, (8, 6)), (0.16, (7, 6)), (0.3, (6, 5)), (0.5, (4, 3)), (0.75, (2, 2)), (0.99, (1, 1))],
)
def test_ratio_floors(tmp_path: Path, ratio: float, wanted: tuple[int, int]) -> None:
    _, out, report = prune_tiny(tmp_path, "--ratio", ratio)
    assert kept(out) == wanted
    assert report["requested"]["ratio"] == ratio
    assert report["obtained"]["removed"] == 14 - sum(wanted)


def test_without_data_a_tenth_of_the_multiplications_goes_by_default(tmp_path: Path) -> None:
    _, _, report = prune_tiny(tmp_path, "--align", 1)
    assert report["requested"]["target"] == ["macs=90%"]
    assert 0.5 < report["obtained"]["macs_ratio"] <= 0.9
    assert not report["repaired"]  # made-up samples tell nothing of the user's
    assert any("not measured on your data" in w for w in report["warnings"])


@pytest.mark.parametrize(("least", "wanted"), [(1, (1, 1)), (3, (3, 3)), (7, (7, 6)), (100, (8, 6))])
def test_min_channels(tmp_path: Path, least: int, wanted: tuple[int, int]) -> None:
    for options in (("--ratio", 0.99), ("--percentile", 99)):
        _, out, _ = prune_tiny(tmp_path, "--min-channels", least, *options)
        assert all(a >= b for a, b in zip(kept(out), wanted, strict=True))
        if options[0] == "--ratio":
            assert kept(out) == wanted


def test_percentile(tmp_path: Path) -> None:
    source, out, _ = prune_tiny(tmp_path, "--percentile", 0)
    assert out.read_bytes() == source.read_bytes()
    counts = [sum(kept(prune_tiny(tmp_path, "--percentile", k)[1])) for k in (0, 10, 40, 70, 99)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[1] > counts[-1] >= 2


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (("--exclude", "conv1"), (8, 3)),
        (("--exclude", "*2"), (4, 6)),
        (("--exclude", "conv?"), (8, 6)),
        (("--exclude", "CONV*"), (4, 3)),
        (("--exclude", "onv"), (4, 3)),
        (("--exclude", "re:onv2$"), (4, 6)),
        (("--exclude", "re:^c.*[12]"), (8, 6)),
        (("--exclude", "conv1", "--exclude", "conv2"), (8, 6)),
        (("--nodes-to-exclude", "conv1"), (8, 3)),
        (("--exclude-op", "Conv"), (8, 6)),
        (("--op-types-to-exclude", "Gemm"), (4, 3)),
    ],
)
def test_exclude(tmp_path: Path, options: tuple[str, ...], wanted: tuple[int, int]) -> None:
    _, out, _ = prune_tiny(tmp_path, "--ratio", 0.5, *options)
    assert kept(out) == wanted


# --- check


def test_check_refuses_files_that_do_not_belong_together(tmp_path: Path) -> None:
    source, out, _ = prune_tiny(tmp_path, "--plan-out", tmp_path / "p.json")
    other = written(tmp_path, tiny(seed=9), "other.onnx")
    done("prune", other, tmp_path / "other_out.onnx", "--criterion", "l1", "--plan-out", tmp_path / "q.json")
    for args in (
        (other, out),
        (source, tmp_path / "other_out.onnx"),
        (source, source),
        (out, source),
        (RESNET, out),
        (source, out, "--plan", tmp_path / "q.json"),
    ):
        result = cli("check", *args)
        assert result.exit_code == 7, (args, result.stderr)
        assert len(result.stderr.splitlines()) == 1


def tampered(out: Path, folder: Path, change: Any) -> Path:
    model = onnx.load(out)
    change(model, {t.name: t for t in model.graph.initializer})
    return written(folder, model, "tampered.onnx")


def _other_channels(model: onnx.ModelProto, tensors: dict[str, onnx.TensorProto]) -> None:
    for name in ("w1", "b1", "gamma", "beta", "mean", "var"):
        array = numpy_helper.to_array(tensors[name])
        tensors[name].CopyFrom(numpy_helper.from_array(np.concatenate([array] * 2), name))
    w2 = numpy_helper.to_array(tensors["w2"])
    tensors["w2"].CopyFrom(numpy_helper.from_array(np.concatenate([w2] * 2, axis=1), "w2"))


def _other_operator(model: onnx.ModelProto, tensors: dict[str, onnx.TensorProto]) -> None:
    next(n for n in model.graph.node if n.name == "relu1").op_type = "Sigmoid"


def _other_attribute(model: onnx.ModelProto, tensors: dict[str, onnx.TensorProto]) -> None:
    next(n for n in model.graph.node if n.name == "conv1").attribute[0].ints[:] = [0, 2, 2, 0]


def _one_node_more(model: onnx.ModelProto, tensors: dict[str, onnx.TensorProto]) -> None:
    model.graph.node[-1].output[0] = "before"
    model.graph.node.append(onnx.helper.make_node("Neg", ["before"], ["y"]))


@pytest.mark.parametrize("change", [_other_channels, _other_operator, _other_attribute, _one_node_more])
def test_check_refuses_a_changed_structure(tmp_path: Path, change: Any) -> None:
    source, out, _ = prune_tiny(tmp_path)
    result = cli("check", source, tampered(out, tmp_path, change))
    assert result.exit_code == 7, result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["w1", "w2", "b2", "var", "b3"])
def test_check_names_a_changed_weight(tmp_path: Path, name: str) -> None:
    def change(model: onnx.ModelProto, tensors: dict[str, onnx.TensorProto]) -> None:
        array = numpy_helper.to_array(tensors[name]).copy()
        array.reshape(-1)[0] += 0.25
        tensors[name].CopyFrom(numpy_helper.from_array(array, name))

    source, out, _ = prune_tiny(tmp_path)
    changed = tampered(out, tmp_path, change)
    found = json.loads(done("check", source, changed, "--json").stdout)
    assert found["changed"] == [name]
    assert name in done("check", source, changed).stdout


def test_check_does_not_pass_off_nan_weights(tmp_path: Path) -> None:
    """A repaired file must at least compute something finite."""

    def change(model: onnx.ModelProto, tensors: dict[str, onnx.TensorProto]) -> None:
        tensors["b3"].CopyFrom(numpy_helper.from_array(np.full(5, np.nan, np.float32), "b3"))

    source, out, _ = prune_tiny(tmp_path)
    assert cli("check", source, tampered(out, tmp_path, change)).exit_code == 7


def test_check_without_a_stamp(tmp_path: Path) -> None:
    def strip(model: onnx.ModelProto, tensors: dict[str, onnx.TensorProto]) -> None:
        del model.metadata_props[:]

    source, out, _ = prune_tiny(tmp_path, "--plan-out", tmp_path / "p.json")
    bare = tampered(out, tmp_path, strip)
    result = cli("check", source, bare)
    assert result.exit_code == 7
    assert "--plan" in result.stderr
    done("check", source, bare, "--plan", tmp_path / "p.json")


def test_check_with_a_broken_stamp(tmp_path: Path) -> None:
    source, out, _ = prune_tiny(tmp_path)
    for value in ("", "{", "3", "{}", "[3]", "[{}]", '[{"plan": "AAAA"}]', '[{"plan": 3}]', '["x"]'):

        def change(model: onnx.ModelProto, tensors: Any, value: str = value) -> None:
            next(p for p in model.metadata_props if p.key == "ocnna_onnx").value = value

        result = cli("check", source, tampered(out, tmp_path, change))
        assert result.exit_code == 7, (value, result.stderr)
        assert len(result.stderr.splitlines()) == 1
        # such a file can be pruned all the same
        done("prune", tmp_path / "tampered.onnx", tmp_path / "twice.onnx", "--criterion", "l1", "--samples", 4)


# --- the program


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", ["ocnna_onnx", "ocnna_onnx.cli.main"])
def test_importing_is_cheap(module: str) -> None:
    heavy = "('onnxruntime', 'sklearn', 'onnx', 'scipy', 'numpy', 'onnx_graphsurgeon', 'rich', 'PIL')"
    result = python(f"import sys, {module}\nprint([m for m in {heavy} if m in sys.modules])")
    assert result.stdout.strip() == "[]", result.stdout + result.stderr


def test_help_is_cheap() -> None:
    code = """
import sys
from ocnna_onnx.cli.main import main
for args in (["--help"], *([c, "--help"] for c in ("prune", "inspect", "apply", "check"))):
    main(args, standalone_mode=False)
assert not {"onnxruntime", "sklearn", "onnx"} & set(sys.modules)
"""
    result = python(code)
    assert result.returncode == 0, result.stderr


def test_help_names_every_option() -> None:
    text = done("prune", "--help").stdout
    for option in ("--data", "--samples", "--seed", "--criterion", "--ratio", "--percentile", "--exclude"):
        assert option in text
    for command in ("prune", "inspect", "apply", "check"):
        assert command in done("--help").stdout


def test_version() -> None:
    command = [sys.executable, "-m", "ocnna_onnx", "--version"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.split()[-1] == ocnna_onnx.__version__
    assert "ocnna-onnx" in result.stdout


def test_everything_public_is_there() -> None:
    for name in ocnna_onnx.__all__:
        assert getattr(ocnna_onnx, name) is not None
    with pytest.raises(AttributeError):
        ocnna_onnx.nothing_of_that_name  # noqa: B018
