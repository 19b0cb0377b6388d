"""Reconstruct a file with large planes tile by tile; with a journal, a stopped one goes on where it was."""

from collections.abc import Collection
from functools import partial
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemmse.client.interface import Client
from lemmse.client.jobs import Job
from lemmse.client.journal import Journal
from lemmse.client.mosaic import Mosaic
from lemmse.client.progress import Progress
from lemmse.client.tiles import tile_side
from lemmse.client.work import Done, Reading, Work
from lemmse.contract.errors import LemmseError, PermissionDenied, Retryable, Unauthenticated
from lemmse.contract.lines import one_line
from lemmse.contract.measurement_arguments import AUTO, GAUSSIAN, Gain
from lemmse.contract.options import OPTIONS, Options
from lemmse.contract.results import Diagnostics
from lemmse.index.files.output import remove
from lemmse.index.files.stack import plane_chunks

__all__ = ["run_large"]

_OF_THE_BATCH = (Retryable, Unauthenticated, PermissionDenied)
"""Errors that other files would have too."""


def run_large(
    client: Client,
    job: Job,
    reading: Reading,
    *,
    maps: Collection[str],
    progress: Progress,
    journal: Journal | None,
    index: str | None,
    sigma: Any,
    mask: Any,
    noise: str = GAUSSIAN,
    gain: Gain = AUTO,
    nan: str = "error",
    **options: Any,
) -> Done | Exception:
    """Return the outcome of a job whose planes are large, after its files are written.

    Raises
    ------
    LemmseError
        An error of the whole batch, such as a lost connection. With a journal, what is finished is kept.
    """
    checked = Options(maps=frozenset(maps), **{o.name: options[o.name] for o in OPTIONS if o.name != "maps"})
    try:
        work = Work(job, reading)
    except (LemmseError, OSError) as error:
        return error
    try:
        begun = None if journal is None else journal.begun(job)
        if begun is not None and not begun.fits(job):
            for path in begun.temporaries.values():
                remove(path)
            begun = None
        work.create(None if begun is None else begun.temporaries)
        if journal is not None and begun is None and _synced(work):
            journal.begin_tiles(job, {name: output.temporary for name, output in work.outputs.items()})
        count, pixels = len(work.stack), prod(work.stack.layout.plane_shape[:2])
        stage = f"{one_line(job.source)}, pixels"
        for k in range(count):
            image = Mosaic(
                _Source(work, k),
                sigma=sigma,
                noise=noise,
                gain=gain,
                mask=mask,
                nan=nan,
                maps=maps,
                out={name: _Sink(work, name, k) for name in work.outputs},
                progress=partial(_tell, progress, stage, k * pixels, count * pixels),
                masked=_is_masked(work, k),
                side=tile_side(_Sink(work, "image", k)),
                finished={} if begun is None else begun.tiles.get(k, {}),
                put=partial(_note, journal, work, k),
            )
            work.diagnostics.append(client.assemble(index or "", image, checked, None).diagnostics)
    except _OF_THE_BATCH:
        _stop(work, journal)
        raise
    except Exception as error:  # readers and writers raise exceptions of any class
        work.error = error
    except BaseException:
        _stop(work, journal)
        raise
    if work.error is None and journal is not None:
        journal.add(job, done=False)
    return work.finish()


def _tell(progress: Progress, stage: str, before: int, total: int, done: int, _: int) -> None:
    progress(stage, before + done, total)


def _note(journal: Journal | None, work: Work, k: int, number: int, diagnostics: Diagnostics) -> None:
    """Note that a tile is written, once it is stored."""
    if journal is not None and _synced(work):
        journal.add_tile(work.job, k, number, diagnostics)


def _synced(work: Work) -> bool:
    """Have the outputs stored, and return whether a later job can go on with all of them."""
    return all(output.sync() for output in work.outputs.values())


def _stop(work: Work, journal: Journal | None) -> None:
    if journal is None:
        work.discard()
    else:
        work.keep()


def _is_masked(work: Work, k: int) -> bool:
    """Return whether some pixels of a plane were not observed."""
    if work.stack.nodata is None:
        return False
    return any(work.stack.missing(band) is not None for band in work.stack.plane(k).bands())


class _Source:
    """A plane of the input in intensities, as an array that takes slices."""

    def __init__(self, work: Work, k: int) -> None:
        self._work, self._plane = work, work.stack.plane(k)
        self.shape = self._plane.shape
        self.dtype = work.stack.scale.intensities(np.zeros(1, self._plane.dtype)).dtype

    def __getitem__(self, place: tuple[slice, slice]) -> NDArray[Any]:
        return self._work.intensities(self._plane[place], place)


class _Sink:
    """The image or a map of a plane of the outputs, in intensities, as an array that takes assignments."""

    dtype = np.dtype(np.float32)

    def __init__(self, work: Work, name: str, k: int) -> None:
        self._work, self._name, self._k = work, name, k
        output = work.outputs[name]
        self.shape = output.layout.plane_shape
        self.chunks = plane_chunks(output.layout, getattr(output, "array", None))

    def __setitem__(self, place: tuple[slice, slice], values: NDArray[np.float32]) -> None:
        self._work.put(self._name, self._k, values, place)
