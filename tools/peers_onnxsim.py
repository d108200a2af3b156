"""onnxsim's structured pruning of one file, in the environment that `peers.py` makes.

    python tools/peers_onnxsim.py IN.onnx OUT.onnx [--sparsity 0.5] [--wanda IMAGES.npy] [--simple]

It matches patterns of simplified graphs (BatchNormalization folded), so the file is simplified first (--simple: it is).
Quantized layers have functions of their own. Wanda ranks by what the images make of a layer.
"""

import argparse

import numpy as np
import onnx
import onnxsim
from onnxsim import pruning

BATCH = 64

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("before")
parser.add_argument("after")
parser.add_argument("--sparsity", type=float, default=0.5)
parser.add_argument("--wanda", metavar="IMAGES.npy")
parser.add_argument("--simple", action="store_true")
given = parser.parse_args()

model = onnx.load(given.before)
pruned = model if given.simple else onnxsim.simplify(model)[0]
if given.wanda:
    images = np.load(given.wanda)
    name = model.graph.input[0].name
    batches = [{name: images[k : k + BATCH]} for k in range(0, len(images), BATCH)]
    pruned = pruning.apply_structured_wanda_pruning(pruned, calibration_data=batches, sparsity=given.sparsity)
elif given.sparsity:
    pruned = pruning.apply_structured_pruning(pruned, sparsity=given.sparsity)
    operators = {node.op_type for node in model.graph.node}
    if "DequantizeLinear" in operators:
        pruned = pruning.apply_structured_pruning_qdq(pruned, sparsity=given.sparsity)
    if "QLinearConv" in operators:
        pruned = pruning.apply_structured_pruning_qoperator(pruned, sparsity=given.sparsity)
onnx.save(pruned, given.after)
