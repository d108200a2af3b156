"""Samples that need no file: scikit-learn's digits, and crops of the two photographs that ship with it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..errors import UsageError
from ..model.graph import AnyArray, Graph
from ..model.probes import Shape
from .digits import digits, fit
from .imageoptions import ImageOptions
from .inputs import ImageInput, image_inputs, other_inputs
from .preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, resolve
from .rows import IntArray, Lazy, Rows, settled
from .samples import Samples


def digit_samples(graph: Graph, shapes: Mapping[str, Shape]) -> Samples:
    """The training digits, with the test digits as `evaluation`. Raises UsageError for a net without image input."""
    images = image_inputs(graph, shapes)
    if not images:
        raise UsageError("--data digits: the model has no image input that digits could be fitted to")
    data = digits()

    def build(part: str, pictures: AnyArray, labels: AnyArray, evaluation: Samples | None) -> Samples:
        arrays: dict[str, Rows] = {image.name: settled(_digit_rows(pictures, image)) for image in images}
        others, fixed = other_inputs(graph, shapes, set(arrays), len(labels), 0)
        first = images[0]
        return Samples(
            arrays={**arrays, **others},
            fixed=fixed,
            labels=labels,
            source=f"digits of scikit-learn, {part} part",
            preprocessing=f"8×8 digits resized (bilinear) to {first.height}×{first.width}, scaled to 0 … 1",
            evaluation=evaluation,
            foreign_labels=True,
        )

    test = build("test", data.test_images, data.test_labels, None)
    return build("training", data.train_images, data.train_labels, test)


def _digit_rows(pictures: AnyArray, image: ImageInput) -> Lazy:
    def make(numbers: IntArray) -> AnyArray:
        fitted = fit(pictures[numbers], image.channels, image.height, image.width)
        return image.arrange(fitted * 255 if image.dtype == np.uint8 else fitted)

    return Lazy((len(pictures), *_sample_shape(image)), image.dtype, make)


def photo_samples(
    graph: Graph, shapes: Mapping[str, Shape], count: int, seed: int, options: ImageOptions | None = None
) -> Samples:
    """Random crops of two photographs at the input's size (the default when the user has nothing); seeded noise for
    inputs that are no image. options: how the pixels become numbers, where the user says so (there is no resize)."""
    images = image_inputs(graph, shapes, options.layout if options else "auto")
    arrays: dict[str, Rows] = {}
    done = "seeded noise (float inputs), zeros (integer inputs)"
    rng = np.random.default_rng(seed)
    for image in images:
        step = resolve(options, image) if options else None
        arrays[image.name] = settled(_crop_rows(image, count, rng, step))
        how = f"random crops, {image.height}×{image.width}"
        if step:
            done = f"{how}, {step.numbers}"
        elif image.dtype == np.uint8:
            done = f"{how}, bytes 0 … 255"
        elif image.channels == 3:
            done = f"{how}, x/255, ImageNet mean and deviation"
        else:
            done = f"{how}, x/255, mean 0.5, deviation 0.25"
    others, fixed = other_inputs(graph, shapes, set(arrays), count, seed, options.layout if options else "auto")
    arrays.update(others)
    source = "crops of two photographs" if images else "made-up samples"
    return Samples(arrays, fixed, None, source, done, real=False)


def _sample_shape(image: ImageInput) -> Shape:
    sides = (image.height, image.width)
    return (*sides, image.channels) if image.channels_last else (image.channels, *sides)


def _crop_rows(image: ImageInput, count: int, rng: np.random.Generator, step: Preprocessing | None) -> Lazy:
    """Crops of random place, scale and flip, drawn now and cut out when they are needed; normalised as `step` says,
    else as the input's type suggests."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photos = [Image.fromarray(p) for p in load_sample_images().images]
    drawn: list[tuple[int, int, int, int, bool]] = []
    for k in range(count):
        size = photos[k % len(photos)].size
        side = int(min(size) * rng.uniform(0.3, 1.0))
        left, top = (int(rng.integers(0, s - side + 1)) for s in size)
        drawn.append((k % len(photos), left, top, side, rng.random() < 0.5))

    def cut(number: int) -> Image.Image:
        photo, left, top, side, flipped = drawn[number]
        crop = photos[photo].crop((left, top, left + side, top + side))
        small = crop.resize((image.width, image.height), Image.Resampling.BILINEAR)
        return small.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flipped else small

    def make(numbers: IntArray) -> AnyArray:
        pictures = [cut(int(number)) for number in numbers]
        if step:
            return np.stack([step.feed(p.convert(step.mode), "a photograph") for p in pictures])
        pixels = np.stack([np.asarray(p, np.float32) for p in pictures]).transpose(0, 3, 1, 2)
        return image.arrange(_normalised(pixels, image))

    return Lazy((count, *_sample_shape(image)), image.dtype, make)


def _normalised(pixels: AnyArray, image: ImageInput) -> AnyArray:
    """[n, 3, H, W] in 0 … 255 -> [n, C, H, W] as the input's type suggests."""
    if image.channels == 1:
        pixels = pixels.mean(axis=1, keepdims=True)
    elif image.channels == 4:
        pixels = np.concatenate([pixels, np.full_like(pixels[:, :1], 255)], axis=1)
    if image.dtype == np.uint8:
        return pixels
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if image.channels == 3 else ((0.5,), (0.25,))
    shape = (1, -1, 1, 1)
    normalised: AnyArray = (pixels / 255 - np.reshape(mean, shape)) / np.reshape(std, shape)
    return normalised
