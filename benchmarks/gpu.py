"""Milliseconds of the exact sum on a GPU, beside other ways to compute it, in one run.

    python -m benchmarks.gpu --source FILE [--only PART …] [--keys N] [--queries N] [--repeats N] [--out FILE]

There are four parts, of one or two minutes each; --only names those to run.

**exact.** All methods sum the same 8-bit keys, patches of the first 90 % of the images, for the same noisy
patches of the others, in turn, `repeats` times; the table has medians. Keys and queries are on the GPU
before.

    fused        the kernel, for the mean
    fused maps   the kernel, for the mean, the variance and the effective sample size
    products     the products of lemmse.estimator.exact that the kernel replaces, for the mean
    cdist        streamed torch.cdist, running maximum, softmax weights, in float32, as in published code
    half         the same recipe with the product of queries and keys in float16
    bare         the (Q, P) × (P, M) product alone in float16, in blocks, results discarded

The agreement is the PSNR to the sum in float64, in dB, for some of the queries. A second table has whole
images: the first held-out one, and 16 of them side by side, with the kernel and without.

**stream.** The same keys, all on the GPU and with a share of them copied for each block of queries, for
blocks of several sizes: from some size on, copying takes no time of its own.

**hybrid.** An image of --side pixels squared, of the held-out images side by side, by an index of the first
--images images or that of --index: hybrid beside exact, and what auto chooses.

**counts.** What hybrid does for --pixels of that image at --threshold: pairs of a query and a cell or a group
that are decided on, groups opened, and the share of the keys that are summed, for a query; lanes for each
decision and each key, with those that programs have nothing for; and the agreement with exact. On a GPU also
the time of each kernel for a block of 16 384 pixels.

--out writes all tables as JSON, with the names of GPU and driver, versions and date.

On a machine without a GPU it ends with an error: times there say nothing about one. Counts do; there they
need TRITON_INTERPRET=1 and few pixels.
"""

import argparse
import datetime as dt
import json
import os
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.gpu_counts import counts, kernels
from benchmarks.gpu_images import build_index, hybrid_beside_exact, mosaic
from benchmarks.measures import decibels, print_rows, timed
from lemmse.estimator import Keys, Outputs, Queries, Reconstructor, SumSpec, exact_sums
from lemmse.estimator.fused import FusedKeys, row_bytes
from lemmse.estimator.key_stream import KeyStream, resident_edges
from lemmse.index import open_index
from lemmse.index.images.stack import Images
from lemmse.index.sources import intensities, iterate, open_source
from lemmse.index.storage.packing import Packed
from lemmse.index.storage.quantization import quantizations

_BLOCK = 1 << 16
"""Keys of a block of the recipes."""
_ENCODED = 1 << 18
"""Keys that are cut out and encoded at once."""
_TILE = 1 << 16
_CHECKED = 24
"""Queries whose sums are compared with those in float64."""
QUERIES = 1024, 4096, 16_384
"""Sizes of blocks of queries for which keys are copied."""
PARTS = "exact", "stream", "hybrid", "counts"
TITLES = {
    "sums": "the sum for a block of queries",
    "images": "with variance and effective sample size",
    "stream": "the same, with all keys on the GPU and with a share of them",
    "hybrid": "whole images",
    "counts": "what hybrid does for a query",
    "kernels": "kernels of hybrid for a block of pixels",
}
MAPS = SumSpec(outputs=Outputs(variance=True, ess=True))


@dataclass(frozen=True)
class Problem:
    """Keys on a device, and noisy queries."""

    keys: Keys
    v: Tensor
    """The keys, float32, (M, P)."""
    t: Tensor
    """Their targets, float32, (M, T)."""
    u: Tensor
    """The clean queries, float32, (Q, P)."""

    @classmethod
    def cut(
        cls, images: Images[np.float32], p: int, count: int, queries: int, device: torch.device
    ) -> "Problem":
        """Return the problem of `count` patches at most, for `queries` of the last tenth of the images."""
        held_out = images.first[-1 - max(1, len(images) // 10)]
        rng = np.random.default_rng(0)
        n = np.sort(rng.permutation(held_out)[:count])
        byte = quantizations(p * p)[0]
        codes = np.concatenate(
            [byte.encode(images.patches(n[i : i + _ENCODED], p)) for i in range(0, len(n), _ENCODED)]
        )
        t = images.pixels[n]
        moments = np.concatenate([np.ones((len(n), 1)), t, t**2], axis=1).astype(np.float32)
        keys = Keys(
            quantization=byte,
            packed=Packed.of([codes]),
            packed_moments=Packed.of([moments]),
            strata=(0, len(n)),
            device=device,
            tile=_TILE,
        )
        u = images.patches(rng.integers(held_out, images.positions, queries), p)
        return cls(
            keys,
            torch.from_numpy(codes).to(device).float() / 255,
            torch.from_numpy(t).to(device),
            torch.from_numpy(u).to(device),
        )

    def noisy(self, sigma: float) -> Queries:
        """Return the queries with noise of one σ."""
        noise = torch.randn(self.u.shape, generator=torch.Generator().manual_seed(0))
        return Queries.white(self.u + sigma * noise.to(self.u.device), sigma)


def recipe(problem: Problem, queries: Queries, score: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return the means by blocks of keys with a running maximum, for a function that returns ‖u − v‖²."""
    u, half_precision = queries.u, 0.5 * float(queries.precision)
    largest = torch.full((len(u), 1), -torch.inf, device=u.device)
    total = torch.zeros(len(u), 1, device=u.device)
    weighted = torch.zeros(len(u), problem.t.shape[1], device=u.device)
    for v, t in zip(torch.split(problem.v, _BLOCK), torch.split(problem.t, _BLOCK), strict=True):
        log_w = -half_precision * score(u, v)
        higher = torch.maximum(largest, log_w.amax(dim=1, keepdim=True))
        w, shrink = torch.exp(log_w - higher), torch.exp(largest - higher)
        total = shrink * total + w.sum(dim=1, keepdim=True)
        weighted = shrink * weighted + w @ t
        largest = higher
    return weighted / total


def squares_by_cdist(u: Tensor, v: Tensor) -> Tensor:
    return torch.cdist(u, v).square()


def squares_by_half(u: Tensor, v: Tensor) -> Tensor:
    product = (u.half() @ v.half().T).float()
    return u.square().sum(dim=1, keepdim=True) - 2 * product + v.square().sum(dim=1)


def bare_product(u: Tensor, v: Tensor) -> None:
    for block in torch.split(v, _BLOCK):
        torch.mm(u, block.T)


def in_float64(problem: Problem, queries: Queries) -> NDArray[np.float64]:
    """Return the means of the first queries, (≤ _CHECKED, T), from differences in float64."""
    means = []
    for u in queries.u[:_CHECKED].double():
        log_w = torch.cat(
            [
                -0.5 * queries.precision.double() * (v.double() - u).square().sum(dim=1)
                for v in torch.split(problem.v, _BLOCK)
            ]
        )
        w = (log_w - log_w.max()).exp()
        means.append(w @ problem.t.double() / w.sum())
    return torch.stack(means).cpu().numpy()


def measure(problem: Problem, fused: FusedKeys, sigma: float, repeats: int) -> dict[str, Any]:
    """Return a row of the table."""
    queries = problem.noisy(sigma)
    half_u, half_v = queries.u.half(), problem.v.half()
    t_length = problem.t.shape[1]

    def mean(spec: SumSpec, kernel: FusedKeys | None) -> Tensor:
        return exact_sums(problem.keys, queries, spec, kernel).posterior(t_length).mean

    methods: dict[str, Callable[[], Tensor | None]] = {
        "fused": partial(mean, SumSpec(), fused),
        "fused_maps": partial(mean, MAPS, fused),
        "products": partial(mean, SumSpec(), None),
        "cdist": partial(recipe, problem, queries, squares_by_cdist),
        "half": partial(recipe, problem, queries, squares_by_half),
        "bare": partial(bare_product, half_u, half_v),
    }
    right = in_float64(problem, queries)
    row: dict[str, Any] = {
        "P": problem.v.shape[1],
        "keys": len(problem.v),
        "queries": len(queries),
        "sigma": sigma,
    }
    found = {name: method() for name, method in methods.items()}  # and compile, and tune
    turns = [
        {name: 1e3 * timed(partial(_finished, method))[1] for name, method in methods.items()}
        for _ in range(repeats)
    ]
    row |= {f"{name}_ms": statistics.median(turn[name] for turn in turns) for name in methods}
    for name, means in found.items():
        if means is not None:
            squares = (means[:_CHECKED].double().cpu().numpy() - right) ** 2
            row[f"{name}_db"] = decibels(squares, most=160.0)
    return row


def whole_images(problem: Problem, fused: FusedKeys, sigma: float, repeats: int) -> list[dict[str, Any]]:
    """Return rows for as many queries as whole images have pixels, with the kernel and without."""
    rows = []
    for pixels in (1024, 16 * 1024):
        times = -(-pixels // len(problem.u))
        queries = replace(problem, u=problem.u.repeat(times, 1)[:pixels]).noisy(sigma)
        row: dict[str, Any] = {"P": problem.v.shape[1], "keys": len(problem.v), "pixels": pixels}
        for name, kernel in (("fused", fused), ("products", None)):
            work = partial(exact_sums, problem.keys, queries, MAPS, kernel)
            _finished(work)
            seconds = statistics.median(timed(partial(_finished, work))[1] for _ in range(repeats))
            row[f"{name}_ms"] = 1e3 * seconds
        rows.append(row | {"pairs_per_second": pixels * len(problem.v) / row["fused_ms"] * 1e3})
    return rows


def streamed(
    problem: Problem, fused: FusedKeys, sigma: float, share: float, repeats: int
) -> list[dict[str, Any]]:
    """Return rows for blocks of queries, with all keys on the device and with a share of them."""
    keys, rows = problem.keys, []
    edges = resident_edges(keys, int(share * (keys.nbytes + row_bytes(keys))))
    stream = KeyStream(keys, edges)
    held = fused.on(stream.resident)
    for count in QUERIES:
        times = -(-count // len(problem.u))
        queries = replace(problem, u=problem.u.repeat(times, 1)[:count]).noisy(sigma)
        ways: dict[str, Callable[[], Any]] = {
            "resident": partial(exact_sums, keys, queries, MAPS, fused),
            "streamed": partial(stream.sums, queries, MAPS, held),
        }
        means = [_finished(way).posterior(problem.t.shape[1]).mean for way in ways.values()]  # and tune
        row: dict[str, Any] = {
            "P": keys.p_length,
            "keys": keys.count,
            "resident_percent": 100 * edges[0] / keys.count,
            "slices": len(edges) - 1,
            "queries": count,
        }
        turns = [
            {name: timed(partial(_finished, way))[1] for name, way in ways.items()} for _ in range(repeats)
        ]
        row |= {f"{name}_ms": 1e3 * statistics.median(turn[name] for turn in turns) for name in ways}
        row["agreement_db"] = decibels((means[0] - means[1]).cpu().numpy() ** 2, most=160.0)
        rows.append(row)
    stream.close()
    return rows


def _finished(work: Callable[[], Any]) -> Any:
    """Call and wait for the GPU."""
    outcome = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return outcome


def machine() -> dict[str, str]:
    """Return the names of GPU and driver, versions and date."""
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    try:
        driver = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        driver = "unknown"
    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = "none"
    return {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "driver": driver,
        "cuda": str(torch.version.cuda),
        "torch": torch.__version__,
        "triton": triton,
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", required=True, help="training images, as for lemmse build")
    parser.add_argument("--keys", type=int, default=10_240_000, help="most keys to sum (default %(default)s)")
    parser.add_argument("--queries", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--patch-sizes", type=int, nargs="+", default=[5, 11])
    parser.add_argument("--sigmas", type=float, nargs="+", default=[0.01, 0.1, 0.5])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to run (default: all)")
    parser.add_argument(
        "--share", type=float, default=0.7, help="stream: share of memory (default %(default)s)"
    )
    parser.add_argument("--index", help="hybrid, counts: index of some of the images (default: one is built)")
    parser.add_argument("--images", type=int, default=2000, help="hybrid, counts: images of that index")
    parser.add_argument(
        "--side", type=int, default=1024, help="hybrid, counts: rows and columns (default %(default)s)"
    )
    parser.add_argument("--pixels", type=int, default=1024, help="counts: pixels (default %(default)s)")
    parser.add_argument("--threshold", type=float, default=-3.0, help="counts (default %(default)s)")
    parser.add_argument("--out", type=Path, help="write the tables as JSON")
    arguments = parser.parse_args()
    interpreted = os.environ.get("TRITON_INTERPRET") == "1" and arguments.only == ["counts"]
    if not torch.cuda.is_available() and not interpreted:
        parser.error("expected a GPU that torch sees, or --only counts and TRITON_INTERPRET=1")

    device, repeats = torch.device("cpu" if interpreted else "cuda"), arguments.repeats
    stack = Images.stack(intensities(image) for image, _ in iterate(open_source(arguments.source)))
    tables: dict[str, list[dict[str, Any]]] = {}
    for p in arguments.patch_sizes if {"exact", "stream"} & {*arguments.only} else ():
        problem = Problem.cut(stack, p, arguments.keys, arguments.queries, device)
        fused = FusedKeys.of(problem.keys)
        if fused is None:
            parser.error("expected Triton and a GPU of compute capability 8.0 or more")
        if "exact" in arguments.only:
            rows = [measure(problem, fused, sigma, repeats) for sigma in arguments.sigmas]
            tables.setdefault("sums", []).extend(rows)
            rows = whole_images(problem, fused, arguments.sigmas[-1], repeats)
            tables.setdefault("images", []).extend(rows)
        if "stream" in arguments.only:
            rows = streamed(problem, fused, arguments.sigmas[-1], arguments.share, repeats)
            tables.setdefault("stream", []).extend(rows)
        del problem, fused
        torch.cuda.empty_cache()
    if {"hybrid", "counts"} & {*arguments.only}:
        clean = mosaic(stack, arguments.side)
        with TemporaryDirectory() as folder:
            index = arguments.index or build_index(arguments.source, arguments.images, Path(folder))
            lemmse = Reconstructor(open_index(index), device=device.type)
            if "hybrid" in arguments.only:
                tables["hybrid"] = [
                    hybrid_beside_exact(lemmse, clean, sigma, repeats) for sigma in arguments.sigmas
                ]
            if "counts" in arguments.only:
                pixels, threshold = arguments.pixels, arguments.threshold
                tables["counts"] = [
                    counts(lemmse, clean, sigma, pixels, threshold) for sigma in arguments.sigmas
                ]
                if not interpreted:
                    sigma = arguments.sigmas[0]
                    tables["kernels"] = kernels(lemmse, clean, sigma, threshold)
    about = machine()
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    for name, rows in tables.items():
        print_rows(rows, TITLES[name])
    if arguments.out:
        arguments.out.write_text(json.dumps(about | tables, indent=1))


if __name__ == "__main__":
    main()
