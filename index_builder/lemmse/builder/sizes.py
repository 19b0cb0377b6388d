"""Parsing of memory sizes with units."""

import re

import click

__all__ = ["parse_bytes"]

_UNITS = {"": 1} | {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("KMGT", 1)
    for suffix, base in (("", 1000), ("B", 1000), ("IB", 1024))
}


def parse_bytes(context: click.Context | None, parameter: click.Parameter | None, text: str) -> int:
    """Return a size in bytes, given in B, kB, MB, GB, TB, KiB, MiB, GiB or TiB; this is a click callback.

    Examples
    --------
    >>> [parse_bytes(None, None, text) for text in ("2GB", "1.5 MiB", "300")]
    [2000000000, 1572864, 300]
    """
    found = re.fullmatch(r"(\d{1,15}(?:\.\d+)?)\s*([a-zA-Z]*)", text.strip())
    if found is None or found[2].upper() not in _UNITS:
        raise click.BadParameter(f"expected a number of bytes, as 2GB, 1500MB or 1.5GiB, got {text!r}")
    return int(float(found[1]) * _UNITS[found[2].upper()])
