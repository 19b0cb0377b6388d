"""The kinds of source, and which of them a user means."""

import os
from pathlib import Path

from lemmse.contract.errors import NotFound
from lemmse.index.sources import _arrays, _cifar, _files, _idx, _photos, _zarr
from lemmse.index.sources._image import ImageSource, bad_source, reading

__all__ = ["open_source"]

# The first that matches is taken: a folder of images is any folder that is nothing else.
_KINDS = (_photos.KIND, _arrays.KIND, _idx.KIND, _cifar.KIND, _zarr.KIND, _files.FILE, _files.FOLDER)


def open_source(spec: str | os.PathLike[str]) -> ImageSource:
    """Open a source of training images; the kind is told from the name and from what lies there.

    Parameters
    ----------
    spec : str or path
        A folder of images (of any sizes; with the folders below it, hidden ones left out) or one image; .npy
        or .npz with images (N, H, W) or (N, H, W, C), uint8, uint16 or float in [0, 1], where an .npz with
        several gives `images`, `train`, `x_train` or `data`; idx-ubyte[.gz]; CIFAR-10 batches, one or their
        folder; a Zarr array; or `sample:photos`.

    Returns
    -------
    ImageSource

    Raises
    ------
    NotFound
        There is no such file or folder.
    InvalidArgument
        What is there is no source of images, or has none.

    Examples
    --------
    >>> photos = open_source("sample:photos")
    >>> photos[0].shape, photos.label(0)
    ((64, 64, 3), 'photos/astronaut[0:64, 0:64]')
    """
    name = os.fspath(spec)
    if not name:  # which pathlib reads as the working folder
        raise bad_source("expected a file, a folder or a sample, got an empty name")
    with reading(name):
        for kind in _KINDS:
            if kind.matches(name):
                return kind.open(name)
    if not Path(name).exists():
        raise NotFound(f"SOURCE: no such file or folder: {name!r}")
    raise bad_source(f"expected {'; '.join(kind.what for kind in _KINDS)}; got {name}")
