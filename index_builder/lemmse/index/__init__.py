"""Training images, their patches and the index that is built from them.

In the order in which each uses the ones before: `images` (stacks of images, image files), `sources` (where
training images come from), `physics` (the operators A and B and their noise), `patches` (translated training
patches and their strata), `storage` (what lies on disk), `clustering` (cells, leaves and their summary
statistics), `reading` (an opened index and its views), `building` (from sources to an index).

Importing this package imports neither FAISS nor Zarr; what needs them is imported when it is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lemmse.contract.threads import keep_threads_from_spinning

if TYPE_CHECKING:
    from lemmse.index.building import build, update
    from lemmse.index.reading import Index, open_index

__all__ = ["Index", "build", "open_index", "update"]

_HOMES = {
    "Index": "lemmse.index.reading",
    "build": "lemmse.index.building",
    "open_index": "lemmse.index.reading",
    "update": "lemmse.index.building",
}


keep_threads_from_spinning()  # before FAISS is loaded


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
