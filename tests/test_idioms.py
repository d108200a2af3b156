"""Every one of the 78 idioms has a test, here or elsewhere, and holds at other shares and seeds."""

from __future__ import annotations

import pytest
import test_idioms_around
import test_idioms_moves
import test_idioms_plain
import test_idioms_statistics
import test_idioms_weights
from idioms import TITLES, label
from support import prove_half

TABLES = tuple(
    m.IDIOMS
    for m in (
        test_idioms_plain,
        test_idioms_statistics,
        test_idioms_moves,
        test_idioms_weights,
        test_idioms_around,
    )
)
OWN = {key: idiom for table in TABLES for key, idiom in table.own.items()}


@pytest.mark.parametrize("row", TITLES)
def test_every_row_has_a_test(row: int) -> None:
    """Row by row: the nets of our own, and the tests elsewhere."""
    own = [name for number, name in OWN if number == row]
    assert own or any(table.elsewhere.get(row) for table in TABLES), TITLES[row]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("share", [0.25, 0.9, 1.0])
@pytest.mark.parametrize("key", OWN, ids=label)
def test_other_shares_and_seeds_are_proven(key: tuple[int, str], share: float, seed: int) -> None:
    prove_half(OWN[key].model, share, seed)
