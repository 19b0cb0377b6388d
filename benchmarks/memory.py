"""Peak memory of a function call, as the Linux kernel reports it."""

from collections.abc import Callable
from pathlib import Path

__all__ = ["peak", "peak_beyond", "resident"]


def peak_beyond(work: Callable[[], object]) -> int:
    """Return the peak of resident memory that `work` adds to what the process already holds, in bytes."""
    # Resets the high-water mark to the current resident memory.
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    work()
    return peak() - before


def peak() -> int:
    """Return the peak of resident memory of this process, in bytes."""
    return resident("VmHWM")


def resident(name: str, process: int | str = "self") -> int:
    """Return the resident memory of a process that the kernel lists under a name, in bytes."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)
