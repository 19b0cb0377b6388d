"""The registry of the loaded indexes."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from os import PathLike
from threading import Lock

from lemmse.contract.errors import InvalidArgument, NotFound
from lemmse.contract.measurement import Measurement
from lemmse.estimator.backend import DEFAULT_EXACT_WORK
from lemmse.estimator.best_of import BestOf
from lemmse.estimator.reconstructor import Reconstructor
from lemmse.index import open_index

__all__ = ["Registry"]


class Registry:
    """The loaded indexes, by name. It is thread-safe.

    Indexes can be put and removed while others ask: whoever has got a reconstructor keeps it, and one that
    was replaced or removed is closed when nobody holds it any more.

    Parameters
    ----------
    reconstructors : mapping of str to Reconstructor
        The reconstructors, by the names of their indexes.
    """

    def __init__(self, reconstructors: Mapping[str, Reconstructor]) -> None:
        self._reconstructors: Mapping[str, Reconstructor] = dict(sorted(reconstructors.items()))
        self._lock = Lock()

    @classmethod
    def load(
        cls,
        folders: Iterable[str | PathLike[str]],
        *,
        device: str = "auto",
        exact_work: float | None = None,
        scheduler: str | None = None,
    ) -> "Registry":
        """Return a registry of the indexes in folders; the keyword arguments are those of `Reconstructor`.

        Raises
        ------
        InvalidArgument
            Two indexes have the same name, or the device does not exist.
        LemmseError
            A folder is not a valid index, or the workers of the scheduler cannot load it.
        """
        reconstructors: dict[str, Reconstructor] = {}
        with ExitStack() as opened:
            for folder in folders:
                index = open_index(folder)
                if index.name in reconstructors:
                    raise InvalidArgument.of(
                        "DIR", f"expected folders of different names, got {index.name!r} twice"
                    )
                reconstructors[index.name] = reconstructor = Reconstructor(
                    index,
                    device=device,
                    exact_work=DEFAULT_EXACT_WORK if exact_work is None else exact_work,
                    scheduler=scheduler,
                )
                opened.callback(reconstructor.close)
            opened.pop_all()
        return cls(reconstructors)

    def put(self, reconstructor: Reconstructor) -> None:
        """Add a reconstructor, in place of one whose index has the same name."""
        with self._lock:
            changed = {**self._reconstructors, reconstructor.index.name: reconstructor}
            self._reconstructors = dict(sorted(changed.items()))

    def remove(self, name: str) -> None:
        """Remove the reconstructor of an index.

        Raises
        ------
        NotFound
            There is no index of that name.
        """
        with self._lock:
            remaining = dict(self._reconstructors)
            if remaining.pop(name, None) is None:
                raise _not_found(remaining, name)
            self._reconstructors = remaining

    def close(self) -> None:
        """Close all reconstructors; workers of a scheduler release their keys."""
        for reconstructor in self:
            reconstructor.close()

    def __iter__(self) -> Iterator[Reconstructor]:
        """Iterate over the reconstructors, sorted by name."""
        return iter(self._reconstructors.values())

    def get(self, name: str) -> Reconstructor:
        """Return the reconstructor of an index by name; the empty name means the only index.

        Raises
        ------
        InvalidArgument
            The name is empty and there are several indexes.
        NotFound
            There is no index of that name, or none at all.
        """
        reconstructors = self._reconstructors
        if name in reconstructors:
            return reconstructors[name]
        if name or not reconstructors:
            raise _not_found(reconstructors, name)
        if len(reconstructors) > 1:
            raise _no_name(reconstructors)
        return next(iter(reconstructors.values()))

    def choose(self, name: str, quality: str, measurement: Measurement) -> Reconstructor | BestOf:
        """Return what is to answer a measurement: the index of the given name, if any.

        If no name is given and quality is "best", it is the best of all indexes, which must be calibrated,
        and of one inverse problem and number of channels. If they are of the same images and σ is stated,
        that is the one with the highest calibrated PSNR at this noise level; otherwise it is found out when
        the measurement is answered.

        Parameters
        ----------
        name : str
            Name of an index, or an empty string.
        quality : str
            The requested quality, "paper" or "best".
        measurement : Measurement
            The measurement to reconstruct.

        Raises
        ------
        InvalidArgument
            Several indexes qualify, or the measurement is invalid.
        NotFound
            There is no index of that name.
        """
        loaded = list(self)
        if name or quality != "best" or len(loaded) < 2:
            return self.get(name)
        manifests = [one.index.manifest for one in loaded]
        same = len({(one.index.manifest.channels, one.index.problem.digest) for one in loaded}) == 1
        if not same or not all(one.pictures for one in manifests):
            why = "; best chooses only among calibrated indexes of the same inverse problem and channels"
            raise _no_name([one.index.name for one in loaded], why)
        if not measurement.is_plain or len({one.digest for one in manifests}) > 1:
            return BestOf(loaded)
        return max(loaded, key=lambda one: one.expected_db(measurement))


def _no_name(names: Iterable[str], why: str = "") -> InvalidArgument:
    return InvalidArgument.of("index", f"expected one of {', '.join(names)}, got no name{why}")


def _not_found(reconstructors: Mapping[str, Reconstructor], name: str) -> NotFound:
    expected = f"expected one of {', '.join(reconstructors)}" if reconstructors else "no index is loaded"
    return NotFound(f"index: {expected}, got {name[:100]!r}")
