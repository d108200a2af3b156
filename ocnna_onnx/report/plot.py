"""A picture of sensitivities: one line per group, as SVG without any plotting library."""

from __future__ import annotations

import colorsys
import os
from math import log10
from pathlib import Path
from xml.etree import ElementTree

from ..errors import UsageError
from ..model.save import write_atomically
from ..plan.sensitivities import Sensitivities, Sensitivity
from .scale import Scale, scale_of

WIDTH, HEIGHT = 960, 560
LEFT, TOP, RIGHT, BOTTOM = 70, 50, 620, 500
"""The frame of the curves; names stand to its right."""

NAMED = 20
"""Groups with a colour and a name: those that lose most. The others are grey, and named by their tooltips."""

LETTERS = 44
GREY, INK = "#b0b0b0", "#303030"


def check_picture(path: Path) -> None:
    """Raises UsageError for what is no .svg."""
    if path.suffix.lower() != ".svg":
        raise UsageError(f"{path}: the picture is written as .svg")


def save_picture(found: Sensitivities, path: str | os.PathLike[str]) -> None:
    """Write it, whole or not at all. Raises UsageError."""
    check_picture(Path(path))
    data = ElementTree.tostring(picture(found), encoding="utf-8", xml_declaration=True)
    write_atomically(Path(path), lambda stream: stream.write(data))


def picture(found: Sensitivities) -> ElementTree.Element:
    """An svg element: the share of a group that is gone against the damage, on a logarithmic scale."""
    scale = scale_of(found)
    root = canvas(WIDTH, HEIGHT)
    title = f"{_short(found.name, 60)}: damage by {found.scores.criterion}, {found.samples} samples"
    text_at(root, LEFT, 28, title, size=15)
    _axes(root, scale)
    by_damage = sorted(range(len(found.groups)), key=lambda k: -_mean_height(found.groups[k], scale))
    named = by_damage[:NAMED]
    colours = {k: _colour(i, len(named)) for i, k in enumerate(named)}
    for k in reversed(by_damage):  # the worst on top
        _line(root, found.groups[k], scale, colours.get(k, GREY))
    for row, k in enumerate(named):
        y = TOP + 14 + row * (BOTTOM - TOP - 10) / NAMED
        ElementTree.SubElement(
            root,
            "line",
            {"x1": str(RIGHT + 20), "x2": str(RIGHT + 40), "y1": f"{y - 4:.1f}", "y2": f"{y - 4:.1f}"}
            | _stroke(colours[k]),
        )
        text_at(root, RIGHT + 46, y, _short(_name(found.groups[k]), LETTERS))
    if len(found.groups) > len(named):
        text_at(root, RIGHT + 20, BOTTOM + 18, f"grey: {len(found.groups) - len(named)} groups that lose less")
    return root


def canvas(width: int, height: int) -> ElementTree.Element:
    """An empty white svg element."""
    places = {"viewBox": f"0 0 {width} {height}", "width": str(width), "height": str(height)}
    style = {"font-family": "sans-serif", "font-size": "12", "fill": INK}
    root = ElementTree.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", **places, **style})
    ElementTree.SubElement(root, "rect", {"width": str(width), "height": str(height), "fill": "white"})
    return root


def _axes(root: ElementTree.Element, scale: Scale) -> None:
    frame = {"x": str(LEFT), "y": str(TOP), "width": str(RIGHT - LEFT), "height": str(BOTTOM - TOP), "fill": "none"}
    for share in (0, 0.25, 0.5, 0.75, 1):
        x = _x(share)
        line(root, x, x, TOP, BOTTOM)
        text_at(root, x, BOTTOM + 18, f"{share:.0%}", anchor="middle")
    low, high = round(log10(scale.low)), round(log10(scale.high))
    for exponent in range(low, high + 1):
        y = _y(10.0**exponent, scale)
        line(root, LEFT, RIGHT, y, y)
        text_at(root, LEFT - 8, y + 4, f"{10.0**exponent:g}", anchor="end")
    ElementTree.SubElement(root, "rect", frame | {"stroke": INK})
    text_at(root, (LEFT + RIGHT) / 2, BOTTOM + 42, "share of the group that is gone", anchor="middle")
    label = text_at(root, 0, 0, "relative squared error of the outputs", anchor="middle")
    label.set("transform", f"translate(18 {(TOP + BOTTOM) / 2}) rotate(-90)")


def _line(root: ElementTree.Element, group: Sensitivity, scale: Scale, colour: str) -> None:
    shares, damage = group.points()
    places = [(_x(s), _y(d, scale)) for s, d in zip(shares, damage, strict=True)]
    part = ElementTree.SubElement(root, "g")
    told = ", ".join(f"{n}: {d:.3g}" for n, d in group.cuts)
    title = ElementTree.SubElement(part, "title")
    title.text = _printable(f"{', '.join(group.members)} ({group.channels} channels) {told}")
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    ElementTree.SubElement(part, "polyline", {"points": points, "fill": "none"} | _stroke(colour))
    for x, y in places[1:]:
        ElementTree.SubElement(part, "circle", {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": "2.5", "fill": colour})


def _x(share: float) -> float:
    return LEFT + share * (RIGHT - LEFT)


def _y(damage: float, scale: Scale) -> float:
    return BOTTOM - scale.height(damage) * (BOTTOM - TOP)


def _mean_height(group: Sensitivity, scale: Scale) -> float:
    return sum(scale.height(d) for _, d in group.cuts) / len(group.cuts)


def _name(group: Sensitivity) -> str:
    more = f" and {len(group.members) - 1} more" if len(group.members) > 1 else ""
    return f"{_short(group.members[0], LETTERS - len(more))}{more}"


def _short(name: str, letters: int) -> str:
    """The end of a name tells layers apart."""
    return name if len(name) <= letters else f"…{name[1 - letters :]}"


def _colour(number: int, count: int) -> str:
    """Hues around the circle, light and dark in turns."""
    r, g, b = colorsys.hls_to_rgb(number / max(1, count), 0.36 if number % 2 else 0.5, 0.75)
    return f"#{round(255 * r):02x}{round(255 * g):02x}{round(255 * b):02x}"


def _stroke(colour: str) -> dict[str, str]:
    return {"stroke": colour, "stroke-width": "1.5"}


def line(root: ElementTree.Element, x1: float, x2: float, y1: float, y2: float) -> None:
    """A light straight line."""
    places = {"x1": f"{x1:.1f}", "x2": f"{x2:.1f}", "y1": f"{y1:.1f}", "y2": f"{y2:.1f}"}
    ElementTree.SubElement(root, "line", places | {"stroke": "#e4e4e4"})


def text_at(
    root: ElementTree.Element, x: float, y: float, text: str, anchor: str = "start", size: int = 12
) -> ElementTree.Element:
    """Text at a place; what cannot be printed becomes a space."""
    where = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor, "font-size": str(size)}
    element = ElementTree.SubElement(root, "text", where)
    element.text = _printable(text)
    return element


def _printable(text: str) -> str:
    """XML has no control characters."""
    return "".join(c if c.isprintable() else " " for c in text)
