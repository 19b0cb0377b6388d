"""The indexes of a server, changed by a client whose token has the role admin."""

from typing import Any, Protocol, TypeVar

from lemmse.client import unary
from lemmse.client.arguments import as_timeout
from lemmse.client.unary import Unary
from lemmse.contract.errors import InvalidArgument
from lemmse.contract.results import IndexInfo

__all__ = ["Admin", "Ask"]

T = TypeVar("T")


class Ask(Protocol):
    """Makes a call of a server, with a timeout in seconds or None for none, and returns its answer."""

    def __call__(self, call: Unary[T], timeout: float | None) -> T:  # noqa: D102
        ...


class Admin:
    """Changes of the indexes of one server, the attribute `admin` of its client.

    The server must have been started with tokens, and that of the client must have the role admin: otherwise
    methods raise PermissionDenied. A call that is tried again, because the connection was lost, may have had
    its effect already: then `unload_index` raises NotFound.

    Parameters
    ----------
    ask : Ask
        Makes the calls.

    Examples
    --------
    >>> def take_back(client):
    ...     client.admin.set_current_version("photos", "1", timeout=600)
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def load_index(self, folder: str, *, timeout: float | None = None) -> IndexInfo:
        """Load the current version of an index folder, or load it again, and return its description.

        If that fails, what was loaded stays.

        Parameters
        ----------
        folder : str
            Path of the folder on the server, relative to its `--admin-root`. The index has its name.
        timeout : float, optional
            Seconds to wait for the answer.

        Raises
        ------
        NotFound
            There is no index.
        PermissionDenied
            The folder is not below `--admin-root`.
        DataLoss
            The index is damaged.
        """
        return self._ask(unary.load_index(_text("folder", folder)), as_timeout(timeout))

    def unload_index(self, name: str, *, timeout: float | None = None) -> None:
        """Unload an index; its folder is not changed.

        Raises
        ------
        NotFound
            There is no index of that name.
        """
        return self._ask(unary.unload_index(_text("name", name)), as_timeout(timeout))

    def set_current_version(self, name: str, version: str, *, timeout: float | None = None) -> IndexInfo:
        """Make a version of an index the current one, in the server and in its folder, and describe it.

        If that fails, nothing is changed.

        Parameters
        ----------
        name : str
            Name of the index.
        version : str
            A version in its folder, for example "2".
        timeout : float, optional
            Seconds to wait for the answer.

        Raises
        ------
        NotFound
            There is no index of that name, or no such version.
        DataLoss
            The version is damaged.
        """
        call = unary.set_current_version(_text("name", name), _text("version", version))
        return self._ask(call, as_timeout(timeout))


def _text(argument: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidArgument.of(argument, f"expected a string, got {value!r}")
    return value
