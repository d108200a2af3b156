"""Samples from picture files, decoded batch by batch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..errors import DataError, UsageError
from ..model.graph import AnyArray, Graph, dims
from ..model.probes import IMAGE_CHANNELS, Shape, input_shapes
from .checks import text
from .folder import album, pick
from .imageoptions import ImageOptions, Size, sized
from .inputs import image_inputs, other_inputs
from .pictures import decode
from .preprocessing import Preprocessing, resolve
from .rows import IntArray, Lazy, Rows, remembered
from .samples import Samples


def image_samples(
    path: Path, graph: Graph, shapes: Mapping[str, Shape], options: ImageOptions, count: int, seed: int
) -> Samples:
    """At most `count` pictures of a folder (or the one picture), chosen before any is decoded; noise or zeros for
    inputs that take none. A picture is decoded when a batch first asks for it, and kept in a temporary file.

    Raises UsageError where the model takes no pictures or the options do not fit, DataError for broken files: those
    that are seen to be broken before decoding are skipped with a note, one that fails later ends the run.
    """
    full = input_shapes(graph, _sizes_asked_for(graph, shapes, options))
    targets = image_inputs(graph, full, options.layout)
    if not targets:
        inputs = ", ".join(f"{v.name} {text(full[v.name])}" for v in graph.inputs)
        raise UsageError(f"--data {path}: the model has no input that takes pictures ({inputs}); give an .npz")
    steps = [resolve(options, target) for target in targets]
    found = pick(album(path), count, seed)
    arrays: dict[str, Rows] = {s.target.name: remembered(_rows(found.files, s)) for s in steps}
    others, fixed = other_inputs(graph, full, set(arrays), len(found.files), seed, options.layout)
    made = f"; noise or zeros for {', '.join([*others, *fixed])}" if others or fixed else ""
    notes, labels, classes = found.notes, found.labels, _classes(graph)
    if labels is not None and not found.listed and classes not in (0, found.classes):
        labels = None  # they served to choose evenly
        notes = (*notes, f"{found.classes} sub-folders are not the model's {classes} classes: accuracy is not measured")
    if (
        options.preset is None
        and not {"mean", "std", "scale"} & set(options.given)
        and steps[0].target.dtype != np.uint8
    ):
        notes = (*notes, f"no --preset was given: pictures are prepared as for ImageNet ({steps[0].numbers})")
    return Samples(
        arrays={**arrays, **others},
        fixed=fixed,
        labels=labels,
        source=found.source + made,
        preprocessing="; ".join(dict.fromkeys(str(s) for s in steps)),
        foreign_labels=not found.listed,
        notes=notes,
    )


def _rows(files: tuple[Path, ...], step: Preprocessing) -> Lazy:
    target = step.target
    sides = (target.height, target.width)
    shape = (*sides, target.channels) if target.channels_last else (target.channels, *sides)

    def make(numbers: IntArray) -> AnyArray:
        made = np.empty((len(numbers), *shape), target.dtype)
        for place, number in enumerate(numbers):
            file = files[number]
            try:
                made[place] = step.feed(decode(file, step.mode), str(file))
            except DataError as error:
                raise DataError(f"{error} (sample {number}); remove the file") from error
        return made

    return Lazy((len(files), *shape), target.dtype, make)


def _classes(graph: Graph) -> int:
    """How many classes the model's first output has, [N, classes]; 0 where it does not say."""
    shape = graph.proto.graph.output[0].type.tensor_type.shape.dim if graph.proto.graph.output else []
    return int(shape[1].dim_value) if len(shape) == 2 else 0


def _sizes_asked_for(graph: Graph, shapes: Mapping[str, Shape], options: ImageOptions) -> dict[str, Shape]:
    """Shapes for inputs of any height and width: as --crop or --resize say, where the user gave none."""
    size = _asked(options)
    found = dict(shapes)
    for value in graph.inputs:
        declared = dims(value)
        if size is None or value.name in found or declared is None or len(declared) != 4:
            continue
        last = options.layout == "NHWC" or (options.layout == "auto" and declared[1] not in IMAGE_CHANNELS)
        first = 1 if last else 2
        asked = {first: size[0], first + 1: size[1]}
        found[value.name] = tuple(asked.get(k, 0) if isinstance(d, str) else d for k, d in enumerate(declared))
    return found


def _asked(options: ImageOptions) -> Size | None:
    crop = sized("crop", options.crop, ("none",))
    resize = sized("resize", options.resize, ("letterbox", "stretch", "none"))
    for asked in (crop, resize if isinstance(resize, tuple) else None):
        if isinstance(asked, int):
            return asked, asked
        if isinstance(asked, tuple):
            return asked
    return None
