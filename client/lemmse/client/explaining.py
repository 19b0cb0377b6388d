"""Explanations of a pixel and of a region: what `lemmse explain` prints and draws."""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemmse.client.crop import crop
from lemmse.client.interface import Client
from lemmse.contract.errors import InvalidArgument
from lemmse.contract.measurement import Measurement
from lemmse.contract.options import ExplainOptions
from lemmse.contract.results import Contributor, IndexInfo

__all__ = ["PixelExplanation", "Question", "RegionExplanation", "Share", "explain_pixel", "explain_region"]

_NAMED = 256
"""Number of patches whose weights are added up for a pixel of a region."""
_REGION = 1024
"""Largest number of pixels of a region: each takes a sum over all training patches."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Question:
    """A measurement whose reconstruction is to be explained, and the index by which."""

    client: Client
    """Answers."""
    index: IndexInfo
    """The index."""
    measurement: Measurement
    """The measurement, in intensities."""

    def at(self, pixel: tuple[int, int]) -> tuple[dict[str, Any], tuple[int, int]]:
        """Return arguments of a client for the patch at a pixel, or for all if B needs it, and the pixel."""
        measurement = self.measurement
        options = ExplainOptions.checked(measurement.y.shape, pixel=pixel, top=1)
        if self.index.pre_inverse == "identity":
            measurement, options = crop(measurement, options, self.index)
        row, column = options.pixel
        arguments = {"y": measurement.y, "sigma": measurement.sigma, "mask": measurement.mask}
        return arguments | {"index": self.index.name}, (row, column)

    def contributors(self, pixel: tuple[int, int], top: int, context: int | None) -> list[Contributor]:
        """Return the heaviest training patches of a pixel."""
        arguments, pixel = self.at(pixel)
        return self.client.explain(pixel=pixel, top=top, context=context, **arguments)


@dataclass(frozen=True, slots=True)
class PixelExplanation:
    """The training patches that make a pixel, and how sure it is."""

    pixel: tuple[int, int]
    """Row and column."""
    value: tuple[float, ...]
    """The posterior mean, in intensities, length C."""
    spread: tuple[float, ...]
    """The posterior standard deviation, in intensities, length C."""
    ess: float
    """Effective sample size: the number of equally heavy training patches with the same spread of weights."""
    contributors: list[Contributor]
    """The heaviest training patches, with crops."""


@dataclass(frozen=True, slots=True)
class Share:
    """A training image and its share of the weights in a region."""

    image: int
    """Number of the training image."""
    source: str
    """Origin of that image."""
    share: float
    """Mean over the pixels of the weight of its patches, in [0, 1]."""
    pixel: tuple[int, int]
    """Row and column of the pixel in which a patch of it is heaviest."""
    heaviest: Contributor
    """That patch, with its crop."""


@dataclass(frozen=True, slots=True, eq=False)
class RegionExplanation:
    """The training images that make a region."""

    region: tuple[slice, slice]
    """Rows and columns."""
    shares: list[Share]
    """The training images with the largest shares, the largest first."""
    others: float
    """The share of all other training images, and of patches that are too light to be named."""
    source: NDArray[np.int64]
    """Number of the training image of the heaviest patch of each pixel, of the shape of the region."""


def explain_pixel(question: Question, pixel: tuple[int, int], *, top: int, context: int) -> PixelExplanation:
    """Return the explanation of a pixel, by the sum over all training patches."""
    contributors = question.contributors(pixel, top, context)
    arguments, (row, column) = question.at(pixel)
    result = question.client.reconstruct(mode="exact", maps=["variance", "ess"], **arguments)
    assert result.variance is not None
    assert result.ess is not None
    value, variance = (np.ravel(array[row, column]) for array in (result.image, result.variance))
    return PixelExplanation(
        pixel=pixel,
        value=tuple(value.tolist()),
        spread=tuple(np.sqrt(variance).tolist()),
        ess=float(result.ess[row, column]),
        contributors=contributors,
    )


def explain_region(
    question: Question,
    region: tuple[slice, slice],
    *,
    top: int,
    context: int,
    progress: Callable[[str, int, int], None],
) -> RegionExplanation:
    """Return the training images with the largest shares in a region, by the sum over all training patches.

    Parameters
    ----------
    question : Question
        What to explain, and by what.
    region : (slice, slice)
        Rows and columns.
    top : int
        Number of training images.
    context : int
        Pixels around a patch that its crop shows on each side.
    progress : callable
        Called as `progress(stage, done, total)`.

    Raises
    ------
    InvalidArgument
        The region is empty, not in the image, or too large.
    """
    rows, columns = (range(part.start, part.stop) for part in region)
    height, width = question.measurement.y.shape[:2]
    if not (0 <= rows.start < rows.stop <= height and 0 <= columns.start < columns.stop <= width):
        raise InvalidArgument.of(
            "region",
            f"expected rows within 0:{height} and columns within 0:{width}, got "
            f"{rows.start}:{rows.stop},{columns.start}:{columns.stop}",
        )
    pixels = [(row, column) for row in rows for column in columns]
    if len(pixels) > _REGION:
        raise InvalidArgument.of("region", f"expected at most {_REGION} pixels, got {len(pixels)}")
    weights: defaultdict[int, list[float]] = defaultdict(list)
    best: dict[int, tuple[float, int, tuple[int, int]]] = {}
    source = np.empty(len(pixels), np.int64)
    for number, pixel in enumerate(pixels):
        progress("explain", number, len(pixels))
        for rank, one in enumerate(question.contributors(pixel, _NAMED, None)):
            weights[one.image].append(one.weight)
            best[one.image] = max(best.get(one.image, (0.0, 0, pixel)), (one.weight, -rank, pixel))
            if rank == 0:
                source[number] = one.image
    progress("explain", len(pixels), len(pixels))
    totals = {image: math.fsum(some) / len(pixels) for image, some in weights.items()}
    heaviest = sorted(totals, key=lambda image: (-totals[image], image))[:top]
    shares = []
    for image in heaviest:
        _, rank, pixel = best[image]
        patch = question.contributors(pixel, 1 - rank, context)[-rank]
        shares.append(Share(image, patch.source, totals[image], pixel, patch))
    others = max(0.0, 1 - math.fsum(share.share for share in shares))
    return RegionExplanation(region, shares, others, source.reshape(len(rows), len(columns)))
