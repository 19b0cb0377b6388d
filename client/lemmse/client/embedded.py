"""The client for index folders that are loaded into this process."""

import math
import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from functools import partial
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemmse.client.computations import Computations
from lemmse.client.extras import required
from lemmse.client.interface import Client
from lemmse.contract.errors import (
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    LemmseError,
)
from lemmse.contract.measurement import Measurement
from lemmse.contract.options import ExplainOptions, Options
from lemmse.contract.results import Contributor, IndexInfo, NoiseEstimate, Result
from lemmse.contract.tensors import FloatArray

with required("an index in this process"):
    from lemmse.estimator import Registry

__all__ = ["EmbeddedClient", "expiry"]


class EmbeddedClient(Client):
    """A client for index folders in this process; importing this module imports the estimator.

    Parameters
    ----------
    *folders : path
        Index folders, at least one.
    scheduler : str, optional
        Address of a Dask scheduler whose workers hold the keys.

    Raises
    ------
    LemmseError
        A folder is not an index or is damaged, two have the same name, or the workers cannot hold them.
    """

    def __init__(self, *folders: str | PathLike[str], scheduler: str | None = None) -> None:
        _require_threads()
        self._folders = [os.path.abspath(folder) for folder in folders]
        self._scheduler = scheduler
        self._registry = Registry.load(folders, scheduler=scheduler)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle where the indexes are, instead of what is in them: the copy opens them again."""
        self._require_open()
        return partial(EmbeddedClient, scheduler=self._scheduler), tuple(self._folders)

    def __repr__(self) -> str:
        return f"<EmbeddedClient {','.join(self._folders)}>"

    def _close(self) -> None:
        self._registry.close()
        del self._registry

    def _reconstruct(
        self, index: str, measurement: Measurement, options: Options, timeout: float | None
    ) -> Result:
        return self.answer(index, measurement, options, expiry(timeout))

    def _reconstruct_many(
        self,
        index: str,
        batch: Iterator[Measurement | InvalidArgument],
        options: Options,
        timeout: float | None,
    ) -> Generator[Result | LemmseError, None, None]:
        expired = expiry(timeout)
        ended, broken = False, None  # an exception of the batch waits for the results before it

        def answer(measurement: Measurement) -> Result:
            self._require_open()
            return self.answer(index, measurement, options, lambda: computations.is_over or expired())

        # While a thread computes, this one reads the next image, and its caller uses the last result.
        with closing(Computations(answer)) as computations:
            while computations or not ended:
                self._require_open()
                if not ended:
                    try:
                        one = next(batch, None)
                    except Exception as error:
                        one, broken = None, error
                    if one is None:
                        ended = True
                    else:
                        computations.ask(one)
                if len(computations) == 2 or (computations and ended):
                    yield computations.outcome()
            if broken is not None:
                raise broken

    def _explain(
        self, index: str, measurement: Measurement, options: ExplainOptions, timeout: float | None
    ) -> list[Contributor]:
        return self.contributors(index, measurement, options, expiry(timeout))

    def _vjp(
        self,
        index: str,
        measurement: Measurement,
        vector: FloatArray,
        options: Options,
        timeout: float | None,
    ) -> NDArray[np.float32]:
        return self.product(index, measurement, vector, options, expiry(timeout))

    def _estimate_noise(self, index: str, measurement: Measurement, timeout: float | None) -> NoiseEstimate:
        return self.noise(index, measurement, expiry(timeout))

    def _list_indexes(self, timeout: float | None) -> list[IndexInfo]:
        return [reconstructor.index.info for reconstructor in self._registry]

    def _get_index(self, name: str, timeout: float | None) -> IndexInfo:
        return self._registry.get(name).index.info

    def answer(
        self, index: str, measurement: Measurement, options: Options, expired: Callable[[], bool]
    ) -> Result:
        """Return the reconstruction of a measurement; stop once `expired` returns True."""
        with _computation():
            reconstructor = self._registry.choose(index, options.quality, measurement)
            return reconstructor.answer(measurement, options, expired)

    def contributors(
        self, index: str, measurement: Measurement, options: ExplainOptions, expired: Callable[[], bool]
    ) -> list[Contributor]:
        """Return the contributors to a pixel; stop once `expired` returns True."""
        with _computation():
            explanation = self._registry.get(index).explain_pixel(measurement, options, expired)
        return list(explanation.contributors)

    def product(
        self,
        index: str,
        measurement: Measurement,
        vector: FloatArray,
        options: Options,
        expired: Callable[[], bool],
    ) -> NDArray[np.float32]:
        """Return a vector times the derivative of a reconstruction; stop once `expired` returns True."""
        with _computation():
            reconstructor = self._registry.choose(index, options.quality, measurement)
            return measurement.of_kind(reconstructor.differentiate(measurement, vector, options, expired))

    def noise(self, index: str, measurement: Measurement, expired: Callable[[], bool]) -> NoiseEstimate:
        """Return the noise of a measurement; stop once `expired` returns True."""
        with _computation():
            return self._registry.get(index).estimate_noise(measurement, expired)


def expiry(timeout: float | None) -> Callable[[], bool]:
    """Return a function that returns True once the timeout, in seconds from now, has passed."""
    end = math.inf if timeout is None else time.monotonic() + timeout
    return lambda: time.monotonic() > end


_computing: int | None = None
"""The process that computed first, which has OpenMP's threads."""


def _require_threads() -> None:
    """Raise FailedPrecondition in a child that was forked after its parent computed.

    OpenMP's threads are not copied to a child, and it would wait for them for ever.
    """
    if _computing not in (None, os.getpid()):
        raise FailedPrecondition(
            "an index cannot be used in a process that was forked after an answer was computed; start "
            "processes with 'spawn' or 'forkserver', or use a server"
        )


@contextmanager
def _computation() -> Iterator[None]:
    """Raise DeadlineExceeded in place of Cancelled, since here only a timeout cancels."""
    global _computing
    _require_threads()
    _computing = os.getpid()
    try:
        yield
    except Cancelled as error:
        raise DeadlineExceeded("the timeout passed before the answer was computed") from error
