"""Criteria on the size and spread of responses: APoZ (Hu et al. 2016, arXiv 1607.03250), activation energy (Molchanov
et al. 2017, arXiv 1611.06440), variance and entropy of the pooled response (Luo & Wu 2017, arXiv 1706.05791)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..calibrate.maps import as_maps
from ..calibrate.stream import Tap
from ..calibrate.where import with_zeros
from ..errors import UsageError
from ..model.graph import AnyArray
from .reading import free_layers, in_numbers, mean_over_images, read_at
from .request import Criterion, Options, Request, Subject, from_outputs

FloatArray = npt.NDArray[np.float64]

BINS = 16


def nonzero_share(maps: AnyArray) -> FloatArray:
    """1 − share of zeros in each map, [images, channels]."""
    return np.asarray((maps != 0).mean(axis=(2, 3), dtype=np.float64))


def mean_square(maps: AnyArray) -> FloatArray:
    """Σ y² / (rows · columns) of each map, [images, channels]."""
    positions = maps.shape[2] * maps.shape[3]
    return np.asarray(np.einsum("nchw,nchw->nc", maps, maps, dtype=np.float64) / positions)


def pooled(maps: AnyArray) -> FloatArray:
    """The mean of each map, [images, channels]."""
    return np.asarray(maps.mean(axis=(2, 3), dtype=np.float64))


def entropy(values: FloatArray, bins: int) -> FloatArray:
    """−Σ_b p_b ln p_b per column of [n, channels], p_b the share in the b-th of `bins` equal parts of the column's
    range (numpy.histogram's); 0 for a column of equal numbers. Returns [channels]."""
    low, high = values.min(axis=0), values.max(axis=0)
    width = np.where(high > low, high - low, 1.0)
    place = np.minimum(((values - low) / width * bins).astype(np.int64), bins - 1)
    channels = values.shape[1]
    count = np.bincount((place + np.arange(channels) * bins).reshape(-1), minlength=channels * bins)
    share = count.reshape(channels, bins) / len(values)
    logs = np.log(share, out=np.zeros_like(share), where=share > 0)
    return np.asarray(np.abs((share * logs).sum(axis=1)))


def request_apoz(subject: Subject, options: Options) -> Request:
    """1 − average percentage of zeros behind the first activation that gives zeros (through residual sums too). Layers
    that reach none (linear bottlenecks) score 1 throughout. Raises UsageError where no layer of the model reaches one.
    """
    trace = subject.trace
    if not any(with_zeros(trace, s) for s in free_layers(trace)):
        raise UsageError(
            "apoz: no activation of this model gives zeros (Relu, Clip from 0, HardSwish, HardSigmoid, ThresholdedRelu "
            "behind a layer); choose another criterion, such as activation-l2"
        )
    read = {k: tensor for k, s in enumerate(subject.layers) if (tensor := with_zeros(trace, s)) is not None}
    layers = tuple(subject.layers[k] for k in read)
    measured = from_outputs(layers, tuple(read.values()), nonzero_share, lambda m: m.mean)

    def finish() -> list[FloatArray]:
        found = dict(zip(read, measured.finish(), strict=True))
        return [found.get(k, np.ones(len(s.units))) for k, s in enumerate(subject.layers)]

    return in_numbers(trace, Request(measured.taps, finish))


def request_variance(subject: Subject, options: Options) -> Request:
    """Variance over the images of the pooled response (ddof 0)."""
    tensors = read_at(subject, options, "activation-var")
    measured = from_outputs(subject.layers, tensors, pooled, lambda m: m.spread / m.count)
    return in_numbers(subject.trace, measured)


def request_entropy(subject: Subject, options: Options) -> Request:
    """Entropy of the histogram of the pooled response over the images (Luo & Wu, equation 3); the responses are kept,
    float32 [images, channels]."""
    bins = options["bins"]
    if bins < 2:
        raise UsageError(f"activation-entropy: bins {bins} is out of range: at least 2")
    tensors = read_at(subject, options, "activation-entropy")
    kept: list[list[AnyArray]] = [[] for _ in tensors]

    def watch(k: int) -> Tap:
        def take(output: AnyArray, batch: int, valid: int) -> None:
            maps = as_maps(output, subject.layers[k].axis, batch)
            kept[k].append(pooled(maps[: max(1, valid * len(maps) // batch)]).astype(np.float32))

        return Tap(tensors[k], take, 4 * subject.samples * len(subject.layers[k].units))

    def finish() -> list[FloatArray]:
        return [entropy(np.concatenate(k).astype(np.float64), bins) for k in kept]

    return in_numbers(subject.trace, Request(tuple(watch(k) for k in range(len(tensors))), finish))


APOZ = Criterion(request_apoz, "Hu 2016")
ACTIVATION_L2 = mean_over_images("activation-l2", "Molchanov 2017", mean_square)
ACTIVATION_VAR = Criterion(request_variance, "Luo 2017, variance", {"tap": "activation"})
ACTIVATION_ENTROPY = Criterion(request_entropy, "Luo 2017", {"tap": "activation", "bins": BINS})
