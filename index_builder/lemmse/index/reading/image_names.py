"""The training images that names stand for.

The name of an image is its source, such as `faces/3.png` or `train.npy[17]`. Several images may be of one
name, if their files came from two folders. `train.npy` stands for all images of that file. A plane of a
volume is `train.npy[3] plane 7`; names stand for whole volumes, since patches lie in several planes.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument

if TYPE_CHECKING:
    from lemmse.index.reading.index_version import Index

__all__ = ["file_of", "find_images", "volume_of"]

_SHOWN = 100
"""Largest number of characters of a name in a message."""


def file_of(source: str) -> str:
    """Return the name of the file of a source: without the place in it, a number in brackets or a plane.

    Examples
    --------
    >>> file_of("train.npy[17]"), file_of("photos/astronaut[0:64, 64:128]"), file_of("3.png")
    ('train.npy', 'photos/astronaut', '3.png')
    >>> file_of("volumes.npy[3] plane 7")
    'volumes.npy'
    """
    volume = volume_of(source)
    file, bracket, _ = volume.rpartition("[")
    return file if bracket and volume.endswith("]") else volume


def volume_of(source: str) -> str:
    """Return the source of the volume of a plane; that of an image is its own."""
    return re.sub(r" plane \d+\Z", "", source)


def find_images(
    index: "Index", argument: str, names: Iterable[str], *, numbers: bool = False, near: bool = False
) -> NDArray[np.int64]:
    """Return the numbers of the training images that names stand for, ascending; all planes of a volume.

    Parameters
    ----------
    index : Index
        The index.
    argument : str
        Name of the argument that has the names, for the message.
    names : iterable of str
        The names.
    numbers : bool
        Whether decimal digits are the number of an image.
    near : bool
        Whether to suggest similar names in the message, which takes a second for 100 000 images.

    Raises
    ------
    InvalidArgument
        A name stands for no image.
    """
    found: set[int] = set()
    for name in names:
        if numbers and name.isascii() and name.isdecimal():
            # A number of many digits is none of an image, and slow to convert.
            if len(name) > 18 or int(name) >= index.manifest.images:
                raise InvalidArgument.of(
                    argument,
                    f"expected a number of an image below {index.manifest.images}, got {name[:_SHOWN]}",
                )
            found.add(int(name))
        elif name in index.numbers_of:
            found.update(index.numbers_of[name])
        else:
            similar = get_close_matches(name[:_SHOWN], index.numbers_of, n=3) if near else []
            hint = "lemmse inspect --images lists them"
            if similar:
                hint = f"did you mean {' or '.join(map(repr, similar))}?"
            raise InvalidArgument.of(
                argument,
                f"expected the source of a training image of {index.name!r}, got {name[:_SHOWN]!r}; {hint}",
            )
    volumes = np.repeat(np.arange(len(index.depths)), index.depths)
    return np.flatnonzero(np.isin(volumes, volumes[sorted(found)]))
