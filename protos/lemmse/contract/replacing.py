"""Files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["naming", "replacing", "temporary_name"]


def temporary_name(path: Path) -> Path:
    """Return the name under which a file is written."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have errors of the system name a file that is written under a temporary name."""
    try:
        yield
    except OSError as error:  # a write to an open file names none
        error.filename, error.filename2 = str(path), None
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside a file, which gets the name of the file if the `with` block succeeds.

    Raises
    ------
    OSError
        The file could not be written; the error names it.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = Path(folder.name, "report.json")
    >>> with replacing(path) as temporary:
    ...     _ = temporary.write_text("{}")
    >>> path.read_text(), len(os.listdir(folder.name))
    ('{}', 1)
    >>> folder.cleanup()
    """
    temporary = temporary_name(path)
    try:
        with naming(path):
            yield temporary
            temporary.replace(path)
    finally:
        with suppress(OSError):  # mostly, that it does not exist
            temporary.unlink()
