"""Whatever the user has at hand, as feeds for onnxruntime."""
