"""Suppression of the messages that Zarr prints in addition to raising an error."""

import logging
import warnings

__all__ = ["silence_zarr"]


def silence_zarr() -> None:
    """Suppress messages about tasks that Zarr leaves unfinished after an error.

    Zarr reads and writes several chunks at a time. The first error is raised; asyncio logs the others, and
    Python warns about tasks that were not started.
    """
    logging.getLogger("asyncio").addHandler(logging.NullHandler())
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
