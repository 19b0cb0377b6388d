"""The package imagecodecs, which some files need."""

from typing import Any

from lemmse.contract.errors import FailedPrecondition

__all__ = ["missing_codec", "require_imagecodecs"]


def missing_codec(what: str) -> FailedPrecondition:
    """Return the error for files that need imagecodecs where it is not installed."""
    return FailedPrecondition(f"{what} needs imagecodecs; pip install 'lemmse[codecs]'")


def require_imagecodecs(what: str) -> Any:
    """Return the module imagecodecs; raise FailedPrecondition where it is not installed."""
    try:
        import imagecodecs
    except ImportError as error:
        raise missing_codec(what) from error
    return imagecodecs
