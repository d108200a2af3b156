"""Where a file means more than its nodes say: training mode, used masks, overridable and sparse weights, outputs that
are inputs, bodies, sequences, foreign domains. Each is exact or a wall, never an exception."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support import assert_wall, build, prove_half, removed, run_model, tensors, walls_at

import ocnna_onnx

Array = np.ndarray[Any, Any]


def net(middle: str, extra: str = "", outputs: str = "", inputs: str = "", **options: Any) -> onnx.ModelProto:
    """Conv a (8 channels) → Conv b (6) → `middle`, which makes m from b → Conv y."""
    return build(
        f"""g (float[N,3,8,8] x{inputs}) => (float[N,5,H,W] y{outputs})
        <float[8,3,3,3] wa, float[6,8,1,1] wb, float[5,6,1,1] wy{extra and ", " + extra}>
        {{ a = Conv(x, wa)
           b = Conv(a, wb)
           {middle}
           y = Conv(m, wy) }}""",
        **options,
    )


# --- training mode and masks ---


def test_batch_normalization_in_training_mode() -> None:
    """It normalises with the batch's own statistics, channel by channel; running ones leave with what is cut."""
    vectors = "float[6] s, float[6] t, float[6] u, float[6] v"
    model = net("m, mean, var = BatchNormalization<training_mode=1>(b, s, t, u, v)", vectors, v=np.ones(6))
    assert removed(prove_half(model)) == {"a": 4, "b": 3}


def test_batch_normalization_in_training_mode_over_what_is_cut() -> None:
    """Labels along a pixel axis: the statistics run over them."""
    vectors = "float[6] s, float[6] t, float[6] u, float[6] v"
    middle = """p = Transpose<perm=[0,2,1,3]>(b) n, mean, var = BatchNormalization<training_mode=1>(p, s, t, u, v)
        m = Transpose<perm=[0,2,1,3]>(n)"""
    model = net(middle, vectors, v=np.ones(6))
    assert_wall(model, "b", "n", "BatchNormalization", "training mode")


def test_statistics_of_training_that_leave_the_model_stay() -> None:
    vectors = "float[6] s, float[6] t, float[6] u, float[6] v"
    model = net(
        "m, mean, var = BatchNormalization<training_mode=1>(b, s, t, u, v)",
        vectors,
        ", float[6] mean, float[6] var",
        v=np.ones(6),
    )
    result = prove_half(model)
    assert removed(result) == {"a": 4}
    assert any("output of the model" in reason for _, _, reason in walls_at(result.trace, "b"))


def test_batch_normalization_with_the_five_outputs_of_old_opsets() -> None:
    vectors = "float[6] s, float[6] t, float[6] u, float[6] v"
    model = net("m = BatchNormalization(b, s, t, u, v)", vectors, v=np.ones(6), opset=9, ir=4)
    node = next(n for n in model.graph.node if n.op_type == "BatchNormalization")
    node.output.extend(["mean", "var", "saved_mean", "saved_var"])
    assert removed(prove_half(model)) == {"a": 4, "b": 3}


def test_a_used_mask_of_dropout_follows() -> None:
    middle = "d, k = Dropout(b, r) n = Not(k) f = Cast<to=1>(n) e = Add(d, f) m = Relu(e)"
    result = prove_half(net(middle, "float r = {0.5}"))
    assert removed(result)["a"] == 4


def test_dropout_in_training_mode_is_refused_or_a_wall() -> None:
    model = net("m = Dropout(b, r, on)", "float r = {0.5}, bool on = {1}")
    with pytest.raises(ocnna_onnx.OcnnaError, match="Dropout in training mode"):
        ocnna_onnx.prune(model, ratio=0.5, criterion="l1", samples=4)


def test_dropout_with_ratio_zero_in_training_mode() -> None:
    """Nothing is dropped."""
    model = net("m = Dropout(b, r, on)", "float r = {0.0}, bool on = {1}")
    assert removed(prove_half(model))["a"] == 4


# --- names, outputs, inputs ---


def test_the_same_tensor_twice_as_an_output() -> None:
    model = net("m = Relu(b)", outputs=", float[N,6,6,6] m")
    model.graph.output.append(model.graph.output[1])
    try:
        result = prove_half(model)
        assert removed(result) == {"a": 4}
    except ocnna_onnx.ModelError:
        pass  # onnxruntime opens no such model


def test_an_input_that_is_an_output() -> None:
    model = net("m = Relu(b)")
    model.graph.output.append(model.graph.input[0])
    assert removed(prove_half(model)) == {"a": 4, "b": 3}


def test_an_initializer_that_is_an_output_stays_whole_there() -> None:
    model = net("m = Relu(b)")
    model.graph.output.append(helper.make_tensor_value_info("wb", TensorProto.FLOAT, [6, 8, 1, 1]))
    result = prove_half(model)
    assert removed(result) == {"a": 4, "b": 3}
    assert tensors(result.rewritten.model)["wb"].shape == (6, 8, 1, 1)


def test_two_nodes_of_one_name_are_refused_as_onnxruntime_does() -> None:
    model = net("m = Relu(b)")
    for node in model.graph.node:
        node.name = "same"
    with pytest.raises(ocnna_onnx.ModelError, match="same"):
        ocnna_onnx.prune(model, ratio=0.5, criterion="l1", samples=4)


def test_nodes_without_names() -> None:
    model = net("m = Relu(b)")
    assert not any(node.name for node in model.graph.node)
    result = ocnna_onnx.prune(model, ratio=0.5, criterion="l1", samples=4)
    assert {k: len(v) for k, v in result.plan.remove.items()} == {"a": 4, "b": 3}
    again = ocnna_onnx.apply(result.plan, model, samples=4)
    assert again.model == result.model


def test_a_node_named_as_the_output_of_another() -> None:
    model = net("m = Relu(b)")
    for node, name in zip(model.graph.node, ("b", "a", "y", "m"), strict=True):
        node.name = name
    result = ocnna_onnx.prune(model, ratio=0.5, criterion="l1", samples=4)
    again = ocnna_onnx.apply(result.plan, model, samples=4)
    assert again.model == result.model
    assert {len(v) for v in result.plan.remove.values()} == {4, 3}


def test_an_empty_operand_in_the_middle() -> None:
    model = net('m = Clip(b, "", high)', "float high = {6.0}")
    assert removed(prove_half(model)) == {"a": 4, "b": 3}
    model = net('m = Resize(b, "", "", sizes)', "int64[4] sizes = {2,6,12,12}")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    assert removed(prove_half(model)) == {"a": 4, "b": 3}


def test_overridable_weights_are_cut_with_their_inputs() -> None:
    model = net("m = Relu(b)")
    model.graph.input.append(helper.make_tensor_value_info("wb", TensorProto.FLOAT, [6, 8, 1, 1]))
    result = ocnna_onnx.prune(model, ratio=0.5, criterion="l1", samples=4)
    declared = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in result.model.graph.input}
    assert declared["wb"] == [3, 4, 1, 1]
    assert any("default values" in w for w in result.report["warnings"])


# --- sparse constants ---


def sparse(array: Array, name: str) -> onnx.SparseTensorProto:
    flat = array.reshape(-1)
    places = np.flatnonzero(flat)
    return helper.make_sparse_tensor(
        numpy_helper.from_array(flat[places], name), numpy_helper.from_array(places.astype(np.int64)), array.shape
    )


def thinned(shape: tuple[int, ...]) -> Array:
    rng = np.random.default_rng(0)
    return (rng.standard_normal(shape) * (rng.random(shape) < 0.5)).astype(np.float32)


def test_a_sparse_initializer_as_a_kernel() -> None:
    model = net("m = Relu(b)")
    model.graph.initializer.remove(next(t for t in model.graph.initializer if t.name == "wb"))
    model.graph.sparse_initializer.append(sparse(thinned((6, 8, 1, 1)), "wb"))
    result = prove_half(model)
    assert run_model(result.rewritten.model, {"x": np.ones((1, 3, 8, 8), np.float32)})["y"].shape == (1, 5, 6, 6)
    assert any("'wb' is stored sparse" in reason for _, _, reason in walls_at(result.trace, "a"))


def test_a_sparse_constant_as_a_kernel() -> None:
    model = net("m = Relu(b)")
    model.graph.initializer.remove(next(t for t in model.graph.initializer if t.name == "wb"))
    node = helper.make_node("Constant", [], ["wb"], sparse_value=sparse(thinned((6, 8, 1, 1)), ""))
    nodes = [node, *(onnx.NodeProto.FromString(n.SerializeToString()) for n in model.graph.node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    result = ocnna_onnx.prune(model, ratio=0.5, criterion="l1", samples=4)
    assert {k: len(v) for k, v in result.plan.remove.items()} == {"a": 4, "b": 3}
    assert tensors(result.model)["wb"].shape == (3, 4, 1, 1)  # dense from now on
    kept = ocnna_onnx.prune(model, ratio=0.5, criterion="l1", samples=4, exclude=["a", "b"]).model
    assert kept == model


# --- what else a file carries ---


def test_annotations_of_quantization_and_training_survive() -> None:
    model = net("m = Relu(b)")
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "scale_of_b"))
    note = model.graph.quantization_annotation.add(tensor_name="b")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="scale_of_b")
    info = model.training_info.add()
    info.initialization.name = "init"
    info.initialization_binding.add(key="wa", value="w_new")
    model.opset_import.append(helper.make_opsetid("unused.domain", 3))
    model.metadata_props.add(key="who", value="somebody")
    model.graph.metadata_props.add(key="where", value="there")
    pruned = ocnna_onnx.prune(model, ratio=0.5, criterion="l1", samples=4).model
    assert list(pruned.graph.quantization_annotation) == list(model.graph.quantization_annotation)
    assert "scale_of_b" in {t.name for t in pruned.graph.initializer}
    assert list(pruned.opset_import) == list(model.opset_import)
    assert ("who", "somebody") in {(p.key, p.value) for p in pruned.metadata_props}
    assert list(pruned.graph.metadata_props) == list(model.graph.metadata_props)
    assert list(pruned.training_info) == list(model.training_info)


def test_the_scale_that_annotates_a_cut_tensor_per_channel_is_named() -> None:
    """A vector of a scale per channel that only an annotation knows is not cut by anybody; the annotation goes."""
    model = net("m = Relu(b)")
    model.graph.initializer.append(numpy_helper.from_array(np.ones(6, np.float32), "scales_of_b"))
    note = model.graph.quantization_annotation.add(tensor_name="b")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="scales_of_b")
    pruned = ocnna_onnx.prune(model, ratio=0.5, criterion="l1", samples=4).model
    assert not pruned.graph.quantization_annotation


# --- bodies ---


def test_a_loop_over_shape_arithmetic_beside_the_channels() -> None:
    middle = """s = Shape(b)
        n = Gather(s, one)
        total = Loop(n, "", zero) <body = step (int64 i, bool c, int64 v) => (bool d, int64 w)
          { d = Identity(c) w = Add(v, i) }>
        f = Cast<to=1>(total)
        z = Mul(f, nothing)
        m = Add(b, z)"""
    model = net(middle, "int64 one = {1}, int64 zero = {0}, float nothing = {0.0}")
    prove_half(model)


def test_a_loop_that_counts_pixels() -> None:
    middle = """s = Shape(b)
        n = Gather(s, two)
        total = Loop(n, "", zero) <body = step (int64 i, bool c, int64 v) => (bool d, int64 w)
          { d = Identity(c) w = Add(v, i) }>
        f = Cast<to=1>(total)
        m = Add(b, f)"""
    model = net(middle, "int64 two = {2}, int64 zero = {0}")
    assert removed(prove_half(model)) == {"a": 4, "b": 3}


def test_a_loop_that_counts_channels_keeps_counting_all() -> None:
    middle = """s = Shape(b)
        n = Gather(s, one)
        total = Loop(n, "", zero) <body = step (int64 i, bool c, int64 v) => (bool d, int64 w)
          { d = Identity(c) w = Add(v, i) }>
        f = Cast<to=1>(total)
        m = Add(b, f)"""
    prove_half(net(middle, "int64 one = {1}, int64 zero = {0}"))


@pytest.mark.parametrize(("size", "batch"), [(8, 2), (4, 2), (8, 100)])
def test_a_condition_on_channels_and_batch_stays_the_one_of_the_original(size: int, batch: int) -> None:
    """The proof runs one batch, at which the condition comes out the same before and after the cut."""
    model = build(
        f"""g (float[N,3,8,8] x) => (float[N,5,6,6] y)
        <float[8,3,3,3] wa, float[5,8,1,1] wy, int64 one = {{1}}, int64 zero = {{0}}, int64 size = {{{size}}},
         int64 batch = {{{batch}}}, float[1] big = {{100.0}}>
        {{ a = Conv(x, wa)
           s = Shape(a)
           c = Gather(s, one)
           n = Gather(s, zero)
           e = Equal(c, size)
           l = Greater(n, batch)
           k = And(e, l)
           z = Conv(a, wy)
           q = If(k) <then_branch = t () => (float[1] p) {{ p = Neg(big) }},
                      else_branch = f () => (float[1] r) {{ r = Identity(big) }}>
           y = Add(z, q) }}"""
    )
    result = prove_half(model)
    assert removed(result) == {"a": 4}
    for count in (1, 3, 101):
        feed = {"x": np.zeros((count, 3, 8, 8), np.float32)}
        np.testing.assert_array_equal(run_model(result.rewritten.model, feed)["y"], run_model(model, feed)["y"])


def test_a_body_that_reads_the_number_of_channels_holds_them() -> None:
    model = net(
        """s = Shape(b)
        c = Gather(s, one)
        k = Greater(huge, big)
        q = If(k) <then_branch = t () => (float p) { p = Cast<to=1>(c) },
                   else_branch = f () => (float r) { r = Identity(huge) }>
        m = Add(b, q)""",
        "int64 one = {1}, float huge = {1.0}",
    )
    model.graph.input.append(helper.make_tensor_value_info("big", TensorProto.FLOAT, []))
    result = prove_half(model)
    assert removed(result) == {"a": 4}
    assert any("read by the body of If" in reason for _, _, reason in walls_at(result.trace, "b"))


def test_layers_in_a_scan_are_named() -> None:
    middle = """r = Reshape(b, shape)
        o = Scan(r) <num_scan_inputs=1, body = step (float[6,36] v) => (float[6,36] w)
          { w = MatMul(square, v) }>
        m = Reshape(o, back)"""
    model = net(middle, "int64[3] shape = {-1,6,36}, int64[4] back = {-1,6,6,6}, float[6,6] square")
    result = prove_half(model)
    assert removed(result) == {"a": 4}
    assert any("body of Scan is not entered: 1 layers" in w.reason for w in result.trace.walls)


# --- sequences, optionals, maps ---

SEQUENCES = {
    "SequenceConstruct": "q = SequenceConstruct(b, b) m = SequenceAt(q, zero)",
    "SplitToSequence": "q = SplitToSequence<axis=1>(b, three) m = ConcatFromSequence<axis=1>(q)",
    "SequenceInsert": "e = SequenceEmpty<dtype=1>() q = SequenceInsert(e, b) m = SequenceAt(q, zero)",
    "SequenceMap": """q = SequenceConstruct(b, b)
        r = SequenceMap(q) <body = f (float[N,6,6,6] v) => (float[N,6,6,6] w) { w = Relu(v) }>
        m = SequenceAt(r, zero)""",
    "Optional": "o = Optional(b) m = OptionalGetElement(o)",
    "OptionalHasElement": "h = OptionalHasElement(b) f = Cast<to=1>(h) m = Add(b, f)",
}


@pytest.mark.parametrize("op", SEQUENCES)
def test_sequences_and_optionals_are_walls(op: str) -> None:
    model = net(SEQUENCES[op], "int64 zero = {0}, int64 three = {3}", opset=18)
    result = prove_half(model)
    assert removed(result)["a"] == 4
    if op != "OptionalHasElement":
        assert {"SequenceConstruct", op} & {o for _, o, _ in walls_at(result.trace, "b")}


def test_a_sequence_that_leaves_the_model() -> None:
    model = net("q = SequenceConstruct(b, b) m = Relu(b)")
    model.graph.output.append(helper.make_tensor_sequence_value_info("q", TensorProto.FLOAT, None))
    assert removed(prove_half(model)) == {"a": 4}
    ocnna_onnx.prune(model, ratio=0.5, criterion="l1", samples=4)


def classifier(tail: str, outputs: str) -> onnx.ModelProto:
    return build(
        f"""<ir_version: 8, opset_import: ["": 17, "ai.onnx.ml": 3]>
        g (float[N,3,8,8] x) => ({outputs}) <float[8,3,3,3] wa, float[6,8,1,1] wb>
        {{ a = Conv(x, wa)
           b = Conv(a, wb)
           p = GlobalAveragePool(b)
           f = Flatten(p)
           {tail} }}"""
    )


def test_probabilities_in_a_map() -> None:
    model = classifier("z = ai.onnx.ml.ZipMap<classlabels_int64s=[0,1,2,3,4,5]>(f)", "float[N,6] f")
    out = model.graph.output.add(name="z")
    out.type.sequence_type.elem_type.map_type.key_type = TensorProto.INT64
    out.type.sequence_type.elem_type.map_type.value_type.tensor_type.elem_type = TensorProto.FLOAT
    assert removed(prove_half(model)) == {"a": 4}
    assert ocnna_onnx.prune(model, ratio=0.5, criterion="l1", samples=4).report["proof"]["passed"]
    del model.graph.output[0]
    assert removed(prove_half(model)) == {"a": 4}
    assert ocnna_onnx.prune(model, ratio=0.5, criterion="l1", samples=4).report["proof"]["passed"]


def test_a_tree_behind_a_cnn() -> None:
    tree = """y = ai.onnx.ml.TreeEnsembleRegressor<n_targets=1, nodes_featureids=[2,0,0], nodes_values=[0.0,0.0,0.0],
        nodes_modes=["BRANCH_LEQ","LEAF","LEAF"], nodes_treeids=[0,0,0], nodes_nodeids=[0,1,2],
        nodes_truenodeids=[1,0,0], nodes_falsenodeids=[2,0,0], target_treeids=[0,0], target_nodeids=[1,2],
        target_ids=[0,0], target_weights=[1.0,2.0]>(f)"""
    assert_wall(classifier(tree, "float[N,1] y"), "b", "y", "TreeEnsembleRegressor", "ai.onnx.ml")
