"""Building an index: ingest images, fit cells and axes, assign patches to cells, write shards, publish.

Patches are cut again in each pass instead of being stored, so that a build holds a block of images and the
keys of a shard at a time, however many images there are.
"""

from lemmse.index.building.api import AUGMENTS, EQUIVARIANCES, MEMORY, PATCH_SIZE_MAX, build, update
from lemmse.index.building.state import Runner, Task, run_serially, run_task

__all__ = [
    "AUGMENTS",
    "EQUIVARIANCES",
    "MEMORY",
    "PATCH_SIZE_MAX",
    "Runner",
    "Task",
    "build",
    "run_serially",
    "run_task",
    "update",
]
