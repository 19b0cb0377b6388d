"""The files that a visitor takes along."""

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from lemmse.contract.results import Result
from lemmse.explorer.session import Answer

__all__ = ["call", "everything", "picture", "several"]


def call(answer: Answer, targets: Sequence[str]) -> str:
    """Return the Python program that asks the same again.

    Parameters
    ----------
    answer : Answer
        What was asked.
    targets : sequence of str
        Arguments of `connect`.
    """
    keywords = answer.keywords | ({} if answer.observed is None else {"mask": "mask"})
    written = [f"{name}={'mask' if name == 'mask' else repr(value)}" for name, value in keywords.items()]
    lines = [
        "import numpy as np",
        "",
        "from lemmse.client import connect",
        "",
        'y = np.load("measurement.npy")  # intensities in [0, 1]',
        *(
            []
            if answer.observed is None
            else ['mask = np.load("mask.npy")  # False where nothing was observed']
        ),
        f"with connect({', '.join(map(repr, targets))}) as lemmse:",
        f"    result = lemmse.reconstruct(y, {', '.join(written)})",
        'result.save("again.npz")',
        "",
    ]
    return "\n".join(lines)


def picture(result: Result) -> tuple[bytes, str]:
    """Return the image as the content of a file, and its suffix: PNG, or TIFF if PNG cannot hold it."""
    suffix = ".png" if result.image.shape[2] in (1, 3) else ".tif"
    return _saved(result, suffix), suffix


def everything(answer: Answer, targets: Sequence[str]) -> bytes:
    """Return a zip of the measurement, its mask, the image, all maps, and the program that asks again."""
    content, suffix = picture(answer.result)
    files = {
        "measurement.npy": _npy(answer.y),
        f"reconstruction{suffix}": content,
        "result.npz": _saved(answer.result, ".npz"),
        "call.py": call(answer, targets).encode(),
    }
    if answer.observed is not None:
        files["mask.npy"] = _npy(answer.observed)
    return _zip(files)


def several(results: Mapping[str, Result]) -> bytes:
    """Return a zip of the images and arrays of several results, by the name of their file."""
    files: dict[str, bytes] = {}
    for name, result in results.items():
        content, suffix = picture(result)
        files[f"{name}{suffix}"] = content
        files[f"{name}.npz"] = _saved(result, ".npz")
    return _zip(files)


def _saved(result: Result, suffix: str) -> bytes:
    with TemporaryDirectory(prefix="lemmse-explore-") as folder:
        path = Path(folder) / f"result{suffix}"
        result.save(path)
        return path.read_bytes()


def _npy(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def _zip(files: Mapping[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()
