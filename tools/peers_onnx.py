"""One file for `peers.py`: prune it by ours, or judge what a tool made of it. Prints a line of JSON.

python tools/peers_onnx.py prune IN.onnx OUT.onnx --shapes '{"input": [1, 3, 224, 224]}'
python tools/peers_onnx.py judge IN.onnx OUT.onnx --shapes …
"""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

import click
import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

import ocnna_onnx
from ocnna_onnx.model.cost import WEIGHT_TYPES
from ocnna_onnx.model.graph import Graph, dims

Shapes = dict[str, list[int]]
SYMBOLIC = 128


def weights(model: onnx.ModelProto) -> int:
    """Elements of constants of two or more dimensions: folding BatchNormalization does not change the count."""
    tensors = [*model.graph.initializer]
    made = 0
    sizes = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            tensors += [a.t for a in node.attribute if a.name == "value"]
        elif node.op_type == "ConstantOfShape" and node.input[0] in sizes:
            shape = numpy_helper.to_array(sizes[node.input[0]])
            made += int(shape.prod()) if len(shape) > 1 else 0
    return made + sum(prod(t.dims) for t in tensors if len(t.dims) > 1 and t.data_type in WEIGHT_TYPES)


def feed(model: onnx.ModelProto, shapes: Shapes) -> dict[str, np.ndarray]:
    """Seeded noise for every input that is no initializer; zeros for integers."""
    rng = np.random.default_rng(0)
    found = {}
    for value in Graph(model).inputs:
        declared = dims(value) or ()
        shape = shapes.get(value.name) or [
            size if isinstance(size, int) else (SYMBOLIC if axis else 1) for axis, size in enumerate(declared)
        ]
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
        found[value.name] = (rng.standard_normal(shape) if dtype.kind == "f" else np.zeros(shape)).astype(dtype)
    return found


def outputs(path: Path, given: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What onnxruntime computes."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = {i.name for i in session.get_inputs()}
    return list(session.run(None, {name: value for name, value in given.items() if name in names}))


@click.command()
@click.argument("what", type=click.Choice(["prune", "judge"]))
@click.argument("before", type=click.Path(exists=True, path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option("--shapes", default="{}")
def main(what: str, before: Path, after: Path, shapes: str) -> None:
    """Prune or judge."""
    given: Shapes = json.loads(shapes)
    if what == "prune":
        probe = {name: tuple(shape) for name, shape in given.items()}
        try:
            ocnna_onnx.prune(before, criterion="l2", ratio=0.5, samples=4, input_shapes=probe, repair="none").save(
                after
            )
        except ocnna_onnx.OcnnaError as error:
            click.echo(f"{type(error).__name__}: {error}", err=True)
            raise SystemExit(error.exit_code) from error
        return
    original, pruned = onnx.load(before), onnx.load(after)
    row: dict[str, object] = {"gone": 1 - weights(pruned) / max(1, weights(original)), "runs": True, "why": ""}
    values = feed(original, given)
    try:
        if [y.shape for y in outputs(after, values)] != [y.shape for y in outputs(before, values)]:
            row |= {"runs": False, "why": "other output shapes"}
    except Exception as error:  # whatever onnxruntime raises
        row |= {"runs": False, "why": str(error).splitlines()[0]}
    click.echo(json.dumps(row))


if __name__ == "__main__":
    main()
