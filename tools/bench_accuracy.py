"""Accuracy at a share of the multiply–accumulates, without training: what the cut leaves, and what the repair brings
back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from bench_measure import MADE, SHARES, Judges, Setting, cut_to, measured
from bench_nets import Net
from bench_rows import Row, grouped, resumed, share, short, spread

BARS = {
    "cifar10_resnet20": {0.7: -0.8, 0.5: -4.0},
    "cifar10_resnet56": {0.7: -0.3, 0.5: -1.5, 0.3: -8.0},
    "cifar10_preact_resnet32_bn": {0.5: -3.0},
    "cifar10_densenet_bc_6_12_24_k12": {0.7: -0.8, 0.5: -4.0},
    "cifar10_mobilenet_v1_half": {0.6: -1.0, 0.4: -4.0},
    "cifar10_vgg16_half_bn": {0.5: -0.5, 0.25: -3.0},
    "imagenet_mobilenet_v1_075_bn": {0.7: -4.0},
    "imagenet_mobilenet_v2": {0.8: -4.0},
    "imagenet_mobilenet_edgetpu_075": {0.8: -3.0},
}
"""Net -> share -> the percentage points that it may lose."""

WHAT = "accuracy"
HEAD = ("net", "asked", "MACs", "RPR", "before", "after", "Δ pp (range)", "bar", "met", "seeds", "seconds")


def rows(
    nets: Sequence[Net], shares: Sequence[float], criterion: str, seeds: Sequence[int], setting: Setting
) -> Iterator[Row]:
    """One per net, seed and share. The images that judge are in nobody else's hands."""
    judges = Judges(setting)
    for net in nets:
        for seed in seeds:
            for asked in shares or SHARES.get(net.name, MADE):  # one after the other: sensitivities are kept
                about = {**setting.about(WHAT, net, seed), "share": asked, "criterion": criterion}
                about |= {"align": setting.align}
                yield from resumed(
                    setting.file, [about], partial(_measured, net, asked, criterion, seed, setting, judges)
                )


def _measured(net: Net, asked: float, criterion: str, seed: int, setting: Setting, judges: Judges) -> list[Row]:
    return [measured(lambda: cut_to(net, asked, criterion, seed, setting), lambda: judges(net, seed))[0]]


def table(found: Sequence[Row]) -> list[Sequence[str]]:
    """A line per net and share: mean and range over the seeds."""
    lines: list[Sequence[str]] = [HEAD]
    for (net, asked), some in grouped(found, "net", "share").items():
        good = [r for r in some if "delta" in r]
        if not good:
            lines.append((short(net), f"{asked:.0%}", some[0].get("refused", ""), *[""] * 8))
            continue
        deltas = [r["delta"] for r in good]
        mean = sum(deltas) / len(deltas)
        bar = BARS.get(net, {}).get(asked)
        lines.append(
            (
                short(net),
                f"{asked:.0%}",
                share([r["macs"] for r in good]),
                share([r["rpr"] for r in good]),
                share([r["before"] / 100 for r in good]),
                share([r["after"] / 100 for r in good]),
                spread(deltas),
                "" if bar is None else f"{bar:+.1f}",
                "" if bar is None else ("yes" if mean >= bar else "no"),
                " ".join(str(r["seed"]) for r in good),
                f"{sum(r['seconds'] for r in good) / len(good):.0f}",
            )
        )
    return lines
