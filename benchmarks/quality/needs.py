"""What to install when a package that only this benchmark needs is missing."""

from collections.abc import Iterator
from contextlib import contextmanager

from lemmse.contract.errors import NotFound


def missing(what: str, package: str) -> NotFound:
    return NotFound(f"{what} needs {package}, which is not installed: pip install '.[benchmarks]'")


@contextmanager
def needed(what: str) -> Iterator[None]:
    """Say what to install when an import inside fails."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise missing(what, error.name or "a package") from error
