"""Where the compiled loops of hybrid are kept between processes.

Numba keeps them beside the source, or in the folder that NUMBA_CACHE_DIR names, or else in the home of the
user, and only uses a folder to which it can write. In a container nothing may be writable but a temporary
folder; the loops that were compiled when its image was made are then copied there.
"""

import atexit
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba.core import caching, config

__all__ = ["find_cache"]


def find_cache(function: Callable[..., Any]) -> bool:
    """Make sure that Numba has a folder for the compiled loops of this subpackage.

    Parameters
    ----------
    function : callable
        Any function of the subpackage.

    Returns
    -------
    bool
        Whether it has one; if not, nothing can be kept.
    """
    settings: Any = config
    locators: Any = caching
    source = Path(function.__code__.co_filename)
    within = locators.UserProvidedCacheLocator.get_suitable_cache_subpath(str(source))
    given = settings.CACHE_DIR
    folder = Path(given, within) if given else source.parent / "__pycache__"
    own = locators.UserProvidedCacheLocator if given else locators.InTreeCacheLocator
    if own.from_function(function, str(source)) is not None:
        return True
    compiled = list(folder.glob("*.nb[ic]"))
    if not compiled and locators.UserWideCacheLocator.from_function(function, str(source)) is not None:
        return True
    try:
        private = Path(tempfile.mkdtemp(prefix="lemmse-kernels-"))  # others cannot put code there
        atexit.register(shutil.rmtree, private, ignore_errors=True)
        (private / within).mkdir()
        for file in compiled:
            shutil.copyfile(file, private / within / file.name)
    except OSError:
        return False
    settings.CACHE_DIR = str(private)
    return True
