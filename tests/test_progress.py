"""What people see while they wait: every stage says how far it is, and bars appear by themselves."""

from __future__ import annotations

import io
import itertools
import sys
import time
from typing import Any

import pytest
from nets import images, tiny

import ocnna_onnx
from ocnna_onnx.cli import progress
from ocnna_onnx.repair import repair as repairing

STAGES = {"load", "trace", "calibrate", "sensitivity", "prove", "repair", "evaluate"}


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({"target": "macs=60%"}, set()),
        ({"target": "drop=30%"}, {"drop"}),
        ({"target": "latency=80%", "best_effort": True}, {"latency"}),
        ({"target": "macs=60%", "criterion": "auto"}, {"choose"}),
        ({"target": "macs=60%", "criterion": "l2"}, set()),  # the pass is that of the sensitivities
    ],
)
def test_every_stage_begins_and_ends(options: dict[str, Any], more: set[str]) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}
    ocnna_onnx.prune(
        tiny(),
        data=images(64),
        align=1,
        threads=1,
        cache=False,
        progress=lambda stage, done, total: seen.setdefault(stage, []).append((done, total)),
        **options,
    )
    assert set(seen) == STAGES | more
    for stage, calls in seen.items():
        assert all(0 <= done <= total for done, total in calls), stage
        assert calls[-1][0] == calls[-1][1], stage
        steps = [done for done, _ in calls]
        restarts = sum(b < a for a, b in itertools.pairwise(steps))
        assert restarts == 0 or stage in ("repair", "calibrate"), stage  # a search repairs often


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Standard error, from now on."""
    found = Terminal()
    monkeypatch.setattr(sys, "stderr", found)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return found


def test_bars_appear_though_a_stage_is_silent_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    monkeypatch.setattr(progress, "PATIENCE", 0.05)
    with progress.progress_bar(quiet=False) as update:
        update("prove", 0, 4)
        deadline = time.monotonic() + 10
        while "prove" not in screen.getvalue() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert "prove" in screen.getvalue()
        update("repair", 0, 2)
        update("repair", 2, 2)
        update("repair", 0, 2)  # again
        update("repair", 1, 2)
    assert "repair" in screen.getvalue()
    assert " 50%" in screen.getvalue()


def test_what_is_quick_or_quiet_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    for quiet in (False, True):
        with progress.progress_bar(quiet) as update:
            update("prove", 0, 1)
            update("prove", 1, 1)
    assert screen.getvalue() == ""


@pytest.mark.parametrize(("error", "why"), [(MemoryError(), "not enough memory"), (OSError("the disk"), "the disk")])
def test_a_repair_that_is_left_out_says_why(monkeypatch: pytest.MonkeyPatch, error: Exception, why: str) -> None:
    def refuse(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(repairing, "_repaired", refuse)
    report = ocnna_onnx.prune(tiny(), data=images(16), ratio=0.4).report
    assert f"repair left out: {why}" in report["warnings"]
    assert report["obtained"]["repair"] == {"method": "least-squares", "weights": 0, "layers": 0}
