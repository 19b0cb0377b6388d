"""What is sent with each part of a volume: maps for its planes, and noise that is estimated once for all."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemmse.client.interface import Client
from lemmse.client.slabs import Part
from lemmse.client.work import Work
from lemmse.contract.measurement_arguments import AUTO, POISSON_GAUSSIAN
from lemmse.contract.results import NoiseEstimate

__all__ = ["VolumeNoise"]

_LEAST_GAIN = 1e-9
"""Stands for a gain of 0, which only an estimate may be."""


class VolumeNoise:
    """The arguments of each part of a volume.

    Parameters
    ----------
    client : Client
        Estimates the noise of volumes that are sent in slabs.
    options : mapping
        Arguments of `Client.reconstruct_many`, of which maps are those of all planes.
    """

    def __init__(self, client: Client, options: Mapping[str, Any]) -> None:
        self._client = client
        counts = options.get("noise") == POISSON_GAUSSIAN
        noise = ("sigma", "gain") if counts else ("sigma",)
        self._unknown = [name for name in noise if isinstance(options.get(name), str)]
        asked = ("noise", "nan", "index", *(noise if counts else ()))
        self._asked = {name: options[name] for name in asked if name in options}
        self._maps = {
            name: np.asarray(options[name]) for name in ("sigma", "mask") if np.ndim(options.get(name, 0))
        }
        self._known: tuple[Sequence[int], NoiseEstimate] | None = None

    @property
    def names(self) -> list[str]:
        """Names of the arguments that parts have of their own."""
        return [*self._maps, *self._unknown]

    def estimate(self, work: Work, part: Part) -> NoiseEstimate | None:
        """Return the noise of the volume of a slab; None if it is stated, or the part is a whole volume."""
        if not self._unknown or not part.middle:
            return None
        if self._known is None or self._known[0] is not part.middle:
            y = work.planes(part.middle)
            mask = self._of_planes("mask", len(y)) if "mask" in self._maps else None
            self._known = part.middle, self._client.estimate_noise(y, mask=mask, **self._asked)
        return self._known[1]

    def arguments(self, y: NDArray[Any], estimate: NoiseEstimate | None) -> dict[str, Any]:
        """Return the arguments of a part."""
        maps = {name: self._of_planes(name, len(y)) for name in self._maps}
        if estimate is None:
            return maps | dict.fromkeys(self._unknown, AUTO)
        sigma: Any = estimate.sigma[0]
        if len(estimate.sigma) > 1:
            sigma = np.broadcast_to(np.array(estimate.sigma, np.float32), y.shape)
        found = {"sigma": sigma, "gain": max(estimate.gain or 0.0, _LEAST_GAIN)}
        return maps | {name: found[name] for name in self._unknown}

    def _of_planes(self, name: str, count: int) -> NDArray[Any]:
        values = self._maps[name]
        return np.broadcast_to(values, (count, *values.shape))
