"""Einsum: every letter is an axis of one large product, and the result sums over those that it does not name."""

from __future__ import annotations

from ...model.einsum import Term, read_equation
from .. import labels as lb
from ..context import NodeTrace
from ..labels import Labels
from .joining import join_labels, meet_fixed
from .rule import Rule

REASON = "Einsum with an activation that is fixed along a labelled letter"


def trace_einsum(n: NodeTrace) -> None:
    """Labels that meet at a letter join, constants are cut with them; a summed letter ends there, the others pass. A
    free letter of a constant makes fresh channels."""
    operands = range(len(n.node.input))
    parsed = read_equation(str(n.attr("equation", "")), [len(n.shape(i)) for i in operands])
    if parsed is None or any(len(set(term)) != len(term) for term in parsed[0]):
        for i in operands:
            n.wall(n.labels(i), "Einsum that takes a diagonal, or whose equation cannot be read", i)
        return
    terms, result = parsed
    sizes = _sizes(n, terms)
    letters = tuple(sizes)
    summed = [a for a, letter in enumerate(letters) if letter not in result]
    own = {i: [_spread(x, terms[i], sizes) for x in n.labels(i)] for i in operands}
    for i, arrays in own.items():
        if any(set(x.axes) & set(summed) for x in arrays):
            n.mask(i)
    kept = join_labels(n, own, REASON)
    if not all(n.is_fixed(i) for i in operands):
        kept.extend(_fresh(n, terms, result, sizes))
    for x in kept:
        _cut_or_wall(n, x, own, terms, sizes)
    passed: list[Labels] = []
    for x in kept:
        inside = [a for a in x.axes if a in summed]
        if inside:
            n.join_along(x, [a for a in x.axes if a not in summed], "Einsum over part of a grid of channels")
        else:
            passed.append(lb.placed(x, [letters.index(letter) for letter in result], n.out_shape()))
    n.emit(passed)


def _sizes(n: NodeTrace, terms: tuple[Term, ...]) -> dict[str, int]:
    """Letter -> size; an operand may have size 1 where others are larger."""
    found: dict[str, int] = {}
    for i, term in enumerate(terms):
        for letter, size in zip(term, n.shape(i), strict=True):
            found[letter] = max(found.get(letter, 1), size)
    return found


def _spread(x: Labels, term: Term, sizes: dict[str, int]) -> Labels:
    """Labels of an operand as labels of the product before it is summed, with one axis per letter."""
    source = [term.index(letter) if letter in term else None for letter in sizes]
    return lb.placed(x, source, tuple(sizes.values()))


def _fresh(n: NodeTrace, terms: tuple[Term, ...], result: Term, sizes: dict[str, int]) -> list[Labels]:
    """Channels along the largest letter of the result that only constants have."""
    made = [x for x in result if all(n.is_fixed(i) for i, term in enumerate(terms) if x in term)]
    if not made:
        return []
    letter = max(made, key=lambda x: sizes[x])
    units = n.source(result.index(letter))
    axis = result.index(letter)
    return [] if units is None else [lb.along(lb.vector(units, axis), list(sizes).index(letter), tuple(sizes.values()))]


def _cut_or_wall(
    n: NodeTrace, x: Labels, own: dict[int, list[Labels]], terms: tuple[Term, ...], sizes: dict[str, int]
) -> None:
    letters = tuple(sizes)
    for i, term in enumerate(terms):
        shared = [a for a in x.axes if letters[a] in term and n.shape(i)[term.index(letters[a])] != 1]
        if n.is_fixed(i):
            for a in shared:
                n.cut(i, term.index(letters[a]), x, a)
        elif shared and not any(set(y.axes) & set(x.axes) for y in own[i]):
            meet_fixed(n, x, shared, REASON, i)


RULES = {"Einsum": Rule(trace_einsum, inputs=None, source=True)}
