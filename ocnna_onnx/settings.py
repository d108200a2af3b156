"""What the public functions have in common: the samples, the probe, how to run, what may be cut."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from .calibrate.memory import memory_limit
from .data.imageoptions import ImageOptions
from .data.open import open_data
from .data.samples import Samples
from .errors import UsageError
from .model.graph import Graph
from .model.load import LoadedModel
from .model.probes import Shape
from .model.session import Runtime, check_providers

if TYPE_CHECKING:
    from typing_extensions import Unpack

Progress = Callable[[str, int, int], None]
"""Called with a stage's name (of a distillation with a note behind it: `distil (loss 0.2, …)`), how much of it is done,
and how much there is."""


class Common(TypedDict, total=False):
    """Keyword arguments of every public function.

    data: `digits`; the path of an .npz or .npy, of a folder of pictures, of polygraphy's saved inputs,
    `script.py[:function]`; an array [n, …], a dict of arrays by input name (labels in `y` or `labels`), an iterable or
    a DataLoader of them, an onnxruntime CalibrationDataReader; or None for crops of two photographs. image: how
    pictures are prepared, a preset's name or the options of `ImageOptions`. samples: how many to use at most, by
    default 256. seed: of everything that is
    drawn. input_shapes: probe shapes for symbolic dimensions. base_folder: where external data of a ModelProto lies.
    providers, threads: onnxruntime's. rtol: the proof's tolerance. strict_inputs: weights that are graph inputs too, so
    that the caller may feed others (IR version 4 on), are walls; else they are cut together with the input's shape.
    memory: what calibration may hold, in bytes or as `2GB`; by default a quarter of the machine. cache: whether scores
    and sensitivities may come from an earlier run on the same model, samples and options. progress: see Progress.
    """

    data: Any
    image: ImageOptions | Mapping[str, Any] | str | None
    samples: int | None
    seed: int
    input_shapes: Mapping[str, Shape] | None
    base_folder: str | os.PathLike[str] | None
    providers: Sequence[str]
    threads: int
    rtol: float | None
    strict_inputs: bool
    memory: int | str | None
    cache: bool
    progress: Progress


@dataclass(frozen=True)
class Settings:
    """See `Common`. memory: bytes."""

    data: Any
    image: ImageOptions | Mapping[str, Any] | str | None
    samples: int | None
    seed: int
    input_shapes: Mapping[str, Shape]
    base_folder: str | os.PathLike[str] | None
    runtime: Runtime
    rtol: float | None
    strict_inputs: bool
    memory: int
    cache: bool
    progress: Progress


def settings_of(**given: Unpack[Common]) -> Settings:
    """The settings, once they are seen to be in range. Raises UsageError; TypeError for a name that is none."""
    unknown = given.keys() - Common.__annotations__.keys()
    if unknown:
        raise TypeError(f"unexpected keyword argument {sorted(unknown)[0]!r}")
    samples, seed, threads = given.get("samples"), given.get("seed", 0), given.get("threads", 0)
    rtol, providers = given.get("rtol"), given.get("providers", "CPUExecutionProvider")
    for name, number in (("samples", samples), ("seed", seed), ("threads", threads)):
        if number is not None and not isinstance(number, int):
            raise UsageError(f"{name} {number!r} is no whole number")
    shapes = given.get("input_shapes") or {}
    if not isinstance(shapes, Mapping):
        raise UsageError(f"input_shapes {shapes!r} is no mapping of input names to shapes")
    if samples is not None and samples < 1:
        raise UsageError(f"samples {samples} is out of range: at least 1")
    if seed < 0:
        raise UsageError(f"seed {seed} is out of range: at least 0")
    if threads < 0:
        raise UsageError(f"threads {threads} is out of range: at least 0 (0: onnxruntime's choice)")
    if rtol is not None and not 0 < rtol < 1:
        raise UsageError(f"rtol {rtol:g} is out of range: 0 < rtol < 1")
    names = (providers,) if isinstance(providers, str) else tuple(providers)
    check_providers(names)
    return Settings(
        data=given.get("data"),
        image=given.get("image"),
        samples=samples,
        seed=seed,
        input_shapes=dict(shapes),
        base_folder=given.get("base_folder"),
        runtime=Runtime(names, threads),
        rtol=rtol,
        strict_inputs=given.get("strict_inputs", False),
        memory=memory_limit(given.get("memory")),
        cache=given.get("cache", True),
        progress=given.get("progress", lambda stage, done, total: None),
    )


def samples_for(loaded: LoadedModel, settings: Settings) -> Samples:
    """The samples to run this model on."""
    graph = Graph(loaded.proto)
    return open_data(settings.data, graph, settings.input_shapes, settings.samples, settings.seed, settings.image)
