"""The four nets of `models/` pruned by OCNNA: size, accuracy, proof, and OpenVINO against onnxruntime.

    pip install '.[zoo]' && python tools/families.py

Writes a Markdown table to stdout. Nothing is trained or repaired: the accuracy is what the cut leaves.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import onnx

import ocnna_onnx
from ocnna_onnx.data.digits import digits, fit

MODELS = Path(__file__).parent.parent / "models"


def openvino_difference(model: onnx.ModelProto, images: np.ndarray) -> float:
    """max |OpenVINO − onnxruntime| / max |onnxruntime| of the first output."""
    import onnxruntime
    import openvino

    data = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    expected = session.run(None, {"input": images})[0]
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(data), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return float(np.abs(compiled(images)[0] - expected).max() / np.abs(expected).max())


@click.command()
@click.option("--criterion", default="ocnna", show_default=True)
@click.option("--repair", default="none", show_default=True)
def main(criterion: str, repair: str) -> None:
    """Prune, measure, print."""
    images = fit(digits().test_images, 1, 16, 16)
    click.echo("| net | ratio | parameters | MACs | bytes | accuracy | agreement | proof error | OpenVINO difference |")
    click.echo("|---|---|---|---|---|---|---|---|---|")
    for path in sorted(MODELS.glob("*.onnx")):
        for ratio in (0.1, 0.3, 0.5):
            result = ocnna_onnx.prune(path, data="digits", criterion=criterion, ratio=ratio, repair=repair)
            report = result.report
            before, after, accuracy = report["before"], report["after"], report["accuracy"]
            cells = (
                path.name,
                ratio,
                *(f"{before[k]:,} → {after[k]:,}" for k in ("params", "macs", "bytes")),
                f"{accuracy['before']:.2%} → {accuracy['after']:.2%}",
                f"{report['agreement']['value']:.2%}",
                f"{report['proof']['max_relative_error']:.1e}",
                f"{openvino_difference(result.model, images):.1e}",
            )
            click.echo(f"| {' | '.join(map(str, cells))} |")


if __name__ == "__main__":
    main()
