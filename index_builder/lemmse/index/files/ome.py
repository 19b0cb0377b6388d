"""The metadata of OME-TIFF that outputs keep: pixel sizes, times, names and descriptions."""

from typing import Any
from xml.etree import ElementTree as ET

__all__ = ["ome_details"]

_PIXELS = tuple(
    f"{name}{unit}"
    for name in ("PhysicalSizeX", "PhysicalSizeY", "PhysicalSizeZ", "TimeIncrement")
    for unit in ("", "Unit")
)
_CHANNEL = ("Name", "Color", "EmissionWavelength", "ExcitationWavelength", "Fluor", "ContrastMethod")


def ome_details(xml: str) -> dict[str, Any]:
    """Return the metadata of the first image, in the form in which tifffile writes it.

    Parameters
    ----------
    xml : str
        The OME-XML; a text that is not is taken as empty.
    """
    try:
        root = ET.fromstring(xml)
    except ET.ParseError:
        return {}
    image = root.find("{*}Image")
    pixels = None if image is None else image.find("{*}Pixels")
    if image is None or pixels is None:
        return {}
    details: dict[str, Any] = {name: _number(pixels.get(name, "")) for name in _PIXELS if pixels.get(name)}
    if image.get("Name"):
        details["Name"] = image.get("Name")
    if (text := image.findtext("{*}Description")) is not None:
        details["Description"] = text
    channels = pixels.findall("{*}Channel")
    kept = {
        name: [_number(channel.get(name, "")) for channel in channels]
        for name in _CHANNEL
        if channels and all(channel.get(name) for channel in channels)
    }
    return details | ({"Channel": kept} if kept else {})


def _number(text: str) -> float | int | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
