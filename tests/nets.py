"""Tiny models and the command line in-process, for the tests of the command line, files, criteria and data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
from click.testing import CliRunner, Result
from onnx import numpy_helper

from ocnna_onnx.cli.main import main
from ocnna_onnx.trace.tracer import trace
from ocnna_onnx.trace.types import Trace

MODELS = Path(__file__).parent.parent / "models"
RESNET = MODELS / "digits_resnet.onnx"
NETS = ("resnet", "vgg", "mobilenet", "densenet")

TINY = """
g (float[N,1,8,8] x) => (float[N,5] y) {
    [conv1] a = Conv<pads=[1,1,1,1]>(x, w1, b1)
    [norm1] b = BatchNormalization(a, gamma, beta, mean, var)
    [relu1] c = Relu(b)
    [conv2] d = Conv<pads=[1,1,1,1]>(c, w2, b2)
    [relu2] e = Relu(d)
    [pool] f = GlobalAveragePool(e)
    [flat] h = Flatten(f)
    [fc] y = Gemm<transB=1>(h, w3, b3)
}
"""
TINY_SHAPES = {
    "w1": (8, 1, 3, 3),
    "b1": (8,),
    "gamma": (8,),
    "beta": (8,),
    "mean": (8,),
    "var": (8,),
    "w2": (6, 8, 3, 3),
    "b2": (6,),
    "w3": (5, 6),
    "b3": (5,),
}

Array = np.ndarray[Any, np.dtype[Any]]


def weights(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, Array]:
    """Seeded normal weights; those named `var…` are positive."""
    rng = np.random.default_rng(seed)
    made = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return {name: np.abs(a) + 0.5 if name.startswith("var") else a for name, a in made.items()}


def build(text: str, arrays: Mapping[str, Array], opset: int = 17, ir: int = 8) -> onnx.ModelProto:
    """A model from the onnx text form of its graph, and its initializers."""
    graph = onnx.parser.parse_graph(text)
    graph.initializer.extend(numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in arrays.items())
    opsets = [onnx.helper.make_opsetid("", opset)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=ir)


def tiny(seed: int = 0) -> onnx.ModelProto:
    """Conv 1→8, BatchNormalization, Conv 8→6, pooling, Gemm 6→5 on [N, 1, 8, 8]."""
    return build(TINY, weights(TINY_SHAPES, seed))


def written(folder: Path, model: onnx.ModelProto, name: str = "in.onnx") -> Path:
    """The model as a file."""
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def images(count: int = 12, shape: tuple[int, ...] = (1, 8, 8), seed: int = 1) -> Array:
    """Seeded float32 samples."""
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)


def cli(*args: Any) -> Result:
    """The command line, in this process."""
    return CliRunner().invoke(main, [str(a) for a in args])


def done(*args: Any) -> Result:
    """The command line, which must end with 0."""
    result = cli(*args)
    assert result.exit_code == 0, (result.stderr, result.exception)
    return result


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes, hidden ones too."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def initializers(model: onnx.ModelProto) -> dict[str, Array]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def infer(model: onnx.ModelProto | Path, feed: Mapping[str, Array]) -> list[Array]:
    """All outputs in onnxruntime."""
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"]).run(None, dict(feed))


def traced(model: onnx.ModelProto, **shapes: tuple[int, ...]) -> Trace:
    return trace(model, shapes)
