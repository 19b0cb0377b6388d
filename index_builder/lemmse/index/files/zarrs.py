"""Zarr arrays of format 2 or 3, and the images of OME-Zarr at full resolution."""

from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lemmse.contract.errors import FailedPrecondition, InvalidArgument
from lemmse.index.files.arrays import array_axes
from lemmse.index.files.layout import Layout
from lemmse.index.files.limits import MAX_SAMPLES
from lemmse.index.files.scale import Scale
from lemmse.index.files.stack import Metadata, Stack

if TYPE_CHECKING:
    import zarr

__all__ = ["find_array", "import_zarr", "is_zarr", "multiscales", "open_zarr"]

_CODECS = frozenset(
    (
        *("adler32", "bitround", "blosc", "bytes", "bz2", "crc32", "crc32c", "delta", "fixedscaleoffset"),
        *("fletcher32", "gzip", "lz4", "lzma", "sharding_indexed", "shuffle", "transpose", "zlib", "zstd"),
    )
)
"""Codecs for numbers. Other codecs, such as pickle, may run code from the array's author."""


def import_zarr() -> Any:
    """Return the module zarr; raise FailedPrecondition where it is not installed."""
    try:
        import zarr
    except ImportError as error:
        raise FailedPrecondition("Zarr needs zarr; pip install 'lemmse[server]'") from error
    return zarr


def is_zarr(folder: Path) -> bool:
    """Return whether a folder is a Zarr array or group."""
    return any((folder / name).is_file() for name in ("zarr.json", ".zarray", ".zgroup"))


def open_zarr(
    path: Path,
    axes: str | None = None,
    stated: tuple[float, float] | None = None,
    *,
    volumes: bool = False,
) -> Stack:
    """Open a Zarr array, or the image of an OME-Zarr group.

    Raises
    ------
    InvalidArgument
        It is neither, its axes are not known, its codecs are not of numbers, or its chunks are too large.
    FailedPrecondition
        Zarr is not installed.
    """
    array, found, group = find_array(path)
    layout = Layout.checked(array_axes(array.shape, axes or found, volumes=volumes), array.shape)
    details = {
        "attributes": dict(array.attrs if group is None else group.attrs),
        "group": group is not None,
        "format": array.metadata.zarr_format,
        "chunks": array.chunks,
        "dimensions": getattr(array.metadata, "dimension_names", None),
    }
    return Stack(
        layout=layout,
        scale=Scale.of(np.dtype(array.dtype), stated=stated),
        array=array,
        metadata=Metadata(details=details),
        divisible=True,
    )


def find_array(path: Path) -> tuple[Any, str | None, Any]:
    """Return a Zarr array, or the full resolution of the image of an OME-Zarr group.

    Returns
    -------
    array : zarr.Array
        The array, whose chunks are of numbers and not too large.
    axes : str or None
        Letters of its axes, if it says them.
    group : zarr.Group or None
        The group, if it is OME-Zarr.

    Raises
    ------
    InvalidArgument
        It is neither, its codecs are not of numbers, or its chunks are too large.
    FailedPrecondition
        Zarr is not installed.
    """
    node = import_zarr().open(path, mode="r")
    group = node if hasattr(node, "arrays") else None
    if group is None:
        array, axes = node, _dimension_axes(node)
    else:
        image = multiscales(dict(group.attrs))
        if image is None:
            names = ", ".join(sorted(name for name, _ in group.arrays())) or "no array"
            raise InvalidArgument(
                f"expected a Zarr array or OME-Zarr, got a group with {names}; name the array"
            )
        array = group[image["datasets"][0]["path"]]
        axes = _ome_axes(image, array.ndim)
    _check_codecs(array)
    if prod(array.chunks) > MAX_SAMPLES:
        raise InvalidArgument(f"expected chunks of at most {MAX_SAMPLES} values, got {array.chunks}")
    return array, axes, group


def multiscales(attributes: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the description of the first image of an OME-Zarr group; None if it is no such group."""
    found = attributes.get("ome", attributes).get("multiscales")
    return dict(found[0]) if isinstance(found, list) and found and found[0].get("datasets") else None


def _check_codecs(array: "zarr.Array[Any]") -> None:
    """Raise InvalidArgument for an array with codecs that are not of numbers."""
    if unknown := sorted(set(_codec_names(array.metadata.to_dict())) - _CODECS):
        raise InvalidArgument(f"expected codecs of numbers, got {', '.join(unknown)}; store it anew")


def _codec_names(metadata: Any) -> Iterable[str]:
    """Return the names of all codecs in the metadata of an array: ids in format 2, names in format 3."""
    codecs = [metadata.get("compressor"), *(metadata.get("filters") or ()), *(metadata.get("codecs") or ())]
    for codec in codecs:
        if codec is None:
            continue
        content = codec if isinstance(codec, dict) else codec.get_config()
        yield str(content.get("name", content.get("id"))).removeprefix("numcodecs.")
        inner = content.get("configuration") or {}
        for name in ("codecs", "index_codecs"):
            yield from _codec_names({"codecs": inner.get(name)})


def _ome_axes(image: Mapping[str, Any], count: int) -> str:
    """Return the letters of the axes of an OME-Zarr image; those of version 0.2 and before are TCZYX."""
    axes = image.get("axes") or "TCZYX"[-count:]
    return "".join((axis["name"] if isinstance(axis, dict) else axis).upper() for axis in axes)


def _dimension_axes(array: Any) -> str | None:
    """Return the letters of the dimension names of an array, if all are letters of axes."""
    names = getattr(array.metadata, "dimension_names", None) or ()
    letters = "".join(str(name).upper() for name in names)
    return letters if len(letters) == len(array.shape) and {"Y", "X"} <= set(letters) else None
