"""Samples that need no file: scikit-learn's digits, and crops of the two photographs that ship with it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..errors import UsageError
from ..model.graph import AnyArray, Graph
from ..model.probes import Shape
from .digits import digits, fit
from .inputs import ImageInput, image_inputs, other_inputs
from .samples import Samples

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def digit_samples(graph: Graph, shapes: Mapping[str, Shape]) -> Samples:
    """The training digits, with the test digits as `evaluation`. Raises UsageError for a net without image input."""
    images = image_inputs(graph, shapes)
    if not images:
        raise UsageError("--data digits: the model has no image input that digits could be fitted to")
    data = digits()

    def build(part: str, pictures: AnyArray, labels: AnyArray, evaluation: Samples | None) -> Samples:
        arrays = {}
        for image in images:
            fitted = fit(pictures, image.channels, image.height, image.width)
            arrays[image.name] = image.arrange(fitted * 255 if image.dtype == np.uint8 else fitted)
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


def photo_samples(graph: Graph, shapes: Mapping[str, Shape], count: int, seed: int) -> Samples:
    """Random crops of two photographs at the input's size (the default when the user has nothing); seeded noise for
    inputs that are no image."""
    images = image_inputs(graph, shapes)
    arrays: dict[str, AnyArray] = {}
    done = "seeded noise (float inputs), zeros (integer inputs)"
    rng = np.random.default_rng(seed)
    for image in images:
        crops = _crops(image, count, rng)
        arrays[image.name] = image.arrange(crops)
        if image.dtype == np.uint8:
            done = f"random crops, {image.height}×{image.width}, bytes 0 … 255"
        elif image.channels == 3:
            done = f"random crops, {image.height}×{image.width}, x/255, ImageNet mean and deviation"
        else:
            done = f"random crops, {image.height}×{image.width}, x/255, mean 0.5, deviation 0.25"
    others, fixed = other_inputs(graph, shapes, set(arrays), count, seed)
    arrays.update(others)
    source = "crops of two photographs" if images else "made-up samples"
    return Samples(arrays, fixed, None, source, done, real=False)


def _crops(image: ImageInput, count: int, rng: np.random.Generator) -> AnyArray:
    """[count, C, H, W]: crops of random place, scale and flip, normalised as the input's type suggests."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photos = [Image.fromarray(p) for p in load_sample_images().images]
    found = []
    for k in range(count):
        photo = photos[k % len(photos)]
        side = int(min(photo.size) * rng.uniform(0.3, 1.0))
        left, top = (int(rng.integers(0, s - side + 1)) for s in photo.size)
        crop = photo.crop((left, top, left + side, top + side))
        small = np.asarray(crop.resize((image.width, image.height), Image.Resampling.BILINEAR), np.float32)
        found.append(small[:, ::-1] if rng.random() < 0.5 else small)
    pixels = np.stack(found).transpose(0, 3, 1, 2)
    if image.channels == 1:
        pixels = pixels.mean(axis=1, keepdims=True)
    elif image.channels == 4:
        pixels = np.concatenate([pixels, np.full_like(pixels[:, :1], 255)], axis=1)
    if image.dtype == np.uint8:
        return np.asarray(pixels)
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if image.channels == 3 else ((0.5,), (0.25,))
    shape = (1, -1, 1, 1)
    normalised: AnyArray = (pixels / 255 - np.reshape(mean, shape)) / np.reshape(std, shape)
    return normalised
