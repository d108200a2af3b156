"""The evolution strategy itself (DeepPruningES; Fernandes and Yen 2021), without a net: masks in, what they are worth
out. Every generation depends on the archive and on the seed alone, so that a run that was interrupted goes on as if it
had not been."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..trace.labels import BoolArray, IntArray
from .front import Bar, Named, named, non_dominated
from .genome import Space, legal
from .mutate import flipped, led

FloatArray = npt.NDArray[np.float64]

PARENTS = 3
"""The places of the population that parents fill."""

ATTEMPTS = 20
"""Draws for one child that nobody has evaluated yet."""


@dataclass(frozen=True)
class Rules:
    """How a run goes. population: parents and children of a generation. mutation: see `evolution.mutate`. led: flips
    are led by scores, in steps of the alignment; else uniform, as published. worst: the error above which no candidate
    is wanted; the unpruned net always is."""

    population: int = 30
    mutation: float = 0.1
    led: bool = True
    worst: float = np.inf


@dataclass(frozen=True)
class Worth:
    """What masks are worth. error, cost: float64 [n], in shares (cost: of the original's). stopped: bool [n], whether
    the evaluation ended early, since the candidate was beaten already: its error is an estimate."""

    error: FloatArray
    cost: FloatArray
    stopped: BoolArray


@dataclass(frozen=True)
class Archive:
    """Everything that was evaluated, in order; the first is the unpruned net. masks: bool [n, bits]. generation: int64
    [n], 0 for the unpruned net and the seeds. done: generations that are complete."""

    masks: BoolArray
    worth: Worth
    generation: IntArray
    done: int = 0

    def __len__(self) -> int:
        return len(self.masks)

    def plus(self, masks: BoolArray, worth: Worth, done: int) -> Archive:
        """With the candidates of one more generation."""
        joined = Worth(
            np.concatenate([self.worth.error, worth.error]),
            np.concatenate([self.worth.cost, worth.cost]),
            np.concatenate([self.worth.stopped, worth.stopped]),
        )
        numbers = np.full(len(masks), done, np.int64)
        return Archive(np.concatenate([self.masks, masks]), joined, np.concatenate([self.generation, numbers]), done)

    def wanted(self, rules: Rules) -> FloatArray:
        """The errors, float64 [n]; inf for candidates that can be neither parents nor part of the front."""
        out = self.worth.stopped | (self.worth.error > rules.worst)
        out[:1] = False
        return np.where(out, np.inf, self.worth.error)

    def front(self, rules: Rules) -> IntArray:
        """Positions of the non-dominated candidates, cost ascending."""
        return non_dominated(self.wanted(rules), self.worth.cost)

    def bar(self, rules: Rules) -> Bar:
        """What further candidates must beat."""
        front = self.front(rules)
        return Bar(self.worth.error[front], self.worth.cost[front], rules.worst)


Evaluate = Callable[[BoolArray, Bar], Worth]
"""What masks (bool [n, bits]) are worth; candidates that do not beat the bar may be stopped."""


def start(space: Space, rules: Rules, seeds: Sequence[BoolArray], evaluate: Evaluate) -> Archive:
    """Generation 0: the unpruned net, and the seeds (each once)."""
    whole = np.ones((1, space.bits), bool)
    masks = np.array([*whole, *seeds], bool).reshape(-1, space.bits)
    _, first = np.unique(masks, axis=0, return_index=True)
    masks = masks[np.sort(first)]
    nothing = Bar(np.zeros(0), np.zeros(0))
    return Archive(masks, evaluate(masks, nothing), np.zeros(len(masks), np.int64))


def evolve(
    space: Space,
    rules: Rules,
    archive: Archive,
    scores: Sequence[FloatArray],
    seed: int,
    generations: int,
    evaluate: Evaluate,
) -> Iterator[Archive]:
    """The archive after each generation, up to `generations` of them. scores: float64 [classes of the net] each, the
    lowest of a group go first; none: nothing is known, and what must stay is drawn."""
    while archive.done < generations:
        rng = np.random.default_rng([seed, archive.done + 1])
        masks = children(space, rules, archive, scores, rng)
        archive = archive.plus(masks, evaluate(masks, archive.bar(rules)), archive.done + 1)
        yield archive


def parents(archive: Archive, rules: Rules) -> Named:
    """The three of the population: of the parents before and their children, generation by generation."""
    error, cost = archive.wanted(rules), archive.worth.cost
    present: tuple[int, ...] = ()
    for number in range(archive.done + 1):
        members = np.array([*present, *np.flatnonzero(archive.generation == number).tolist()], np.int64)
        members = np.unique(members)
        chosen = named(error[members], cost[members])
        present = tuple(int(members[k]) for k in (chosen.heavy, chosen.knee, chosen.light))
    return Named(*present)


def children(
    space: Space, rules: Rules, archive: Archive, scores: Sequence[FloatArray], rng: np.random.Generator
) -> BoolArray:
    """Masks of the next generation, bool [≤ population − PARENTS, bits]: legal, and none that was evaluated before."""
    three = parents(archive, rules).distinct()
    ranks = [ranked(space, s) for s in scores]
    known = {m.tobytes() for m in archive.masks}
    found: list[BoolArray] = []
    for _ in range(max(1, rules.population - PARENTS)):
        for _ in range(ATTEMPTS):
            parent = three[int(rng.integers(len(three)))]
            child = _child(space, rules, archive.masks[parent], scores, ranks, rng)
            if child.tobytes() not in known:
                known.add(child.tobytes())
                found.append(child)
                break
    return np.array(found, bool).reshape(-1, space.bits)


def _child(
    space: Space,
    rules: Rules,
    mask: BoolArray,
    scores: Sequence[FloatArray],
    ranks: Sequence[FloatArray],
    rng: np.random.Generator,
) -> BoolArray:
    leader = int(rng.integers(len(scores))) if scores else None
    score = rng.random(space.total) if leader is None else scores[leader]
    if rules.led:
        child = led(space, mask, rules.mutation, None if leader is None else ranks[leader], rng)
    else:
        child = flipped(mask, rules.mutation, rng)
    return legal(space, child, score)


def ranked(space: Space, score: FloatArray) -> FloatArray:
    """float64 [bits]: the place of every bit in its group's order by score, 0 (lowest) … 1."""
    found = np.zeros(space.bits)
    for g in range(len(space.widths)):
        own = np.flatnonzero(space.group == g)
        order = np.argsort(score[space.classes[own]], kind="stable")
        found[own[order]] = np.linspace(0.0, 1.0, len(own)) if len(own) > 1 else 0.5
    return found


def without_original(archive: Archive, rules: Rules) -> IntArray:
    """The front without the unpruned net, cost ascending: what there is to choose from. Empty where nothing was found
    that is wanted."""
    error = archive.wanted(rules)
    error[0] = np.inf
    return non_dominated(error, archive.worth.cost)


__all__ = [
    "Archive",
    "Evaluate",
    "Rules",
    "Worth",
    "children",
    "evolve",
    "parents",
    "ranked",
    "start",
    "without_original",
]
