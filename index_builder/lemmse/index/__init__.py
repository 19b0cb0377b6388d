"""Training images, their patches, and the index that is built from them.

The subpackages, each of which imports only those before it:

    images       stacks of images, their symmetries, image files
    sources      sources of training images
    physics      the operators A and B, and the noise
    patches      translated training patches and their strata
    storage      the index on disk
    clustering   cells, leaves, the mixture and their summary statistics
    reading      an opened index, its verification and views
    building     from sources to an index

FAISS, Zarr and Dask are imported only by `storage` and the subpackages after it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lemmse.contract.threads import keep_threads_from_spinning

if TYPE_CHECKING:
    from lemmse.index.building import build, remove, update
    from lemmse.index.reading import Index, open_index

__all__ = ["Index", "build", "open_index", "remove", "update"]

_HOMES = {
    "Index": "lemmse.index.reading",
    "build": "lemmse.index.building",
    "open_index": "lemmse.index.reading",
    "remove": "lemmse.index.building",
    "update": "lemmse.index.building",
}


keep_threads_from_spinning()  # before FAISS is loaded


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
