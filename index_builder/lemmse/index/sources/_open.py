"""The kinds of source, and the choice among them."""

import os
from pathlib import Path

from lemmse.contract.errors import NotFound
from lemmse.index.sources import _cifar, _hdf5, _idx, _image_files, _numpy_files, _photos, _zarr
from lemmse.index.sources._image import ImageSource, bad_source, decoding
from lemmse.index.sources._reading import Reading

__all__ = ["open_source"]

# The first match is used: a folder of images is any folder that no other kind matches.
_KINDS = (
    _photos.KIND,
    _numpy_files.KIND,
    _idx.KIND,
    _cifar.KIND,
    _zarr.KIND,
    _hdf5.KIND,
    _image_files.FILE,
    _image_files.FOLDER,
)


_AS_IN_THE_FILE = Reading()


def open_source(spec: str | os.PathLike[str], reading: Reading = _AS_IN_THE_FILE) -> ImageSource:
    """Open a source of training images; its kind follows from its name and content.

    Parameters
    ----------
    spec : str or path
        A folder of images of any size, including subfolders but not hidden ones, or one image or TIFF stack;
        a .npy or .npz file of images (N, H, W) or (N, H, W, C), uint8, uint16 or float in [0, 1], where an
        .npz with several arrays has one named `images`, `train`, `x_train` or `data`; an idx-ubyte[.gz] file;
        a CIFAR-10 batch, or a folder of them; a Zarr array or OME-Zarr; HDF5, as FILE.h5 with one dataset of
        images or FILE.h5:/PATH/OF/DATASET; or `sample:photos`.
    reading : Reading, optional
        Axes, range and region, instead of those of the files.

    Returns
    -------
    ImageSource

    Raises
    ------
    NotFound
        There is no such file or folder.
    InvalidArgument
        It is not a source of images, or contains no images.

    Examples
    --------
    >>> photos = open_source("sample:photos")
    >>> photos[0].shape, photos.label(0)
    ((64, 64, 3), 'photos/astronaut[0:64, 0:64]')
    """
    name = os.fspath(spec)
    if not name:  # pathlib treats it as the working folder
        raise bad_source("expected a file, a folder or a sample, got an empty name")
    with decoding(name):
        for kind in _KINDS:
            if kind.matches(name):
                return kind.open(name, reading)
    if not Path(name).exists():
        raise NotFound(f"SOURCE: no such file or folder: {name!r}")
    raise bad_source(f"expected {'; '.join(kind.what for kind in _KINDS)}; got {name}")
