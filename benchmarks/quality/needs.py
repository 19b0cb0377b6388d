"""Messages for missing packages that only this benchmark needs."""

from collections.abc import Iterator
from contextlib import contextmanager

from lemmse.contract.errors import NotFound


def missing(what: str, package: str) -> NotFound:
    return NotFound(f"{what} needs {package}, which is not installed: pip install '.[benchmarks]'")


@contextmanager
def needed(what: str) -> Iterator[None]:
    """Name the package to install if an import in the enclosed block fails."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise missing(what, error.name or "a package") from error
