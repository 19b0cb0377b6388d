"""Image layers as measurements, and results as layers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from napari.layers import Image

from lemmse.contract.errors import InvalidArgument
from lemmse.contract.results import IndexInfo, Result

__all__ = ["Measured", "pixel_at"]

_PLACE = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels")
"""What says where a layer is."""
_LOOK = ("contrast_limits", "colormap", "gamma", "interpolation2d", "interpolation3d")
"""What says how a layer of measurements looks."""
_NOISE = 9.0
"""Distance from [0, 1] up to which floats may be intensities with noise."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Measured:
    """An image layer when its reconstruction begins."""

    name: str
    """Name of the layer."""
    y: Any
    """The array, (H, W), (H, W, 3), (D, H, W) or (D, H, W, 3)."""
    rgb: bool
    """Whether the last axis has colours."""
    place: dict[str, Any]
    """Arguments that put a layer to the same place."""
    look: dict[str, Any]
    """Arguments that make a layer look alike."""

    @classmethod
    def of(cls, layer: Image, info: IndexInfo) -> "Measured":
        """Return the measurement in a layer: of its finest level, without transparency.

        Raises
        ------
        InvalidArgument
            The index cannot reconstruct it.
        """
        axes = 2 if info.patch_depth == 1 else 3
        if layer.ndim != axes:
            of = f"images, and index {info.name} is of {'images' if axes == 2 else 'volumes'}"
            hint = "take one plane" if layer.ndim > axes else "take a stack"
            raise InvalidArgument.of(
                layer.name, f"expected a layer of {axes} axes of {of}, got {layer.ndim}; {hint}"
            )
        y = layer.data[0] if layer.multiscale else layer.data
        if layer.rgb:
            y = y[..., :3]
        _require_intensities(layer.name, y)
        _, state, _ = layer.as_layer_data_tuple()
        place, look = ({key: state[key] for key in keys if key in state} for keys in (_PLACE, _LOOK))
        return cls(name=layer.name, y=y, rgb=layer.rgb, place=place, look=look)

    def layers(self, result: Result) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Yield image and maps of a result, each with the arguments of `Viewer.add_image`, maps first.

        A colour image has the element type of the layer, as napari shows colours, and its maps are means over
        the channels; all else is float32, in the range of the layer.
        """
        for name, values in reversed(result.arrays.items()):
            if name == "image":
                image = self._as_colours(values) if self.rgb else values
                yield (
                    image,
                    {"name": f"{self.name} reconstructed", "rgb": self.rgb, **self.look, **self.place},
                )
            else:
                plane = values.mean(axis=-1) if values.ndim > len(self.place["scale"]) else values
                yield plane, {"name": f"{self.name} {name}", "colormap": "viridis", **self.place}

    def _as_colours(self, values: Any) -> Any:
        dtype = np.dtype(self.y.dtype)
        if dtype.kind == "f":
            return values
        return np.rint(np.clip(values, 0, np.iinfo(dtype).max)).astype(dtype)


def pixel_at(layer: Image, position: Any) -> tuple[int, ...] | None:
    """Return the pixel of a layer at a position in the world; None beside the image."""
    shape = layer.data.shape[: layer.ndim]
    pixel = tuple(round(float(x)) for x in layer.world_to_data(position))
    inside = all(0 <= x < length for x, length in zip(pixel, shape, strict=True))
    return pixel if inside else None


def _require_intensities(name: str, y: Any) -> None:
    """Raise InvalidArgument for floats in memory that cannot be intensities of [0, 1] with noise."""
    if not isinstance(y, np.ndarray) or y.dtype.kind != "f":
        return
    finite = y[np.isfinite(y)]
    low, high = finite.min(initial=0), finite.max(initial=1)
    if low < -_NOISE or high > 1 + _NOISE:
        raise InvalidArgument.of(
            name,
            f"expected floats in [0, 1], up to noise, got {low:.6g} to {high:.6g}; divide by the white level",
        )
