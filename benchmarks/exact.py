"""The rate of the exact posterior sum, beside the usual recipe and a bare matrix product.

    python -m benchmarks.exact --source FILE [--keys N] [--repeats R]

All three run on the same keys and queries in one process, in turn, `repeats` times. The table has the
median of each and of the ratios within a turn, so that a machine whose speed drifts favours none of them.

    exact    lemmse.estimator.exact_sums
    cdist    streamed torch.cdist, running maximum, softmax weights, in float32: the recipe of published code
    product  the (Q, P) × (P, M) product alone, in the tiles of the exact sum, results discarded
"""

import argparse
import json
import platform
import statistics
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.measures import print_rows, timed
from benchmarks.memory import peak_beyond
from lemmse.estimator import Keys, Queries, exact_sums
from lemmse.estimator.keys import TILE
from lemmse.index.images.stack import Images
from lemmse.index.sources import intensities, iterate, open_source

QUERIES = 1024
CDIST_BLOCK = 16_384


def cdist_recipe(v: Tensor, t: Tensor, u: Tensor, sigma: float) -> Tensor:
    maximum = torch.full((len(u), 1), -torch.inf)
    total = torch.zeros(len(u), 1)
    weighted = torch.zeros(len(u), t.shape[1])
    for v_block, t_block in zip(torch.split(v, CDIST_BLOCK), torch.split(t, CDIST_BLOCK), strict=True):
        log_w = torch.cdist(u, v_block).square() / (-2 * sigma**2)
        new = torch.maximum(maximum, log_w.amax(dim=1, keepdim=True))
        w = torch.exp(log_w - new)
        shrink = torch.exp(maximum - new)
        total = shrink * total + w.sum(dim=1, keepdim=True)
        weighted = shrink * weighted + w @ t_block
        maximum = new
    return weighted / total


def bare_product(v: Tensor, u: Tensor) -> None:
    out = torch.empty(len(u), TILE)
    for v_tile in torch.split(v, TILE):
        torch.mm(u, v_tile.T, out=out[:, : len(v_tile)])


def data(source: str, p: int, count: int, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return keys and targets from the first 90 % of the images, and noisy queries from the others."""
    opened = open_source(source)
    stack = Images.stack(intensities(image) for image, _ in iterate(opened))
    held_out = stack.first[-1 - max(1, len(stack) // 10)]
    rng = np.random.default_rng(0)
    n = np.sort(rng.permutation(held_out)[:count])
    v = torch.from_numpy(stack.patches(n, p))
    u = torch.from_numpy(stack.patches(rng.integers(held_out, stack.positions, QUERIES), p))
    t = torch.from_numpy(stack.pixels[n])
    return v, t, u + sigma * torch.randn(u.shape, generator=torch.Generator().manual_seed(0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", required=True, help="training images, as for lemmse build")
    parser.add_argument("--keys", type=int, default=262_144, help="keys to sum (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()

    rows = []
    for p in (5, 11):
        for sigma in (0.1, 0.5):
            v, t, u = data(arguments.source, p, arguments.keys, sigma)
            one = np.ones(len(v), np.int64)
            keys = Keys.of(v.numpy(), one, t.numpy(), strata=[0, len(v)], device=torch.device("cpu"))
            beyond = peak_beyond(partial(exact_sums, keys, Queries.white(u, sigma)))
            centred_v, centred_u = v - v.mean(dim=0), u - v.mean(dim=0)
            bare_product(centred_v, centred_u)
            contestants = (
                partial(exact_sums, keys, Queries.white(u, sigma)),
                partial(cdist_recipe, v, t, u, sigma),
                partial(bare_product, centred_v, centred_u),
            )
            turns = [[timed(work)[1] for work in contestants] for _ in range(arguments.repeats)]
            exact, cdist, product = (statistics.median(column) for column in zip(*turns, strict=True))
            rows.append(
                {
                    "P": v.shape[1],
                    "sigma": sigma,
                    "keys": len(v),
                    "exact_s_per_million_keys": exact * 1e6 / len(v),
                    "cdist_s_per_million_keys": cdist * 1e6 / len(v),
                    "product_s_per_million_keys": product * 1e6 / len(v),
                    "exact_gflops": 2e-9 * u.numel() * len(v) / exact,
                    "times_faster_than_cdist": statistics.median(c / e for e, c, _ in turns),
                    "rate_relative_to_product": statistics.median(b / e for e, _, b in turns),
                    "peak_memory_beyond_mb": beyond / 2**20,
                }
            )
    if arguments.json:
        print(json.dumps(rows))
        return
    threads = torch.get_num_threads()
    title = f"{QUERIES} queries, {threads} threads, torch {torch.__version__}, {platform.machine()}"
    print_rows(rows, title)


if __name__ == "__main__":
    main()
