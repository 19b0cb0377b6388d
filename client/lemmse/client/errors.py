"""The errors that a client raises: those of `lemmse.contract.errors`."""

from lemmse.contract.errors import *  # noqa: F403
from lemmse.contract.errors import __all__ as __all__
