"""A picture of a search: all candidates, the front, the three that are named, the original."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np

from .plot import GREY, INK, canvas, line, text_at

if TYPE_CHECKING:
    from ..evolution.found import Search

WIDTH, HEIGHT = 960, 560
LEFT, TOP, RIGHT, BOTTOM = 80, 50, 680, 490

COLOURS = {"heavy": "#1b5fa8", "knee": "#c0392b", "light": "#2e8b57"}
FRONT = "#e08a1e"


def front_picture(found: Search) -> ElementTree.Element:
    """An svg element: cost (share of the original's) against error on the samples of the search."""
    worth = found.archive.worth
    high = _top(found)
    root = canvas(WIDTH, HEIGHT)
    told = found.told
    title = f"{told['model']['name']}: {told['evaluated']} candidates in {told['generations']} generations"
    text_at(root, LEFT, 28, title, size=15)
    _axes(root, found, high)
    for k in range(1, len(worth.error)):
        _dot(root, worth.cost[k], worth.error[k], high, 2.0, "#d9d9d9" if worth.stopped[k] else GREY)
    places = [(_x(m.cost), _y(m.error, high)) for m in found.front]
    steps = [(x, y) for k, (x, y) in enumerate(places) for y in ([places[k - 1][1], y] if k else [y])]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in steps)
    ElementTree.SubElement(root, "polyline", {"points": points, "fill": "none", "stroke": FRONT, "stroke-width": "1.5"})
    for m in found.front:
        dot = _dot(root, m.cost, m.error, high, 3.0, FRONT)
        ElementTree.SubElement(dot, "title").text = f"{told['options']['objective']} {m.cost:.1%}, error {m.error:.2%}"
    _dot(root, worth.cost[0], worth.error[0], high, 5.0, INK)
    for name, colour in COLOURS.items():
        m = found.front[found.chosen[name]]
        circle = _dot(root, m.cost, m.error, high, 6.0, "none")
        circle.attrib |= {"stroke": colour, "stroke-width": "2.5"}
    _legend(root, found)
    return root


def picture_bytes(root: ElementTree.Element) -> bytes:
    """The svg file."""
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def _top(found: Search) -> float:
    """The error at the upper border: a little above the worst of the front."""
    worst = max([m.error for m in found.front] + [float(found.archive.worth.error[0])])
    return min(1.0, max(0.05, 1.25 * worst))


def _axes(root: ElementTree.Element, found: Search, high: float) -> None:
    for share in (0, 0.25, 0.5, 0.75, 1):
        x = _x(share)
        line(root, x, x, TOP, BOTTOM)
        text_at(root, x, BOTTOM + 18, f"{share:.0%}", anchor="middle")
        y = _y(share * high, high)
        line(root, LEFT, RIGHT, y, y)
        text_at(root, LEFT - 8, y + 4, f"{share * high:.1%}", anchor="end")
    frame = {"x": str(LEFT), "y": str(TOP), "width": str(RIGHT - LEFT), "height": str(BOTTOM - TOP), "fill": "none"}
    ElementTree.SubElement(root, "rect", frame | {"stroke": INK})
    cost = {"macs": "multiply–accumulates", "params": "parameters", "latency": "latency"}
    objective = cost[found.told["options"]["objective"]]
    text_at(root, (LEFT + RIGHT) / 2, BOTTOM + 44, f"{objective}, share of the original's", anchor="middle")
    label = text_at(root, 0, 0, f"error ({found.told['samples']['error']})", anchor="middle")
    label.set("transform", f"translate(20 {(TOP + BOTTOM) / 2}) rotate(-90)")


def _legend(root: ElementTree.Element, found: Search) -> None:
    x, y = RIGHT + 24, TOP + 14
    rows = [("original", INK, float(found.archive.worth.cost[0]), float(found.archive.worth.error[0]))]
    for name, colour in COLOURS.items():
        m = found.front[found.chosen[name]]
        rows.append((name, colour, m.cost, m.error))
    for name, colour, cost, error in rows:
        ElementTree.SubElement(root, "circle", {"cx": f"{x:.1f}", "cy": f"{y - 4:.1f}", "r": "5", "fill": colour})
        text_at(root, x + 14, y, f"{name}: cost {cost:.1%}, error {error:.2%}")
        y += 24
    stopped = int(np.count_nonzero(found.archive.worth.stopped))
    for colour, words in (
        (FRONT, f"front: {len(found.front)} nets"),
        (GREY, "other candidates (some lie above)"),
        ("#d9d9d9", f"stopped early: {stopped}, error estimated"),
    ):
        ElementTree.SubElement(root, "circle", {"cx": f"{x:.1f}", "cy": f"{y - 4:.1f}", "r": "3", "fill": colour})
        text_at(root, x + 14, y, words)
        y += 24


def _dot(
    root: ElementTree.Element, cost: float, error: float, high: float, radius: float, colour: str
) -> ElementTree.Element:
    place = {"cx": f"{_x(float(cost)):.1f}", "cy": f"{_y(float(error), high):.1f}", "r": f"{radius:g}", "fill": colour}
    return ElementTree.SubElement(root, "circle", place)


def _x(cost: float) -> float:
    return LEFT + min(max(cost, 0.0), 1.05) * (RIGHT - LEFT)


def _y(error: float, high: float) -> float:
    """What lies above is drawn on the border."""
    return BOTTOM - min(error / high, 1.0) * (BOTTOM - TOP)
