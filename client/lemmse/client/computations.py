"""Computations of a batch in a thread, so that files are read and written meanwhile."""

from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Event, Thread, current_thread, main_thread

from lemmse.contract.errors import DeadlineExceeded, InvalidArgument, LemmseError
from lemmse.contract.measurement import Measurement
from lemmse.contract.results import Result

__all__ = ["Computations"]

_PAUSE = 0.1
"""Time in seconds after which a thread that has nothing to do looks whether the program ends."""


class Computations:
    """A thread that computes the answers to the images of a batch, one after the other.

    A program that ends waits for its threads; therefore this one ends when the program does. Close it.

    Parameters
    ----------
    answer : callable
        Returns the answer to a measurement; it should stop once `is_over` is true.
    """

    def __init__(self, answer: Callable[[Measurement], Result]) -> None:
        self._answer = answer
        self._closed, self._user = Event(), current_thread()
        self._asked: SimpleQueue[Measurement | InvalidArgument | None] = SimpleQueue()
        self._outcomes: SimpleQueue[Result | BaseException] = SimpleQueue()
        self._pending = 0
        self._thread = Thread(target=self._compute, name="batch")
        self._thread.start()

    def __len__(self) -> int:
        """Return the number of outcomes that were asked for and not taken."""
        return self._pending

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for answers: it is closed, or the program ends."""
        return self._closed.is_set() or not (main_thread().is_alive() or self._user.is_alive())

    def ask(self, measurement: Measurement | InvalidArgument) -> None:
        """Ask for the answer to a measurement, without waiting; an error in its place is its outcome."""
        self._asked.put(measurement)
        self._pending += 1

    def outcome(self) -> Result | LemmseError:
        """Wait for the next result, or the error of an image.

        Raises
        ------
        DeadlineExceeded
            The timeout of the batch has passed.
        """
        outcome = self._outcomes.get()
        self._pending -= 1
        if isinstance(outcome, Result | LemmseError) and not isinstance(outcome, DeadlineExceeded):
            return outcome
        try:
            raise outcome
        finally:
            del outcome  # it refers to this frame

    def close(self) -> None:
        """Stop what is computed, and end the thread."""
        self._closed.set()
        self._asked.put(None)
        self._thread.join()

    def _compute(self) -> None:
        while not self.is_over:
            with suppress(Empty):
                measurement = self._asked.get(timeout=_PAUSE)
                if measurement is not None:
                    self._outcomes.put(self._outcome(measurement))
                del measurement

    def _outcome(self, measurement: Measurement | InvalidArgument) -> Result | BaseException:
        if isinstance(measurement, InvalidArgument):
            return measurement
        try:
            return self._answer(measurement)
        except BaseException as error:
            return error
