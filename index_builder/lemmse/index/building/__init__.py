"""Build an index: take the images in, find cells and axes, assign every patch to a cell, arrange the cells.

Patches are cut when they are needed, in each pass anew, so that a build holds a block of images and the keys
of a shard at a time, however many images there are.
"""

from lemmse.index.building.build import AUGMENTS, EQUIVARIANCES, MEMORY, PATCH_SIZE_MAX, build, update
from lemmse.index.building.state import Part, Run, do, run_serially

__all__ = [
    "AUGMENTS",
    "EQUIVARIANCES",
    "MEMORY",
    "PATCH_SIZE_MAX",
    "Part",
    "Run",
    "build",
    "do",
    "run_serially",
    "update",
]
