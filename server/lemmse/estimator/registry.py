"""The registry of the loaded indexes."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from os import PathLike

from lemmse.contract.errors import InvalidArgument, NotFound
from lemmse.contract.measurement import Measurement
from lemmse.estimator.reconstructor import DEFAULT_EXACT_WORK, Reconstructor
from lemmse.index import open_index

__all__ = ["Registry"]


class Registry:
    """The loaded indexes, by name.

    Parameters
    ----------
    reconstructors : mapping of str to Reconstructor
        The reconstructors, by the names of their indexes; at least one.
    """

    def __init__(self, reconstructors: Mapping[str, Reconstructor]) -> None:
        self._reconstructors = dict(sorted(reconstructors.items()))

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
            There is no index of that name.
        """
        names = ", ".join(self._reconstructors)
        if not name:
            if len(self._reconstructors) > 1:
                raise InvalidArgument.of("index", f"expected one of {names}, got no name")
            return next(iter(self))
        if name not in self._reconstructors:
            raise NotFound(f"index: expected one of {names}, got {name[:100]!r}")
        return self._reconstructors[name]

    def choose(self, name: str, quality: str, measurement: Measurement) -> Reconstructor:
        """Return the reconstructor to use for a measurement: the index of the given name, if any.

        If no name is given, quality is "best" and all indexes are of the same images and inverse problem, it
        is the one with the highest calibrated PSNR at this noise level.

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
        manifests = [one.index.manifest for one in self]
        same = len({(one.digest, one.physics, one.pre_inverse) for one in manifests}) == 1
        if name or quality != "best" or not same or not all(one.pictures for one in manifests):
            return self.get(name)
        return max(self, key=lambda one: one.expected_db(measurement))
