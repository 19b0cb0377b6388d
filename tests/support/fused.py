"""Keys for the fused kernel: on a GPU if torch sees one, otherwise in Triton's interpreter."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from lemmse.estimator import Keys, SumSpec, exact_sums
from lemmse.estimator.fused import Blocks, FusedKeys
from lemmse.index.storage.packing import LANES, Packed
from lemmse.index.storage.quantization import quantizations
from tests.support.oracle import log_weights

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
BLOCKS = Blocks(queries=64 if GPU else 16, keys=64, span=128)
"""Tuning them on a GPU takes half a minute for each form of the kernel."""
KINDS = dict(zip(("bytes", "words", "levels", "floats"), quantizations(9), strict=True))
"""Quantizations of 8-bit and 16-bit pixels, of nine 8-bit pixels without their mean, and of all others."""

FEW_THRESHOLDS = (3.0, 0.0, -3.0, -6.0, -9.0)
"""Every second of the thresholds of a calibration on a sample, for the interpreter."""

needs_gpu = pytest.mark.skipif(not GPU, reason="torch sees no GPU")
interpreter = pytest.importorskip("triton.runtime.interpreter", reason="Triton is for Linux")
language = pytest.importorskip("triton.language")
replacing_call = interpreter.InterpretedFunction.__call__


def call(function, *args, **kwargs):
    """Call a device function in Triton's interpreter.

    The interpreter replaces the functions of Triton's language at every such call, which took a third of the
    time of a kernel. They are replaced for a whole kernel.
    """
    if any(language.core.is_builtin(module.load) for module in (language, language.core)):
        return replacing_call(function, *args, **kwargs)
    return function.rewrite()(*args, **kwargs)


interpreter.InterpretedFunction.__call__ = call


def in_parts(rows: np.ndarray, cuts=()) -> Packed:
    """Pack rows, (n, L), in parts that begin at these rows, with gaps of other numbers in between."""
    edges = [0, *cuts, len(rows)]
    gap = np.full(7 * LANES, 99, rows.dtype)
    values, begins, place = [], [], 0
    for start, stop in pairwise(edges):
        packed = Packed.of([rows[start:stop]]).values
        values += [packed, gap]
        begins.append(place)
        place += len(packed) + len(gap)
    return Packed(np.concatenate(values), rows.shape[1], np.array(edges), np.array(begins))


def keys_of(kind, v, t, n=None, strata=None, cuts=()) -> Keys:
    """Keys v, (U, P), of a kind, each n times; t, (U, T), is the mean of the targets of each."""
    n = np.ones(len(v), np.int64) if n is None else n
    strata = (0, len(v)) if strata is None else strata
    spread = 0.01 * np.sign(np.arange(len(v)) % 2 - 0.5)[:, None] * (n > 1)[:, None]
    moments = np.concatenate([n[:, None], n[:, None] * t, n[:, None] * (t**2 + spread**2)], axis=1)
    return Keys(
        quantization=KINDS[kind],
        packed=in_parts(KINDS[kind].encode(np.float32(v)), cuts),
        packed_moments=in_parts(np.float32(moments), cuts),
        strata=strata,
        device=DEVICE,
        tile=64,
    )


def fused_sums(keys, queries, outputs):
    """The sums by the kernel, and what is left to the products."""
    on_device = queries.to(DEVICE)
    return exact_sums(keys, on_device, SumSpec(outputs=outputs), FusedKeys(keys, BLOCKS))


def expected(keys, queries):
    """The posterior of each query in float64, as a dictionary of arrays."""
    rows = slice(*keys.strata[queries.stratum : queries.stratum + 2])
    v = keys.quantization.low + keys.quantization.step * keys.packed.rows(0, keys.count)[rows].astype(float)
    n, wt, wt2 = np.split(
        keys.packed_moments.rows(0, keys.count)[rows].astype(float), [1, 1 + keys.t_length], 1
    )
    found = {name: [] for name in ("mean", "variance", "ess", "log_density", "patch", "patch_variance")}
    precision = (
        np.broadcast_to(queries.precision.double().cpu().numpy(), (len(queries), v.shape[1]))
        if queries.precision.ndim
        else np.full((len(queries), v.shape[1]), float(queries.precision))
    )
    for u, each in zip(queries.u.double().cpu().numpy(), precision, strict=True):
        log_w, first = log_weights(np.where(each > 0, u, 0.0), v, each)
        w = np.exp(log_w - log_w.max())
        total = float(w @ n[:, 0])
        mean, patch = w @ wt / total, (w * n[:, 0]) @ v / total
        found["mean"].append(mean)
        found["variance"].append(w @ wt2 / total - mean**2)
        found["ess"].append([total**2 / (w**2 @ n[:, 0])])
        found["log_density"].append(first + log_w.max() + np.log(total))
        found["patch"].append(patch)
        found["patch_variance"].append((w * n[:, 0]) @ v**2 / total - patch**2)
    return {name: np.array(values) for name, values in found.items()}
