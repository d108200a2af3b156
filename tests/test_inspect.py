"""`inspect`: what it counts is what a prune does, what it prints is short, `--why`; `--strict-inputs`; values to probe
with."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import test_rules
import test_rules_more
import test_rules_rewrites
from nets import MODELS, NETS, cli, done, written
from onnx import helper, numpy_helper
from rich.console import Console
from support import RUNTIME, build, prove_half, removed_at_random

import ocnna_onnx
from ocnna_onnx.data.arrays import array_samples
from ocnna_onnx.data.samples import probe_shapes
from ocnna_onnx.model import cost
from ocnna_onnx.model.constants import Constants
from ocnna_onnx.model.graph import Graph
from ocnna_onnx.model.probes import input_shapes, other_shapes
from ocnna_onnx.prove.inputs import random_feeds
from ocnna_onnx.prove.proof import prove
from ocnna_onnx.report.savings import Cost, Savings
from ocnna_onnx.report.tree import print_inspection
from ocnna_onnx.rewrite.rewrite import rewrite
from ocnna_onnx.trace.groups import find_groups
from ocnna_onnx.trace.rules import MICROSOFT, RULES
from ocnna_onnx.trace.tracer import trace as trace_model
from ocnna_onnx.trace.types import Trace

PLAIN = """g (float[N,3,8,8] x) => (float[N,5,8,8] y) <float[8,3,3,3] w1, float[8] b1, float[5,8,1,1] w2> {
    [one] a = Conv<pads=[1,1,1,1]>(x, w1, b1)
    [act] r = Relu(a)
    [two] y = Conv(r, w2)
}"""
SOFTMAX = """g (float[N,3,8,8] x) => (float[N,5,8,8] y)
    <float[8,3,1,1] w1, float[6,8,1,1] w2, float[4,6,1,1] w3, float[5,4,1,1] w4> {
    [one] a = Conv(x, w1)
    [two] b = Conv(a, w2)
    [mix] c = Softmax<axis=1>(b)
    [three] d = Conv(c, w3)
    [four] y = Conv(d, w4)
}"""
SHAPES = {
    "plain": PLAIN,
    "grouped": """g (float[N,3,8,8] x) => (float[N,4,8,8] y) <float[8,3,1,1] a, float[12,4,3,3] b, float[4,12,1,1] c> {
        p = Conv(x, a)  q = Conv<group=2, pads=[1,1,1,1]>(p, b)  y = Conv(q, c)
    }""",
    "transposed": """g (float[N,3,8,8] x) => (float[N,4,M,K] y) <float[8,3,1,1] a, float[8,3,2,2] b, float[4,6,1,1] c> {
        p = Conv(x, a)  q = ConvTranspose<group=2, strides=[2,2]>(p, b)  y = Conv(q, c)
    }""",
    "halves": """g (float[N,3,8,8] x) => (float[N,4,8,8] y) <float[8,3,1,1] a, float[4,4,1,1] b, float[4,4,1,1] c> {
        p = Conv(x, a)  q, r = Split<axis=1>(p, sizes)  s = Conv(q, b)  t = Conv(r, c)  y = Add(s, t)
    }""",
    "two copies": """g (float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[8,3,1,1] a, float[8,3,1,1] b, float[8] v, float[4,8,1,1] c, float[4,8,1,1] d> {
        p = Conv(x, a, v)  q = Conv(x, b, v)  s = Conv(p, c)  t = Conv(q, d)  y = Add(s, t)
    }""",
    "matrices": """g (float[N,6] x) => (float[N,3] y)
        <float[6,10] a, float[10] v, float[4,10] b, float[4] w, float[4,3] c> {
        p = MatMul(x, a)  q = Add(p, v)  r = Relu(q)
        bt = Transpose(b)  s = MatMul(r, bt)  t = Add(s, w)  y = MatMul(t, c)
    }""",
}


def net(name: str) -> onnx.ModelProto:
    if name in NETS:
        return onnx.load(MODELS / f"digits_{name}.onnx")
    sizes = {"sizes": np.asarray([4, 4])} if name == "halves" else {}
    model = build(SHAPES[name], opset=13)
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in sizes.items())
    return model


def after_the_cut(trace: Trace, classes: np.ndarray[Any, np.dtype[np.int64]]) -> Cost:
    """What the rewritten file costs."""
    rewritten = rewrite(trace, trace.keep_units(classes))
    small = Graph(rewritten.model)
    constants = Constants(small, rewritten.shapes, RUNTIME, None, trace.shapes.dtype)
    macs = sum(cost.macs(small, rewritten.shapes).values()) // trace.shapes.batch
    return Cost(cost.parameters(small, constants), macs)


# --- what it counts


@pytest.mark.parametrize("name", [*SHAPES, *NETS])
def test_savings_are_what_the_rewritten_file_saves(name: str) -> None:
    trace = trace_model(net(name), None, RUNTIME)
    savings, groups = Savings(trace), find_groups(trace)
    free = np.flatnonzero(trace.free)
    assert len(free) > 1
    every_half = np.concatenate([g.free[1::2] for g in groups])
    for classes in (free, every_half, *(g.free[1::2] for g in groups)):
        spared = savings.spared(classes)
        found, actual = savings.saved(spared), after_the_cut(trace, spared)
        assert found.macs == savings.total.macs - actual.macs
        assert found.params == savings.total.params - actual.params
        assert savings.saved(spared, every_half).macs == found.macs - savings.saved(every_half).macs


def test_what_is_within_reach_is_what_a_prune_can_take() -> None:
    """`reachable` is the cost of the file in which one channel of every tensor is left."""
    found = ocnna_onnx.inspect(build(PLAIN))
    assert (found.params, found.macs) == (8 * 27 + 8 + 40, 64 * (8 * 27 + 40))
    assert found.reachable == Cost(7 * 27 + 7 + 35, 64 * (7 * 27 + 35))
    assert found.half == Cost(4 * 27 + 4 + 20, 64 * (4 * 27 + 20))
    report = ocnna_onnx.prune(build(PLAIN), ratio=0.99, criterion="l1").report
    assert report["after"]["macs"] == found.macs - found.reachable.macs
    report = ocnna_onnx.prune(build(PLAIN), ratio=0.5, criterion="l1").report
    assert report["after"]["macs"] == found.macs - found.groups[0].half_macs
    assert report["after"]["params"] == found.params - found.groups[0].half_params


def test_a_reason_says_what_it_keeps() -> None:
    """All else at one channel, the 6 units in front of Softmax keep 5 products per position, the 5 of the output 4."""
    found = ocnna_onnx.inspect(build(SOFTMAX))
    by_reason = {r.reason: r for r in found.reasons}
    softmax, output = by_reason["Softmax over channels changes the values of those that stay"], found.reasons[-1]
    assert (softmax.units, softmax.macs, softmax.params) == (6, 64 * 5, 5)
    assert output.reason == "it is an output of the model"
    assert (output.units, output.macs) == (5, 64 * 4)
    assert [found.walls[k].node for k in softmax.walls] == ["mix"]
    assert found.reachable.macs == found.macs - 64 * (3 + 6 + 6 + 5)


def test_walls_of_one_reason_stand_together() -> None:
    text = SOFTMAX.replace("[four] y = Conv(d, w4)", "[again] e = Softmax<axis=1>(d)  [four] y = Conv(e, w4)")
    found = ocnna_onnx.inspect(build(text))
    softmax = next(r for r in found.reasons if r.reason.startswith("Softmax"))
    assert sorted(found.walls[k].node for k in softmax.walls) == ["again", "mix"]
    assert softmax.units == 10


# --- what it prints


def chain(blocks: int) -> onnx.ModelProto:
    """A residual net of 4 nodes a block, whose last layers are held by a Softmax each."""
    lines, values = ["[stem] s0 = Conv(x, w)"], ["float[8,3,1,1] w", "float[8,8,1,1] v"]
    for k in range(blocks):
        values.append(f"float[{4 + k % 5},8,1,1] a{k}, float[8,{4 + k % 5},1,1] b{k}")
        act = "Softmax<axis=1>" if k % 10 == 9 else "Relu"
        lines.append(f"[c{k}] p{k} = Conv(s{k}, a{k})  [act{k}] q{k} = {act}(p{k})")
        lines.append(f"[d{k}] r{k} = Conv(q{k}, b{k})  [add{k}] s{k + 1} = Add(s{k}, r{k})")
    lines.append(f"[head] y = Conv(s{blocks}, v)")
    return build(f"g (float[N,3,8,8] x) => (float[N,8,8,8] y) <{', '.join(values)}> {{ {' '.join(lines)} }}")


def test_the_tree_of_a_long_net_fits_two_screens(tmp_path: Path) -> None:
    path = written(tmp_path, chain(130))
    assert len(onnx.load(path).graph.node) > 500
    short, long = done("inspect", path).stdout, done("inspect", path, "-v").stdout
    assert len(short.splitlines()) <= 100
    assert "-v shows all" in short
    assert "-v shows all" not in long
    for name in ("act9", "act129", "d77", "c128"):
        assert re.search(rf"\b{name}\b", long), name
    assert "\x1b" not in short
    assert not re.search(r" $", short, re.MULTILINE)


def test_long_names_do_not_fold_on_a_terminal() -> None:
    model = chain(130)
    for node in model.graph.node:
        node.name = f"{node.name}/{'very/' * 30}deep"
    found, stream = ocnna_onnx.inspect(model), io.StringIO()
    print_inspection(found, 0, Console(file=stream, width=100, force_terminal=True))
    assert len(stream.getvalue().splitlines()) <= 100
    assert "\x1b" in stream.getvalue()


def test_the_tree(tmp_path: Path) -> None:
    text = done("inspect", written(tmp_path, build(SOFTMAX), "soft.onnx")).stdout
    lines = [re.sub(r"^[│├└─ ]+", "", line) for line in text.splitlines()]
    assert lines[0].startswith("soft.onnx: ")
    assert "12 of 23 units in 4 groups can go" in lines
    assert any(line.startswith("group 0: 8 channels, any can go; half saves ") for line in lines)
    assert any(line.startswith("group 1: 6 channels, none can go") for line in lines)
    at = lines.index("walls")
    assert lines[at + 1].startswith("Softmax over channels changes the values of those that stay: 6 units, which keep ")
    assert lines[at + 2] == "mix (Softmax) on 'b'"
    assert lines.index("made by one") + 1 == lines.index("read by two")


def test_a_net_with_nothing_to_prune(tmp_path: Path) -> None:
    path = written(tmp_path, build("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }"))
    assert "0 of 0 units" in done("inspect", path).stdout
    found = json.loads(done("inspect", path, "--json").stdout)
    assert found["reachable"] == {"params": 0, "macs": 0, "params_share": 0, "macs_share": 0}


# --- documented formats


def documented(heading: str) -> Any:
    text = (Path(__file__).parent.parent / "docs" / "formats.md").read_text("utf-8")
    example = text.split(f"## {heading}\n")[1].split("```json\n")[1].split("```")[0]
    return json.loads(example.replace(", …]", "]"))


def assert_same_keys(documented: Any, actual: Any, where: str = "") -> None:
    if isinstance(documented, dict) and where != ".inputs":
        assert list(documented) == list(actual), where
        for key in documented:
            assert_same_keys(documented[key], actual[key], f"{where}.{key}")
    elif isinstance(documented, list) and documented:
        assert isinstance(actual, list), where
        for row in actual:
            assert_same_keys(documented[0], row, f"{where}[]")
    else:
        assert type(documented) is type(actual), where


def test_json_has_the_documented_keys() -> None:
    path = MODELS / "digits_resnet.onnx"
    found = json.loads(done("inspect", path, "--json").stdout)
    example = documented("inspect --json")
    assert_same_keys(example, found)
    for key in ("model", "inputs", "params", "macs", "reachable", "half", "walls", "reasons"):
        assert found[key] == example[key], key
    assert found["layers"][0] == example["layers"][0]
    first = {k: v for k, v in found["groups"][0].items() if k not in ("members", "consumers")}
    assert first == {k: v for k, v in example["groups"][0].items() if k not in ("members", "consumers")}


def test_why_has_the_documented_keys() -> None:
    found = json.loads(done("inspect", MODELS / "digits_resnet.onnx", "--why", "node_linear", "--json").stdout)
    example = documented("inspect --why NAME --json")
    assert_same_keys(example, found)
    for key in ("name", "kind", "op", "reads", "makes", "groups", "walls", "notes"):
        assert found[key] == example[key], key
    assert example["tensors"][0] in found["tensors"]
    assert example["cuts"][0] in found["cuts"]
    assert found["rule"].startswith(example["rule"].rstrip("…"))


# --- why


def test_why_a_tensor() -> None:
    found = ocnna_onnx.inspect(build(SOFTMAX))
    free, held = found.why("a"), found.why("b")
    assert (free.kind, free.made_by, free.read_by, free.groups, free.walls) == ("tensor", "one", ("two",), (0,), ())
    assert [(a.axis, a.size, a.channels, a.removable) for a in free.tensors[0].axes] == [(1, 8, 8, 8)]
    assert [(a.channels, a.removable) for a in held.tensors[0].axes] == [(6, 0)]
    assert [(w.node, w.units) for w in held.walls] == [("mix", 6)]


def test_why_a_tensor_that_a_wall_far_away_holds() -> None:
    text = PLAIN.replace("[two] y = Conv(r, w2)", "p = Tanh(r)  [mix] q = Softmax<axis=1>(p)  [two] y = Conv(q, w2)")
    found = ocnna_onnx.inspect(build(text)).why("a")
    assert [(w.node, w.tensor) for w in found.walls] == [("mix", "p")]


def test_why_a_node() -> None:
    found = ocnna_onnx.inspect(build(SOFTMAX))
    two = found.why("two")
    assert (two.kind, two.op, two.groups, two.reads, two.makes) == ("node", "Conv", (0, 1), ("a", "w2"), ("b",))
    assert "consumes C" in two.rule
    assert {(c.input, c.axis, c.removable) for c in two.cuts} == {(1, 1, 8), (1, 0, 0)}
    mix = found.why("mix")
    assert [w.reason for w in mix.walls] == ["Softmax over channels changes the values of those that stay"]


def test_why_a_weight_behind_other_operators() -> None:
    found = ocnna_onnx.inspect(net("matrices"))
    stored, computed = found.why("b"), found.why("bt")
    assert (stored.kind, computed.kind) == ("weight", "constant")
    assert stored.cuts == computed.cuts
    assert {(c.tensor, c.axis, c.removable) for c in stored.cuts} == {("bt", 0, 10), ("bt", 1, 4)}


def test_why_an_input_and_what_it_alone_reaches() -> None:
    text = PLAIN.replace("[one] a = Conv", "n = Neg(x)  [one] a = Conv").replace(
        "Conv<pads=[1,1,1,1]>(x", "Conv<pads=[1,1,1,1]>(n"
    )
    found = ocnna_onnx.inspect(build(text))
    assert found.why("x").kind == "input"
    assert "caller" in found.why("x").notes[0]
    assert "no channels" in found.why("n").notes[0]


def test_why_made_up_and_fixed_positions() -> None:
    text = """g (float[N,3,8,8] x) => (float[N,5,8,8] y)
        <float[4,3,1,1] w1, int64[8] pads, float[5,11,1,1] w2> {
        a = Conv(x, w1)  p = Pad(a, pads)  c = Concat<axis=1>(p, x)  y = Conv(c, w2)
    }"""
    found = ocnna_onnx.inspect(build(text, pads=np.asarray([0, 2, 0, 0, 0, 2, 0, 0])))
    assert any("makes up" in n for n in found.why("p").notes)
    axis = found.why("c").tensors[0].axes[0]
    assert (axis.size, axis.channels, axis.removable) == (11, 8, 4)
    assert any("fixed" in n for n in found.why("c").notes)


def test_why_something_in_a_body() -> None:
    text = """g (float[1,3,4,4] x, bool c) => (float[1,4,4,4] y) <float[4,3,1,1] w> {
        a = Conv(x, w)
        [pick] y = If(c) <then_branch = t () => (float[1,4,4,4] u) { [inner] u = Relu(a) },
                          else_branch = e () => (float[1,4,4,4] v) { v = Neg(a) }>
    }"""
    found = ocnna_onnx.inspect(build(text)).why("inner")
    assert (found.kind, found.op) == ("inner", "If")
    assert "'pick'" in found.notes[0]
    assert found.walls


def test_why_an_unknown_name(tmp_path: Path) -> None:
    path = written(tmp_path, build(PLAIN))
    result = cli("inspect", path, "--why", "tvo")
    assert result.exit_code == 2
    assert "no tensor or node 'tvo'" in result.stderr
    assert "'two'" in result.stderr
    model = build(PLAIN)
    for node in model.graph.node:
        node.name = "same"
    with pytest.raises(ocnna_onnx.UsageError, match=r"3 nodes are named 'same'.*'a'"):
        ocnna_onnx.inspect(model).why("same")


def test_why_is_printed(tmp_path: Path) -> None:
    path = written(tmp_path, build(SOFTMAX))
    text = done("inspect", path, "--why", "b").stdout
    for part in ("b (tensor)", "axis 1: 6 channels of group 1, none can go", "mix (Softmax) on 'b'"):
        assert part in text
    assert "axis 1, with channels of group 0: 8 can go" in done("inspect", path, "--why", "w2").stdout


def test_every_rule_says_what_it_does() -> None:
    for table in (RULES, MICROSOFT):
        for op, rule in table.items():
            assert rule.trace.__doc__, op


# --- inputs that the caller may override


def exposed(model: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    """The model with these initializers as graph inputs, too."""
    for tensor in model.graph.initializer:
        if tensor.name in names:
            value = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            model.graph.input.append(value)
    return model


def strict_walls(model: onnx.ModelProto) -> set[tuple[str, str]]:
    found = ocnna_onnx.inspect(model, strict_inputs=True)
    return {(w.node, w.reason) for w in found.walls if "--strict-inputs" in w.reason}


OPERANDS = {
    "kernel": (PLAIN, "w1", "one", {"one"}),
    "bias": (PLAIN, "b1", "one", {"one"}),
    "next kernel": (PLAIN, "w2", "two", {"one"}),
    "slope": (PLAIN.replace("Relu(a)", "PRelu(a, s)").replace("w2> {", "w2, float[8,1,1] s> {"), "s", "act", {"one"}),
    "behind a Transpose": (SHAPES["matrices"], "b", "s", {"p", "s"}),
}


@pytest.mark.parametrize("name", OPERANDS)
def test_strict_inputs_wall_what_would_cut_them(name: str) -> None:
    text, operand, node, held = OPERANDS[name]
    model = exposed(build(text, opset=13), operand)
    loose = ocnna_onnx.inspect(model)
    assert {x.node for x in loose.layers if x.removable} >= held
    assert loose.warnings
    assert operand in loose.warnings[0]
    strict = ocnna_onnx.inspect(model, strict_inputs=True)
    assert not strict.warnings
    assert strict_walls(model) == {(node, f"'{operand}' is an overridable input (--strict-inputs)")}
    free = {x.node for x in strict.layers if x.removable}
    assert not free & held
    assert (strict.params, strict.macs) == (loose.params, loose.macs)
    assert any("--strict-inputs" in n for n in strict.why(operand).notes)


def test_a_number_that_no_cut_touches_is_no_wall() -> None:
    text = PLAIN.replace("r = Relu(a)", "m = Mul(a, k)  r = Relu(m)").replace(
        "float[5,8,1,1] w2", "float[5,8,1,1] w2, float k"
    )
    model = exposed(build(text), "k")
    assert not strict_walls(model)
    found = ocnna_onnx.inspect(model, strict_inputs=True)
    assert [x.removable for x in found.layers] == [8, 0]


def test_before_ir_version_4_nothing_can_be_overridden() -> None:
    model = exposed(build(PLAIN, opset=8, ir=3), "w1", "b1", "w2")
    assert not strict_walls(model)
    assert not ocnna_onnx.inspect(model).warnings
    assert ocnna_onnx.inspect(model, strict_inputs=True).reachable == ocnna_onnx.inspect(model).reachable


def test_a_strict_prune_leaves_them_alone_and_is_repeated(tmp_path: Path) -> None:
    text = """g (float[N,3,8,8] x) => (float[N,5,8,8] y)
        <float[8,3,1,1] w1, float[6,8,1,1] w2, float[4,6,1,1] w3, float[5,4,1,1] w4> {
        [one] a = Conv(x, w1)  [two] b = Conv(a, w2)  [three] c = Conv(b, w3)  [four] y = Conv(c, w4)
    }"""
    path, out, plan = written(tmp_path, exposed(build(text), "w3")), tmp_path / "out.onnx", tmp_path / "plan.json"
    options = ("--criterion", "l1", "--ratio", "0.5")
    done("prune", path, out, *options, "--strict-inputs", "--plan-out", plan)
    stored = json.loads(plan.read_text())
    assert stored["options"]["strict_inputs"] is True
    assert list(stored["remove"]) == ["one"]
    after = {t.name: list(t.dims) for t in onnx.load(out).graph.initializer}
    assert after == {"w1": [4, 3, 1, 1], "w2": [6, 4, 1, 1], "w3": [4, 6, 1, 1], "w4": [5, 4, 1, 1]}
    done("apply", plan, path, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == out.read_bytes()
    for extra in ((), ("--plan", plan), ("--strict-inputs",)):
        done("check", path, out, *extra)

    loose, loose_plan = tmp_path / "loose.onnx", tmp_path / "loose.json"
    result = done("prune", path, loose, *options, "--plan-out", loose_plan)
    assert "--strict-inputs" in result.stderr
    assert "strict_inputs" not in json.loads(loose_plan.read_text())["options"]
    done("check", path, loose)
    assert cli("check", path, loose, "--strict-inputs").exit_code == 7
    assert cli("apply", loose_plan, path, tmp_path / "no.onnx", "--strict-inputs").exit_code == 4


def test_where_all_weights_may_be_overridden_the_refusal_says_so(tmp_path: Path) -> None:
    path = written(tmp_path, exposed(build(PLAIN), "w1", "b1", "w2"))
    result = cli("prune", path, tmp_path / "out.onnx", "--strict-inputs")
    assert result.exit_code == 6
    assert "'w1' is an overridable input (--strict-inputs)" in result.stderr
    assert prove_half(onnx.load(path)).proof.passed


def nets_of_the_rules() -> list[Any]:
    """Every net of the rules' tests; those that are all walls are slow by their number. onnxruntime's own operators
    are left out: it crashes on some whose operands are inputs."""
    tables = {m.__name__: m.TABLE for m in (test_rules, test_rules_more, test_rules_rewrites)}
    free = [pytest.param(c.model, id=f"{t}-{name}") for t in tables for name, c in tables[t].cases.items()]
    held = [(c.model, f"{t}-{name}") for t in tables for name, c in tables[t].walls.items()]
    return [*free, *(pytest.param(model, id=name, marks=pytest.mark.slow) for model, name in held)]


@pytest.mark.parametrize("original", nets_of_the_rules())
def test_a_strict_cut_never_depends_on_what_may_be_overridden(original: onnx.ModelProto) -> None:
    """One initializer of every net of the rules' tests: it stays as it is, and the cut is the same for other values."""
    tensors = [t.name for t in original.graph.initializer]
    if not tensors:
        pytest.skip("a net without initializers")
    rng = np.random.default_rng(len(original.SerializeToString()))
    one, model = tensors[rng.integers(len(tensors))], onnx.ModelProto()
    model.CopyFrom(original)
    if one in {i.name for i in model.graph.input}:
        pytest.skip("its initializers are inputs already")
    exposed(model, one)
    try:
        trace = trace_model(model, None, RUNTIME, strict_inputs=True)
    except ocnna_onnx.ModelError:
        pytest.skip("onnxruntime cannot open it this way")
    keep = removed_at_random(trace, 0.5, 0)
    after = rewrite(trace, keep)
    proof = prove(after.kept, after.model, find_groups(trace), random_feeds(trace.graph, trace.shapes, 0), RUNTIME)
    assert proof.passed or "onnxruntime cannot open" in proof.reason, proof.reason
    assert list(after.model.graph.input) == list(model.graph.input)
    old, new = ({t.name: t for t in m.graph.initializer}[one] for m in (model, after.model))
    assert new == old
    if old.data_type == onnx.TensorProto.FLOAT:
        other = numpy_helper.from_array(rng.uniform(0.1, 1, old.dims).astype(np.float32), one)
        old.CopyFrom(other)
        new.CopyFrom(other)
        again = trace_model(model, None, RUNTIME, strict_inputs=True)
        redone = rewrite(again, again.keep_units(np.unique(trace.unit_class[~keep]))).model
        assert redone.SerializeToString(deterministic=True) == after.model.SerializeToString(deterministic=True)


# --- values to probe with

RATE = """g (float[N,3,8,8] x, int64 rate) => (float[N,5,8,8] y)
    <float[8,3,1,1] w1, float[5,8,1,1] w2, int64 zero = {0}, int64 end = {64000}> {
    [one] a = Conv(x, w1)
    [steps] r = Range(zero, end, rate)
    f = Cast<to=1>(r)
    m = ReduceMean<keepdims=0>(f)
    s = Mul(a, m)
    [two] y = Conv(s, w2)
}"""
"""A net whose shapes show only when it runs, and that does not run on zeros: silero_vad in small."""


def test_values_to_probe_with(tmp_path: Path) -> None:
    path, out, plan, data = (tmp_path / n for n in ("in.onnx", "out.onnx", "plan.json", "data.npz"))
    written(tmp_path, build(RATE, end=np.asarray(64000), zero=np.asarray(0)))
    result = cli("inspect", path)
    assert result.exit_code == 3
    for part in ("'steps' (Range)", "--data", "zeros", "x [2,3,8,8]"):
        assert part in result.stderr, result.stderr
    x = np.random.default_rng(0).standard_normal((6, 3, 8, 8)).astype(np.float32)
    np.savez(data, x=x, rate=np.asarray(16000))
    found = json.loads(done("inspect", path, "--data", data, "--json").stdout)
    assert [layer["removable"] for layer in found["layers"]] == [8, 0]
    done("prune", path, out, "--data", data, "--plan-out", plan, "--ratio", 0.3, "--repair", "none")
    done("check", path, out, "--data", data)
    done("apply", plan, path, tmp_path / "again.onnx", "--data", data)
    assert (tmp_path / "again.onnx").read_bytes() == out.read_bytes()
    np.savez(data, x=x, rate=np.asarray(0))
    wrong = cli("inspect", path, "--data", data)
    assert wrong.exit_code == 3
    assert "first sample" in wrong.stderr


def values(**shapes: list[int | str]) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims) for name, dims in shapes.items()]


def graph_of(**shapes: list[Any]) -> Graph:
    made = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values(**shapes), values(y=["N", 4]))
    return Graph(helper.make_model(made))


@pytest.mark.parametrize(
    ("x", "state", "wanted"),
    [(["N", 4], [2, "N", 8], 3), ([None, 4], [2, None, 8], 3), (["N", 4], [2, "T", 8], 0), ([None, 4], [2, "T", 8], 3)],
)
def test_a_state_for_three_samples_says_how_many_a_run_takes(x: list[Any], state: list[Any], wanted: int) -> None:
    arrays = {"x": np.zeros((12, 4), np.float32), "s": np.zeros((2, 3, 8), np.float32)}
    samples = array_samples(arrays, graph_of(x=x, s=state), "test")
    assert probe_shapes(samples, {}) == {"x": (wanted, 4), "s": (2, 3, 8)}


def test_a_symbolic_dimension_is_the_same_for_all_inputs() -> None:
    graph = graph_of(x=["N", 4], s=[2, "N", 8])
    first = input_shapes(graph, {})
    assert (first["s"], other_shapes(graph, first)[0]["s"]) == ((2, 2, 8), (2, 3, 8))
    assert input_shapes(graph, {"x": (5, 4)}) == {"x": (5, 4), "s": (2, 5, 8)}
    assert input_shapes(graph, {"s": (2, 7, 8)}) == {"x": (7, 4), "s": (2, 7, 8)}
    with pytest.raises(ocnna_onnx.ShapeNeeded):
        input_shapes(graph_of(x=["N", 4], s=[2, "T", 8]), {})
