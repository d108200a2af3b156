"""Reading an Einsum's equation."""

from __future__ import annotations

from collections.abc import Sequence

Term = tuple[str, ...]
"""One letter per axis; the axes of an ellipsis are called '.0', '.1', … from the right."""


def read_equation(equation: str, ranks: Sequence[int]) -> tuple[tuple[Term, ...], Term] | None:
    """The letters of every operand's axes and of the result's; None where the equation does not fit the ranks."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    parts = left.split(",")
    if len(parts) != len(ranks):
        return None
    terms = tuple(_term(part, rank) for part, rank in zip(parts, ranks, strict=True))
    if any(len(term) != rank for term, rank in zip(terms, ranks, strict=True)):
        return None
    dots = max((sum(x.startswith(".") for x in term) for term in terms), default=0)
    if arrow:
        return terms, _term(right, len(right.replace("...", "")) + dots)
    letters = [x for term in terms for x in term if not x.startswith(".")]
    return terms, (*_dots(dots), *sorted(x for x in set(letters) if letters.count(x) == 1))


def _term(part: str, rank: int) -> Term:
    head, dots, tail = part.partition("...")
    return (*head, *(_dots(rank - len(head) - len(tail)) if dots else ()), *tail)


def _dots(count: int) -> Term:
    return tuple(f".{k}" for k in range(count - 1, -1, -1))
