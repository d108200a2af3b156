"""The 1,797 handwritten digits that ship inside scikit-learn, on one fixed split, fitted to any image size."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

TEST_SHARE = 0.2
SPLIT_SEED = 2024


class Digits(NamedTuple):
    """Images float32 [n, 8, 8] in 0 … 16 and labels int64 [n]; the two parts never share an image."""

    train_images: npt.NDArray[np.float32]
    train_labels: npt.NDArray[np.int64]
    test_images: npt.NDArray[np.float32]
    test_labels: npt.NDArray[np.int64]


def digits() -> Digits:
    """The fixed, class-balanced split: 1,437 images to train and calibrate with, 360 to judge by."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    images, labels = data.images.astype(np.float32), data.target.astype(np.int64)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=TEST_SHARE, random_state=SPLIT_SEED, stratify=labels
    )
    return Digits(images[train], labels[train], images[test], labels[test])


def fit(images: npt.NDArray[np.float32], channels: int, height: int, width: int) -> npt.NDArray[np.float32]:
    """Resize (bilinear) [n, 8, 8] digits in 0 … 16 to [n, channels, height, width] in 0 … 1, grey repeated."""
    from PIL import Image

    resized = [
        np.asarray(Image.fromarray(i).resize((width, height), Image.Resampling.BILINEAR), np.float32) for i in images
    ]
    return np.repeat(np.stack(resized)[:, None] / 16, channels, axis=1).astype(np.float32)
