"""`drop=1%`: what is promised on held-out calibration images, and what it comes to on images that nobody saw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from math import sqrt

from bench_measure import Judges, Setting, calibrating, measured
from bench_nets import Net, calibration_labels
from bench_rows import Row, grouped, resumed, short, spread

import ocnna_onnx

WHAT = "drop"
HEAD = ("net", "asked", "judged by", "held out", "drop there", "promised (90 %)", "test drop pp", "standard error")
HEAD += ("holds", "MACs", "RPR", "seconds")


def rows(
    nets: Sequence[Net],
    drops: Sequence[float],
    criterion: str,
    seeds: Sequence[int],
    labelled: bool,
    setting: Setting,
) -> Iterator[Row]:
    """One per net, seed and drop (percentage points). labelled: the calibration images come with their labels, so that
    accuracy is what may drop; else it is agreement with the original. Nets without labels are left out."""
    judges = Judges(setting)
    for net in nets:
        if not net.labelled:
            continue
        for seed in seeds:
            for drop in drops:
                about = {**setting.about(WHAT, net, seed), "drop": drop, "criterion": criterion, "labels": labelled}
                make = partial(_measured, net, drop, criterion, seed, labelled, setting, judges)
                yield from resumed(setting.file, [{**about, "align": setting.align}], make)


def _measured(
    net: Net, drop: float, criterion: str, seed: int, labelled: bool, setting: Setting, judges: Judges
) -> list[Row]:
    def make() -> ocnna_onnx.Result:
        data = {"input": calibrating(net, seed, setting)}
        count = len(data["input"])
        if labelled:
            data["y"] = calibration_labels(net, seed, setting.images, setting.cache)
        return ocnna_onnx.prune(
            net.path,
            data=data,
            samples=count,
            seed=seed,
            criterion=criterion,
            target=f"drop={drop:g}%",
            align=setting.alignment,
            threads=setting.threads,
        )

    row, result = measured(make, lambda: judges(net, seed))
    if result is None:
        return [row]
    target = result.report["obtained"]["targets"][0]
    p, q = row["before"] / 100, row["after"] / 100
    error = 100 * sqrt((p * (1 - p) + q * (1 - q)) / row["judged"])  # as if unpaired: no smaller than it is
    return [{**row, **_seen(target), "standard_error": round(error, 3)}]


def _seen(target: Row) -> Row:
    """What the report says of the samples that were held out."""
    found = target.get("measured", {})
    about = {"by": found.get("kind", ""), "seen": found.get("value"), "held_out": found.get("samples")}
    return {"met": target["met"], "bound": target["reached"], **about}


def table(found: Sequence[Row]) -> list[Sequence[str]]:
    """A line per net, drop and way of judging: means over the seeds."""
    lines: list[Sequence[str]] = [HEAD]
    for (net, drop, _), some in grouped(found, "net", "drop", "labels").items():
        good = [r for r in some if "delta" in r]
        if not good:
            lines.append((short(net), f"{drop:g} pp", some[0].get("refused", ""), *[""] * (len(HEAD) - 3)))
            continue
        cut = [r for r in good if r["macs"] < 1]
        tests = [0.0 - r["delta"] for r in good]
        lines.append(
            (
                short(net),
                f"{drop:g} pp",
                good[0]["by"],
                str(good[0]["held_out"] or ""),
                spread([100 * (r["seen"] or 0.0) for r in cut]) if cut else "nothing goes",
                spread([100 * r["bound"] for r in cut]) if cut else "",
                spread(tests),
                f"{good[0]['standard_error']:.2f}",
                f"{sum(t <= drop for t in tests)} of {len(tests)}",
                f"{sum(r['macs'] for r in good) / len(good):.1%}",
                f"{sum(r['rpr'] for r in good) / len(good):.1%}",
                f"{sum(r['seconds'] for r in good) / len(good):.0f}",
            )
        )
    return lines
