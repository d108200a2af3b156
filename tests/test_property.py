"""Properties: whatever net is drawn, half of it goes and the rest computes the same; labels move as values do."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, reject, settings
from hypothesis import strategies as st
from support import RUNTIME, Array, build, prove_half

from ocnna_onnx.trace import labels as lb
from ocnna_onnx.trace.tracer import trace as trace_model

FEW = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


# --- random nets ---


class Map(NamedTuple):
    """A tensor [N, c, h, w]."""

    name: str
    c: int
    h: int
    w: int


@dataclass
class Net:
    """ONNX text that grows by one operator at a time; choices come from hypothesis."""

    draw: st.DrawFn
    batch: str
    body: list[str] = field(default_factory=list)
    declared: list[str] = field(default_factory=list)
    maps: list[Map] = field(default_factory=list)

    def pick(self, *options: int) -> int:
        return self.draw(st.sampled_from(options))

    def weight(self, *shape: int) -> str:
        self.declared.append(f"float[{','.join(map(str, shape))}] w{len(self.declared)}")
        return f"w{len(self.declared) - 1}"

    def ints(self, *values: int) -> str:
        self.declared.append(f"int64[{len(values)}] i{len(self.declared)} = {{{','.join(map(str, values))}}}")
        return f"i{len(self.declared) - 1}"

    def op(self, call: str) -> str:
        self.body.append(f"t{len(self.body)} = {call}")
        return f"t{len(self.body) - 1}"

    def two(self, call: str) -> tuple[str, str]:
        n = len(self.body)
        self.body.append(f"t{n}, u{n} = {call}")
        return f"t{n}", f"u{n}"

    def conv(self, x: Map, out: int, kernel: int = 1, group: int = 1, attributes: str = "") -> Map:
        bias = f", {self.weight(out)}" if self.draw(st.booleans()) else ""
        kernel_ = self.weight(out, x.c // group, kernel, kernel)
        pad = kernel // 2
        call = f"Conv<group={group}, pads=[{pad},{pad},{pad},{pad}]{attributes}>({x.name}, {kernel_}{bias})"
        return x._replace(name=self.op(call), c=out)


def conv(net: Net, x: Map) -> Map:
    return net.conv(x, net.pick(4, 6, 8, 12), net.pick(1, 3))


def depthwise(net: Net, x: Map) -> Map:
    return net.conv(x, x.c, 3, x.c)


def grouped(net: Net, x: Map) -> Map:
    group = net.pick(*[g for g in (2, 3, 4) if x.c % g == 0] or [1])
    return net.conv(x, group * net.pick(2, 3, 4), 1, group)


def transposed_conv(net: Net, x: Map) -> Map:
    out = net.pick(4, 6)
    call = f"ConvTranspose({x.name}, {net.weight(x.c, out, 1, 1)}, {net.weight(out)})"
    return x._replace(name=net.op(call), c=out)


def batch_norm(net: Net, x: Map) -> Map:
    vectors = ", ".join(net.weight(x.c) for _ in range(4))
    return x._replace(name=net.op(f"BatchNormalization({x.name}, {vectors})"))


def instance_norm(net: Net, x: Map) -> Map:
    if x.h * x.w == 1:
        return x
    return x._replace(name=net.op(f"InstanceNormalization({x.name}, {net.weight(x.c)}, {net.weight(x.c)})"))


def group_norm(net: Net, x: Map) -> Map:
    if x.c % 2 or x.h * x.w == 1:
        return x
    groups = x.c // 2
    r = net.op(f"Reshape({x.name}, {net.ints(0, groups, -1)})")
    n = net.op(f"InstanceNormalization({r}, {net.weight(groups)}, {net.weight(groups)})")
    back = net.op(f"Shape({x.name})") if net.draw(st.booleans()) else net.ints(0, x.c, x.h, x.w)
    r = net.op(f"Reshape({n}, {back})")
    m = net.op(f"Mul({r}, {net.weight(x.c, 1, 1)})")
    return x._replace(name=net.op(f"Add({m}, {net.weight(1, x.c, 1, 1)})"))


def activation(net: Net, x: Map) -> Map:
    return x._replace(
        name=net.op(f"{net.draw(st.sampled_from(['Relu', 'Sigmoid', 'HardSwish', 'LeakyRelu']))}({x.name})")
    )


def silu(net: Net, x: Map) -> Map:
    gate = net.op(f"Sigmoid({x.name})")
    return x._replace(name=net.op(f"Mul({x.name}, {gate})"))


def prelu(net: Net, x: Map) -> Map:
    return x._replace(name=net.op(f"PRelu({x.name}, {net.weight(x.c, 1, 1)})"))


def residual(net: Net, x: Map) -> Map:
    inner = activation(net, net.conv(x, net.pick(4, 6), 1))
    branch = net.conv(inner, x.c, net.pick(1, 3))
    other = x if net.draw(st.booleans()) else net.conv(x, x.c, 1)
    return x._replace(name=net.op(f"Add({branch.name}, {other.name})"))


def concat(net: Net, x: Map) -> Map:
    kind = net.pick(0, 1, 2)
    other = x if kind == 0 else net.conv(x, net.pick(2, 4, 6), 1)
    names = (x.name, other.name) if kind == 1 else (other.name, x.name)
    return x._replace(name=net.op(f"Concat<axis=1>({names[0]}, {names[1]})"), c=x.c + other.c)


def split(net: Net, x: Map) -> Map:
    first = net.pick(*range(1, x.c))
    a, b = net.two(f"Split<axis=1>({x.name}, {net.ints(first, x.c - first)})")
    kind = net.pick(0, 1, 2)
    if kind == 0:
        s = net.op(f"Sigmoid({b})")
        return x._replace(name=net.op(f"Concat<axis=1>({s}, {a})"))
    return x._replace(name=a, c=first) if kind == 1 and first > 1 else x


def glu(net: Net, x: Map) -> Map:
    if x.c % 2 or x.c < 4:
        return x
    a, b = net.two(f"Split<axis=1>({x.name}, {net.ints(x.c // 2, x.c // 2)})")
    s = net.op(f"Sigmoid({b})")
    return x._replace(name=net.op(f"Mul({a}, {s})"), c=x.c // 2)


def slice_(net: Net, x: Map) -> Map:
    start, step = net.pick(0, 1, -x.c), net.pick(1, 1, 2)
    end = net.pick(2**63 - 1, x.c, -1) if x.c > 3 else 2**63 - 1
    left = len(range(x.c)[start:end:step])
    if left < 2:
        return x
    call = f"Slice({x.name}, {net.ints(start)}, {net.ints(end)}, {net.ints(1)}, {net.ints(step)})"
    return x._replace(name=net.op(call), c=left)


def crop(net: Net, x: Map) -> Map:
    if x.h < 3:
        return x
    call = f"Slice({x.name}, {net.ints(1)}, {net.ints(-1)}, {net.ints(2)})"
    return x._replace(name=net.op(call), h=x.h - 2)


def gather(net: Net, x: Map) -> Map:
    order = net.draw(st.permutations(range(x.c)))[: net.pick(x.c, max(2, x.c - 2))]
    return x._replace(name=net.op(f"Gather<axis=1>({x.name}, {net.ints(*order)})"), c=len(order))


def pad_positions(net: Net, x: Map) -> Map:
    mode = net.draw(st.sampled_from(["constant", "reflect", "edge"])) if min(x.h, x.w) > 1 else "constant"
    call = f'Pad<mode="{mode}">({x.name}, {net.ints(0, 0, 1, 0, 0, 0, 0, 1)})'
    return x._replace(name=net.op(call), h=x.h + 1, w=x.w + 1)


def pad_channels(net: Net, x: Map) -> Map:
    before, after = net.pick(0, 1, 2), net.pick(0, 2)
    padded = x._replace(
        name=net.op(f"Pad({x.name}, {net.ints(0, before, 0, 0, 0, after, 0, 0)})"), c=x.c + before + after
    )
    other = net.conv(x, padded.c, 1)
    return padded._replace(name=net.op(f"Add({padded.name}, {other.name})"))


def sandwich(net: Net, x: Map) -> Map:
    t = net.op(f"Transpose<perm=[0,2,3,1]>({x.name})")
    out = net.pick(x.c, 4, 6)
    kind = net.pick(0, 1)
    t = net.op(f"MatMul({t}, {net.weight(x.c, out)})") if kind else net.op(f"Mul({t}, {net.weight(x.c)})")
    c = out if kind else x.c
    t = net.op(f"Relu({t})")
    return x._replace(name=net.op(f"Transpose<perm=[0,3,1,2]>({t})"), c=c)


def tokens(net: Net, x: Map) -> Map:
    r = net.op(f"Reshape({x.name}, {net.ints(0, x.c, x.h * x.w)})")
    t = net.op(f"Transpose<perm=[0,2,1]>({r})")
    out = net.pick(4, 6)
    h = net.op(f"MatMul({t}, {net.weight(x.c, out)})")
    t = net.op(f"Transpose<perm=[0,2,1]>({h})")
    return x._replace(name=net.op(f"Reshape({t}, {net.ints(0, out, x.h, x.w)})"), c=out)


def pool(net: Net, x: Map) -> Map:
    if min(x.h, x.w) < 4:
        return x
    kind = net.draw(st.sampled_from(["MaxPool", "AveragePool"]))
    call = f"{kind}<kernel_shape=[2,2], strides=[2,2]>({x.name})"
    return x._replace(name=net.op(call), h=x.h // 2, w=x.w // 2)


def upsample(net: Net, x: Map) -> Map:
    if max(x.h, x.w) > 6:
        return x
    scales = f"s{len(net.declared)}"
    net.declared.append(f"float[4] {scales} = {{1,1,2,2}}")
    return x._replace(name=net.op(f'Resize<mode="nearest">({x.name}, , {scales})'), h=2 * x.h, w=2 * x.w)


def squeeze_excite(net: Net, x: Map) -> Map:
    p = Map(net.op(f"GlobalAveragePool({x.name})"), x.c, 1, 1)
    s = activation(net, net.conv(p, net.pick(2, 4)))
    e = net.conv(s, x.c)
    g = net.op(f"HardSigmoid({e.name})")
    return x._replace(name=net.op(f"Mul({x.name}, {g})"))


def shuffle(net: Net, x: Map) -> Map:
    groups = net.pick(*[g for g in (2, 3) if x.c % g == 0] or [1])
    r = net.op(f"Reshape({x.name}, {net.ints(0, groups, x.c // groups, x.h, x.w)})")
    t = net.op(f"Transpose<perm=[0,2,1,3,4]>({r})")
    return x._replace(name=net.op(f"Reshape({t}, {net.ints(0, net.pick(x.c, -1), x.h, x.w)})"))


def depth_to_space(net: Net, x: Map) -> Map:
    if x.c % 4 or x.c < 8 or max(x.h, x.w) > 6:
        return x
    mode = net.draw(st.sampled_from(["DCR", "CRD"]))
    call = f'DepthToSpace<blocksize=2, mode="{mode}">({x.name})'
    return Map(net.op(call), x.c // 4, 2 * x.h, 2 * x.w)


def constant(net: Net, x: Map) -> Map:
    shape = net.draw(st.sampled_from([(1, x.c, 1, 1), (x.c, 1, 1), (1,), (1, 1, x.h, x.w), (x.c, x.h, x.w)]))
    kind = net.draw(st.sampled_from(["Mul", "Add", "Sub", "Max"]))
    return x._replace(name=net.op(f"{kind}({x.name}, {net.weight(*shape)})"))


def shared_kernel(net: Net, x: Map) -> Map:
    """One kernel on two inputs (a head on two pyramid levels), directly or under another name."""
    w = net.weight(x.c, x.c, 1, 1)
    other = net.op(f"Identity({w})") if net.draw(st.booleans()) else w
    a = net.op(f"Conv({x.name}, {w})")
    r = net.op(f"Relu({a})")
    b = net.op(f"Conv({r if net.draw(st.booleans()) else x.name}, {other})")
    kind = net.draw(st.sampled_from(["Add", "Concat<axis=1>"]))
    return x._replace(name=net.op(f"{kind}({a}, {b})"), c=x.c if kind == "Add" else 2 * x.c)


def shared_vector(net: Net, x: Map) -> Map:
    """One bias for layers that have nothing to do with each other (equal zeros, deduplicated)."""
    bias, out = net.weight(6), net.pick(4, 8)
    a = net.op(f"Conv({x.name}, {net.weight(6, x.c, 1, 1)}, {bias})")
    b = net.op(f"Conv({x.name}, {net.weight(6, x.c, 1, 1)}, {bias})")
    r = net.op(f"Relu({b})")
    both = net.op(f"Concat<axis=1>({a}, {r})")
    return net.conv(Map(both, 12, x.h, x.w), out)


def alias(net: Net, x: Map) -> Map:
    """The same tensor under two names meets itself."""
    other = net.op(f"Identity({x.name})")
    kind = net.draw(st.sampled_from(["Add", "Mul", "Concat<axis=1>"]))
    return x._replace(name=net.op(f"{kind}({x.name}, {other})"), c=2 * x.c if kind.startswith("Con") else x.c)


def transposed_kernel(net: Net, x: Map) -> Map:
    out = net.pick(4, 6)
    t = net.op(f"Transpose<perm=[3,2,0,1]>({net.weight(1, 1, x.c, out)})")
    return x._replace(name=net.op(f"Conv({x.name}, {t})"), c=out)


def attention(net: Net, x: Map) -> Map:
    """A non-local block: softmax(qᵀk) over positions, applied to v; q and k are contracted with each other."""
    inner, size = net.pick(2, 4), x.h * x.w
    q, k, v = (net.conv(x, c).name for c in (inner, inner, x.c))
    flat = [net.op(f"Reshape({t}, {net.ints(0, c, size)})") for t, c in ((q, inner), (k, inner), (v, x.c))]
    turned = net.op(f"Transpose<perm=[0,2,1]>({flat[0]})")
    weights = net.op(f"MatMul({turned}, {flat[1]})")
    soft = net.op(f"Softmax<axis=-1>({weights})")
    other = net.op(f"Transpose<perm=[0,2,1]>({soft})")
    mixed = net.op(f"MatMul({flat[2]}, {other})")
    back = net.op(f"Reshape({mixed}, {net.ints(0, x.c, x.h, x.w)})")
    return x._replace(name=net.op(f"Add({back}, {x.name})"))


def spatial_gate(net: Net, x: Map) -> Map:
    """CBAM: mean and maximum over channels make a map that scales every channel."""
    mean = net.op(f"ReduceMean<axes=[1], keepdims=1>({x.name})")
    most = net.op(f"ReduceMax<axes=[1], keepdims=1>({x.name})")
    both = net.op(f"Concat<axis=1>({mean}, {most})")
    gate = net.op(f"Conv({both}, {net.weight(1, 2, 1, 1)})")
    s = net.op(f"Sigmoid({gate})")
    return x._replace(name=net.op(f"Mul({x.name}, {s})"))


def root_mean_square(net: Net, x: Map) -> Map:
    epsilon = f"e{len(net.declared)}"
    net.declared.append(f"float[1] {epsilon} = {{0.01}}")
    square = net.op(f"Mul({x.name}, {x.name})")
    mean = net.op(f"ReduceMean<axes=[1], keepdims=1>({square})")
    shifted = net.op(f"Add({mean}, {epsilon})")
    root = net.op(f"Sqrt({shifted})")
    normal = net.op(f"Div({x.name}, {root})")
    return x._replace(name=net.op(f"Mul({normal}, {net.weight(x.c, 1, 1)})"))


def einsum(net: Net, x: Map) -> Map:
    out = net.pick(4, 6)
    return x._replace(name=net.op(f'Einsum<equation="nchw,oc->nohw">({x.name}, {net.weight(out, x.c)})'), c=out)


def earlier(net: Net, x: Map) -> Map:
    """A connection from any earlier tensor of the same size: the graph is no chain."""
    peers = [m for m in net.maps if (m.h, m.w) == (x.h, x.w) and m.name != x.name]
    if not peers:
        return x
    other = net.draw(st.sampled_from(peers))
    if other.c == x.c and net.draw(st.booleans()):
        return x._replace(name=net.op(f"Add({x.name}, {other.name})"))
    return x._replace(name=net.op(f"Concat<axis=1>({other.name}, {x.name})"), c=x.c + other.c)


STEPS: tuple[Callable[[Net, Map], Map], ...] = (
    conv,
    depthwise,
    grouped,
    transposed_conv,
    batch_norm,
    instance_norm,
    group_norm,
    activation,
    silu,
    prelu,
    residual,
    concat,
    split,
    glu,
    slice_,
    crop,
    gather,
    pad_positions,
    pad_channels,
    sandwich,
    tokens,
    pool,
    upsample,
    squeeze_excite,
    shuffle,
    depth_to_space,
    constant,
    shared_kernel,
    shared_vector,
    alias,
    transposed_kernel,
    attention,
    spatial_gate,
    root_mean_square,
    einsum,
    earlier,
)


def finish(net: Net, x: Map) -> str:
    """The last layers: a classifier or a map."""
    kind = net.pick(0, 1, 2, 3)
    size = x.c * x.h * x.w
    if kind == 0:
        return net.conv(x, 5).name
    if kind == 1:
        p = net.op(f"GlobalAveragePool({x.name})")
        f, size = net.op(f"Flatten({p})"), x.c
    elif kind == 2:
        target = net.ints(net.pick(0, -1), size) if net.draw(st.booleans()) else net.ints(0, -1)
        f = net.op(f"Reshape({x.name}, {target})")
    else:
        t = net.op(f"Transpose<perm=[0,2,3,1]>({x.name})")
        f = net.op(f"Flatten({t})")
    h = net.op(f"Gemm<transB=1>({f}, {net.weight(6, size)}, {net.weight(6)})")
    r = net.op(f"Relu({h})")
    return net.op(f"MatMul({r}, {net.weight(6, 4)})")


@st.composite
def nets(draw: st.DrawFn) -> str:
    """The text of a random valid net."""
    net = Net(draw, draw(st.sampled_from(["N", "1", "2"])))
    x = net.conv(Map("x", 3, 6, 6), net.pick(4, 6, 8), 3)
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=2, max_size=8)):
        net.maps.append(x)
        x = step(net, x)
        if x.c * x.h * x.w > 4000 or x.c < 2:
            x = net.conv(x, 4)
    y = finish(net, x)
    body, declared = "\n  ".join(net.body), ", ".join(net.declared)
    rank = 4 if net.body[-1].split()[2].startswith("Conv") else 2
    out = ",".join([net.batch, "K", "H", "W"][:rank])
    return f"g (float[{net.batch},3,6,6] x) => (float[{out}] {y}) <{declared}> {{\n  {body}\n}}"


@FEW
@given(nets(), st.sampled_from([0.25, 0.5, 0.8]), st.integers(0, 3))
def test_a_pruned_net_computes_what_the_silenced_original_computes(text: str, share: float, seed: int) -> None:
    check_net(text, share, seed)


@pytest.mark.slow
@settings(FEW, max_examples=10_000)
@given(nets(), st.sampled_from([0.25, 0.5, 0.8]), st.integers(0, 3))
def test_ten_thousand_nets(text: str, share: float, seed: int) -> None:
    check_net(text, share, seed)


def check_net(text: str, share: float, seed: int) -> None:
    note(text)
    try:
        prove_half(build(text, seed=seed), share, seed)
    except AssertionError as error:
        if not str(error).startswith("inconclusive"):
            raise
        reject()  # what went hardly matters to anything: another draw


@pytest.mark.parametrize("step", STEPS, ids=[s.__name__ for s in STEPS])
def test_every_step_alone_prunes(step: Callable[[Net, Map], Map]) -> None:
    """No vacuous property: each step of the strategy above occurs, between two layers, in nets that are pruned."""

    @settings(max_examples=3, deadline=None, derandomize=True)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        net = Net(data.draw, "N")
        first = net.conv(Map("x", 3, 6, 6), 12, 3)
        net.maps.append(first)
        y = net.conv(step(net, activation(net, first)), 5).name
        body, declared = "\n  ".join(net.body), ", ".join(net.declared)
        text = f"g (float[N,3,6,6] x) => (float[N,K,H,W] {y}) <{declared}> {{\n  {body}\n}}"
        note(text)
        result = prove_half(build(text))
        assert result.trace.free.any()

    check()


# --- labels ---

SHAPES = st.lists(st.sampled_from([1, 2, 3, 4, 6, 8]), min_size=1, max_size=4).map(tuple)


def spread(labels: lb.Labels, shape: tuple[int, ...]) -> Array:
    return np.broadcast_to(lb.dense(labels), shape)


def factorisations(draw: st.DrawFn, size: int) -> tuple[int, ...]:
    """Some shape of this many elements."""
    shape: list[int] = []
    while size > 1 and len(shape) < 4:
        shape.append(draw(st.sampled_from([d for d in range(1, size + 1) if size % d == 0])))
        size //= shape[-1]
    return (*shape, size) if size > 1 or not shape else tuple(shape)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_labels_move_as_values_do(data: st.DataObject) -> None:
    shape = data.draw(SHAPES)
    varies = [data.draw(st.booleans()) for _ in shape]
    small = [s if v else 1 for s, v in zip(shape, varies, strict=True)]
    values = data.draw(st.lists(st.integers(0, 5), min_size=prod(small), max_size=prod(small)))
    reference = np.broadcast_to(np.asarray(values, np.int64).reshape(small), shape)
    labels: lb.Labels | None = lb.plain(np.ascontiguousarray(reference))
    for _ in range(data.draw(st.integers(1, 6))):
        kind = data.draw(st.sampled_from(["transpose", "reshape", "take"]))
        assert labels is not None
        if kind == "transpose":
            perm = data.draw(st.permutations(range(reference.ndim)))
            reference, labels = reference.transpose(perm), lb.transpose(labels, perm)
        elif kind == "reshape":
            target = factorisations(data.draw, reference.size)
            reference, labels = reference.reshape(target), lb.reshape(labels, target)
        else:
            axis = data.draw(st.integers(0, reference.ndim - 1))
            size = reference.shape[axis]
            indices = np.asarray(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=6)), np.int64)
            reference, labels = reference.take(indices, axis), lb.take(labels, axis, indices)
        note(f"{kind} -> {reference.shape}")
        if labels is None:
            assert (reference == reference.flat[0]).all()
            return
        assert labels.shape == reference.shape
        np.testing.assert_array_equal(spread(labels, reference.shape), reference)
        for axis in set(range(reference.ndim)) - set(labels.axes):
            assert (reference == reference.take([0], axis)).all()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.data())
def test_two_labellings_of_one_tensor_meet_position_by_position(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.sampled_from([2, 4, 6]), min_size=1, max_size=2)))
    pair = []
    for _ in range(2):  # each comes from another shape of as many elements, so that their factors differ
        origin = factorisations(data.draw, prod(shape))
        axis = data.draw(st.integers(0, len(origin) - 1))
        values = data.draw(st.lists(st.integers(0, 5), min_size=origin[axis], max_size=origin[axis]))
        column = np.asarray(values, np.int64).reshape([-1 if a == axis else 1 for a in range(len(origin))])
        dense = np.ascontiguousarray(np.broadcast_to(column, origin))
        pair.append((lb.reshape(lb.plain(dense), shape), dense.reshape(shape)))
    (a, left), (b, right) = pair
    met = np.stack(lb.paired(a, b))
    expected = np.stack([left.reshape(-1), right.reshape(-1)])
    assert set(map(tuple, met.T.tolist())) == set(map(tuple, expected.T.tolist()))


def test_a_group_normalisation_keeps_one_label_per_channel() -> None:
    shape = (2, 64, 1024, 1024)
    labels = lb.along(np.arange(1, 65), 1, shape)
    grouped_ = lb.reshape(labels, (2, 8, 8 * 1024 * 1024))
    assert grouped_.array.size == 64
    assert grouped_.shape == (2, 8, 8 * 1024 * 1024)
    assert grouped_.axes == (1, 2)
    back = lb.reshape(grouped_, shape)
    assert back.array.size == 64
    assert back.axes == (1,)
    np.testing.assert_array_equal(lb.vector(back, 1), np.arange(1, 65))


def test_the_trace_of_a_group_normalisation_stays_small() -> None:
    model = build(
        """g (float[1,3,512,512] x) => (float[1,5,512,512] y)
        <float[16,3,1,1] wa, float[4] s, float[4] b, float[5,16,1,1] wy, int64[3] to = {1,4,-1},
        int64[4] back = {1,16,512,512}>
        { a = Conv(x, wa)
          r = Reshape(a, to)
          n = InstanceNormalization(r, s, b)
          m = Reshape(n, back)
          y = Conv(m, wy) }"""
    )
    tracemalloc.start()
    try:
        trace = trace_model(model, None, RUNTIME)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert trace.free.sum() == 4
    assert peak < 4e6, f"{peak / 1e6:.0f} MB for 16 channels; a dense array of labels has 34"
