"""What Zarr prints beside an error that is raised."""

import logging
import warnings

__all__ = ["silence_zarr"]


def silence_zarr() -> None:
    """Silence messages about the tasks of Zarr that an error leaves behind.

    Zarr reads and writes several chunks at a time. The first error is raised; asyncio logs the others, and
    Python warns of tasks that were not started.
    """
    logging.getLogger("asyncio").addHandler(logging.NullHandler())
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
