"""The pictures that a visitor brings, and examples."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument, LemmseError
from lemmse.contract.results import IndexInfo
from lemmse.explorer.local import LocalIndexes
from lemmse.index.files import open_stack
from lemmse.index.sources import HELD_OUT, photograph

__all__ = ["Picture", "examples", "load_example", "read_picture"]

_MOST_PIXELS = 4_000_000
"""Pixels of the largest picture that the page takes."""
_MIDDLES = (32, 64)
"""Sides of the middles of photographs that are offered beside the wholes, in pixels."""
_TRAINING_IMAGES = 6
"""Training images that are offered."""


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """An image as it came, in intensities."""

    name: str
    """Its name, for titles and files; no path."""
    pixels: NDArray[np.float32]
    """(H, W, C)."""
    observed: NDArray[np.bool_]
    """Where it was observed, (H, W)."""

    def with_channels(self, channels: int) -> NDArray[np.float32]:
        """Return the pixels with the channels of an index: grey repeated, or colours averaged.

        Raises
        ------
        InvalidArgument
            The channels are neither grey nor colours.
        """
        have = self.pixels.shape[2]
        if have == channels:
            return self.pixels
        if have == 1:
            return self.pixels.repeat(channels, axis=2)
        if channels == 1 and have == 3:
            return np.asarray(self.pixels.mean(axis=2, keepdims=True))
        raise InvalidArgument(f"expected a picture of {channels} channels, as the index has, got {have}")


def read_picture(name: str, content: bytes) -> Picture:
    """Return the picture in the content of a file.

    Parameters
    ----------
    name : str
        Name of the file, whose suffix gives the format.
    content : bytes
        Its content.

    Raises
    ------
    InvalidArgument
        It is no picture, or too large.
    """
    with tempfile.TemporaryDirectory(prefix="lemmse-explore-") as folder:
        path = Path(folder) / f"picture{Path(name).suffix.lower()}"
        path.write_bytes(content)
        try:
            with open_stack(path) as stack:
                if stack.layout.plane_shape[0] * stack.layout.plane_shape[1] > _MOST_PIXELS:
                    raise InvalidArgument(
                        f"expected at most {_MOST_PIXELS:,} pixels, got {stack.layout.plane_shape}; "
                        "use lemmse reconstruct"
                    )
                numbers = stack.only()
                missing = stack.missing(numbers)
                pixels = np.atleast_3d(stack.scale.intensities(numbers))
        except LemmseError as error:
            raise type(error)(f"{name}: {error.message.replace(path.name, name)}") from error
    unknown = ~np.isfinite(pixels).all(axis=2)
    if missing is not None:
        unknown |= np.atleast_3d(missing).any(axis=2)
    pixels[unknown] = 0
    return Picture(name, pixels, ~unknown)


def examples(info: IndexInfo, local: LocalIndexes) -> dict[str, str]:
    """Return the titles of the examples for an index, by key: photographs, and training images."""
    found = dict(_photographs())
    if info.name in local:
        step = max(1, info.images // _TRAINING_IMAGES)
        for number in range(0, info.images, step)[:_TRAINING_IMAGES]:
            found[f"training:{number}"] = f"training image {number} (the index knows it)"
    return found


def load_example(key: str, info: IndexInfo, local: LocalIndexes) -> Picture:
    """Return the example of a key of `examples`."""
    kind, _, name = key.partition(":")
    if kind == "training":
        pixels = local.training_image(info.name, int(name))
    else:
        pixels = photograph(name).astype(np.float32) / np.float32(255)
        if kind != "whole":
            side = int(kind)
            top, left = ((length - side) // 2 for length in pixels.shape[:2])
            pixels = pixels[top : top + side, left : left + side]
    return Picture(key.replace(":", "-"), pixels, np.ones(pixels.shape[:2], bool))


def _photographs() -> Iterator[tuple[str, str]]:
    """Yield keys and titles of the photographs of scikit-image, if it is installed."""
    for name in (*HELD_OUT, "astronaut", "coffee"):
        try:
            height, width = photograph(name).shape[:2]
        except LemmseError:
            return
        for side in _MIDDLES:
            yield f"{side}:{name}", f"{name}, its middle, {side} × {side}"
        yield f"whole:{name}", f"{name}, {height} × {width}"
