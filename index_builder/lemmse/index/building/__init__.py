"""Building an index: ingest images, fit the key model, assign patches to cells, write shards, publish.

Patches are extracted again in each pass instead of being stored, so that a build holds only a block of images
and the keys of one shard in memory, regardless of the number of images.
"""

from lemmse.index.building.api import AUGMENTS, EQUIVARIANCES, MEMORY, PATCH_SIZE_MAX, build, remove, update
from lemmse.index.building.state import Runner, Task, run_serially, run_task

__all__ = [
    "AUGMENTS",
    "EQUIVARIANCES",
    "MEMORY",
    "PATCH_SIZE_MAX",
    "Runner",
    "Task",
    "build",
    "remove",
    "run_serially",
    "run_task",
    "update",
]
