"""Scores of all layers by name: what `score` writes, and what a prune can start from."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError, UsageError
from ..model.jsonfile import read_json
from ..model.save import write_atomically
from ..trace.types import Trace

FloatArray = npt.NDArray[np.float64]

SCHEMA = 1


@dataclass(frozen=True)
class Layer:
    """output: the tensor that the layer makes. scores: float64, one per output channel, before any grouping or
    normalisation; higher = keep."""

    output: str
    scores: FloatArray


@dataclass(frozen=True)
class Scores:
    """Scores by node name. criterion, options: how they came about."""

    criterion: str
    options: Mapping[str, Any]
    layers: Mapping[str, Layer]

    def to_json(self) -> dict[str, Any]:
        """As in scores.json."""
        layers = {name: {"output": x.output, "scores": x.scores.tolist()} for name, x in self.layers.items()}
        return {"schema": SCHEMA, "criterion": self.criterion, "options": dict(self.options), "layers": layers}

    def to_csv(self) -> str:
        """One line per channel: node, output, channel, score."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("node", "output", "channel", "score"))
        for name, layer in self.layers.items():
            writer.writerows((name, layer.output, c, repr(s)) for c, s in enumerate(layer.scores.tolist()))
        return text.getvalue()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a .json or .csv, whole or not at all. Raises UsageError for another kind of file."""
        target = Path(path)
        text = self.to_csv() if is_csv(target) else json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n"
        write_atomically(target, lambda stream: stream.write(text.encode()))

    def by_source(self, trace: Trace) -> dict[int, FloatArray]:
        """Number of the source -> [channels]. Raises DataError where these are not the scores of this model."""
        number = {trace.graph.names[s.node]: k for k, s in enumerate(trace.sources)}
        found = {}
        for name, layer in self.layers.items():
            if name not in number:
                raise DataError(f"the scores name node '{name}', which makes no channels in this model")
            channels = len(trace.sources[number[name]].units)
            if layer.scores.shape != (channels,):
                raise DataError(f"the scores have {layer.scores.size} channels of node '{name}', which has {channels}")
            found[number[name]] = layer.scores
        return found


def is_csv(path: Path) -> bool:
    """Whether scores go there as a table. Raises UsageError for what is neither .json nor .csv."""
    if path.suffix.lower() not in (".json", ".csv"):
        raise UsageError(f"{path}: scores are written as .json or .csv")
    return path.suffix.lower() == ".csv"


def read_scores(path: str | os.PathLike[str]) -> Scores:
    """Scores from a scores.json. Raises UsageError for a file that cannot be read, DataError for one that is none."""
    return scores_from_json(read_json(path, "no scores"), str(path))


def scores_from_json(content: Any, what: str) -> Scores:
    """Scores from their JSON form. Raises DataError."""
    if not isinstance(content, dict) or not isinstance(content.get("layers"), dict):
        raise DataError(f"{what}: no scores (no 'layers')")
    if content.get("schema") != SCHEMA:
        raise DataError(f"{what}: schema {content.get('schema')!r} is not known to this version (it knows {SCHEMA})")
    layers = {}
    for name, layer in content["layers"].items():
        try:
            values = np.asarray(layer["scores"], np.float64)
            layers[str(name)] = Layer(str(layer.get("output", "")), values)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{what}: the scores of node '{name}' are no list of numbers") from error
        if values.ndim != 1 or not np.isfinite(values).all():
            raise DataError(f"{what}: the scores of node '{name}' are no list of finite numbers")
    options = content.get("options")
    return Scores(str(content.get("criterion", "")), dict(options) if isinstance(options, dict) else {}, layers)
