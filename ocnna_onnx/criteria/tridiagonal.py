"""Eigenvalues of symmetric matrices of middling size by LAPACK's own two steps, called straight from SciPy's library.

`numpy.linalg.eigvalsh` (xSYEVD) leaves a third of its time on such matrices in the way it reduces them; `scipy.linalg`
holds the interpreter's lock while it computes, so that a second thread gains nothing. The C functions that SciPy
exports for Cython (`scipy.linalg.cython_lapack`, https://docs.scipy.org/doc/scipy/reference/linalg.cython_lapack.html)
are called through ctypes, which lets go of the lock. NumPy does the work where they are not as expected.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy.linalg import cython_lapack  # here, not later: whoever limits the threads of BLAS must find the library

Singles = npt.NDArray[np.float32]

REDUCE = ("char", "int", "s", "int", "s", "s", "s", "s", "int", "int")
"""ssytrd(uplo, n, a, lda, d, e, tau, work, lwork, info)."""

ITERATE = ("int", "s", "s", "int")
"""ssterf(n, d, e, info)."""

BLOCK = 32
"""Columns that ssytrd may reduce at once: it chooses by the workspace it is given."""


@dataclass(frozen=True)
class Kernels:
    """LAPACK's reduction to tridiagonal form, and its root-free QR iteration; every argument is an address."""

    reduce: Callable[..., None]
    iterate: Callable[..., None]


@cache
def kernels() -> Kernels | None:
    """What SciPy exports, or None where it is not what this file was written for: then NumPy has to do."""
    reduce, iterate = _exported("ssytrd", REDUCE), _exported("ssterf", ITERATE)
    if reduce is None or iterate is None:
        return None
    found = Kernels(reduce, iterate)
    values, settled = _by_lapack(np.array([[[2, 1, 0], [1, 2, 1], [0, 1, 2]]], np.float32), found)
    return found if settled.all() and np.allclose(values, [[2 - 2**0.5, 2, 2 + 2**0.5]], rtol=1e-5) else None


def eigenvalues(matrices: Singles) -> tuple[Singles, npt.NDArray[np.bool_]]:
    """Eigenvalues [n, side], ascending, and the matrices whose iteration settled, of symmetric [n, side, side].

    matrices: float32, finite, C-contiguous; may be overwritten. Only one triangle is read.
    """
    found = kernels()
    if found is None:
        return np.linalg.eigvalsh(matrices), np.ones(len(matrices), np.bool_)
    return _by_lapack(matrices, found)


def _by_lapack(matrices: Singles, found: Kernels) -> tuple[Singles, npt.NDArray[np.bool_]]:
    n, side = matrices.shape[:2]
    diagonal, beside = np.empty((n, side), np.float32), np.zeros((n, side), np.float32)
    reflectors, work = np.empty(side, np.float32), np.empty(BLOCK * side, np.float32)
    sizes, failed = np.array([side, work.size, 0], np.intc), np.zeros(n, np.intc)
    triangle = ctypes.create_string_buffer(b"U")
    # Addresses as plain numbers, stepped by hand: a matrix costs two calls and four additions.
    uplo, tau, space = ctypes.addressof(triangle), reflectors.ctypes.data, work.ctypes.data
    order = sizes.ctypes.data
    room, ignored = order + sizes.itemsize, order + 2 * sizes.itemsize
    a, d, e, info = matrices.ctypes.data, diagonal.ctypes.data, beside.ctypes.data, failed.ctypes.data
    reduce, iterate, row = found.reduce, found.iterate, diagonal.itemsize * side
    for _ in range(n):
        reduce(uplo, order, a, order, d, e, tau, space, room, ignored)
        iterate(order, d, e, info)
        a, d, e, info = a + row * side, d + row, e + row, info + sizes.itemsize
    return diagonal, failed == 0


def _exported(name: str, arguments: tuple[str, ...]) -> Callable[..., None] | None:
    """A function of `scipy.linalg.cython_lapack`, if it takes pointers to these C types ("s": SciPy's own name for
    float)."""
    capsule = getattr(cython_lapack, "__pyx_capi__", {}).get(name)
    if capsule is None:
        return None
    name_of = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", ctypes.pythonapi))
    address_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )
    signature = name_of(capsule)
    pointers = [r"\w+_s \*" if kind == "s" else rf"{kind} \*" for kind in arguments]
    if signature is None or not re.fullmatch(rf"void \({', '.join(pointers)}\)", signature.decode()):
        return None
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(arguments))(address_of(capsule, signature))
