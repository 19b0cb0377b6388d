"""What a method is: something that is opened for a data set, told σ, and then answers images."""

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
    """A method that knows the data set and σ."""

    answer: Callable[[Image], Image]
    """The reconstruction of a noisy image."""
    strength: float | None = None
    """What was chosen on training images, where a method has something to choose."""


Opened = Callable[[float], Ready]
"""A method that knows the data set; it is called with σ."""


@dataclass(frozen=True, slots=True)
class Method:
    """One line of the tables."""

    name: str
    """For people, and for the option --methods."""
    open: Callable[[Data, Path], AbstractContextManager[Opened]]
    """Prepare for a data set; what takes long is kept in the folder."""
    settings: dict[str, Any] = field(default_factory=dict)
    """All that its answers depend on, beside data set and σ."""
    training: Callable[[Data], int] = lambda data: 0
    """How many training images it makes use of."""


def digest(*parts: Any) -> str:
    """Name what was computed from arrays and settings."""
    total = hashlib.sha256()
    for part in parts:
        data = part.tobytes() if isinstance(part, np.ndarray) else json.dumps(part, sort_keys=True).encode()
        total.update(data)
    return total.hexdigest()[:16]
