"""The evolution strategy without a net: fronts, the three, hypervolume, masks, generations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocnna_onnx.evolution.evolve import (
    Archive,
    Rules,
    Worth,
    children,
    evolve,
    parents,
    ranked,
    start,
    without_original,
)
from ocnna_onnx.evolution.fitness import Wanted
from ocnna_onnx.evolution.front import Bar, hypervolume, named, non_dominated
from ocnna_onnx.evolution.genome import Space, legal
from ocnna_onnx.evolution.mutate import expected_flips, led
from ocnna_onnx.plan.align import Alignment

Masks = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
coarse = st.integers(0, 8).map(lambda k: k / 8)  # coarse: ties and flat fronts are common
points = st.lists(st.tuples(coarse, coarse), min_size=1, max_size=30)
WEIGHTS = np.array([5.0, 1, 4, 1, 3, 1, 2, 9, 1, 1, 2, 3])


def space(widths: tuple[int, ...] = (4, 8), alignment: Alignment = Alignment(), least: int = 1) -> Space:
    """One class for each bit."""
    bits = sum(widths)
    groups = np.repeat(np.arange(len(widths)), widths)
    axes = tuple(np.flatnonzero(groups == g) for g in range(len(widths)))
    return Space(np.arange(bits), groups, widths, bits, axes, axes, alignment, least)


class Toy:
    """Bits that are dropped cost what they weigh; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    def __call__(self, masks: Masks, bar: Bar) -> Worth:
        self.asked += [m.tobytes() for m in masks]
        error = np.array([WEIGHTS[: len(m)][~m].sum() / WEIGHTS.sum() for m in masks], np.float64)
        return Worth(error, np.array([m.mean() for m in masks], np.float64), np.zeros(len(masks), bool))


def run(rules: Rules, generations: int, scores: list[np.ndarray] | None = None, seed: int = 0) -> tuple[Archive, Toy]:  # type: ignore[type-arg]
    toy = Toy()
    first = start(space(), rules, [], toy)
    return [first, *evolve(space(), rules, first, scores or [], seed, generations, toy)][-1], toy


@given(points)
def test_nothing_on_the_front_is_beaten_and_everything_else_is(found: list[tuple[float, float]]) -> None:
    error, cost = np.array(found, np.float64).T
    front = non_dominated(error, cost)
    assert (np.diff(cost[front]) > 0).all()
    assert (np.diff(error[front]) < 0).all()
    for e, c in found:
        assert ((error[front] <= e) & (cost[front] <= c)).any()


@given(points)
def test_the_three_are_the_ends_of_the_front_and_distinct_where_three_exist(found: list[tuple[float, float]]) -> None:
    error, cost = np.array(found, np.float64).T
    three, front = named(error, cost), non_dominated(error, cost)
    assert error[three.heavy] == error.min()
    assert cost[three.light] == cost.min()
    assert len(three.distinct()) == min(3, len(front))
    if len(front) > 2:
        span = error[front].max() - error[front].min(), cost[front].max() - cost[front].min()
        manhattan = (error - error[front].min()) / span[0] + (cost - cost[front].min()) / span[1]
        assert manhattan[three.knee] == pytest.approx(manhattan[front[1:-1]].min())


def test_the_knee_is_the_nearest_to_the_ideal_point_and_not_the_middle() -> None:
    error = np.array([0.0, 0.1, 0.5, 1.0])
    cost = np.array([1.0, 0.3, 0.25, 0.2])
    assert named(error, cost).knee == 1


@given(points, st.tuples(coarse, coarse))
def test_the_hypervolume_is_the_area_and_never_falls(
    found: list[tuple[float, float]], more: tuple[float, float]
) -> None:
    error, cost = np.array(found, np.float64).T
    area = hypervolume(error, cost)
    grid = (np.arange(8) + 0.5) / 8  # cells of the coarse grid
    cells = [((error <= e) & (cost <= c)).any() for e in grid for c in grid]
    assert area == pytest.approx(np.mean(cells))
    assert hypervolume(np.append(error, more[0]), np.append(cost, more[1])) >= area - 1e-12


def test_a_bar_is_the_best_error_of_what_costs_no_more() -> None:
    bar = Bar(np.array([0.5, 0.2]), np.array([0.3, 0.6]), worst=0.9)
    assert [bar.limit(c) for c in (0.1, 0.3, 0.5, 0.6, 1.0)] == [0.9, 0.5, 0.5, 0.2, 0.2]


@given(st.integers(0, 2**12 - 1), st.integers(0, 50), st.sampled_from([1, 2, 4]), st.integers(1, 3))
def test_a_legal_mask_empties_no_group_and_ends_on_multiples(bits: int, seed: int, multiple: int, least: int) -> None:
    own = space(alignment=Alignment(multiple), least=least)
    score = np.random.default_rng(seed).random(12)
    mask = np.array([bits >> k & 1 for k in range(12)], bool)
    found = legal(own, mask, score)
    assert (found >= mask).all()
    assert (legal(own, found, score) == found).all()
    for g in range(2):
        kept = int(found[own.group == g].sum())
        assert kept >= least
        assert kept % multiple == 0


def test_an_emptied_group_gets_its_best_filter_back() -> None:
    own = space()
    mask = np.array([False] * 4 + [True] * 8)
    score = np.array([0.1, 0.9, 0.3, 0.2] + [0.0] * 8)
    assert np.flatnonzero(legal(own, mask, score)[:4]).tolist() == [1]


@settings(deadline=None, max_examples=25)
@given(st.booleans(), st.integers(0, 100), st.booleans())
def test_children_are_new_and_legal_and_nothing_is_evaluated_twice(led: bool, seed: int, scored: bool) -> None:
    rules = Rules(population=8, led=led, worst=0.9)
    archive, toy = run(rules, 5, [WEIGHTS, WEIGHTS[::-1].copy()] if scored else None, seed)
    assert len(toy.asked) == len(set(toy.asked)) == len(archive)
    assert len(archive) <= 1 + 5 * (8 - 3)
    assert all(archive.masks[:, space().group == g].any(axis=1).all() for g in range(2))
    assert archive.done == 5
    assert archive.masks[0].all()


def test_a_run_that_goes_on_from_its_archive_is_the_unbroken_run() -> None:
    for rules in (Rules(population=10), Rules(population=10, led=False)):
        whole, _ = run(rules, 6, [WEIGHTS])
        part, toy = run(rules, 2, [WEIGHTS])
        *_, resumed = evolve(space(), rules, part, [WEIGHTS], 0, 6, toy)
        assert (resumed.masks == whole.masks).all()
        assert (resumed.generation == whole.generation).all()


def test_parents_are_those_of_the_population_generation_by_generation() -> None:
    rules = Rules(population=6, led=False)
    archive, _ = run(rules, 8)
    present: list[int] = [0]
    for number in range(1, 9):
        members = np.array([*present, *np.flatnonzero(archive.generation == number)])
        three = named(archive.worth.error[members], archive.worth.cost[members])
        present = sorted({int(members[k]) for k in three.distinct()})
    assert sorted(parents(archive, rules).distinct()) == present


def test_at_the_start_all_parents_are_the_unpruned_net() -> None:
    rules = Rules(population=6, led=False)
    archive, toy = run(rules, 0)
    assert parents(archive, rules).distinct() == (0,)
    masks = children(space(), rules, archive, [], np.random.default_rng(0))
    assert 1 <= len(masks) <= 3
    assert toy.asked == [np.ones(12, bool).tobytes()]


def test_uniform_flips_flip_every_bit_with_the_probability() -> None:
    own = space((400,))
    rules = Rules(population=103, mutation=0.1, led=False)
    archive = start(own, rules, [], lambda m, b: Worth(np.zeros(len(m)), np.ones(len(m)), np.zeros(len(m), bool)))
    masks = children(own, rules, archive, [], np.random.default_rng(1))
    assert len(masks) == 100
    assert (~masks).mean() == pytest.approx(0.1, abs=0.01)


def test_led_flips_drop_what_scores_low() -> None:
    own = space((64,))
    score = np.arange(64.0)
    rules = Rules(population=203)
    archive = start(own, rules, [], lambda m, b: Worth(np.zeros(len(m)), np.ones(len(m)), np.zeros(len(m), bool)))
    masks = children(own, rules, archive, [score], np.random.default_rng(1))
    gone = (~masks).mean(axis=0)
    assert gone[:16].mean() > 10 * gone[48:].mean()
    assert ranked(own, score).tolist() == np.linspace(0, 1, 64).tolist()


def test_led_flips_reach_far_and_near_from_the_unpruned_net_and_uniform_ones_do_neither() -> None:
    """Uniform flips of a net with many filters concentrate around one share."""
    own = space((64,) * 16)
    shares = {}
    for rules in (Rules(population=203), Rules(population=203, led=False)):
        archive = start(own, rules, [], lambda m, b: Worth(np.zeros(len(m)), np.ones(len(m)), np.zeros(len(m), bool)))
        masks = children(own, rules, archive, [], np.random.default_rng(1))
        shares[rules.led] = (~masks).mean(axis=1)
    assert shares[False].max() - shares[False].min() < 0.08
    assert shares[True].min() < 0.005
    assert shares[True].max() > 0.1


def test_flips_are_as_many_as_foretold() -> None:
    own, rng = space((64,) * 16), np.random.default_rng(0)
    flips = [(~led(own, np.ones(own.bits, bool), 0.05, None, rng)).sum() for _ in range(400)]
    # children that exchange from a whole net only drop in half of their groups
    assert 0.6 * expected_flips(own, 0.05, True) < np.mean(flips) < 1.1 * expected_flips(own, 0.05, True)
    assert expected_flips(own, 0.05, False) == pytest.approx(51.2)


def test_what_is_stopped_or_worse_than_wanted_is_never_on_the_front_but_the_unpruned_net_is() -> None:
    worth = Worth(
        np.array([0.95, 0.1, 0.2, 0.99]), np.array([1.0, 0.5, 0.4, 0.1]), np.array([False, True, False, False])
    )
    archive = Archive(np.ones((4, 3), bool), worth, np.zeros(4, np.int64))
    rules = Rules(worst=0.9)
    assert archive.front(rules).tolist() == [2]
    assert without_original(archive, rules).tolist() == [2]
    assert Archive(
        np.ones((1, 3), bool), Worth(worth.error[:1], worth.cost[:1], worth.stopped[:1]), np.zeros(1, int)
    ).front(rules).tolist() == [0]


def test_what_a_net_is_worth_that_does_not_look() -> None:
    classes = (np.array([0, 1, 1], np.int32), np.array([1, 2], np.int32))
    assert Wanted("y", "top1", classes).useless == pytest.approx(0.4)
    pixels = (np.array([[[0, 0], [0, 2]]], np.int32),)
    assert Wanted("y", "pixel", pixels).useless == pytest.approx(0.25)
    assert Wanted("y", "relative_l2", (np.ones((2, 3), np.float32),)).useless == 1
