"""Clusters of keys: cells, leaves and a mixture of Gaussians, with the summary statistics of each cluster."""

from lemmse.index.clustering.groups import Groups, first_blocks
from lemmse.index.clustering.mixture import Mixture
from lemmse.index.clustering.moments import LEADING, Basis, Moments, key_moments
from lemmse.index.clustering.sketches import Sketch

__all__ = [
    "LEADING",
    "Basis",
    "Groups",
    "Mixture",
    "Moments",
    "Sketch",
    "first_blocks",
    "key_moments",
]
