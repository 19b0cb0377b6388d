"""Image files as a source: one file, or all files in a folder and its subfolders.

A stack, such as a TIFF of several pages, has an image for each plane.
"""

import os
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

from lemmse.contract.errors import LemmseError
from lemmse.index.files import IMAGES, Stack, find_files, open_stack
from lemmse.index.files.tiff import TIFF
from lemmse.index.sources._image import Image, SourceKind, bad_source, decoding, to_image
from lemmse.index.sources._reading import Reading

__all__ = ["FILE", "FOLDER", "as_text", "naming", "read_plane"]


class _Files:
    """The image files below a folder, an image for each plane, of any size."""

    def __init__(self, spec: str, folder: Path, names: list[Path], reading: Reading) -> None:
        self.spec = spec
        self._folder = folder
        self._reading = reading
        self._names = names
        self._last: tuple[Path, Stack] | None = None
        """The file that was read last, which is kept open for its next plane."""
        # Only TIFF holds stacks: other files need not be opened to count their images.
        counts = (self._count(name) if name.suffix.lower() in TIFF else 1 for name in names)
        self._starts = list(accumulate(counts, initial=0))

    def __len__(self) -> int:
        """Return the number of images."""
        return self._starts[-1]

    def __getitem__(self, k: int) -> Image:
        """Return image k, decoded."""
        name, plane = self._find(k)
        path = self._folder / name
        with naming(path):
            return read_plane(self._open(path), plane, path, self._reading)

    def label(self, k: int) -> str:
        """Return the path of the file of image k relative to the folder, its plane, and the region."""
        name, plane = self._find(k)
        number = bisect_right(self._starts, range(len(self))[k]) - 1
        several = self._starts[number + 1] - self._starts[number] > 1
        return self._reading.label(as_text(name), plane if several else None)

    def __del__(self) -> None:
        if self._last is not None:
            self._last[1].close()

    def _open(self, path: Path) -> Stack:
        if self._last is not None and self._last[0] == path:
            return self._last[1]
        if self._last is not None:
            self._last[1].close()
            self._last = None
        stack = open_stack(path, axes=self._reading.axes, stated=self._reading.stated)
        self._last = path, stack
        return stack

    def _find(self, k: int) -> tuple[Path, int]:
        k = range(len(self))[k]
        number = bisect_right(self._starts, k) - 1
        return self._names[number], k - self._starts[number]

    def _count(self, name: Path) -> int:
        try:
            reading = self._reading
            with open_stack(self._folder / name, axes=reading.axes, stated=reading.stated) as stack:
                return len(stack)
        except LemmseError:
            return 1  # reading its image gives the error


def as_text(name: Path) -> str:
    """Return the name of a file for a label: bytes that are not UTF-8 are escaped."""
    return os.fsencode(name.as_posix()).decode("utf-8", "backslashreplace")


def read_plane(stack: Stack, plane: int, path: Path, reading: Reading) -> Image:
    """Return a plane of a file, or its region, as an image."""
    numbers = reading.crop(stack.numbers(plane))
    if stack.missing(numbers) is not None:
        raise bad_source(f"expected all pixels in {path}, got some marked as nodata; crop it")
    return to_image(numbers, stack.scale, str(path), bounded=reading.bounded)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file in errors."""
    try:
        with decoding(str(path)):
            yield
    except LemmseError as error:
        if str(path) in str(error):
            raise
        raise bad_source(f"{path}: {error}") from error


def _open_file(spec: str, reading: Reading) -> _Files:
    path = Path(spec)
    return _Files(spec, path.parent, [Path(path.name)], reading)


def _open_folder(spec: str, reading: Reading) -> _Files:
    folder = Path(spec)
    with decoding(spec):
        found = find_files(folder, _is_image)
    if not found.files:
        raise bad_source(f"expected images in {folder}, got none (of {' '.join(IMAGES)})")
    return _Files(spec, folder, found.files, reading)


def _is_image(path: Path) -> bool:
    return not path.name.startswith(".") and path.suffix.lower() in IMAGES


FILE = SourceKind(
    f"an image ({' '.join(IMAGES)})",
    lambda spec: _is_image(Path(spec)) and Path(spec).is_file(),
    _open_file,
)
FOLDER = SourceKind("a folder of images", lambda spec: Path(spec).is_dir(), _open_folder)
