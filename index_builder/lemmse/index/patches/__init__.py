"""Training patches: the keys of an index, their targets and ids, and the strata of equal noise."""

from lemmse.index.patches.corpus import Corpus
from lemmse.index.patches.strata import Strata

__all__ = ["Corpus", "Strata"]
