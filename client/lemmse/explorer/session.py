"""What a visitor looks at, and its reconstruction. Knows nothing of the user interface."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemmse.client.aio import AsyncClient
from lemmse.contract.errors import FailedPrecondition
from lemmse.contract.results import Contributor, IndexInfo, Result
from lemmse.explorer.images import Picture
from lemmse.explorer.local import LocalIndexes

__all__ = ["Answer", "Session", "Settings", "psnr"]

_CONTRIBUTORS = 12
"""Training patches that explain a pixel."""


@dataclass(slots=True, kw_only=True)
class Settings:
    """How the picture becomes a measurement, and how that is reconstructed."""

    index: IndexInfo
    """The index to use."""
    inpaint: bool = False
    """Whether pixels that were painted are missing."""
    sigma: float = 0.1
    """Standard deviation of the noise, in intensities."""
    estimate: bool = False
    """Whether sigma is estimated from the measurement."""
    simulate: bool = False
    """Whether the picture is clean, and gets measured with noise of `sigma`."""
    mode: str = "auto"
    """Mode, as of `Client.reconstruct`."""
    quality: str = "paper"
    """Quality, as of `Client.reconstruct`."""
    maps: list[str] = field(default_factory=lambda: ["variance", "ess"])
    """Maps to show."""

    def keywords(self, **changes: Any) -> dict[str, Any]:
        """Return the keywords of `Client.reconstruct`, without mask and maps that the mode does not have."""
        mode = changes.get("mode", self.mode)
        maps = [name for name in self.maps if (name, mode) != ("error", "topk")]
        return {
            "sigma": "auto" if self.estimate else self.sigma,
            "index": self.index.name,
            "mode": mode,
            "quality": self.quality,
            "maps": tuple(maps),
        } | changes


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Answer:
    """A reconstruction, with what was asked."""

    name: str
    """Name of the picture."""
    y: NDArray[np.float32]
    """The measurement, (H, W, C)."""
    observed: NDArray[np.bool_] | None
    """Where it was observed, (H, W); None for all pixels."""
    clean: NDArray[np.float32] | None
    """The clean image, if it is known, (H, W, C)."""
    index: IndexInfo
    """The index that was asked."""
    keywords: dict[str, Any]
    """Keywords of the call, without the mask."""
    result: Result
    """The answer."""
    seconds: float
    """Time from question to answer."""


@dataclass(slots=True, eq=False)
class Session:
    """A visitor: the picture, what was painted on it, and the settings.

    Methods raise the errors of `lemmse.client`.
    """

    client: AsyncClient
    """Answers."""
    local: LocalIndexes
    """Shows training images."""
    settings: Settings
    """How to reconstruct."""
    picture: Picture | None = None
    """The picture, or None before there is one."""
    painted: NDArray[np.bool_] = field(default_factory=lambda: np.zeros((0, 0), bool))
    """Where the visitor painted, (H, W)."""

    def take(self, picture: Picture) -> None:
        """Look at another picture."""
        self.picture = picture
        self.painted = np.zeros(picture.observed.shape, bool)

    def paint(self, points: Sequence[tuple[float, float]], radius: float, *, erase: bool) -> None:
        """Paint discs, or take them off; a point is the row and column of a disc's centre."""
        rows, columns = np.ogrid[: self.painted.shape[0], : self.painted.shape[1]]
        for row, column in points:
            self.painted[(rows - row) ** 2 + (columns - column) ** 2 <= radius**2] = not erase

    @property
    def can_simulate(self) -> bool:
        """Whether a clean picture can be measured here as for the index."""
        index = self.settings.index
        return index.noise != "correlated" and (index.physics == "identity" or index.name in self.local)

    @property
    def can_inpaint(self) -> bool:
        """Whether the index allows masks."""
        index = self.settings.index
        clean = (index.physics, index.pre_inverse, index.equivariance) == ("identity", "identity", "none")
        return clean and index.noise != "correlated"

    def observed(self) -> NDArray[np.bool_] | None:
        """Return where the picture is observed, (H, W); None for all pixels."""
        if self.picture is None:
            return None
        missing = ~self.picture.observed
        if self.settings.inpaint and self.can_inpaint:
            missing = missing | self.painted
        return ~missing if missing.any() else None

    def measurement(self, picture: Picture | None = None) -> NDArray[np.float32]:
        """Return the measurement of the picture, or of another one, (H, W, C)."""
        chosen = picture or self._chosen()
        settings = self.settings
        y = chosen.with_channels(settings.index.channels)
        if not settings.simulate or not self.can_simulate:
            return y
        if settings.index.name in self.local:
            y = self.local.measure(settings.index.name, y)
        # The same noise each time: what changes on the page is due to what was changed.
        noise = np.random.default_rng(0).standard_normal(y.shape, np.float32)
        return y + np.float32(settings.sigma) * noise

    async def reconstruct(self, **changes: Any) -> Answer:
        """Return the reconstruction with the settings; `changes` are other keywords of the call."""
        picture, index = self._chosen(), self.settings.index
        y, observed, keywords = self.measurement(), self.observed(), self.settings.keywords(**changes)
        clean = picture.with_channels(y.shape[2]) if self.settings.simulate and self.can_simulate else None
        start = time.perf_counter()
        result = await self.client.reconstruct(y, mask=observed, **keywords)
        return Answer(
            name=picture.name,
            y=y,
            observed=observed,
            clean=clean,
            index=index,
            keywords=keywords,
            result=result,
            seconds=time.perf_counter() - start,
        )

    async def explain(self, answer: Answer, row: int, column: int) -> list[Contributor]:
        """Return the training patches with the largest weights at a pixel of an answer."""
        return await self.client.explain(
            answer.y,
            sigma=answer.keywords["sigma"],
            mask=answer.observed,
            pixel=(row, column),
            top=_CONTRIBUTORS,
            index=answer.index.name,
        )

    def of(self, picture: Picture) -> "Session":
        """Return a session of another picture with the same settings."""
        other = Session(self.client, self.local, replace(self.settings))
        other.take(picture)
        return other

    def _chosen(self) -> Picture:
        if self.picture is None:
            raise FailedPrecondition("expected a picture, got none; drop one, or take an example")
        return self.picture


def psnr(image: NDArray[np.floating], reference: NDArray[np.floating]) -> float:
    """Return the peak signal-to-noise ratio in dB, for a peak of 1; infinity if they are equal.

    Examples
    --------
    >>> psnr(np.full(4, 0.1), np.zeros(4))
    20.0
    """
    error = float(np.mean((np.asarray(image, np.float64) - reference) ** 2))
    return float("inf") if error == 0 else round(-10 * float(np.log10(error)), 10)
