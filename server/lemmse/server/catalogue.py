"""The indexes that a server answers from."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from lemmse.estimator import DEFAULT_EXACT_WORK, Reconstructor
from lemmse.index import open_index
from lemmse.index.errors import InvalidArgument, NotFound

__all__ = ["Catalogue"]


class Catalogue:
    """Loaded indexes by name.

    Parameters
    ----------
    reconstructors : mapping of str to Reconstructor
        At least one.
    """

    def __init__(self, reconstructors: Mapping[str, Reconstructor]) -> None:
        self._reconstructors = dict(sorted(reconstructors.items()))

    @classmethod
    def load(cls, folders: Iterable[Path], *, device: str, exact_work: float | None) -> "Catalogue":
        """Open index folders and make them ready to answer.

        Raises
        ------
        InvalidArgument
            Two folders have one name, or the device is not there.
        EngineError
            A folder is not a sound index.
        """
        reconstructors: dict[str, Reconstructor] = {}
        for folder in folders:
            index = open_index(folder)
            if index.name in reconstructors:
                raise InvalidArgument("DIR", f"expected folders of different names, got {index.name!r} twice")
            reconstructors[index.name] = Reconstructor(
                index, device=device, exact_work=DEFAULT_EXACT_WORK if exact_work is None else exact_work
            )
            reconstructors[index.name].prepare()
        return cls(reconstructors)

    def __iter__(self) -> Iterator[Reconstructor]:
        """Iterate in the order of the names."""
        return iter(self._reconstructors.values())

    def get(self, name: str) -> Reconstructor:
        """Return an index by name; the empty name stands for the only one.

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
                raise InvalidArgument("index", f"expected one of {names}, got no name")
            return next(iter(self))
        if name not in self._reconstructors:
            raise NotFound(f"index: expected one of {names}, got {name[:100]!r}")
        return self._reconstructors[name]
