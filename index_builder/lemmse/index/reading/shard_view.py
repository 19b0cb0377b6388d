"""Views of consecutive shards of an index, each an index in itself, for distributed sums."""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.errors import DataLoss
from lemmse.index.reading.index_version import Index
from lemmse.index.reading.layout import require_layout
from lemmse.index.storage import zarr_store
from lemmse.index.storage.folder import ARRAYS, about_index
from lemmse.index.storage.pinned import PinnedFiles
from lemmse.index.storage.shards import Shards, name_of

__all__ = ["ShardView", "split_shards"]


@dataclass(frozen=True)
class ShardView(Index):
    """Consecutive shards of an index; cells, leaves, keys and patches are numbered from 0."""

    first_shard: int
    """Number of the first shard in the index."""
    first_cell: int
    """Number of the first cell in the index."""
    first_key: int
    """Number of the first distinct key in the index."""

    @cached_property
    def stratum_cells(self) -> NDArray[np.int64]:
        """First cell of each stratum, followed by the number of cells, (S + 1,); strata may be empty."""
        whole = zarr_store.read_all(self._arrays, "strata/cells")
        return np.asarray(np.clip(whole - self.first_cell, 0, self.manifest.cells))

    @cached_property
    def _shards(self) -> Shards:
        numbers = range(self.first_shard, self.first_shard + self.manifest.shards)
        return Shards(self.files, [name_of(number) for number in numbers])

    @cached_property
    def files(self) -> PinnedFiles:
        """The files of the shards, and of all arrays of the version."""
        files = PinnedFiles(self.folder, self.manifest.files)
        require_layout(files, self.manifest, self.first_shard)
        return files

    def verify(self) -> None:
        """Verify the checksum of every file of the shards.

        Raises
        ------
        DataLoss
            The index does not exist, or a file is missing, truncated or altered.
        """
        with about_index(self.name, self.version):
            if not self.folder.is_dir():
                raise DataLoss(f"nothing at {self.folder}; every worker must see it there")
            self.files.verify()


def split_shards(index: Index, most: int) -> list[ShardView]:
    """Return `most` views with about the same number of keys, or one for each shard if there are fewer."""
    keys, patches, cells, leaves = index.shard_offsets()
    shards = index.manifest.shards
    count = min(most, shards)
    # A view ends with the shard whose end is nearest to an equal share; no view is empty.
    ends = [int(np.abs(keys - keys[-1] * i / count).argmin()) for i in range(count + 1)]
    for i in range(1, count):
        ends[i] = min(max(ends[i], ends[i - 1] + 1), shards - count + i)
    views = []
    for first, end in pairwise(ends):
        prefixes = (f"{ARRAYS}/", *(f"{name_of(number)}/" for number in range(first, end)))
        manifest = replace(
            index.manifest,
            keys=int(patches[end] - patches[first]),
            distinct=int(keys[end] - keys[first]),
            cells=int(cells[end] - cells[first]),
            leaves=int(leaves[end] - leaves[first]),
            shards=end - first,
            files={name: entry for name, entry in index.manifest.files.items() if name.startswith(prefixes)},
        )
        views.append(
            ShardView(
                index.name,
                index.version,
                index.folder,
                manifest,
                first_shard=first,
                first_cell=int(cells[first]),
                first_key=int(keys[first]),
            )
        )
    return views
