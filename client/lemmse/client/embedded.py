"""The client of an index in this process."""

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from os import PathLike
from typing import Any

from lemmse.client.arguments import ExplainOptions, Options
from lemmse.client.extras import required
from lemmse.client.interface import Client
from lemmse.client.measurement import Measurement
from lemmse.client.results import Contributor, Diagnostics, IndexInfo, Result
from lemmse.contract import MAPS
from lemmse.contract.errors import DeadlineExceeded, InvalidArgument, LemmseError

with required("an index in this process"):
    from lemmse.contract.errors import Cancelled, LemmseError
    from lemmse.estimator import Explanation, Reconstruction, Registry
    from lemmse.index import Index

__all__ = ["EmbeddedClient"]


class EmbeddedClient(Client):
    """A client that computes in this process; importing this module imports the estimator.

    Parameters
    ----------
    *folders : path
        Index folders, at least one.
    scheduler : str, optional
        Address of a Dask scheduler whose workers are to hold the keys.

    Raises
    ------
    LemmseError
        One is not a sound index, or two have one name; or the workers cannot hold them.
    """

    def __init__(self, *folders: str | PathLike[str], scheduler: str | None = None) -> None:
        with _deadline():
            self._registry = Registry.load(folders, scheduler=scheduler)

    def _close(self) -> None:
        self._registry.close()
        del self._registry

    def _reconstruct(self, measurement: Measurement, options: Options, timeout: float | None) -> Result:
        return self._answer(measurement, options, _expiry(timeout))

    def _reconstruct_many(
        self, images: Iterator[Measurement | InvalidArgument], options: Options, timeout: float | None
    ) -> Generator[Result | LemmseError, None, None]:
        expired = _expiry(timeout)
        for measurement in images:
            self._require_open()
            if isinstance(measurement, InvalidArgument):
                yield measurement
                continue
            try:
                outcome: Result | LemmseError = self._answer(measurement, options, expired)
            except DeadlineExceeded:
                raise
            except LemmseError as error:
                outcome = error
            yield outcome

    def _explain(
        self, measurement: Measurement, options: ExplainOptions, timeout: float | None
    ) -> list[Contributor]:
        with _deadline():
            explanation: Explanation = self._registry.get(options.index or "").explain(
                measurement.y,
                sigma=measurement.sigma,
                mask=measurement.mask,
                pixel=options.pixel,
                top=options.top,
                cancelled=_expiry(timeout),
            )
        return [
            Contributor(**asdict(contributor)).in_range(measurement.white)
            for contributor in explanation.contributors
        ]

    def _list_indexes(self, timeout: float | None) -> list[IndexInfo]:
        return [_info(reconstructor.index) for reconstructor in self._registry]

    def _get_index(self, name: str, timeout: float | None) -> IndexInfo:
        with _deadline():
            return _info(self._registry.get(name).index)

    def _answer(self, measurement: Measurement, options: Options, expired: Callable[[], bool]) -> Result:
        measured: dict[str, Any] = {name: getattr(measurement, name) for name in ("y", "sigma", "mask")}
        with _deadline():
            reconstructor = self._registry.choose(options.index or "", options.quality, **measured)
            result: Reconstruction = reconstructor.reconstruct(
                **measured,
                estimator=options.estimator,
                mode=options.mode,
                k=options.k,
                nprobe=options.nprobe,
                accuracy_db=options.accuracy_db,
                budget=options.budget,
                maps=options.maps,
                error=options.error,
                aggregate=options.aggregate,
                bandwidth=options.bandwidth,
                gaussian_share=options.gaussian_share,
                quality=options.quality,
                cancelled=expired,
            )
        maps = {name: getattr(result, name) for name in MAPS}
        diagnostics = Diagnostics(**asdict(result.diagnostics))
        return Result(image=result.image, diagnostics=diagnostics, **maps).in_range(measurement.white)


def _info(index: Index) -> IndexInfo:
    """Describe an index."""
    height, width = index.image_size
    described = {field.name: getattr(index.manifest, field.name) for field in fields(IndexInfo)[2:-2]}
    return IndexInfo(
        name=index.name, version=index.version, image_height=height, image_width=width, **described
    )


def _expiry(timeout: float | None) -> Callable[[], bool]:
    """Return a function that says whether the timeout, which begins now, has passed."""
    end = math.inf if timeout is None else time.monotonic() + timeout
    return lambda: time.monotonic() > end


@contextmanager
def _deadline() -> Iterator[None]:
    """Raise DeadlineExceeded where the block was cancelled, which here only a timeout does."""
    try:
        yield
    except Cancelled as error:
        raise DeadlineExceeded("the timeout passed before the answer was computed") from error
