"""onnxsim's structured pruning of one file, in the environment that `peers.py` makes: IN.onnx OUT.onnx.

It matches patterns of simplified graphs (BatchNormalization folded), so the file is simplified first. Quantized layers
have functions of their own.
"""

import sys

import onnx
import onnxsim
from onnxsim import pruning

model = onnx.load(sys.argv[1])
simplified, _ = onnxsim.simplify(model)
pruned = pruning.apply_structured_pruning(simplified, sparsity=0.5)
operators = {node.op_type for node in model.graph.node}
if "DequantizeLinear" in operators:
    pruned = pruning.apply_structured_pruning_qdq(pruned, sparsity=0.5)
if "QLinearConv" in operators:
    pruned = pruning.apply_structured_pruning_qoperator(pruned, sparsity=0.5)
onnx.save(pruned, sys.argv[2])
