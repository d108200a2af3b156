"""LSTM, GRU and RNN: the channels of what they read can go; their hidden units stay."""

from __future__ import annotations

from .. import labels as lb
from ..context import NodeTrace
from ..labels import Labels
from .joining import meet, meet_fixed
from .rule import Rule

SEQUENCE, BATCH, INPUT = range(3)
LENGTHS, STATES = 4, (5, 6)


def trace_recurrent(n: NodeTrace) -> None:
    """X[sequence, batch, input] W[directions, gates × hidden, input]: consumes the input axis; rows of the batch do not
    know of one another."""
    n.refuse(f"the hidden units of {n.op} stay as they are")
    if n.attr("layout", 0) or not n.is_fixed(1):
        for i in (0, *STATES):
            n.wall(n.labels(i), f"{n.op} with computed weights, or with the batch in front", i)
        return
    batch: list[Labels] = []
    for x in n.labels(0):
        if SEQUENCE in x.axes:
            meet_fixed(n, x, [SEQUENCE], f"{n.op} runs along a labelled axis", 0)
        if INPUT in x.axes:
            n.join_along(x, [a for a in x.axes if a != INPUT], f"{n.op} over part of a grid of channels")
            n.cut(1, 2, x, INPUT)
            n.mask(0)
        elif BATCH in x.axes:
            batch.append(lb.along(lb.vector(x, BATCH), BATCH, x.shape))
    for i in STATES:
        alone = [x for x in n.labels(i) if not batch or x.axes != (1,)]
        n.wall(alone, f"the hidden units of {n.op} stay as they are", i)
    for x in batch:
        _rows(n, x)


def _rows(n: NodeTrace, x: Labels) -> None:
    """Labels along the batch."""
    reason = f"{n.op} with states that are fixed along a labelled batch"
    if n.has(LENGTHS):
        row = lb.along(lb.vector(x, BATCH), 0, n.shape(LENGTHS))
        meet(n, LENGTHS, [], row, reason)
    for i in STATES:
        if not n.has(i):
            continue
        state = lb.placed(x, [None, BATCH, None], n.shape(i))
        mine = [y for y in n.labels(i) if y.axes == (1,)]
        for y in mine:
            n.join(state, y, reason, i)
        meet(n, i, mine, state, reason)
    for k, name in enumerate(n.node.output):
        if name:
            source = [None, None, BATCH, None] if k == 0 else [None, BATCH, None]
            n.emit([lb.placed(x, source, n.out_shape(k))], k)


RULES = dict.fromkeys(("LSTM", "GRU", "RNN"), Rule(trace_recurrent, inputs=(0, *STATES), source=True))
