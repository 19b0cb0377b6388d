"""Watching of the loaded indexes: whether they can answer, and whether their folders have changed.

The folders are polled: two small files of each are looked at, which works on all file systems.
"""

import asyncio
import logging

from lemmse.server.catalogue import Catalogue
from lemmse.server.health import Health

__all__ = ["watch"]

_LOG = logging.getLogger(__name__)

_INTERVAL = 2.0
"""Time between two looks, in seconds."""


async def watch(catalogue: Catalogue, health: Health, *, take_up: bool) -> None:
    """Keep the health of the indexes up to date for ever.

    Parameters
    ----------
    catalogue : Catalogue
        The indexes.
    health : Health
        The health service.
    take_up : bool
        Whether to load new versions and calibrations.
    """
    while True:
        await asyncio.sleep(_INTERVAL)
        try:
            await asyncio.to_thread(catalogue.refresh, watch=take_up)
            catalogue.tell(health)
        except Exception:
            _LOG.exception("the indexes could not be looked at")
