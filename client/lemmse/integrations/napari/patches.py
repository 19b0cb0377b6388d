"""Training patches as a picture and as a table."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemmse.contract.results import Contributor

__all__ = ["CONTEXT", "picture", "table"]

CONTEXT = 4
"""Pixels that are shown around a patch, on each side."""
_COLUMNS = 4
"""Patches side by side."""
_SIDE = 72
"""Side of a patch with its surroundings on the screen, about, in pixels."""
_GAP = 4
"""Pixels between patches."""
_OUTLINE = (232, 17, 45)
"""Colour of the border of a patch."""


def picture(contributors: Sequence[Contributor], limits: tuple[float, float]) -> NDArray[np.uint8]:
    """Return the patches in reading order, each outlined in its surroundings, (H, W, 3).

    Parameters
    ----------
    contributors : sequence of Contributor
        At least one, with crops.
    limits : (float, float)
        The values that are black and white.
    """
    cards = [_card(one.crop, limits) for one in contributors if one.crop is not None]
    cards += [np.zeros_like(cards[0])] * (-len(cards) % _COLUMNS)
    lines = [np.hstack(cards[first : first + _COLUMNS]) for first in range(0, len(cards), _COLUMNS)]
    return np.vstack(lines)


def table(contributors: Sequence[Contributor]) -> dict[str, list[Any]]:
    """Return the columns of a table of the patches."""
    return {
        "weight": [f"{one.weight:.1%}" for one in contributors],
        "image": [one.image for one in contributors],
        "row": [one.row for one in contributors],
        "column": [one.column for one in contributors],
        "source": [one.source for one in contributors],
        "symmetry": [one.symmetry for one in contributors],
    }


def _card(crop: NDArray[np.float32], limits: tuple[float, float]) -> NDArray[np.uint8]:
    low, high = limits
    grey = np.rint(np.clip((crop - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    zoom = max(1, _SIDE // len(crop))
    card = np.broadcast_to(grey, (*grey.shape[:2], 3)).repeat(zoom, axis=0).repeat(zoom, axis=1)
    first, last = CONTEXT * zoom - 1, len(card) - CONTEXT * zoom  # just outside of the patch
    card[[first, last], first : last + 1] = _OUTLINE
    card[first : last + 1, [first, last]] = _OUTLINE
    return np.pad(card, ((0, _GAP), (0, _GAP), (0, 0)))
