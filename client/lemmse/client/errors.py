"""The errors that a client raises, re-exported from `lemmse.contract.errors`."""

from lemmse.contract.errors import *  # noqa: F403
from lemmse.contract.errors import __all__ as __all__
