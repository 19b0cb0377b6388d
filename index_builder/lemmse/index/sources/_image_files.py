"""Image files as a source: one file, or all files in a folder and its subfolders."""

import os
from pathlib import Path

from lemmse.contract.errors import InvalidArgument
from lemmse.index.images.files import PICTURE_SUFFIXES, decode
from lemmse.index.sources._image import Image, SourceKind, bad_source, checked, decoding

__all__ = ["FILE", "FOLDER"]


class _Files:
    """The image files below a folder, one image each, of any size."""

    def __init__(self, spec: str, folder: Path, names: list[str]) -> None:
        self.spec = spec
        self._folder = folder
        self._names = names

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self._names)

    def __getitem__(self, k: int) -> Image:
        """Return the image in file k, decoded."""
        path = self._folder / self._names[range(len(self))[k]]
        with decoding(str(path)):
            try:
                pixels = decode(path, f" in {path}")
            except InvalidArgument as error:
                raise bad_source(error.expected) from error
        return checked(pixels, str(path))

    def label(self, k: int) -> str:
        """Return the path of file k relative to the folder."""
        return self._names[k]


def _open_file(spec: str) -> _Files:
    path = Path(spec)
    return _Files(spec, path.parent, [path.name])


def _open_folder(spec: str) -> _Files:
    folder = Path(spec)
    names = []
    with decoding(spec):
        for place, folders, files in os.walk(folder, onerror=_raise):
            folders[:] = [name for name in folders if not name.startswith(".")]
            below = Path(place).relative_to(folder)
            names += [(below / name).as_posix() for name in files if _is_image(name)]
    if not names:
        raise bad_source(f"expected images in {folder}, got none (of {' '.join(PICTURE_SUFFIXES)})")
    return _Files(spec, folder, sorted(names))


def _raise(error: OSError) -> None:
    raise error


def _is_image(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(PICTURE_SUFFIXES)


FILE = SourceKind(
    f"an image ({' '.join(PICTURE_SUFFIXES)})",
    lambda spec: _is_image(Path(spec).name) and Path(spec).is_file(),
    _open_file,
)
FOLDER = SourceKind("a folder of images", lambda spec: Path(spec).is_dir(), _open_folder)
