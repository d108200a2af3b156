"""Knows ONNX, knows nothing of pruning: load, index, shapes, constants, cost, sessions, save, stamp."""
