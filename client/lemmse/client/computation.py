"""Computations of a batch in threads, so that files are read and written meanwhile."""

from collections.abc import Callable
from threading import Thread

from lemmse.contract.errors import DeadlineExceeded, InvalidArgument, LemmseError
from lemmse.contract.measurement import Measurement
from lemmse.contract.results import Result

__all__ = ["Computation"]


class Computation(Thread):
    """The computation of an image of a batch, in a thread that ends with it.

    A program that ends waits for its threads, so that none must wait for further images.

    Parameters
    ----------
    answer : callable
        Returns the answer to a measurement.
    measurement : Measurement or InvalidArgument
        The measurement; an error in its place is the outcome.
    after : Thread or None
        The computation to wait for.
    """

    def __init__(
        self,
        answer: Callable[[Measurement], Result],
        measurement: Measurement | InvalidArgument,
        after: Thread | None,
    ) -> None:
        super().__init__(name="batch")
        self._answer, self._measurement, self._after = answer, measurement, after
        self._outcome: Result | BaseException | None = None
        self.start()

    def run(self) -> None:
        """Compute."""
        if self._after is not None:
            self._after.join()
            self._after = None
        try:
            if isinstance(self._measurement, InvalidArgument):
                self._outcome = self._measurement
            else:
                self._outcome = self._answer(self._measurement)
        except BaseException as error:
            self._outcome = error

    def outcome(self) -> Result | LemmseError:
        """Wait for the result or the error of the image.

        Raises
        ------
        DeadlineExceeded
            The timeout of the batch has passed.
        """
        self.join()
        outcome = self._outcome
        if isinstance(outcome, Result | LemmseError) and not isinstance(outcome, DeadlineExceeded):
            return outcome
        assert isinstance(outcome, BaseException)
        raise outcome
