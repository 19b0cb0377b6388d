"""The indexes of the server, which can be changed while requests run.

A new version is opened, verified and prepared beside the old one, and then takes its place in one step. If it
cannot be, the old one stays. Requests are answered by the version with which they began.
"""

import logging
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from lemmse.contract.errors import (
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    LemmseError,
    NotFound,
    PermissionDenied,
)
from lemmse.contract.results import IndexInfo
from lemmse.estimator import Reconstructor, Registry
from lemmse.estimator.backend import DEFAULT_EXACT_WORK
from lemmse.index import open_index
from lemmse.index.storage.folder import current_version, set_current_version
from lemmse.index.storage.manifest import MANIFEST
from lemmse.server.config import ServerConfig
from lemmse.server.health import Health, health_name
from lemmse.server.metrics import INDEX_BYTES

__all__ = ["Catalogue"]

_LOG = logging.getLogger(__name__)

_PATIENCE = 60.0
"""Time until a folder that could not be read is tried again, in seconds; it may be being copied."""

_Stamp = tuple[str, int, int, int]
"""What changes when another version becomes the current one, or a version is calibrated."""


@dataclass
class _Loaded:
    """A loaded index."""

    path: Path
    """The index folder."""
    stamp: _Stamp | None
    """The stamp of the folder when it was last read, successfully or not."""
    nbytes: int
    """The size of its files, in bytes."""
    again: float = math.inf
    """When to try again to read the folder, by the monotonic clock in seconds."""
    serving: bool = True
    """Whether the index can answer."""


class Catalogue:
    """The indexes that a server has loaded. Its methods may be called from several threads.

    Parameters
    ----------
    config : ServerConfig
        The settings; their indexes are loaded and prepared.

    Raises
    ------
    LemmseError
        An index cannot be loaded.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._lock = Lock()
        self._told: set[str] = set()
        paths = [Path(os.path.abspath(folder)) for folder in config.indexes]
        stamps = {path.name: (path, _stamp(path)) for path in paths}
        self.registry = Registry.load(
            paths, device=config.device, exact_work=config.exact_work, scheduler=config.scheduler
        )
        """The reconstructors that answer."""
        for reconstructor in self.registry:
            reconstructor.prepare()
        # Replaced as a whole, since the event loop reads it without the lock.
        self._loaded = {
            each.index.name: _Loaded(*stamps[each.index.name], _size(each)) for each in self.registry
        }

    def load(self, folder: str) -> IndexInfo:
        """Load the index in a folder below the configured root, or load it again.

        Raises
        ------
        PermissionDenied
            No root is configured, or the folder is not below it.
        InvalidArgument
            An index of this name is loaded from another folder, or has another format.
        NotFound
            There is no index.
        DataLoss
            The index is damaged.
        """
        path = self._allowed(folder)
        with self._lock:
            known = self._loaded.get(path.name)
            if known is not None and known.path != path:
                raise InvalidArgument.of(
                    "folder", f"expected a name that is not loaded from another folder, got {path.name!r}"
                )
            try:
                return self._put(path)
            except NotFound as error:
                raise NotFound(f"folder: expected an index folder, got {folder[:100]!r}") from error

    def unload(self, name: str) -> None:
        """Unload an index.

        Raises
        ------
        NotFound
            There is no index of that name.
        """
        with self._lock:
            self.registry.remove(name)
            self._loaded = {other: loaded for other, loaded in self._loaded.items() if other != name}
        _LOG.info("index %s unloaded", name)

    def set_current(self, name: str, version: str) -> IndexInfo:
        """Make a version of an index the current one, in its folder and in this server.

        Raises
        ------
        NotFound
            There is no index of that name, or no such version.
        InvalidArgument
            The folder cannot be written to, or the version has another format.
        DataLoss
            The version is damaged.
        """
        with self._lock:
            path = self._loaded[self.registry.get(name).index.name].path
            return self._put(path, version)

    def reload(self) -> None:
        """Load all indexes again; those that cannot be loaded are logged, and stay as they are."""
        with self._lock:
            for loaded in list(self._loaded.values()):
                self._take_up(loaded)

    def refresh(self, *, watch: bool) -> None:
        """Find out which indexes can still answer.

        Parameters
        ----------
        watch : bool
            Whether to load those again whose folder has changed since it was last read.
        """
        with self._lock:
            for name, loaded in list(self._loaded.items()):
                stamp = _stamp(loaded.path)
                changed = stamp != loaded.stamp or time.monotonic() >= loaded.again
                if watch and stamp is not None and changed:
                    self._take_up(loaded)
                self._check(self.registry.get(name), self._loaded[name])

    def tell(self, health: Health) -> None:
        """Tell the health service which indexes can answer, and whether any can; update the metrics.

        Call it in the event loop of the health service, where no other call comes between.
        """
        loaded = self._loaded
        serving = {health_name(name): one.serving for name, one in loaded.items()}
        gone = self._told - loaded.keys()
        health.update(serving | {"": any(serving.values())}, map(health_name, gone))
        for name in gone:
            INDEX_BYTES.remove(name)
        for name, one in loaded.items():
            INDEX_BYTES.labels(name).set(one.nbytes)
        self._told = set(loaded)

    def close(self) -> None:
        """Close all indexes."""
        self.registry.close()

    def _allowed(self, folder: str) -> Path:
        root = self._config.admin_root
        if root is None:
            raise PermissionDenied("folder: the server was started without --admin-root and loads no index")
        try:
            base, path = (Path(os.path.realpath(part)) for part in (root, os.path.join(root, folder)))
        except ValueError:  # a null character
            raise InvalidArgument.of("folder", "expected the path of a folder") from None
        if base not in path.parents:
            raise PermissionDenied(f"folder: expected one below --admin-root, got {folder[:100]!r}")
        if not os.path.isdir(path):  # nor are links in a circle, or names that are too long
            raise NotFound(f"folder: expected an index folder, got {folder[:100]!r}")
        return path

    def _put(self, path: Path, version: str | None = None) -> IndexInfo:
        """Open a version, by default the current one, prepare it, and have it answer; the lock is held."""
        stamp, config = _stamp(path), self._config
        try:
            index = open_index(path, version=version)
        except FailedPrecondition as error:  # another format
            raise InvalidArgument.of("index", str(error)) from error
        reconstructor = Reconstructor(
            index,
            device=config.device,
            exact_work=DEFAULT_EXACT_WORK if config.exact_work is None else config.exact_work,
            scheduler=config.scheduler,
        )
        reconstructor.prepare()
        if version is not None:
            try:
                set_current_version(path, version)
            except OSError as error:
                raise InvalidArgument.of("name", "the folder of the index cannot be written to") from error
            stamp = _stamp(path)
        self.registry.put(reconstructor)
        self._loaded = self._loaded | {index.name: _Loaded(path, stamp, _size(reconstructor))}
        _LOG.info("index %s version %s loaded", index.name, index.version)
        return index.info

    def _take_up(self, loaded: _Loaded) -> None:
        """Load an index again if it can be; the lock is held."""
        loaded.stamp = _stamp(loaded.path)
        try:
            self._put(loaded.path)
        except LemmseError as error:
            loaded.again = time.monotonic() + _PATIENCE
            _LOG.error("index %s stays as it is: %s", loaded.path.name, error)

    def _check(self, reconstructor: Reconstructor, loaded: _Loaded) -> None:
        try:
            reconstructor.index.require_unchanged()
        except DataLoss as error:
            if loaded.serving:
                _LOG.error("index %s cannot answer any more: %s", reconstructor.index.name, error)
            loaded.serving = False


def _size(reconstructor: Reconstructor) -> int:
    """Return the size of the files of an index, in bytes."""
    return sum(file.bytes for file in reconstructor.index.manifest.files.values())


def _stamp(path: Path) -> _Stamp | None:
    """Return the stamp of an index folder; None if there is no index at the moment."""
    try:
        version, folder = current_version(path)
        found = (folder / MANIFEST).stat()
    except (LemmseError, OSError):
        return None
    return version, found.st_ino, found.st_size, found.st_mtime_ns
