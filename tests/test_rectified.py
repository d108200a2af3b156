"""Targets in front of a Relu: what it cuts off is free."""

from __future__ import annotations

import numpy as np
import pytest

from ocnna_onnx.calibrate.linear import Linear
from ocnna_onnx.repair.rectified import Threshold

MAP = Linear(0, "x", 1, "y", 1, 1, None, "conv", 1, (1, 1), (1, 1), (1, 1), ((0, 0), (0, 0)))


@pytest.mark.parametrize("scale", [1.0, 0.5, -2.0])
@pytest.mark.parametrize("added", [False, True])
def test_what_the_relu_passes_keeps_its_target_and_the_rest_costs_only_what_gets_through(
    scale: float, added: bool
) -> None:
    rng = np.random.default_rng(0)
    stream = rng.normal(size=(5, 3, 4, 4)).astype(np.float32) if added else None
    begins = Threshold(MAP, np.full(3, scale, np.float32), rng.normal(size=3).astype(np.float32), stream)
    wanted, now = rng.normal(size=(2, 1, 80, 3)).astype(np.float32)
    rows = 0 if stream is None else stream.transpose(0, 2, 3, 1).reshape(1, 80, 3)

    def relu(y: np.ndarray) -> np.ndarray:
        return np.maximum(scale * y + begins.shift + rows, 0)

    found = begins.relaxed(wanted, now[:], slice(0, 5), None)
    passed = relu(wanted) > 0
    np.testing.assert_array_equal(found[passed], wanted[passed])
    np.testing.assert_allclose(relu(found), relu(wanted), atol=1e-5)  # the same to whoever reads the Relu
    both = ~passed & (relu(now) == 0)
    assert both.any()
    np.testing.assert_allclose(found[both], now[both], atol=1e-6)  # nothing is asked of these


def test_a_flat_normalization_leaves_targets_alone() -> None:
    begins = Threshold(MAP, np.zeros(3, np.float32), -np.ones(3, np.float32), None)
    wanted, now = np.random.default_rng(0).normal(size=(2, 1, 16, 3)).astype(np.float32)
    np.testing.assert_array_equal(begins.relaxed(wanted, now, slice(0, 1), None), wanted)
