"""The exact score, fast: the same numbers as scikit-learn's PCA on easy, hard and tied maps, however they come."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA

from ocnna_onnx.criteria import spectra, tridiagonal
from ocnna_onnx.criteria.lockstep import eigenvalues
from ocnna_onnx.criteria.ocnna import pca_norms, pca_norms_per_filter, pooled

Array = np.ndarray[Any, np.dtype[Any]]
Kind = Callable[[np.random.Generator, int, int, int], Array]


def noise(rng: np.random.Generator, n: int, rows: int, columns: int) -> Array:
    return rng.standard_normal((n, rows, columns))


def smooth(rng: np.random.Generator, n: int, rows: int, columns: int) -> Array:
    """Spectra that fall as those of photographs do."""
    waves = rng.standard_normal((n, rows, columns)) / (1 + np.add.outer(np.arange(rows), np.arange(columns))) ** 1.5
    return np.real(np.fft.fft2(waves))


def rectified(rng: np.random.Generator, n: int, rows: int, columns: int) -> Array:
    return np.maximum(noise(rng, n, rows, columns) - 1.2, 0)


def rank_one(rng: np.random.Generator, n: int, rows: int, columns: int) -> Array:
    return noise(rng, n, rows, 1) @ noise(rng, n, 1, columns)


def one_pixel(rng: np.random.Generator, n: int, rows: int, columns: int) -> Array:
    maps = np.zeros((n, rows * columns))
    maps[np.arange(n), rng.integers(0, rows * columns, n)] = rng.uniform(1, 2, n)
    return maps.reshape(n, rows, columns)


def offset(rng: np.random.Generator, n: int, rows: int, columns: int) -> Array:
    return 1000 + 1e-2 * noise(rng, n, rows, columns)


def outlier_first(rng: np.random.Generator, n: int, rows: int, columns: int) -> Array:
    maps = noise(rng, n, rows, columns)
    maps[:, 0] *= 100
    return maps


def scales(rng: np.random.Generator, n: int, rows: int, columns: int) -> Array:
    return noise(rng, n, rows, columns) * np.logspace(-30, 15, n)[:, None, None]


def columns_of_all_scales(rng: np.random.Generator, n: int, rows: int, columns: int) -> Array:
    return noise(rng, n, rows, columns) * np.logspace(-6, 0, columns)


def constant(rng: np.random.Generator, n: int, rows: int, columns: int) -> Array:
    return np.broadcast_to(rng.uniform(-1e3, 1e3, (n, 1, 1)), (n, rows, columns)).copy()


def dead(rng: np.random.Generator, n: int, rows: int, columns: int) -> Array:
    return np.zeros((n, rows, columns))


KINDS: list[Kind] = [
    noise, smooth, rectified, rank_one, one_pixel, offset, outlier_first, scales, columns_of_all_scales, constant, dead,
]  # fmt: skip
SIZES = [(2, 2), (3, 3), (7, 7), (14, 14), (28, 28), (40, 40), (5, 9), (9, 5), (60, 4), (4, 60), (6, 1), (1, 6)]


def reference(m: Array, variance: float = 0.95) -> tuple[float, float]:
    """F by scikit-learn in float64, and how far its number of components is from a tie."""
    m = np.asarray(m, np.float64)
    m = m - m[0]
    if not np.ptp(m, axis=0).any():
        return 0.0, 1.0
    size = np.abs(m).max()
    model = PCA(n_components=None, svd_solver="full").fit(m / size)
    tie = np.abs(model.explained_variance_ratio_.cumsum() - variance).min()
    return float(np.linalg.norm(PCA(n_components=variance, svd_solver="full").fit_transform(m / size)) * size), tie


def assert_equal(found: Array, maps: Array, variance: float = 0.95) -> None:
    wanted, ties = np.array([[reference(m, variance) for m in image] for image in maps]).transpose(2, 0, 1)
    clear = ties > 1e-12
    assert clear.mean() > 0.95
    np.testing.assert_allclose(found[clear], wanted[clear], rtol=1e-5, atol=0)


def choose(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All matrices in lockstep, or none, and those by SciPy's LAPACK or as if there were none."""
    monkeypatch.setattr(spectra, "FEWEST", 1 if path == "lockstep" else 1 << 40)
    if path == "numpy":
        monkeypatch.setattr(tridiagonal, "kernels", lambda: None)


@pytest.mark.parametrize("path", ["lockstep", "lapack", "numpy"])
@pytest.mark.parametrize("kind", KINDS, ids=[k.__name__ for k in KINDS])
def test_every_kind_and_size_of_map(kind: Kind, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(path, monkeypatch)
    rng = np.random.default_rng(3)
    for rows, columns in SIZES:
        for dtype in (np.float32, np.float64):
            with np.errstate(under="ignore"):
                maps = kind(rng, 24, rows, columns).reshape(4, 6, rows, columns).astype(dtype)
            before = maps.copy()
            assert_equal(pca_norms(maps), maps)
            np.testing.assert_array_equal(maps, before)


@pytest.mark.parametrize("path", ["lockstep", "lapack", "numpy"])
def test_near_ties_are_decided_as_float64_decides_them(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two orthogonal components that hold 95 % but for a hair: one is enough, or it is not."""
    choose(path, monkeypatch)
    rng = np.random.default_rng(0)
    side, n = 12, 600
    hair = rng.choice([-1.0, 1.0], n) * 10.0 ** rng.uniform(-10, -4, n)
    basis, _ = np.linalg.qr(np.concatenate([np.ones((n, side, 1)), noise(rng, n, side, 2)], axis=2))  # centred samples
    right, _ = np.linalg.qr(noise(rng, n, side, 2))
    strength = np.sqrt(np.stack([0.95 + hair, 0.05 - hair], axis=1))
    maps = (basis[:, :, 1:] * strength[:, None]) @ right.transpose(0, 2, 1)
    wanted = np.where(hair > 0, np.sqrt(0.95 + hair), 1)
    np.testing.assert_allclose(pca_norms(maps[None])[0], wanted, rtol=1e-6)
    single = maps.astype(np.float32)[None]  # rounded to float32 the tie is another: what float64 makes of those numbers
    assert_equal(pca_norms(single), single)


@pytest.mark.parametrize("variance", [0.5, 0.8, 0.99, 0.999])
def test_other_shares_of_variance(variance: float) -> None:
    maps = smooth(np.random.default_rng(4), 500, 9, 9).reshape(1, 500, 9, 9).astype(np.float32)
    assert_equal(pca_norms(maps, variance), maps, variance)


@pytest.mark.parametrize("kind", KINDS, ids=[k.__name__ for k in KINDS])
def test_all_of_the_variance_needs_no_components(kind: Kind) -> None:
    rng = np.random.default_rng(5)
    for dtype in (np.float32, np.float64):
        with np.errstate(under="ignore"):
            maps = kind(rng, 20, 30, 20).reshape(1, 20, 30, 20).astype(dtype)
        wide = maps.astype(np.float64)
        wide = wide - wide[:, :, :1]
        wide = wide - wide.mean(axis=2, keepdims=True)
        np.testing.assert_allclose(pca_norms(maps, 1), np.linalg.norm(wide, axis=(2, 3)), rtol=1e-5)


@pytest.mark.parametrize("size", [7, 14, 33])
def test_a_map_does_not_depend_on_its_batch(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    maps = np.concatenate([k(rng, 200, size, size) for k in (smooth, rectified, offset, dead)]).astype(np.float32)[None]
    together = pca_norms(maps)
    order = rng.permutation(maps.shape[1])
    np.testing.assert_allclose(pca_norms(maps[:, order]), together[:, order], rtol=2e-6)
    alone = np.concatenate([pca_norms(maps[:, k : k + 40]) for k in range(0, maps.shape[1], 40)], axis=1)
    np.testing.assert_allclose(alone, together, rtol=2e-6)
    strided = np.asfortranarray(maps.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(pca_norms(strided), together, rtol=2e-6)
    monkeypatch.setattr(spectra, "BYTES", 1 << 16)
    monkeypatch.setattr(spectra, "LANES", 97)
    np.testing.assert_allclose(pca_norms(maps), together, rtol=2e-6)
    np.testing.assert_array_equal(pca_norms(maps), pca_norms(maps))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 2, 3, 8, 21])
def test_eigenvalues_in_lockstep(n: int, dtype: type) -> None:
    """Clusters, zeros and split matrices among them; lanes that do not settle say so."""
    rng = np.random.default_rng(n)
    spectrum = np.concatenate([rng.uniform(0, 1, (200, n)), 10.0 ** rng.uniform(-12, 0, (200, n)), np.ones((20, n))])
    spectrum[50:100, n // 2 :] = 0
    spectrum[100:150] = spectrum[100:150].round(1)
    spectrum /= np.maximum(spectrum.sum(axis=1, keepdims=True), 1e-30)
    basis, _ = np.linalg.qr(noise(rng, len(spectrum), n, n))
    matrices = (basis * spectrum[:, None]) @ basis.transpose(0, 2, 1)
    matrices = np.concatenate([matrices, spectrum[:, :, None] * np.eye(n)])
    lanes = np.ascontiguousarray(matrices.transpose(1, 2, 0)).astype(dtype)
    wanted = np.sort(np.concatenate([spectrum, spectrum]), axis=1)
    found, settled = eigenvalues(lanes)
    assert settled.mean() > 0.95
    np.testing.assert_allclose(
        np.sort(found.T[settled], axis=1), wanted[settled], rtol=0, atol=8 * n * np.finfo(dtype).eps
    )


@pytest.mark.parametrize("path", ["lapack", "numpy"])
@pytest.mark.parametrize("n", [1, 2, 3, 33, 34, 56, 112, 150])
def test_eigenvalues_by_lapack(n: int, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clusters, zeros, split matrices and nothing at all among them."""
    choose(path, monkeypatch)
    rng = np.random.default_rng(n)
    spectrum = np.concatenate([rng.uniform(0, 1, (12, n)), 10.0 ** rng.uniform(-12, 0, (12, n)), np.ones((4, n))])
    spectrum[6:10, max(1, n // 2) :] = 0
    spectrum /= spectrum.sum(axis=1, keepdims=True)
    basis, _ = np.linalg.qr(noise(rng, len(spectrum), n, n))
    full = (basis * spectrum[:, None]) @ basis.transpose(0, 2, 1)
    matrices = np.concatenate([full, spectrum[:, :, None] * np.eye(n), np.zeros((1, n, n))]).astype(np.float32)
    wanted = np.linalg.eigvalsh(matrices.astype(np.float64))
    found, settled = tridiagonal.eigenvalues(matrices)
    assert settled.all()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=4 * np.finfo(np.float32).eps)


def test_this_scipy_gives_its_kernels() -> None:
    """Without them the scores are the same, and cost a third more: a new SciPy should not go unnoticed."""
    assert tridiagonal.kernels() is not None


@pytest.mark.parametrize("name", ["void (char *, long *)", "double (char *, int *)", ""])
def test_kernels_of_another_form_are_left_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    capsule = new_capsule(name.encode())
    for exported in ({"ssytrd": capsule, "ssterf": capsule}, {}):
        monkeypatch.setattr(tridiagonal.cython_lapack, "__pyx_capi__", exported)
        assert tridiagonal.kernels.__wrapped__() is None  # past the cache


NAMES: list[bytes] = []
"""Of capsules: Python does not copy them."""


def new_capsule(name: bytes) -> Any:
    NAMES.append(name)
    make = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    return make(("PyCapsule_New", ctypes.pythonapi))(1, name, None)


# --- The other reading: the maps of one filter are the samples


@pytest.mark.parametrize(("images", "size"), [(40, 64), (100, 16), (5, 64), (30, 1), (2, 9), (1, 9), (64, 64)])
@pytest.mark.parametrize("variance", [0.95, 1])
def test_projections_of_a_filters_maps_equal_sklearn(images: int, size: int, variance: float) -> None:
    rng = np.random.default_rng(images)
    features = (3 + smooth(rng, images, 5, size)).astype(np.float32)
    features[:, 2] = 7
    found = pca_norms_per_filter(features, variance)
    assert found.shape == (images, 5)
    for c in range(5):
        samples = features[:, c].astype(np.float64)
        centred = samples - samples.mean(axis=0)
        if np.ptp(samples, axis=0).any() and variance < 1 and size > 1:
            wanted = np.linalg.norm(PCA(n_components=variance, svd_solver="full").fit_transform(samples), axis=1)
        else:
            wanted = np.linalg.norm(centred, axis=1)
        np.testing.assert_allclose(found[:, c], wanted, rtol=1e-5, atol=1e-7 * np.abs(centred).max())


@pytest.mark.parametrize("size", [(8, 8), (16, 24), (5, 30), (13, 13), (20, 1), (1, 1), (112, 7)])
def test_pooling_to_at_most_eight_by_eight(size: tuple[int, int]) -> None:
    maps = np.random.default_rng(8).standard_normal((3, 4, *size)).astype(np.float32)
    found = pooled(maps)
    cells = [np.array_split(np.arange(s), min(8, s)) for s in size]
    assert found.shape == (3, 4, len(cells[0]) * len(cells[1]))
    if all(s % len(c) == 0 for s, c in zip(size, cells, strict=True)):
        wanted = np.array([[maps[:, :, r][..., c].mean(axis=(2, 3)) for c in cells[1]] for r in cells[0]])
        np.testing.assert_allclose(found, wanted.transpose(2, 3, 0, 1).reshape(found.shape), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(pooled(np.full((1, 1, *size), 2.5)), 2.5)
