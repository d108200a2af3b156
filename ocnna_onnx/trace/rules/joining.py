"""What several families share: operands that meet position by position, and labels that must lie along channels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .. import labels as lb
from ..context import NodeTrace
from ..labels import Labels

CHANNEL = 1


def join_operands(n: NodeTrace, operands: Iterable[tuple[int, Sequence[Labels]]], reason: str) -> list[Labels]:
    """Operands whose positions coincide in the output: labelled ones go together, constants are cut with them, and
    a fixed activation at a labelled position is a wall. operands: (input, its labels in the output's shape)."""
    own: dict[int, Sequence[Labels]] = dict(operands)
    kept = join_labels(n, own, reason)
    for x in kept:
        for i in own:
            meet(n, i, own[i], x, reason)
    return kept


def join_labels(n: NodeTrace, own: Mapping[int, Sequence[Labels]], reason: str) -> list[Labels]:
    """Labels of several operands over one shape: those that share an axis go together, and the widest stands for them.
    own: input -> its labels."""
    kept: list[Labels] = []
    for i, arrays in own.items():
        for x in arrays:
            partners = [y for y in kept if set(y.axes) & set(x.axes)]
            for y in partners:
                n.join(x, y, reason, i)
            if not partners:
                kept.append(x)
            elif set(x.axes) > set(partners[0].axes):
                kept[kept.index(partners[0])] = x
    return kept


def meet(n: NodeTrace, i: int, own: Sequence[Labels], x: Labels, reason: str) -> None:
    """Operand i under the labels x of the output."""
    shape = n.shape(i)
    missing = len(x.shape) - len(shape)
    full = [a for a in x.axes if a >= missing and shape[a - missing] != 1]
    if n.is_fixed(i):
        for axis in full:
            n.cut(i, axis - missing, x, axis)
    elif n.is_static(i):  # made to the shape of another tensor: it shrinks by itself, if it is the same everywhere
        value = n.value(i)
        if value is None or any((value != value.take([0], axis=axis - missing)).any() for axis in full):
            meet_fixed(n, x, full, f"{n.op} with values computed from shapes", i)
    elif full and not any(set(y.axes) & set(x.axes) for y in own):
        meet_fixed(n, x, full, reason, i)


def meet_fixed(n: NodeTrace, x: Labels, axes: Sequence[int], reason: str, i: int) -> None:
    """Labels x meet positions along `axes` that cannot go: a wall, or, where they vary along further axes too, whole
    slices along those may go."""
    if set(axes) == set(x.axes):
        n.wall([x], reason, i)
    else:
        n.join_along(x, axes, reason, i)


def channel_labels(n: NodeTrace, i: int, channel: int = CHANNEL) -> list[Labels]:
    """The labels of input i as vectors along the axis `channel`. A grid that varies along positions too keeps whole
    channels (pixel shuffle); labels along other axes alone are walled: the operator mixes those axes."""
    found: list[Labels] = []
    for x in n.labels(i):
        if channel not in x.axes:
            n.wall([x], f"{n.op} mixes positions along a labelled axis", i)
            continue
        if x.axes != (channel,):
            n.join_along(x, [a for a in x.axes if a != channel], f"{n.op} over positions of a channel", i)
            x = lb.along(lb.vector(x, channel), channel, x.shape)
        found.append(x)
    return found


def added(n: NodeTrace, i: int, made: list[Labels]) -> list[Labels]:
    """The output's labels once operand i is added to it: a constant is cut with them, an activation joins them."""
    reason = f"{n.op} adds an activation that is fixed at these positions"
    if not n.has(i):
        return made
    if n.is_fixed(i):
        shape = n.shape(i)
        missing = len(n.out_shape()) - len(shape)
        for x in made:
            for axis in x.axes:
                if axis >= missing and shape[axis - missing] != 1:
                    n.cut(i, axis - missing, x, axis)
        return made
    theirs = [lb.broadcast(y, n.out_shape()) for y in n.labels(i)]
    for x in made:
        partners = [y for y in theirs if set(y.axes) & set(x.axes)]
        for y in partners:
            n.join(x, y, reason, i)
        if not partners:
            n.wall([x], reason, i)
    n.wall([y for y in theirs if not any(set(y.axes) & set(x.axes) for x in made)], reason, i)
    return made
