"""Peak memory of a piece of work, from the Linux kernel's own accounting."""

from collections.abc import Callable
from pathlib import Path

__all__ = ["peak", "peak_beyond", "resident"]


def peak_beyond(work: Callable[[], object]) -> int:
    """Bytes of resident memory that `work` needs at its peak, beyond what the process holds before it."""
    # Makes the high-water mark fall to what is resident now.
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    work()
    return peak() - before


def peak() -> int:
    """Bytes of resident memory that this process held at its peak."""
    return resident("VmHWM")


def resident(name: str) -> int:
    """Bytes of resident memory of this process, of the kind that the kernel has under a name."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)
