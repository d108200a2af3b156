"""What is read and what is written: everything that is not pruned survives, and nothing of the caller's changes."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
import warnings
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from nets import (
    RESNET,
    TINY,
    TINY_SHAPES,
    build,
    cli,
    done,
    images,
    infer,
    initializers,
    snapshot,
    tiny,
    weights,
    written,
)
from onnx import TensorProto, helper, numpy_helper

import ocnna_onnx

FAST: dict[str, Any] = {"criterion": "l1", "samples": 4, "ratio": 0.3}


def prune(model: Any, **kwargs: Any) -> ocnna_onnx.Result:
    if "percentile" in kwargs:
        kwargs = {"ratio": None, **kwargs}
    return ocnna_onnx.prune(model, **{**FAST, **kwargs})


def props(entries: Any) -> dict[str, str]:
    return {p.key: p.value for p in entries}


def without_stamp(model: onnx.ModelProto) -> bytes:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for prop in [p for p in copy.metadata_props if p.key == "ocnna_onnx"]:
        copy.metadata_props.remove(prop)
    return copy.SerializeToString(deterministic=True)


def stamp(model: onnx.ModelProto) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(props(model.metadata_props).get("ocnna_onnx", "[]"))
    return found


RICH = """
g (float["batch size",1,"H",8] x) => (float["batch size",5] y, float["batch size",6,"H",8] z) {
    [conv1] a = Conv<pads=[1,1,1,1]>(x, w1, b1)
    [norm1] b = BatchNormalization(a, gamma, beta, mean, var)
    [relu1] c = Relu(b)
    [depthwise] d = Conv<group=8,pads=[1,1,1,1]>(c, w4)
    [conv2] e = Conv<pads=[1,1,1,1]>(d, w2, b2)
    [tail] z = Sigmoid(e)
    [pool] f = GlobalAveragePool(z)
    [flat] h = Flatten(f)
    [fc1] i = Gemm<transB=1>(h, w5)
    [act] j = Relu(i)
    [fc2] y = Gemm<transB=1>(j, w3, b3)
}
"""


def rich() -> onnx.ModelProto:
    """A model with everything in it that an exporter may write down besides the computation."""
    arrays = weights({**TINY_SHAPES, "w4": (8, 1, 3, 3), "w5": (12, 6), "w3": (5, 12)})
    model = build(RICH, arrays)
    model.doc_string, model.domain, model.model_version = "a net – in words", "org.example", 42
    model.producer_name, model.producer_version = "somebody", "3.1"
    model.opset_import.add(domain="org.example.ops", version=7)
    model.metadata_props.add(key="author", value="me")
    model.metadata_props.add(key="empty", value="")
    graph = model.graph
    graph.name, graph.doc_string = "rich", "the graph"
    graph.metadata_props.add(key="scope", value="all")
    for value in (*graph.input, *graph.output):
        value.doc_string = f"about {value.name}"
        value.metadata_props.add(key="of", value=value.name)
    for node in graph.node:
        node.doc_string = f"about {node.name}"
        node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value=f"line of {node.name}")
    for tensor in graph.initializer:
        tensor.doc_string = f"about {tensor.name}"
    for name, channels in (("a", 8), ("c", 8), ("e", 6)):
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch size", channels, "H", 8])
        value.doc_string = f"about {name}"
        graph.value_info.append(value)
    graph.initializer.append(numpy_helper.from_array(np.float32([0.5]), "scale of a"))
    annotation = graph.quantization_annotation.add(tensor_name="a")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="scale of a")
    onnx.checker.check_model(model)
    return model


@pytest.fixture(scope="module")
def pair() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The rich model, and it pruned."""
    model = rich()
    return model, prune(model, ratio=0.5).model


Pair = tuple[onnx.ModelProto, onnx.ModelProto]


def test_the_pruned_model_is_smaller_and_valid(pair: Pair) -> None:
    before, after = pair
    onnx.checker.check_model(after, full_check=True)
    assert [t.dims[0] for t in after.graph.initializer if t.name in ("w1", "w4", "w5")] == [4, 4, 6]
    assert after.ByteSize() - len(json.dumps(stamp(after))) < before.ByteSize()


def test_model_fields_survive(pair: Pair) -> None:
    before, after = pair
    for name in ("doc_string", "domain", "model_version", "producer_name", "producer_version", "ir_version"):
        assert getattr(after, name) == getattr(before, name), name
    assert list(after.opset_import) == list(before.opset_import)
    assert list(after.metadata_props)[:2] == list(before.metadata_props)
    assert set(props(after.metadata_props)) == {"author", "empty", "ocnna_onnx"}


def test_graph_fields_survive(pair: Pair) -> None:
    before, after = (m.graph for m in pair)
    assert (after.name, after.doc_string) == (before.name, before.doc_string)
    assert list(after.metadata_props) == list(before.metadata_props)
    assert list(after.quantization_annotation) == list(before.quantization_annotation)
    assert "scale of a" in {t.name for t in after.initializer}
    assert [t.name for t in after.initializer] == [t.name for t in before.initializer]
    assert all(t.doc_string == f"about {t.name}" for t in after.initializer if t.name != "scale of a")


def test_inputs_and_outputs_are_as_they_were(pair: Pair) -> None:
    before, after = (m.graph for m in pair)
    assert list(after.input) == list(before.input)
    assert list(after.output) == list(before.output)


def test_recorded_shapes_follow_and_keep_their_dim_names(pair: Pair) -> None:
    before, after = ({v.name: v for v in m.graph.value_info} for m in pair)
    assert after.keys() == before.keys()
    assert after["e"] == before["e"]  # nothing of it was cut
    for name in ("a", "c"):
        wanted = onnx.ValueInfoProto()
        wanted.CopyFrom(before[name])
        wanted.type.tensor_type.shape.dim[1].dim_value = 4
        assert after[name] == wanted


def test_nodes_that_need_no_edit_are_identical(pair: Pair) -> None:
    before, after = (m.graph.node for m in pair)
    assert [n.name for n in after] == [n.name for n in before]
    for old, new in zip(before, after, strict=True):
        assert (new.doc_string, list(new.metadata_props)) == (old.doc_string, list(old.metadata_props))
        if old.name == "depthwise":
            assert next(a.i for a in new.attribute if a.name == "group") == 4
        else:
            assert new.SerializeToString() == old.SerializeToString()


@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_local_functions_survive_where_nothing_goes(ratio: float) -> None:
    model = tiny()
    model.opset_import.add(domain="local", version=1)
    body = [helper.make_node("Mul", ["p", "p"], ["q"])]
    model.functions.append(
        helper.make_function("local", "Square", ["p"], ["q"], body, [helper.make_opsetid("", 17)], [])
    )
    model.graph.node[-1].output[0] = "pre"
    model.graph.node.append(helper.make_node("Square", ["pre"], ["y"], name="square", domain="local"))
    pruned = prune(model, ratio=ratio).model
    assert list(pruned.functions) == ([] if ratio else list(model.functions))  # inlined to be pruned
    assert list(pruned.opset_import) == list(model.opset_import)
    assert infer(pruned, {"x": images(3)})[0].shape == (3, 5)


# --- identity


@pytest.mark.parametrize("options", [{"ratio": 0.0}, {"ratio": 0.01}, {"percentile": 0.0}, {"exclude": ["*"]}])
def test_a_prune_of_nothing_is_the_input(options: dict[str, Any]) -> None:
    for model in (rich(), tiny()):
        result = prune(model, **options)
        assert result.model.SerializeToString() == model.SerializeToString()
        assert not result.plan.remove
        assert stamp(result.model) == []
        said = any("nothing is left to prune" in w for w in result.report["warnings"])
        assert said == ("exclude" in options)


def test_a_prune_of_nothing_keeps_what_nobody_uses() -> None:
    model = rich()
    model.graph.value_info.append(helper.make_tensor_value_info("stale", TensorProto.FLOAT, [3]))
    model.graph.initializer.append(numpy_helper.from_array(np.float32([1, 2]), "unused"))
    model.graph.node.insert(0, helper.make_node("Constant", [], ["idle"], name="idle", value_float=1.0))
    assert prune(model, ratio=0.0).model.SerializeToString() == model.SerializeToString()


def test_a_prune_of_nothing_on_disk(tmp_path: Path) -> None:
    net = written(tmp_path, tiny())
    done("prune", net, tmp_path / "out.onnx", "--ratio", "0")
    assert (tmp_path / "out.onnx").read_bytes() == net.read_bytes()


# --- what is accepted


def test_the_callers_model_is_not_modified() -> None:
    model = rich()
    before = model.SerializeToString(deterministic=True)
    result = prune(model, ratio=0.5)
    ocnna_onnx.inspect(model)
    ocnna_onnx.apply(result.plan, model, samples=4)
    ocnna_onnx.check(model, result.model, samples=4)
    assert model.SerializeToString(deterministic=True) == before


def test_every_form_of_a_model_gives_the_same(tmp_path: Path) -> None:
    model = tiny()
    path = written(tmp_path, model)
    wrapped = SimpleNamespace(model_proto=model)
    forms: list[Any] = [path, str(path), path.read_bytes(), bytearray(path.read_bytes()), model, wrapped]
    results = [prune(form) for form in forms]
    assert len({without_stamp(r.model) for r in results}) == 1
    assert len({r.plan.sha256 for r in results}) == 1
    assert results[0].plan.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [ocnna_onnx.inspect(form).params for form in forms].count(ocnna_onnx.inspect(path).params) == len(forms)


def test_data_in_every_form_gives_the_same(tmp_path: Path) -> None:
    model, x = tiny(), images(9)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x)
    forms: list[Any] = [tmp_path / "x.npy", str(tmp_path / "x.npz"), x, {"x": x}]
    assert len({without_stamp(prune(model, criterion="ocnna", data=form).model) for form in forms}) == 1


# --- external data


WIDE_SHAPES = {**TINY_SHAPES, "w2": (16, 32, 3, 3), "b2": (16,), "w3": (5, 16), "w1": (32, 1, 3, 3)}
WIDE_SHAPES.update(dict.fromkeys(("b1", "gamma", "beta", "mean", "var"), (32,)))


def external(folder: Path, one_file: bool = True) -> Path:
    """A net whose weights lie beside it."""
    path = folder / "ext.onnx"
    options = {"save_as_external_data": True, "all_tensors_to_one_file": one_file, "size_threshold": 0}
    onnx.save_model(build(TINY, weights(WIDE_SHAPES)), path, **options, location="ext.weights" if one_file else None)
    return path


@pytest.mark.parametrize("one_file", [True, False])
def test_external_data_in_external_data_out(tmp_path: Path, one_file: bool) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "elsewhere").mkdir()
    source, target = external(tmp_path / "in", one_file), tmp_path / "elsewhere" / "out.onnx"
    before = snapshot(tmp_path / "in")
    done("prune", source, target, "--ratio", "0.25", "--criterion", "l1")
    assert snapshot(tmp_path / "in") == before
    files = sorted(p.name for p in target.parent.iterdir())
    assert len(files) == 2
    data = next(n for n in files if n != "out.onnx")
    assert data.endswith(".data")
    bare = onnx.load(target, load_external_data=False)
    places = {t.name: {e.key: e.value for e in t.external_data} for t in bare.graph.initializer}
    assert places["w2"]["location"] == data
    assert not places["b1"]  # small tensors stay in the model
    assert {p["location"] for p in places.values() if p} == {data}
    inline = prune(build(TINY, weights(WIDE_SHAPES)), ratio=0.25).model
    loaded = onnx.load(target)
    for name, array in initializers(inline).items():
        np.testing.assert_array_equal(initializers(loaded)[name], array)
    x = {"x": images(3)}
    np.testing.assert_array_equal(infer(target, x)[0], infer(inline, x)[0])
    done("check", source, target)
    target.rename(tmp_path / "in" / "moved.onnx")
    (target.parent / data).rename(tmp_path / "in" / data)
    infer(tmp_path / "in" / "moved.onnx", x)  # the location is relative


def test_external_data_is_replaced_whole(tmp_path: Path) -> None:
    source = external(tmp_path)
    before = infer(source, {"x": images(3)})[0]
    done("prune", source, source, "--overwrite", "--criterion", "l1", "--ratio", "0.25")
    after = infer(source, {"x": images(3)})[0]
    assert before.shape == after.shape
    assert initializers(onnx.load(source))["w1"].shape[0] == 24


def test_external_data_is_not_left_behind_when_the_model_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = prune(external(tmp_path))
    before, calls, replace = snapshot(tmp_path), [], os.replace

    def fail_second(source: Any, target: Any) -> None:
        calls.append(target)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_second)
    with pytest.raises(ocnna_onnx.UsageError, match="No space left"):
        result.save(tmp_path / "out.onnx")
    assert snapshot(tmp_path) == before


def test_a_model_with_external_data_and_its_folder(tmp_path: Path) -> None:
    path = external(tmp_path)
    bare = onnx.load(path, load_external_data=False)
    before = bare.SerializeToString(deterministic=True)
    wanted = prune(path)
    for form in (bare, SimpleNamespace(model_proto=bare)):
        result = prune(form, base_folder=tmp_path)
        assert without_stamp(result.model) == without_stamp(wanted.model)
        assert result.external
    assert bare.SerializeToString(deterministic=True) == before
    with pytest.raises(ocnna_onnx.UsageError, match="base_folder"):
        prune(bare)


def test_bytes_with_external_data_and_their_folder(tmp_path: Path) -> None:
    path = external(tmp_path)
    assert without_stamp(prune(path.read_bytes(), base_folder=tmp_path).model) == without_stamp(prune(path).model)


def test_a_model_with_external_data_is_told_from_another(tmp_path: Path) -> None:
    bare = onnx.load(external(tmp_path), load_external_data=False)
    plan = prune(bare, base_folder=tmp_path).plan
    ocnna_onnx.apply(plan, bare, base_folder=tmp_path, samples=4)
    bare.graph.node[2].op_type = "Tanh"  # the same weights in another graph
    with pytest.raises(ocnna_onnx.DataError, match="another model"):
        ocnna_onnx.apply(plan, bare, base_folder=tmp_path, samples=4)


# --- the stamp


def unpacked(entry: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(entry["plan"])))
    return found


def test_the_stamp_holds_the_plan_and_grows(tmp_path: Path) -> None:
    paths = [written(tmp_path, tiny())]
    for k in range(3):
        paths.append(tmp_path / f"step{k}.onnx")
        plan = tmp_path / f"step{k}.json"
        done("prune", paths[-2], paths[-1], "--ratio", "0.2", "--criterion", "l1", "--plan-out", plan)
        entries = stamp(onnx.load(paths[-1]))
        assert len(entries) == k + 1
        assert unpacked(entries[-1]) == json.loads(plan.read_text())
        assert entries[-1]["source_sha256"] == hashlib.sha256(paths[-2].read_bytes()).hexdigest()
        assert entries[-1]["version"] == ocnna_onnx.__version__
        assert entries[:-1] == stamp(onnx.load(paths[-2]))
    for first in range(3):
        for last in range(first + 1, 4):
            found = ocnna_onnx.check(paths[first], paths[last], samples=4)
            assert (found.proof.passed, found.steps, found.changed) == (True, last - first, ())
    with pytest.raises(ocnna_onnx.ProofFailed):
        ocnna_onnx.check(paths[2], paths[1])


def test_twice_pruned_in_memory() -> None:
    model = onnx.load(RESNET)
    once = prune(model, ratio=0.2)
    twice = prune(once.model, ratio=0.2)
    assert ocnna_onnx.check(model, twice.model, samples=4).steps == 2
    assert len(stamp(twice.model)) == 2
    assert twice.report["after"]["params"] < once.report["after"]["params"] < once.report["before"]["params"]


# --- old files


def old_style(ir: int) -> onnx.ModelProto:
    """Initializers listed as graph inputs, as every exporter wrote them before IR 4."""
    model = build(TINY, weights(TINY_SHAPES), opset=9, ir=ir)
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    onnx.checker.check_model(model)
    return model


@pytest.mark.parametrize("ir", [3, 8])
def test_weights_that_are_graph_inputs(ir: int) -> None:
    model = old_style(ir)
    result = prune(model, ratio=0.5)
    after = result.model
    onnx.checker.check_model(after, full_check=True)
    assert [i.name for i in after.graph.input] == [i.name for i in model.graph.input]
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in after.graph.input}
    for tensor in after.graph.initializer:
        assert shapes[tensor.name] == list(tensor.dims)
    assert shapes["w1"] == [4, 1, 3, 3]
    assert shapes["w2"] == [3, 4, 3, 3]
    assert after.ir_version == ir
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert infer(after, {"x": images(3)})[0].shape == (3, 5)
    assert any("graph inputs" in w for w in result.report["warnings"])
    assert ocnna_onnx.check(model, after, samples=4).proof.passed


# --- writing


def test_a_written_file_has_the_usual_permissions(tmp_path: Path) -> None:
    result = prune(tiny())
    assert result.save(tmp_path / "out.onnx") == (tmp_path / "out.onnx").stat().st_size
    (tmp_path / "plain").write_bytes(b"")
    assert stat.S_IMODE((tmp_path / "out.onnx").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert {p.name for p in tmp_path.iterdir()} == {"out.onnx", "plain"}


def test_what_is_saved_is_the_result(tmp_path: Path) -> None:
    result = prune(tiny())
    result.save(tmp_path / "out.onnx")
    assert onnx.load(tmp_path / "out.onnx") == result.model
    with pytest.raises(ocnna_onnx.UsageError):
        result.save(tmp_path / "nowhere" / "out.onnx")


def test_odd_file_names(tmp_path: Path) -> None:
    folder = tmp_path / "a folder – mit Umlauten äöü"
    folder.mkdir()
    source = written(folder, tiny(), "net 1 [v2].onnx")
    target = folder / "löschen & more.onnx"
    done("prune", source, target, "--criterion", "l1")
    done("check", source, target)


def with_weights_beside(folder: Path) -> Path:
    """digits_resnet with its weights in `m.data`."""
    path = folder / "m.onnx"
    onnx.save_model(onnx.load(RESNET), str(path), save_as_external_data=True, location="m.data", size_threshold=0)
    return path


@pytest.mark.parametrize("option", ["out", "--plan-out", "--report"])
@pytest.mark.parametrize("read", ["m.data", "samples.npz"])
def test_what_is_read_is_never_written_over(tmp_path: Path, option: str, read: str) -> None:
    path = with_weights_beside(tmp_path)
    np.savez(tmp_path / "samples.npz", input=np.random.default_rng(0).random((4, 1, 16, 16), np.float32))
    before = snapshot(tmp_path)
    target = tmp_path / read
    arguments = [target] if option == "out" else [tmp_path / "out.onnx", option, target]
    result = cli("prune", path, *arguments, "--data", tmp_path / "samples.npz", "--criterion", "l1")
    assert result.exit_code == 2
    assert read in result.stderr
    assert "choose another target" in result.stderr
    assert snapshot(tmp_path) == before


def test_a_result_is_not_saved_over_its_source_by_accident(tmp_path: Path) -> None:
    path = with_weights_beside(tmp_path)
    result = ocnna_onnx.prune(path, criterion="l1", samples=4, ratio=0.3)
    for target in (path, tmp_path / "m.data"):
        with pytest.raises(ocnna_onnx.UsageError, match=target.name):
            result.save(target)
    with pytest.raises(ocnna_onnx.UsageError):
        result.save(tmp_path / "m.data", overwrite=True)
    result.save(path, overwrite=True)
    assert ocnna_onnx.inspect(path).params == result.report["after"]["params"]
