"""The image made from the posteriors of patches: from their centres, or from all patches with a pixel.

The posterior given the patch at n has a mean m_n and a variance V_n for each of its pixels. With N patches
that contain a pixel,

    x̂ = Σ_n m_n / N,      E (x̂ − x)² = Σ_n V_n / N − Σ_n (m_n − x̂)² / N,

since (x̂ − x)² = Σ_n (m_n − x)² / N − Σ_n (m_n − x̂)² / N for every x (the ambiguity decomposition of Krogh
and Vedelsby, 1995): the more the patches disagree, the more accurate their mean is than each of them.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemmse.contract.errors import DataLoss
from lemmse.contract.results import RESULT_MAPS
from lemmse.estimator.sums import Posterior
from lemmse.index.storage.manifest import REMEDY

__all__ = ["Aggregate", "Centres", "Overlap"]


class Aggregate(Protocol):
    """A collector of the posteriors of patches into an image and its maps."""

    def add(self, posterior: Posterior, n: NDArray[np.int64]) -> None:
        """Add the posteriors of the patches at positions n."""
        ...

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return the image and its maps by name, float32, a row for each position.

        With the variance, "response" is s² times the derivative of each number of the image by that of y,
        where patches read it once.

        Raises
        ------
        DataLoss
            A number of the image is not finite, or of a map not a number: those of the index are damaged.
        """
        ...


class Centres:
    """The aggregate "centre": every pixel is taken from the patch centred at it.

    The posterior of a whole image, as of MMSE, gives all pixels at once.

    Parameters
    ----------
    channels : int
        Channels of the image, C.
    maps : set of str
        Names of the requested maps.
    """

    def __init__(self, channels: int, maps: frozenset[str]) -> None:
        self._channels = channels
        self._maps = maps
        self._parts: list[dict[str, Tensor]] = []

    def add(self, posterior: Posterior, n: NDArray[np.int64]) -> None:
        """Add the posteriors of the patches at positions n, in the order of the positions."""
        tensors = {"image": posterior.mean.reshape(-1, self._channels)}
        for name in self._maps:
            values = getattr(posterior, name)
            if not RESULT_MAPS[name].per_channel:
                tensors[name] = values.reshape(-1).repeat_interleave(len(n) // len(values))
            else:
                tensors[name] = values.reshape(-1, self._channels)
        self._parts.append({name: tensor.float() for name, tensor in tensors.items()})

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return the image and its maps by name, float32, a row for each position."""
        arrays = {
            name: torch.cat([part[name] for part in self._parts]).cpu().numpy() for name in self._parts[0]
        }
        _require_numbers(arrays)
        return arrays | {"response": arrays["variance"]} if "variance" in arrays else arrays


class Overlap:
    """The aggregate "overlap": every pixel is the mean of the posterior means of all patches that contain it.

    Parameters
    ----------
    pixels : int
        Number of pixels of the image or volume.
    channels : int
        Channels of the image, C.
    maps : set of str
        Names of the requested maps.
    covered : callable
        Returns the positions of the pixels of the patches at positions n, (len(n), p_z·p²).
    device : torch.device
        Device of the posteriors and positions.
    """

    def __init__(
        self,
        pixels: int,
        channels: int,
        maps: frozenset[str],
        covered: Callable[[NDArray[np.int64]], Tensor],
        device: torch.device,
    ) -> None:
        self._covered = covered
        columns = {"image": channels, "square": channels, "patches": 1}
        averaged = maps - {"source"}  # numbers of images have no mean
        columns |= {name: channels if RESULT_MAPS[name].per_channel else 1 for name in averaged}
        self._source = np.empty(pixels, np.float32) if "source" in maps else None
        self._sums = {
            name: torch.zeros(pixels, count, dtype=torch.float64, device=device)
            for name, count in columns.items()
        }

    def add(self, posterior: Posterior, n: NDArray[np.int64]) -> None:
        """Add the posteriors of the patches at positions n."""
        pixels = self._covered(n)
        each = pixels.shape[1]
        values = {
            "image": posterior.patch,
            "square": posterior.patch.square(),
            "patches": torch.ones_like(pixels),
            "variance": posterior.patch_variance,
            "error": posterior.error.square().repeat(1, each),  # the error is known at the centre only
            "ess": posterior.ess.repeat(1, each),
            "log_density": posterior.log_density[:, None].repeat(1, each),
        }
        for name, total in self._sums.items():
            total.index_add_(0, pixels.flatten(), values[name].double().reshape(-1, total.shape[1]))
        if self._source is not None:
            self._source[n] = posterior.source[:, 0].numpy()

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return the image and its maps by name, float32, a row for each position."""
        sums = dict(self._sums)
        patches = sums.pop("patches")
        means = {name: total / patches for name, total in sums.items()}
        spread = means.pop("square") - means["image"].square()
        if "variance" in means:
            means["response"] = means["variance"]
            means["variance"] = (means["variance"] - spread).clamp_(min=0.0)
        if "error" in means:
            means["error"] = means["error"].sqrt()
        arrays = {name: mean.float().cpu().numpy() for name, mean in means.items()}
        _require_numbers(arrays)
        return arrays if self._source is None else arrays | {"source": self._source}


def _require_numbers(arrays: dict[str, NDArray[np.float32]]) -> None:
    """Raise DataLoss if the image is not finite, or a map is not a number somewhere."""
    if not np.isfinite(arrays["image"]).all() or any(np.isnan(array).any() for array in arrays.values()):
        raise DataLoss(f"the answer is not a number: those of the index are damaged; {REMEDY}")
