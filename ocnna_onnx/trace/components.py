"""Connected components: what goes together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .labels import IntArray

Edge = tuple[IntArray, IntArray]
"""Two arrays of equal length whose members go together pair by pair."""


def components(size: int, edges: Sequence[Edge]) -> IntArray:
    """int64 [size]: the component of each of 0 … size − 1, numbered in the order of their first members."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    left = np.concatenate([a for a, _ in edges]) if edges else np.zeros(0, np.int64)
    right = np.concatenate([b for _, b in edges]) if edges else np.zeros(0, np.int64)
    matrix = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(size, size))
    return np.asarray(connected_components(matrix, directed=False)[1], np.int64)
