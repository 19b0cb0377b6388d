"""Some of the shards of an index, seen as an index of their own, and an index cut into such sections."""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.errors import DataLoss
from lemmse.index.reading.index import Index
from lemmse.index.storage import zarr_store
from lemmse.index.storage.folder import ARRAYS, about_index
from lemmse.index.storage.shards import Shards, folder_of

__all__ = ["ShardView", "split_shards"]


@dataclass(frozen=True)
class ShardView(Index):
    """A run of shards of an index; its cells, leaves, keys and patches are counted from 0."""

    first_shard: int
    """Number of its first shard in the index."""
    first_cell: int
    """Number of its first cell in the index."""
    first_key: int
    """Number of its first distinct key in the index."""

    @cached_property
    def strata_cells(self) -> NDArray[np.int64]:
        """First cell of each stratum, and the number of cells; a stratum may have none here."""
        of_index = zarr_store.read_all(self._arrays, "strata/cells")
        return np.asarray(np.clip(of_index - self.first_cell, 0, self.manifest.cells))

    @cached_property
    def _shards(self) -> Shards:
        numbers = range(self.first_shard, self.first_shard + self.manifest.shards)
        return Shards([folder_of(self.folder, number) for number in numbers])

    def verify(self) -> None:
        """Compare every file of the section with its checksum.

        Raises
        ------
        DataLoss
            The index is not there, or a file is missing, cut short or altered.
        """
        with about_index(self.name, self.version):
            if not self.folder.is_dir():
                raise DataLoss(f"nothing at {self.folder}; every worker must see it there")
            self.manifest.verify(self.folder)


def split_shards(index: Index, most: int) -> list[ShardView]:
    """Cut an index into sections of about as many keys each: `most`, or its shards if it has fewer."""
    keys, patches, cells, leaves = index.shard_edges()
    shards = index.manifest.shards
    count = min(most, shards)
    # A section ends with the shard whose end is nearest to its share, but none is empty.
    ends = [int(np.abs(keys - keys[-1] * i / count).argmin()) for i in range(count + 1)]
    for i in range(1, count):
        ends[i] = min(max(ends[i], ends[i - 1] + 1), shards - count + i)
    sections = []
    for first, end in pairwise(ends):
        folders = (folder_of(index.folder, n).relative_to(index.folder) for n in range(first, end))
        own = (f"{ARRAYS}/", *(f"{folder}/" for folder in folders))
        manifest = replace(
            index.manifest,
            keys=int(patches[end] - patches[first]),
            distinct=int(keys[end] - keys[first]),
            cells=int(cells[end] - cells[first]),
            leaves=int(leaves[end] - leaves[first]),
            shards=end - first,
            files={name: entry for name, entry in index.manifest.files.items() if name.startswith(own)},
        )
        of_index = index.name, index.version, index.folder
        sections.append(ShardView(*of_index, manifest, first, int(cells[first]), int(keys[first])))
    return sections
