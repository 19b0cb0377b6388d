"""Images in memory and on disk: stacks of images of any size, their symmetries, and image files."""

from lemmse.index.images.stack import BOUNDARIES, Images, Pixel, centres
from lemmse.index.images.symmetries import SYMMETRIES

__all__ = ["BOUNDARIES", "SYMMETRIES", "Images", "Pixel", "centres"]
