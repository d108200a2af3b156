"""Distillation with a gradient: a pruned net learns from the original on unlabelled samples, ONNX in and ONNX out."""
