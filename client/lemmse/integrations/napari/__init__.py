"""A plugin for napari: reconstruct image layers, and see the training patches behind a pixel.

napari finds the widget by `napari.yaml`, which the entry point `napari.manifest` names.
"""

from lemmse.integrations.napari.widget import ReconstructWidget

__all__ = ["ReconstructWidget"]
