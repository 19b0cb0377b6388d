"""Agreement against time of all modes, over the noise levels of the paper.

    python -m benchmarks.frontier (--source FILE [--limit N] [--patch-size P] | --index DIR) --test FILE
        [--images N] [--flat] [--out DIR]

The program builds and calibrates an index of the first N images (or opens --index) and reconstructs images
that are not in it at each σ with the exact sum, with topk (FAISS inverted file, k = 50 and 1000, several
nprobe, and all cells if requested) and with hybrid, at the thresholds that its calibration gives for several
agreements; for one of these it also reconstructs many images in one call. All modes get the same noisy
patches in one run.

The table has, for each, the agreement with the exact sum (PSNR in dB over all images), the seconds per
image, the ratio of the exact sum's time to these, the keys evaluated per patch, and for hybrid the percentage
of pixels and channels of the first image whose difference from exact is below the estimated error.
"""

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from benchmarks.inputs import add_index_options, index_folder, read_images
from benchmarks.measures import decibels, print_rows
from benchmarks.quality.data import Image
from lemmse.estimator import Outputs, Queries, SumSpec
from lemmse.estimator.local import LocalBackend
from lemmse.index import open_index
from lemmse.index.storage.calibration_record import Calibration

SIGMAS = (0.001, 0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
ACCURACIES = (48.0, 52.0, 54.0, 60.0)
BATCH, BATCH_ACCURACY = 16, 52.0
AGREEMENT_MOST = 120.0
"""Largest agreement in the table, in dB."""
ROUNDING = 1e-5
"""Rounding of float32 that is part of the estimated error."""
TOPK = ((50, 32), (1000, 32), (1000, 256))


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    sigma: float
    mode: str
    agreement_db: float
    seconds: float
    times_faster_than_exact: float
    keys_touched: float
    covered: float | None = None


def contestants(calibration: Calibration, sigma: float, keys: int, flat: bool) -> dict[str, SumSpec]:
    methods = {}
    for accuracy in ACCURACIES:
        threshold = calibration.plan(sigma, accuracy).threshold
        methods[f"hybrid {accuracy:g} dB"] = SumSpec("hybrid", threshold=threshold)
    for k, nprobe in TOPK:
        methods[f"topk {k}, nprobe {nprobe}"] = SumSpec("topk", k=min(k, keys), nprobe=nprobe)
    if flat:
        methods["topk 1000, all cells"] = SumSpec("topk", k=min(1000, keys), nprobe=1 << 20)
    return methods


def queries(local: LocalBackend, clean: Image, sigma: float, seed: int) -> Queries:
    y = clean + sigma * np.random.default_rng(seed).standard_normal(clean.shape)
    u = local.patches(y[None], np.arange(clean.shape[0] * clean.shape[1]))
    return Queries.white(torch.from_numpy(u.astype(np.float32)), sigma)


def measure(local: LocalBackend, images: list[Image], sigma: float, flat: bool) -> list[Row]:
    t_length = local.keys.t_length
    asked = [queries(local, clean, sigma, seed) for seed, clean in enumerate(images)]
    calibration = local.index.manifest.calibration
    if calibration is None:
        raise SystemExit("expected a calibrated index: run lemmse calibrate")
    methods = {"exact": SumSpec("exact"), **contestants(calibration, sigma, local.keys.count, flat)}
    scales = {f"hybrid {db:g} dB": calibration.plan(sigma, db).error_scale for db in ACCURACIES}
    means: dict[str, list[NDArray[np.float64]]] = {}
    seconds: dict[str, list[float]] = {}
    touched: dict[str, list[float]] = {}
    for block in asked:
        for name, method in methods.items():
            start = time.perf_counter()
            sums = local.sums(block, method)
            seconds.setdefault(name, []).append(time.perf_counter() - start)
            means.setdefault(name, []).append(sums.posterior(t_length).mean.numpy())
            touched.setdefault(name, []).append(float(sums.keys_evaluated.double().mean()))
    exact = np.stack(means["exact"])
    rows = [
        Row(
            sigma=sigma,
            mode=name,
            agreement_db=decibels(np.square(np.stack(means[name]) - exact), AGREEMENT_MOST),
            seconds=statistics.mean(seconds[name]),
            times_faster_than_exact=statistics.mean(seconds["exact"]) / statistics.mean(seconds[name]),
            keys_touched=statistics.mean(touched[name]),
            covered=covered(local, asked[0], method, scales[name], exact[0]) if name in scales else None,
        )
        for name, method in methods.items()
    ]
    plan = calibration.plan(sigma, BATCH_ACCURACY)
    many = [queries(local, images[seed % len(images)], sigma, seed) for seed in range(BATCH)]
    batch = Queries(torch.cat([one.u for one in many]), many[0].precision)
    start = time.perf_counter()
    sums = local.sums(batch, SumSpec("hybrid", threshold=plan.threshold))
    each = (time.perf_counter() - start) / BATCH
    mean = sums.posterior(t_length).mean.numpy().reshape(BATCH, *exact.shape[1:])
    rows.append(
        Row(
            sigma=sigma,
            mode=f"hybrid {BATCH_ACCURACY:g} dB, {BATCH} images",
            agreement_db=decibels(np.square(mean[: len(images)] - exact), AGREEMENT_MOST),
            seconds=each,
            times_faster_than_exact=statistics.mean(seconds["exact"]) / each,
            keys_touched=float(sums.keys_evaluated.double().mean()),
        )
    )
    return rows


def covered(
    local: LocalBackend, block: Queries, spec: SumSpec, scale: float, exact: NDArray[np.float64]
) -> float:
    posterior = local.sums(block, replace(spec, outputs=Outputs(error=True))).posterior(local.keys.t_length)
    error = posterior.error.numpy() * scale + ROUNDING
    return float(100 * (np.abs(posterior.mean.numpy() - exact) <= error).mean())


def draw(rows: list[Row], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 6), layout="constrained")
    axes = figure.subplots(2, 5, sharex=True, sharey=True)
    for axis, sigma in zip(axes.flat, SIGMAS, strict=True):
        for kind, colour in (("hybrid", "tab:blue"), ("topk", "tab:orange")):
            own = sorted(
                (row.seconds, min(row.agreement_db, 100.0))
                for row in rows
                if row.sigma == sigma and row.mode.startswith(kind) and "images" not in row.mode
            )
            axis.plot(*zip(*own, strict=True), "o-", color=colour, label=kind)
        exact = next(row.seconds for row in rows if row.sigma == sigma and row.mode == "exact")
        axis.axvline(exact, color="black", label="exact")
        axis.set(title=f"σ = {sigma:g}", xscale="log")
        axis.grid(alpha=0.3)
    for axis in axes[1]:
        axis.set_xlabel("seconds for an image")
    for axis in axes[:, 0]:
        axis.set_ylabel("agreement with exact (dB)")
    axes[0, 0].legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_index_options(parser)
    parser.add_argument("--test", required=True, help="images that are not in the index")
    parser.add_argument("--images", type=int, default=2, help="of which so many (default %(default)s)")
    parser.add_argument("--flat", action="store_true", help="also topk over all cells, which takes minutes")
    parser.add_argument("--out", type=Path, default=Path("frontier"), help="folder for JSON and plot")
    arguments = parser.parse_args()
    images = read_images(arguments.test, arguments.images)
    with index_folder(arguments) as folder:
        local = LocalBackend(open_index(folder), torch.device("cpu"))
        measure(local, [images[0][:4, :4]], SIGMAS[0], flat=False)  # compiles the loops before they are timed
        rows = [
            row
            for sigma in track(SIGMAS, console=Console(stderr=True))
            for row in measure(local, images, sigma, arguments.flat)
        ]
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "frontier.json").write_text(json.dumps([asdict(row) for row in rows], indent=1))
    draw(rows, arguments.out / "frontier.png")
    threads = torch.get_num_threads()
    title = f"{local.keys.count} keys, P = {local.keys.p_length}, {threads} threads"
    print_rows([asdict(row) for row in rows], title)


if __name__ == "__main__":
    main()
