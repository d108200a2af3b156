"""onnxsim's structured pruning of one file, in the environment that `peers.py` makes: IN.onnx OUT.onnx.

It matches patterns of simplified graphs (BatchNormalization folded), so the file is simplified first.
"""

import sys

import onnx
import onnxsim
from onnxsim.pruning import apply_structured_pruning

model = onnx.load(sys.argv[1])
simplified, _ = onnxsim.simplify(model)
onnx.save(apply_structured_pruning(simplified, sparsity=0.5), sys.argv[2])
