"""Errors for missing optional dependencies."""

from collections.abc import Iterator
from contextlib import contextmanager

from lemmse.contract.errors import FailedPrecondition

__all__ = ["required"]

_EXTRAS = {
    "dask": "dask",
    "deepinv": "deepinv",
    "faiss": "server",
    "grpc_reflection": "server",
    "h5py": "hdf5",
    "matplotlib": "demo",
    "nicegui": "explore",
    "numba": "server",
    "numcodecs": "server",
    "opentelemetry": "tracing",
    "prometheus_client": "server",
    "skimage": "demo",
    "threadpoolctl": "server",
    "tomli_w": "server",
    "torch": "server",
    "uvicorn": "explore",
    "zarr": "server",
}


@contextmanager
def required(what: str) -> Iterator[None]:
    """Raise FailedPrecondition, naming the extra to install, if an import in the `with` block fails.

    Parameters
    ----------
    what : str
        The feature that needs the imports, for the message.

    Raises
    ------
    FailedPrecondition
        A package of an extra is not installed.

    Examples
    --------
    >>> with required("drawing"):
    ...     raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
    Traceback (most recent call last):
    ...
    lemmse.contract.errors.FailedPrecondition: drawing needs matplotlib; pip install 'lemmse[demo]'
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        extra = f"pip install 'lemmse[{_EXTRAS[package]}]'"
        raise FailedPrecondition(f"{what} needs {package}; {extra}") from error
