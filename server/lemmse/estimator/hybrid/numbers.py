"""Compiler options of the loops of hybrid, and arithmetic that compiles to vector instructions."""

import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from lemmse.estimator.hybrid.kernel_cache import find_cache

__all__ = [
    "ABSENT",
    "LOG2_E",
    "aligned",
    "compiled",
    "compiled_to_allocate",
    "exp2",
    "log",
    "rounded_down",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])

LOG2_E = np.float32(math.log2(math.e))
ABSENT = np.float32(-1e30)
"""Logarithm of the weight of an empty SIMD lane."""
_FLOOR = np.float32(-60.0)
"""Exponents of 2 are clamped to this minimum, so that neither weights nor their squares are denormal."""
_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "fastmath": {"contract", "reassoc", "nsz", "arcp", "afn", "nnan"},
    "error_model": "numpy",
}
"""Fast-math: sums may be reordered, which vector instructions require; infinities keep their meaning."""
_KEPT = find_cache(find_cache)
"""Whether there is a folder for compiled functions."""
_NO_CALLS: dict[str, Any] = {"forceinline": True, "_nrt": False}
"""Inline functions: calls with many array arguments, and reference counts, take longer than the sums."""


def compiled(function: _Function) -> _Function:
    """Return a function that is compiled as a part of the compiled functions that call it, and inlined there.

    It may not allocate arrays. A call from Python is not compiled: the conversion of the arguments of such
    calls took half of the time to compile.
    """
    return register_jitable(**_OPTIONS, **_NO_CALLS)(function)


def compiled_to_allocate(function: _Function) -> _Function:
    """Return a function that is compiled at its first call, also from Python, and kept for other processes.

    It may allocate arrays, is not inlined, and releases the interpreter lock.
    """
    return cast(_Function, numba.njit(cache=_KEPT, **_OPTIONS)(function))


@compiled
def exp2(x: np.float32) -> np.float32:
    """Return 2^max(x, _FLOOR), for x up to 126.

    The fractional part is approximated by a polynomial (relative error 2·10⁻⁷), and the integer part is
    written to the exponent bits. Unlike a call of exp2, this compiles to vector instructions.
    """
    x = max(x, _FLOOR)
    whole = np.floor(x)
    f = x - whole
    y = np.float32(1.8775767e-3)
    y = y * f + np.float32(8.9893397e-3)
    y = y * f + np.float32(5.5826318e-2)
    y = y * f + np.float32(2.4015361e-1)
    y = y * f + np.float32(6.9315308e-1)
    y = y * f + np.float32(0.99999994)
    power = (np.int32(whole) + np.int32(127)) << np.int32(23)
    result: np.float32 = y * np.int32(power).view(np.float32)
    return result


@compiled
def log(x: np.float32) -> np.float32:
    """Return the natural logarithm of a normal number; error 5·10⁻⁷, relative where the result is near 0.

    Unlike a call of log, this compiles to vector instructions; see `exp2`.
    """
    bits = np.float32(x).view(np.int32)
    exponent = np.float32((bits >> np.int32(23)) - np.int32(127))
    f = np.int32((bits & np.int32(0x7FFFFF)) | np.int32(0x3F800000)).view(np.float32) - np.float32(1.0)
    y = np.float32(-0.012206505)
    y = y * f + np.float32(0.062958579)
    y = y * f + np.float32(-0.15403794)
    y = y * f + np.float32(0.25474791)
    y = y * f + np.float32(-0.35277587)
    y = y * f + np.float32(0.47991371)
    y = y * f + np.float32(-0.72129472)
    y = y * f + np.float32(1.4426943)
    result: np.float32 = (exponent + y * f) / LOG2_E
    return result


@compiled
def rounded_down(x: np.float64) -> np.float64:
    """Return the greatest float32 that is not greater than x; infinities are unchanged."""
    y = np.float32(x)
    return np.float64(np.nextafter(y, np.float32(-np.inf)) if np.float64(y) > x else y)


@compiled_to_allocate
def aligned(n: int) -> NDArray[np.float32]:
    """Return n zeros aligned to a cache line, since loads across cache lines take twice as long."""
    space = np.zeros(n + 16, np.float32)
    first = -space.ctypes.data % 64 // 4
    return space[first : first + n]
