"""The index: image sources, patch geometry, physics, and the folder that holds the training patches."""

from lemmse.index.building import (
    AUGMENTS,
    EQUIVARIANCES,
    MEMORY,
    Part,
    Run,
    build,
    do,
    one_after_the_other,
    update,
)
from lemmse.index.calibration import Calibration, Plan
from lemmse.index.coding import Coding
from lemmse.index.groups import Groups
from lemmse.index.images import BOUNDARIES, Images
from lemmse.index.manifest import FORMAT, Manifest
from lemmse.index.mixture import Mixture
from lemmse.index.moments import Basis, Moments
from lemmse.index.packing import LANES, Packed
from lemmse.index.physics import InverseProblem
from lemmse.index.pictures import PAPER, Pictures, Refinement
from lemmse.index.progress import Progress
from lemmse.index.reader import Index, open_index
from lemmse.index.sketching import Sketch
from lemmse.index.strata import Strata

__all__ = [
    "AUGMENTS",
    "BOUNDARIES",
    "EQUIVARIANCES",
    "FORMAT",
    "LANES",
    "MEMORY",
    "PAPER",
    "Basis",
    "Calibration",
    "Coding",
    "Groups",
    "Images",
    "Index",
    "InverseProblem",
    "Manifest",
    "Mixture",
    "Moments",
    "Packed",
    "Part",
    "Pictures",
    "Plan",
    "Progress",
    "Refinement",
    "Run",
    "Sketch",
    "Strata",
    "build",
    "do",
    "one_after_the_other",
    "open_index",
    "update",
]
