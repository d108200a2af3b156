"""Channels through functions of the model and through branches that are always taken; bodies stay walls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from support import RUNTIME, build, prove_half, removed, run_model, tensors, walls_at
from test_rules import CASES

import ocnna_onnx
from ocnna_onnx.cli.main import main
from ocnna_onnx.model.graph import captured
from ocnna_onnx.model.light import Light
from ocnna_onnx.model.unfold import unfold
from ocnna_onnx.trace.tracer import trace as trace_model

HEADER = '<ir_version: 8, opset_import: ["": 17, "acme": 1]>'

BLOCKS = f"""{HEADER}
    g (float[N,3,8,8] x) => (float[N,5,H,W] y)
    <float[8,3,3,3] wa, float[8,8,3,3] w1, float[8,8,3,3] w2, float[8] gamma, float[8] beta, float[8] mean,
     float[8] var, float[5,8,1,1] wy>
    {{ [stem] a = Conv<pads=[1,1,1,1]>(x, wa)
       [block1] b = acme.Residual<slope=0.2>(a, w1, gamma, beta, mean, var)
       [block2] c = acme.Residual(b, w2, gamma, beta, mean, var)
       [head] y = Conv(c, wy) }}
    <domain: "acme", opset_import: ["": 17, "acme": 1]>
    Residual <slope: float = 0.1> (t, w, g, b, m, v) => (u)
    {{ [conv] k = Conv<pads=[1,1,1,1]>(t, w)
       n = BatchNormalization(k, g, b, m, v)
       [act] r = acme.Act<s: float = @slope>(n)
       u = Add(r, t) }}
    <domain: "acme", opset_import: ["": 17]>
    Act <s: float = 0.3> (p) => (q)
    {{ q = LeakyRelu<alpha: float = @s>(p) }}"""
"""As onnxscript writes modules: weights as operands, attributes handed down, a function in a function."""


def blocks() -> onnx.ModelProto:
    return build(BLOCKS, var=np.linspace(0.5, 2.0, 8))


def with_weights_inside(channels: int = 8) -> onnx.ModelProto:
    """A function that stores its weights in Constant nodes, called twice."""
    rng = np.random.default_rng(0)
    model = build(
        f"""{HEADER} g (float[N,3,8,8] x) => (float[N,5,H,W] y) <float[{channels},3,3,3] wa, float[5,{channels},1,1] wy>
        {{ [stem] a = Conv(x, wa)
           [one] b = acme.Layer(a)
           [two] c = acme.Layer(b)
           [head] y = Conv(c, wy) }}"""
    )
    weight = rng.standard_normal((channels, channels, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weight)),
        helper.make_node("Conv", ["t", "w"], ["k"], name="conv"),
        helper.make_node("Relu", ["k"], ["u"]),
    ]
    model.functions.append(helper.make_function("acme", "Layer", ["t"], ["u"], nodes, [helper.make_opsetid("", 17)]))
    return model


# --- functions ---


def test_layers_in_functions_are_pruned() -> None:
    result = prove_half(blocks())
    assert sorted(removed(result).values()) == [4, 4, 4]
    assert "stem" in removed(result)
    assert not result.rewritten.model.functions
    edits = [r for r in result.rewritten.rewrites if r["after"] == "inlined"]
    assert [(e["node"], e["what"]) for e in edits] == [
        ("block1", "call of acme.Residual"),
        ("block2", "call of acme.Residual"),
    ]


def test_nothing_removed_leaves_functions_as_they_were() -> None:
    model = blocks()
    result = ocnna_onnx.prune(model, ratio=0.01, criterion="l1", samples=4)
    assert result.model == model
    assert result.report["rewrites"] == []
    assert result.report["before"]["params"] == result.report["after"]["params"] > 1000
    assert not any("always taken" in w for w in result.report["warnings"])


def test_a_function_that_nobody_calls_survives() -> None:
    model = blocks()
    for _ in range(2):
        del model.graph.node[1]
    model.graph.node[1].input[0] = "a"
    result = prove_half(model)
    assert removed(result) == {"stem": 4}
    assert list(result.rewritten.model.functions) == list(model.functions)


def test_weights_stored_in_a_function_are_cut_for_each_call() -> None:
    result = prove_half(with_weights_inside())
    assert sorted(removed(result).values()) == [4, 4, 4]
    assert sum(t.shape == (4, 4, 1, 1) for t in tensors(result.rewritten.model).values()) == 2


def test_functions_keep_bodies_apart() -> None:
    """A body in a function reads an operand of the call; two calls, the same names."""
    text = f"""{HEADER}
        g (float[N,3,8,8] x, bool c) => (float[N,K,H,W] y)
        <float[8,3,3,3] wa, float[6,8,1,1] wb, float[7,6,1,1] wc, float[5,7,1,1] wy>
        {{ a = Conv(x, wa)
           b = Conv(a, wb)
           m = acme.Either(b, c)
           d = Conv(m, wc)
           n = acme.Either(d, c)
           y = Conv(n, wy) }}
        <domain: "acme", opset_import: ["": 17]>
        Either (t, c) => (u)
        {{ u = If(c) <then_branch = tb () => (float[N,K,H,W] p) {{ p = Relu(t) }},
                      else_branch = eb () => (float[N,K,H,W] q) {{ q = Neg(t) }}> }}"""
    result = prove_half(build(text))
    assert removed(result) == {"a": 4}
    assert any("body of If" in reason for _, _, reason in walls_at(result.trace, "b"))


def test_a_function_named_as_a_standard_operator_is_the_operator() -> None:
    """onnxruntime runs its own Relu, whatever the file says Relu is."""
    text = f"""{HEADER}
        g (float[2,3,8,8] x) => (float[2,K,H,W] y) <float[8,3,1,1] wa, float[5,8,1,1] wy>
        {{ a = Conv(x, wa)
           r = Relu(a)
           y = Conv(r, wy) }}
        <domain: "", opset_import: ["": 17]>
        Relu (t) => (u) {{ u = Neg(t) }}"""
    result = prove_half(build(text))
    assert removed(result) == {"a": 4}
    assert len(result.rewritten.model.functions) == 1


def test_a_function_of_another_opset_is_a_wall_that_says_so() -> None:
    model = blocks()
    for function in model.functions:
        next(o for o in function.opset_import if not o.domain).version = 18
    result = prove_half(model)
    assert removed(result) == {}
    reasons = [r for _, _, r in walls_at(result.trace, "stem")]
    assert any("acme.Residual" in r and "opset 18" in r for r in reasons)


def test_a_function_that_inlining_breaks_is_a_wall_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> onnx.ModelProto:
        raise RuntimeError("cannot be done")

    monkeypatch.setattr("onnx.inliner.inline_local_functions", broken)
    result = prove_half(blocks())
    assert removed(result) == {}
    assert any("cannot be done" in r for _, _, r in walls_at(result.trace, "stem"))
    assert any("not entered" in w.reason for w in result.trace.walls)


def test_an_inlined_model_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnx import inliner

    honest = inliner.inline_local_functions

    def wrong(*args: Any, **kwargs: Any) -> onnx.ModelProto:
        inlined: onnx.ModelProto = honest(*args, **kwargs)
        for node in inlined.graph.node:
            if node.op_type == "LeakyRelu":
                node.attribute[0].f = 0.9
        return inlined

    monkeypatch.setattr("onnx.inliner.inline_local_functions", wrong)
    with pytest.raises(ocnna_onnx.ProofFailed, match="differs from the model that was given"):
        ocnna_onnx.prune(blocks(), ratio=0.5, criterion="l1", samples=4)


def test_apply_and_check_understand_names_after_inlining(tmp_path: Path) -> None:
    paths = {k: str(tmp_path / f"{k}.onnx") for k in ("in", "out", "again", "twice")}
    plan = str(tmp_path / "plan.json")
    onnx.save(blocks(), paths["in"])
    runner = CliRunner()
    options = ["--criterion", "l1", "--samples", "4", "-q"]
    for command in (
        ["prune", paths["in"], paths["out"], "--ratio", "0.5", "--plan-out", plan, *options],
        ["check", paths["in"], paths["out"], "--samples", "4"],
        ["apply", plan, paths["in"], paths["again"], "-q"],
        ["prune", paths["out"], paths["twice"], "--ratio", "0.5", *options],
        ["check", paths["in"], paths["twice"], "--samples", "4"],
    ):
        result = runner.invoke(main, command)
        assert result.exit_code == 0, (command, result.output)
    assert Path(paths["out"]).read_bytes() == Path(paths["again"]).read_bytes()
    assert len(json.loads(Path(plan).read_text())["remove"]) == 3


# --- branches that are always taken ---


def squeeze(
    axis: int, size: int, otherwise: str = "q2 = Identity(p)", then: str = "q1 = Squeeze(p, ax)"
) -> onnx.ModelProto:
    """What PyTorch's exporter writes for x.squeeze(axis): an If on the size of that axis."""
    return build(
        f"""g (float[N,3,8,8] x) => (float[M,5] y)
        <float[8,3,3,3] wa, float[8,5] wy, int64[1] ax = {{{axis}}}, int64 i = {{{axis}}}, int64 size = {{{size}}}>
        {{ [conv] a = Conv(x, wa)
           p = GlobalAveragePool(a)
           s = Shape(p)
           d = Gather(s, i)
           e = Equal(d, size)
           [squeeze] q = If(e) <
             then_branch = t () => (float q1) {{ {then} }},
             else_branch = f () => (float q2) {{ {otherwise} }}
           >
           r = Flatten(q)
           y = MatMul(r, wy) }}"""
    )


def test_channels_run_through_a_branch_that_is_always_taken() -> None:
    result = prove_half(squeeze(2, 1))
    assert removed(result) == {"conv": 4}
    assert [n.op_type for n in result.rewritten.model.graph.node] == [
        "Conv",
        "GlobalAveragePool",
        "Squeeze",
        "Flatten",
        "MatMul",
    ]
    assert [(e["node"], e["what"]) for e in result.rewritten.rewrites if e["after"] == "inlined"] == [
        ("squeeze", "If, always then_branch")
    ]


def test_the_other_branch_too() -> None:
    result = prove_half(squeeze(1, 1, then="q1 = Neg(p)"))
    assert removed(result) == {"conv": 4}
    assert "Neg" not in {n.op_type for n in result.rewritten.model.graph.node}


def test_a_condition_on_the_channels_is_that_of_the_original() -> None:
    """With one channel left the other branch would be taken: it stays the one of the original."""
    model = squeeze(1, 1, then="q1 = Neg(p)")
    result = ocnna_onnx.prune(model, ratio=0.9, criterion="l1", samples=4)
    assert tensors(result.model)["wa"].shape[0] == 1
    assert run_model(result.model, {"x": np.ones((3, 3, 8, 8), np.float32)})["y"].shape == (3, 5)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_a_condition_on_the_batch_is_a_wall(size: int) -> None:
    """It comes out the same at both probes for most sizes, and yet is not known."""
    result = prove_half(squeeze(0, size, "q2 = Relu(p)", "q1 = Neg(p)"))
    assert removed(result) == {}
    assert any("body of If" in reason for _, _, reason in walls_at(result.trace, "conv"))
    assert {"If"} <= {n.op_type for n in result.rewritten.model.graph.node}


def test_a_size_that_the_user_gives_for_a_symbolic_axis_decides_nothing() -> None:
    trace = trace_model(squeeze(0, 2, "q2 = Relu(p)", "q1 = Neg(p)"), {"x": (2, 3, 8, 8)}, RUNTIME)
    assert "If" in {n.op_type for n in trace.graph.nodes}


def test_nothing_removed_leaves_branches_as_they_were() -> None:
    model = squeeze(2, 1)
    assert ocnna_onnx.prune(model, ratio=0.01, criterion="l1", samples=4).model == model


NESTED = """g (float[N,3,8,8] x) => (float[N,5,H,W] y)
    <float[8,3,3,3] wa, float[6,8,1,1] wb, float[5,6,1,1] wy, bool yes = {1}, bool no = {0},
     float[6,1,1] shift, float[1] r_3 = {3.0}>
    { [first] a = Conv(x, wa)
      [outer] b, shifted = If(yes) <
        then_branch = t () => (float[N,6,6,6] r, float[6,1,1] bias)
          { [first] r0 = Conv(a, wb)
            [inner] q = If(no) <
              then_branch = t2 () => (float[N,6,6,6] p) { p = Softmax<axis=1>(r0) },
              else_branch = f2 () => (float[N,6,6,6] r_2) { r_2 = Relu(r0) }
            >
            r = Add(q, bias) },
        else_branch = f () => (float[N,6,6,6] r, float[6,1,1] s)
          { r = Conv(a, wb) s = Neg(shift) }
      >
      c = Mul(b, shifted)
      m = Add(c, r_3)
      y = Conv(m, wy) }"""


def test_branches_in_branches_names_that_collide_and_stored_outputs() -> None:
    text = NESTED
    model = build(text)
    outer = next(n for n in model.graph.node if n.op_type == "If")
    branch = next(a.g for a in outer.attribute if a.name == "then_branch")
    branch.initializer.append(numpy_helper.from_array(np.ones((6, 1, 1), np.float32), "bias"))
    result = prove_half(model)
    assert sorted(removed(result).values()) == [3, 4]
    assert "If" not in {n.op_type for n in result.rewritten.model.graph.node}
    assert (3, 1, 1) in {t.shape for t in tensors(result.rewritten.model).values()}


def test_a_branch_that_is_never_taken_goes_with_its_weights() -> None:
    model = squeeze(2, 1, "q2 = Conv(p, unused)")
    model.graph.initializer.append(numpy_helper.from_array(np.ones((8, 8, 1, 1), np.float32), "unused"))
    result = prove_half(model)
    assert removed(result) == {"conv": 4}
    assert "unused" not in tensors(result.rewritten.model)


def test_a_condition_that_may_be_fed_is_not_known() -> None:
    model = squeeze(2, 1)
    model.graph.input.append(helper.make_tensor_value_info("size", TensorProto.INT64, []))
    result = prove_half(model)
    assert removed(result) == {}


def test_a_branch_that_onnxruntime_does_not_open_when_laid_out_stays_a_wall(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        return [helper.make_node("Relu", ["nowhere"], ["q"])]

    monkeypatch.setattr("ocnna_onnx.model.unfold._branch", broken)
    result = prove_half(squeeze(2, 1))
    assert removed(result) == {}
    assert unfold(Light(squeeze(2, 1), {}), RUNTIME).refusals.keys() == {".If"}


def test_a_branch_in_a_function() -> None:
    text = f"""{HEADER}
        g (float[N,3,8,8] x) => (float[N,5,H,W] y) <float[8,3,3,3] wa, float[5,8,1,1] wy>
        {{ [conv] a = Conv(x, wa)
           b = acme.Pick<fast=1>(a)
           c = acme.Pick<fast=0>(b)
           y = Conv(c, wy) }}
        <domain: "acme", opset_import: ["": 17]>
        Pick <fast> (t) => (u)
        {{ f = Constant<value_int: int = @fast>()
           k = Cast<to=9>(f)
           u = If(k) <then_branch = tb () => (float[N,K,H,W] p) {{ p = Relu(t) }},
                      else_branch = eb () => (float[N,K,H,W] q) {{ q = Sigmoid(t) }}> }}"""
    result = prove_half(build(text))
    assert removed(result) == {"conv": 4}
    assert {n.op_type for n in result.rewritten.model.graph.node} == {"Conv", "Relu", "Sigmoid"}


# --- every idiom, in a function and in a branch ---


def in_a_function(model: onnx.ModelProto) -> onnx.ModelProto:
    """The whole graph as one call; its stored tensors are operands of it."""
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    made = {o for node in model.graph.node for o in node.output}
    read = {n for node in model.graph.node for n in (*node.input, *captured(node)) if n and n not in made}
    operands, results = sorted(read), [o.name for o in model.graph.output]
    folded.functions.append(
        helper.make_function("acme", "All", operands, results, model.graph.node, model.opset_import)
    )
    del folded.graph.node[:]
    folded.graph.node.append(helper.make_node("All", operands, results, name="all", domain="acme"))
    folded.opset_import.append(helper.make_opsetid("acme", 1))
    return folded


def in_a_branch(model: onnx.ModelProto) -> onnx.ModelProto:
    """The whole graph as the branch of an If that is always taken."""
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    inner, outputs = {}, []
    for out in model.graph.output:
        inner[out.name] = f"{out.name}_inside"
        outputs.append(helper.make_tensor_value_info(inner[out.name], out.type.tensor_type.elem_type, None))
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in model.graph.node]
    for node in nodes:
        for names in (node.input, node.output):
            names[:] = [inner.get(n, n) for n in names]
    taken = helper.make_graph(nodes, "taken", [], outputs)
    zeros = [
        helper.make_node(
            "Constant",
            [],
            [f"{o.name}_0"],
            value=numpy_helper.from_array(
                np.zeros(1, helper.tensor_dtype_to_np_dtype(o.type.tensor_type.elem_type)), "zero"
            ),
        )
        for o in model.graph.output
    ]
    values = [
        helper.make_tensor_value_info(f"{o.name}_0", o.type.tensor_type.elem_type, None) for o in model.graph.output
    ]
    other = helper.make_graph(zeros, "other", [], values)
    node = helper.make_node(
        "If", ["always"], [o.name for o in model.graph.output], "if", then_branch=taken, else_branch=other
    )
    del folded.graph.node[:]
    folded.graph.node.append(node)
    folded.graph.initializer.append(numpy_helper.from_array(np.array(True), "always"))
    if folded.ir_version < 4:
        folded.graph.input.append(helper.make_tensor_value_info("always", TensorProto.BOOL, []))
    return folded


@pytest.mark.parametrize("fold", [in_a_function, in_a_branch])
@pytest.mark.parametrize(
    "name", [n if k % 10 == 0 else pytest.param(n, marks=pytest.mark.slow) for k, n in enumerate(CASES)]
)
def test_an_idiom_is_pruned_in_a_function_and_in_a_branch_too(name: str, fold: Any) -> None:
    model, gone = CASES[name]
    if fold is in_a_branch and model.opset_import[0].version < 11:
        pytest.skip("before opset 11 both branches of an If must give one shape")
    assert sorted(removed(prove_half(fold(model))).values()) == sorted(gone.values())
