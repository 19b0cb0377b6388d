"""The whitening of query patches, on the device of the keys; see `lemmse.index.patches.strata`."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemmse.index.patches.strata import Strata

__all__ = ["Whitening"]


class Whitening:
    """What `Strata.whiten_precisely` and `Strata.levels` compute, for patches on a device, in float64.

    Parameters
    ----------
    strata : Strata
        The strata of an index.
    device : torch.device
        Device of the patches.
    """

    def __init__(self, strata: Strata, device: torch.device) -> None:
        def on_device(values: NDArray[np.float64]) -> Tensor:
            return torch.from_numpy(values).to(device)

        self._divisor = on_device(strata.divisor)
        self._matrix = None if strata.whitener is None else on_device(strata.whitener)
        self._constants = None if strata.constants is None else on_device(strata.constants)

    def whiten(self, patches: Tensor, stratum: int) -> Tensor:
        """Return whitened patches of a stratum, without their level if levels are subtracted, (Q, P)."""
        white = self._white(patches, stratum)
        if self._constants is None:
            return white
        return white - _level(white, self._constants) @ self._constants.T

    def levels(self, patches: Tensor, stratum: int) -> Tensor:
        """Return the level of patches in each channel, in intensities, (Q, C)."""
        if self._constants is None:
            raise TypeError("expected strata whose patches are without their level")
        return _level(self._white(patches, stratum), self._constants)

    def _white(self, patches: Tensor, stratum: int) -> Tensor:
        white = patches / self._divisor[stratum]
        return white if self._matrix is None else white @ self._matrix.T


def _level(white: Tensor, constants: Tensor) -> Tensor:
    # Division comes last, so that equal pixels give exactly 0.
    return white @ constants / constants.square().sum(dim=0)
