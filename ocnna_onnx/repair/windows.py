"""What the output positions of a Conv see of a map with channels last, and the adjoint of looking."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
import numpy.typing as npt

from ..calibrate.linear import Linear, out_positions, padding

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Windows:
    """Of maps [samples, *sizes, channels]. pads: begin and end per spatial axis; out: output positions per axis."""

    samples: int
    sizes: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    out: tuple[int, ...]

    @classmethod
    def of(cls, map_: Linear, shape: tuple[int, ...]) -> Windows:
        """shape: of the Conv's input as it is in the graph, channels at axis 1."""
        pads = padding(map_, shape)
        return cls(shape[0], shape[2:], map_.kernel, map_.strides, map_.dilations, pads, out_positions(map_, shape))

    @property
    def taps(self) -> int:
        """Positions of the kernel."""
        return prod(self.kernel)

    @property
    def rows(self) -> int:
        """Output positions of all samples."""
        return self.samples * prod(self.out)

    def gathered(self, x: Array) -> Array:
        """[samples · sizes, channels] -> [rows, taps · channels + 1], the last column ones."""
        channels = x.shape[1]
        padded = np.pad(x.reshape(self.samples, *self.sizes, channels), ((0, 0), *self.pads, (0, 0)))
        found = np.empty((self.rows, self.taps * channels + 1), np.float32)
        found[:, -1] = 1
        for tap, part in self._parts():
            window = padded[part].reshape(self.rows, channels)
            found[:, tap * channels : (tap + 1) * channels] = window
        return found

    def scattered(self, seen: Array) -> Array:
        """The adjoint: [rows, taps · channels] -> [samples · sizes, channels]."""
        channels = seen.shape[1] // self.taps
        whole = tuple(s + sum(p) for s, p in zip(self.sizes, self.pads, strict=True))
        padded = np.zeros((self.samples, *whole, channels), np.float32)
        for tap, part in self._parts():
            window = seen[:, tap * channels : (tap + 1) * channels]
            padded[part] += window.reshape(self.samples, *self.out, channels)
        return self._inner(padded)

    def weighed(self, x: Array, kernel: Array) -> Array:
        """A convolution of every channel by itself, [samples · sizes, channels] -> [rows, channels]. kernel: [taps,
        channels]."""
        channels = x.shape[1]
        padded = np.pad(x.reshape(self.samples, *self.sizes, channels), ((0, 0), *self.pads, (0, 0)))
        found = np.zeros((self.samples, *self.out, channels), np.float32)
        for tap, part in self._parts():
            found += padded[part] * kernel[tap]
        return found.reshape(-1, channels)

    def spread(self, e: Array, kernel: Array) -> Array:
        """The adjoint of `weighed`."""
        channels = e.shape[1]
        whole = tuple(s + sum(p) for s, p in zip(self.sizes, self.pads, strict=True))
        padded = np.zeros((self.samples, *whole, channels), np.float32)
        spread = e.reshape(self.samples, *self.out, channels)
        for tap, part in self._parts():
            padded[part] += spread * kernel[tap]
        return self._inner(padded)

    def _inner(self, padded: Array) -> Array:
        inner = [slice(None), *(slice(p[0], p[0] + s) for s, p in zip(self.sizes, self.pads, strict=True))]
        return padded[tuple(inner)].reshape(-1, padded.shape[-1])

    def _parts(self) -> Iterator[tuple[int, tuple[slice, ...]]]:
        for tap, at in enumerate(product(*(range(k) for k in self.kernel))):
            starts = [a * d for a, d in zip(at, self.dilations, strict=True)]
            spans = (slice(b, b + (o - 1) * s + 1, s) for b, o, s in zip(starts, self.out, self.strides, strict=True))
            yield tap, (slice(None), *spans)
