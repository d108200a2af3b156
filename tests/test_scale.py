"""Size: files over 2 GB, thousands of nodes, large maps. Most of it is slow."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support import build

import ocnna_onnx
from ocnna_onnx.trace.tracer import trace as trace_model

INNER, OUTER = 16_384, 33_000  # 4 · 16,384 · 33,000 bytes are 2.16 GB


def over_two_gigabytes(path: Path) -> None:
    """Conv, pooling, Gemm 8 → 16,384, Gemm 16,384 → 33,000, Gemm 33,000 → 5; weights beside the file."""
    rng = np.random.default_rng(0)
    sizes = {"w1": (8, 3, 3, 3), "w2": (INNER, 8), "w3": (OUTER, INNER), "w4": (5, OUTER)}
    pool = rng.standard_normal(1_000_003).astype(np.float32) * 0.01
    offset, initializers = 0, []
    with path.with_suffix(".data").open("wb") as stream:
        for name, dims in sizes.items():
            tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
            count = int(np.prod(dims))
            for start in range(0, count, len(pool)):
                stream.write(pool[: min(len(pool), count - start)].tobytes())
            entries = {"location": path.with_suffix(".data").name, "offset": offset, "length": 4 * count}
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=str(value))
            initializers.append(tensor)
            offset += 4 * count
    shell = build(
        """g (float[N,3,8,8] x) => (float[N,5] y) {
          c = Conv(x, w1)  r = Relu(c)  p = GlobalAveragePool(r)  f = Flatten(p)
          a = Gemm<transB=1>(f, w2)  b = Relu(a)  d = Gemm<transB=1>(b, w3)  e = Relu(d)  y = Gemm<transB=1>(e, w4) }"""
    )
    shell.graph.initializer.extend(initializers)
    path.write_bytes(shell.SerializeToString())


@pytest.mark.slow
def test_a_model_over_two_gigabytes(tmp_path: Path) -> None:
    path, out = tmp_path / "big.onnx", tmp_path / "small.onnx"
    over_two_gigabytes(path)
    assert path.with_suffix(".data").stat().st_size > 2**31
    result = ocnna_onnx.prune(path, criterion="l2", ratio=0.1, samples=4)
    assert result.report["proof"]["passed"]
    assert result.report["after"]["params"] < 0.83 * result.report["before"]["params"]
    result.save(out)
    assert ocnna_onnx.check(path, out, samples=4).proof.passed


def chain(layers: int) -> onnx.ModelProto:
    """Conv, BatchNormalization, Relu and an Add every other time, `layers` times."""
    rng = np.random.default_rng(0)
    nodes, initializers, x, width = [], [], "x", 3
    for k in range(layers):
        kernel = rng.standard_normal((8, width, 1, 1)) * (2 / width) ** 0.5
        vectors = {"g": np.ones(8), "b": rng.standard_normal(8) * 0.1, "m": np.zeros(8), "v": np.ones(8)}
        for name, array in {"w": kernel, **vectors}.items():
            initializers.append(numpy_helper.from_array(array.astype(np.float32), f"{name}{k}"))
        nodes += [
            helper.make_node("Conv", [x, f"w{k}"], [f"c{k}"], name=f"conv{k}"),
            helper.make_node("BatchNormalization", [f"c{k}", *(f"{n}{k}" for n in "gbmv")], [f"n{k}"]),
            helper.make_node("Relu", [f"n{k}"], [f"r{k}"]),
        ]
        if k % 2 and k > 2:
            nodes.append(helper.make_node("Mean", [f"r{k}", f"r{k - 2}"], [f"s{k}"]))
        x, width = nodes[-1].output[0], 8
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 4, 4])
    out = helper.make_tensor_value_info(x, TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "chain", [image], [out], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.slow
def test_more_than_five_thousand_nodes() -> None:
    model = chain(1500)
    assert len(model.graph.node) > 5000
    result = ocnna_onnx.prune(model, criterion="l2", ratio=0.5, samples=4)
    assert result.report["proof"]["passed"]
    assert result.report["after"]["params"] < 0.6 * result.report["before"]["params"]


def unet(side: int, width: int, depth: int = 4) -> onnx.ModelProto:
    """A U-Net: two 3×3 Convs per level, MaxPool down, ConvTranspose up, Concat across."""
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    initializers: list[onnx.TensorProto] = []

    def layer(op: str, x: str, kernel: tuple[int, ...], **attributes: object) -> str:
        k = len(initializers)
        array = rng.standard_normal(kernel) * (2 / np.prod(kernel[1:])) ** 0.5
        initializers.append(numpy_helper.from_array(array.astype(np.float32), f"w{k}"))
        nodes.append(helper.make_node(op, [x, f"w{k}"], [f"c{k}"], name=f"{op}{k}", **attributes))
        nodes.append(helper.make_node("Relu", [f"c{k}"], [f"r{k}"]))
        return f"r{k}"

    def double(x: str, before: int, after: int) -> str:
        x = layer("Conv", x, (after, before, 3, 3), pads=[1, 1, 1, 1])
        return layer("Conv", x, (after, after, 3, 3), pads=[1, 1, 1, 1])

    x, before, skips = "x", 3, []
    for level in range(depth):
        x = double(x, before, before := width << level)
        skips.append((x, before))
        nodes.append(helper.make_node("MaxPool", [x], [f"p{level}"], kernel_shape=[2, 2], strides=[2, 2]))
        x = f"p{level}"
    x = double(x, before, before := width << depth)
    for level, (skip, own) in reversed(list(enumerate(skips))):
        x = layer("ConvTranspose", x, (before, own, 2, 2), strides=[2, 2])
        nodes.append(helper.make_node("Concat", [skip, x], [f"j{level}"], axis=1))
        x, before = double(f"j{level}", 2 * own, own), own
    initializers.append(numpy_helper.from_array(rng.standard_normal((2, before, 1, 1)).astype(np.float32), "head"))
    nodes.append(helper.make_node("Conv", [x, "head"], ["y"]))
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, side, side])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, side, side])
    graph = helper.make_graph(nodes, "unet", [image], [out], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_labels_take_one_integer_per_channel_however_large_the_maps() -> None:
    small, large = (trace_model(unet(side, 16)) for side in (64, 1024))
    sizes = [sum(x.array.size for arrays in t.labels.values() for x in arrays) for t in (small, large)]
    channels = sum(shape[1] for name, shape in large.shapes.shape.items() if name in large.labels)
    assert sizes[0] == sizes[1] == channels


def test_a_decomposed_group_norm_on_large_maps_stays_small() -> None:
    text = """g (float[1,3,1024,1024] x) => (float[1,4,H,W] y)
    <float[32,3,1,1] w, int64[3] split = {0, 8, -1}, float[8] s, float[8] b, float[32,1,1] gamma, float[4,32,1,1] v> {
      c = Conv(x, w)  f = Reshape(c, split)  i = InstanceNormalization(f, s, b)  shape = Shape(c)
      u = Reshape(i, shape)  m = Mul(u, gamma)  y = Conv(m, v) }"""
    found = trace_model(build(text))
    assert max(x.array.size for arrays in found.labels.values() for x in arrays) == 32
    assert found.free[found.unit_class[found.sources[0].units]].all()


@pytest.mark.slow
def test_a_unet_on_1024_by_1024() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = ocnna_onnx.prune(unet(1024, 16), criterion="l2", ratio=0.5, samples=1)
    assert result.report["proof"]["passed"]
    assert result.report["after"]["macs"] < 0.3 * result.report["before"]["macs"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 6 << 20  # KiB
