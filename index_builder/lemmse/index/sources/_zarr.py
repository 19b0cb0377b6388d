"""Zarr arrays, of format 2 or 3, and the images of OME-Zarr at full resolution, as a source."""

from pathlib import Path

import numpy as np

from lemmse.contract.errors import InvalidArgument
from lemmse.index.files.zarrs import find_array, is_zarr
from lemmse.index.sources._array_source import ArraySource
from lemmse.index.sources._chunks import Chunked
from lemmse.index.sources._image import SourceKind, bad_source, decoding
from lemmse.index.sources._reading import Reading

__all__ = ["KIND"]


def _open(spec: str, reading: Reading) -> ArraySource:
    path = Path(spec)
    try:
        with decoding(spec):
            array, axes, _ = find_array(path)
    except InvalidArgument as error:
        if spec in str(error):
            raise
        raise bad_source(f"{path}: {error}") from error
    return ArraySource(
        spec,
        path,
        reading,
        shape=array.shape,
        dtype=np.dtype(array.dtype),
        load=lambda: Chunked(array, array.chunks),
        axes=axes,
    )


KIND = SourceKind(
    "a Zarr array (N, H, W) or (N, H, W, C), or OME-Zarr", lambda spec: is_zarr(Path(spec)), _open
)
