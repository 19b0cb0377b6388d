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
    """Loaded indexes by name.

    Parameters
    ----------
    reconstructors : mapping of str to Reconstructor
        The reconstructors by the names of their indexes; at least one.
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
        """Return the indexes of some folders; the keyword arguments are those of `Reconstructor`.

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
        """Release the keys that the workers of a scheduler hold."""
        for reconstructor in self:
            reconstructor.close()

    def __iter__(self) -> Iterator[Reconstructor]:
        """Iterate in the order of the names."""
        return iter(self._reconstructors.values())

    def get(self, name: str) -> Reconstructor:
        """Return the index of a name; the empty name means the only index.

        Raises
        ------
        InvalidArgument
            No name was given and there are several.
        NotFound
            There is no such index.
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
        """Return the index to reconstruct a measurement with: that of the name, if one is given.

        If none is given, quality is "best" and all indexes are of the same images and inverse problem, it is
        the one of the highest calibrated PSNR at this noise.

        Raises
        ------
        InvalidArgument
            Several indexes qualify, or the measurement is invalid.
        NotFound
            There is no such index.
        """
        manifests = [one.index.manifest for one in self]
        same = len({(one.digest, one.physics, one.pre_inverse) for one in manifests}) == 1
        if name or quality != "best" or not same or not all(one.pictures for one in manifests):
            return self.get(name)
        return max(self, key=lambda one: one.expected_db(measurement))
