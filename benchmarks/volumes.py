"""Volumes with patches over planes, plane by plane, and by BM4D: PSNR and processor time.

    python -m benchmarks.volumes [--volumes FILE.npy] [--sigmas S ...] [--patch-size PZ P] [--seed S]

The last volume is held out and reconstructed with the others as training volumes. By default the volumes are
made: nuclei, which are ellipsoids of any size and direction with a membrane and a spotted inside. Indexes are
built in a temporary folder, and answer in mode exact. BM4D (Maggioni et al. 2013) is compared if the package
bm4d is installed; it is free for non-commercial use only.
"""

import argparse
import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from benchmarks.measures import decibels, print_rows
from lemmse.client import Client, connect
from lemmse.contract.errors import LemmseError
from lemmse.index import build

SIGMAS = (0.05, 0.1, 0.2)
COUNT, SHAPE = 3, (16, 36, 36)
"""Number of the volumes that are made, and their planes, rows and columns."""
NUCLEI = 14
"""Nuclei in each."""

QUALITIES: dict[str, dict[str, Any]] = {
    "paper": {"mode": "exact"},
    "overlap": {"mode": "exact", "aggregate": "overlap", "gaussian_share": 0.01},
}

Volume = NDArray[np.floating]
Method = Callable[[Volume, float], Volume]


@dataclass(frozen=True, slots=True)
class Row:
    """A method at a noise level."""

    sigma: float
    method: str
    psnr_db: str
    cpu_seconds: float
    """Of all threads."""


def nuclei(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return a volume of nuclei, uint8, of shape `SHAPE`."""
    grid = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1).astype(float)
    spots = gaussian_filter(rng.standard_normal(SHAPE), 1.2)
    x = 0.08 + 0.02 * gaussian_filter(rng.standard_normal(SHAPE), 4) / 0.01
    for _ in range(NUCLEI):
        radii = rng.uniform((3, 4, 4), (6, 9, 9))
        turned = Rotation.random(random_state=rng).apply((grid - rng.random(3) * SHAPE).reshape(-1, 3))
        distance = np.linalg.norm(turned / radii, axis=1).reshape(SHAPE)
        inside = 1 / (1 + np.exp((distance - 1) * 20))
        filled = rng.uniform(0.3, 0.55) + 1.2 * spots
        x = x * (1 - inside) + filled * inside + 0.35 * np.exp(-(((distance - 1) / 0.1) ** 2))
    shown: NDArray[np.uint8] = np.rint(255 * np.clip(x, 0, 1)).astype(np.uint8)
    return shown


def read_volumes(path: Path | None, seed: int) -> NDArray[np.uint8]:
    """Return volumes, (N, D, H, W), uint8: those of a file, or some that are made."""
    if path is not None:
        volumes: NDArray[np.uint8] = np.load(path)
        if volumes.ndim != 4 or volumes.dtype != np.uint8 or len(volumes) < 2:
            raise SystemExit(f"{path}: expected two volumes or more, (N, D, H, W) uint8, got {volumes.shape}")
        return volumes
    rng = np.random.default_rng(seed)
    return np.stack([nuclei(rng) for _ in range(COUNT)])


def plane_by_plane(client: Client, options: Mapping[str, Any]) -> Method:
    def reconstruct(y: Volume, sigma: float) -> Volume:
        results = client.reconstruct_many(list(y), sigma=sigma, **options)
        return np.stack([result.image for result in results if not isinstance(result, LemmseError)])

    return reconstruct


def as_volume(client: Client, options: Mapping[str, Any]) -> Method:
    return lambda y, sigma: client.reconstruct(y, sigma=sigma, **options).image


def bm4d_methods() -> Iterator[tuple[str, Method]]:
    if importlib.util.find_spec("bm4d") is not None:
        from bm4d import bm4d

        yield "BM4D", lambda y, sigma: np.asarray(bm4d(y, sigma)).reshape(y.shape)


def run(arguments: argparse.Namespace) -> None:
    volumes = read_volumes(arguments.volumes, arguments.seed)
    training, clean = volumes[:-1], volumes[-1] / 255.0
    depth, side = arguments.patch_size
    rng = np.random.default_rng(arguments.seed)
    with TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "volumes.npy", training)
        np.save(folder / "planes.npy", training.reshape(-1, *training.shape[2:]))
        for kind, p_z in (("volumes", depth), ("planes", 1)):
            source = [folder / f"{kind}.npy"]
            build(source, folder / kind, patch_size=side, patch_depth=p_z, boundary="reflect")
        with connect(folder / "volumes") as whole, connect(folder / "planes") as planes:
            methods: dict[str, Method] = {"noisy": lambda y, sigma: y}
            for what, options in QUALITIES.items():
                methods[f"{side}x{side}, {what}"] = plane_by_plane(planes, options)
                methods[f"{depth}x{side}x{side}, {what}"] = as_volume(whole, options)
            methods |= bm4d_methods()
            for method in methods.values():  # compiles, and reads what is read at first
                method(clean[:8, :16, :16], arguments.sigmas[0])
            rows = []
            for sigma in arguments.sigmas:
                y = clean + sigma * rng.standard_normal(clean.shape)
                for name, method in methods.items():
                    start = time.process_time()
                    x = method(y, sigma)
                    seconds = time.process_time() - start
                    rows.append(Row(sigma, name, f"{decibels(np.square(x - clean)):.2f}", seconds))
            (info,) = whole.list_indexes()
    title = f"{'x'.join(map(str, clean.shape))} voxels, {info.keys} keys of {depth}x{side}x{side}"
    print_rows([asdict(row) for row in rows], title)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--volumes", type=Path, metavar="FILE", help=".npy of volumes (N, D, H, W), uint8")
    parser.add_argument("--sigmas", type=float, nargs="+", default=SIGMAS, help="(default %(default)s)")
    parser.add_argument(
        "--patch-size", type=int, nargs=2, metavar=("PZ", "P"), default=(3, 5), help="(default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="(default %(default)s)")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
