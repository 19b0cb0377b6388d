"""Control of how the threads of GNU OpenMP, which torch and FAISS include, wait for each other."""

import ctypes
import os
import threading
from pathlib import Path

__all__ = ["keep_threads_from_spinning"]

_SPINS = "1000"
"""Number of rounds that a thread spins before it sleeps; the library's default is some hundred thousand."""


def keep_threads_from_spinning() -> None:
    """Make waiting OpenMP threads of this process sleep after a short time.

    Set `GOMP_SPINCOUNT`, which GNU OpenMP reads when it is loaded. A copy of the library that is already
    loaded spins only briefly if it has more threads than there are cores, so it gets a team of idle threads.
    If `OMP_WAIT_POLICY` or `GOMP_SPINCOUNT` is set, do nothing.

    See docs/decisions/0016-threads-that-wait.md.
    """
    if "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ:
        return
    os.environ["GOMP_SPINCOUNT"] = _SPINS
    for path in _loaded_libraries():
        _add_idle_threads(path)


def _loaded_libraries() -> set[str]:
    """Return the paths of the copies of GNU OpenMP loaded in this process; none if there is no /proc."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    paths = {line.split(maxsplit=5)[-1] for line in lines}
    return {path for path in paths if Path(path).name.startswith("libgomp") and Path(path).exists()}


def _add_idle_threads(path: str) -> None:
    """Start one OpenMP thread more than there are cores; the threads sleep until the process ends."""
    library = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
    no_work = ctypes.cast(library.omp_get_level, ctypes.c_void_p)
    count = len(os.sched_getaffinity(0)) + 1
    started = threading.Event()

    def hold() -> None:
        library.GOMP_parallel(no_work, ctypes.c_void_p(), ctypes.c_uint(count), ctypes.c_uint())
        started.set()
        threading.Event().wait()  # a team ends with the thread that started it

    threading.Thread(target=hold, name="lemmse-idle-openmp", daemon=True).start()
    started.wait()
