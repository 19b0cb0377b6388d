"""Read a kernel or a mask from a file."""

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray

from lemmse.contract.errors import InvalidArgument, NotFound

__all__ = ["read"]


def read(path: str) -> NDArray[np.float64]:
    """Read a .npy or .png file as finite float64 numbers, of the shape that the file has.

    Raises
    ------
    NotFound
        There is no such file.
    InvalidArgument
        It holds no real numbers.
    """
    try:
        if path.lower().endswith(".npy"):
            array = np.load(path, allow_pickle=False)
        else:
            array = np.asarray(iio.imread(path, plugin="pillow"))
    except FileNotFoundError as error:
        raise NotFound(f"physics: expected a file, got nothing at {path}") from error
    except Exception as error:  # Decoders raise whatever they trip over.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InvalidArgument.of(
            "physics", f"expected a readable .npy or .png, got {path} ({reason})"
        ) from error
    if array.dtype.kind not in "buif" or array.size == 0 or not np.isfinite(array).all():
        raise InvalidArgument.of(
            "physics", f"expected finite real numbers in {path}, got {array.dtype} of shape {array.shape}"
        )
    numbers: NDArray[np.float64] = array.astype(np.float64)
    return numbers
