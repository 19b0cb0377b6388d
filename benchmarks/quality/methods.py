"""The interface of a method: it is opened for a data set, given σ, and then reconstructs images."""

import hashlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.data import Data, Image


@dataclass(frozen=True, slots=True)
class Ready:
    """A method for one data set and σ."""

    answer: Callable[[Image], Image]
    """Maps a noisy image to its reconstruction."""
    strength: float | None = None
    """Strength that was chosen on training images, if the method has one."""


Opened = Callable[[float], Ready]
"""A method for one data set; called with σ."""


@dataclass(frozen=True, slots=True)
class Method:
    """One line of the tables."""

    name: str
    """Name in the tables and for the option --methods."""
    open: Callable[[Data, Path], AbstractContextManager[Opened]]
    """Prepare for a data set; results that take long are stored in the folder."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Everything that its results depend on, besides data set and σ."""
    training: Callable[[Data], int] = lambda data: 0
    """Number of training images that it uses."""


def digest(*parts: Any) -> str:
    """Return a digest of arrays and settings."""
    total = hashlib.sha256()
    for part in parts:
        data = part.tobytes() if isinstance(part, np.ndarray) else json.dumps(part, sort_keys=True).encode()
        total.update(data)
    return total.hexdigest()[:16]
