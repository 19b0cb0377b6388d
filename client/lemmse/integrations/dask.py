"""Lazy reconstruction of Dask arrays, chunk by chunk, on whatever scheduler computes them."""

import functools
import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemmse.client import Client
from lemmse.client.extras import required
from lemmse.client.tiles import halo_of, widest_aggregate
from lemmse.contract.errors import InvalidArgument
from lemmse.contract.options import OPTIONS, Count, Options
from lemmse.contract.results import IndexInfo

with required("map_reconstruct"):
    import dask.array as da

__all__ = ["map_reconstruct"]


def map_reconstruct(
    array: da.Array,
    client: Client,
    *,
    sigma: float,
    index: str | None = None,
    in_flight: int = 4,
    **options: Any,
) -> da.Array:
    """Return the reconstruction of an image as a lazy array: nothing is computed before it is asked for.

    Chunks are reconstructed with as many pixels around them as the answer depends on, so that the result does
    not depend on the chunks, beyond the rounding of sums: exactly that of `Client.reconstruct` in mode exact,
    and as accurate in the others, of which auto chooses one for each chunk.

    Parameters
    ----------
    array : dask.array.Array, (H, W) or (H, W, C)
        The measurement, as in `lemmse.client.Client.reconstruct`. Each chunk is one request; 512 to 1024 rows
        and columns are a good size. The channels become one chunk.
    client : Client
        A client of `lemmse.client.connect`. Processes of a cluster get a copy each, by pickling, which
        connects once and stays open to their end; it must reach the same servers or folders.
    sigma : float
        Noise standard deviation, in intensities of [0, 1].
    index : str, optional
        Name of the index, if the client has several.
    in_flight : int
        Largest number of chunks that a process reconstructs at a time, >= 1.
    **options
        Further options of `lemmse.client.Client.reconstruct`, but for maps.

    Returns
    -------
    dask.array.Array
        The reconstruction, float32, of the shape and in the range of the array.

    Raises
    ------
    InvalidArgument
        An argument is invalid, or a pixel of the answer depends on the whole image: for another estimator
        than "le-mmse", or an index of another inverse problem than denoising.
    """
    if not isinstance(array, da.Array) or array.ndim not in (2, 3):
        raise InvalidArgument.of("array", f"expected a Dask array (H, W) or (H, W, C), got {array!r}")
    if isinstance(sigma, bool) or not isinstance(sigma, int | float | np.number):
        raise InvalidArgument.of("sigma", f"expected a number, got {type(sigma).__name__}")
    known = {option.name for option in OPTIONS} - {"maps"}
    if unknown := options.keys() - known:
        raise InvalidArgument.of(min(unknown), "expected an option of reconstruct other than maps")
    info = client.get_index(index or "")
    halo = _halo(info, Options(**options))
    if array.ndim == 3:
        array = array.rechunk({2: -1})
    depth = {}
    for axis in (0, 1):
        if array.shape[axis] <= 2 * halo:
            array = array.rechunk({axis: -1})
        # All of an axis is continued by the estimator itself.
        depth[axis] = halo if array.numblocks[axis] > 1 else 0
    boundary = {axis: "periodic" if info.boundary == "circular" and depth[axis] else "none" for axis in depth}
    shared = _Shared(pickle.dumps(client), Count(2**31).check("in_flight", in_flight), client)
    asked = {"sigma": float(sigma), "index": info.name, **options}
    lazy: da.Array = da.map_overlap(
        functools.partial(_reconstruct, shared, asked),
        array,
        depth=depth,
        boundary=boundary,
        dtype=np.float32,
        meta=np.empty((0,) * array.ndim, np.float32),
    )
    return lazy


def _halo(info: IndexInfo, options: Options) -> int:
    """Return the distance up to which pixels of the measurement matter to a pixel of the answer."""
    if options.estimator != "le-mmse":
        raise InvalidArgument.of(
            "estimator", f"expected le-mmse, whose pixels depend on their patches, got {options.estimator}"
        )
    for name in ("physics", "pre_inverse"):
        if getattr(info, name) != "identity":
            raise InvalidArgument.of(
                "client",
                f"expected an index of {name} identity, got {getattr(info, name)}; take the whole image",
            )
    if info.patch_depth > 1:
        raise InvalidArgument.of("client", "expected an index of images, got one of volumes")
    aggregate = widest_aggregate(options.aggregate, options.quality)
    return halo_of(info.patch_size // 2, aggregate=aggregate, counts=False)


def _reconstruct(shared: "_Shared", asked: dict[str, Any], chunk: NDArray[Any]) -> NDArray[np.float32]:
    with shared.room:
        return shared.client().reconstruct(chunk, **asked).image


class _Shared:
    """A client that the tasks of a process share, and the room for their requests.

    A scheduler may unpickle tasks that it never runs: a copy is not opened before it is used.

    Parameters
    ----------
    pickled : bytes
        The client.
    in_flight : int
        Largest number of requests at a time.
    client : Client, optional
        The client, in the process where it is from.
    """

    def __init__(self, pickled: bytes, in_flight: int, client: Client | None = None) -> None:
        self.room = threading.Semaphore(in_flight)
        self._state = pickled, in_flight
        self._client = client
        self._lock = threading.Lock()

    def client(self) -> Client:
        """Return the client of this process."""
        with self._lock:
            if self._client is None:
                self._client = pickle.loads(self._state[0])
            return self._client

    def __reduce__(self) -> tuple[Callable[[bytes, int], "_Shared"], tuple[bytes, int]]:
        return _copy, self._state

    def __dask_tokenize__(self) -> tuple[str, bytes, int]:
        return (_Shared.__qualname__, *self._state)


@functools.cache
def _copy(pickled: bytes, in_flight: int) -> _Shared:
    """Return the one copy of a client in this process."""
    return _Shared(pickled, in_flight)
