"""Figures of explanations. matplotlib is imported when one is drawn."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lemmse.client.explaining import PixelExplanation, Question, RegionExplanation
from lemmse.client.extras import required
from lemmse.contract.errors import InvalidArgument
from lemmse.contract.lines import printable
from lemmse.contract.replacing import replacing
from lemmse.contract.results import Contributor
from lemmse.index.images.stack import inside

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["FORMATS", "draw_pixel", "draw_region", "require_drawing"]

FORMATS = (".png", ".pdf", ".svg")
"""Endings of the names of figures."""

_COLUMNS = 4
"""Number of training patches side by side."""
_NAME = 30
"""Largest number of characters of a source that are shown; the last ones tell sources apart."""
_OUTLINE = "#e8112d"


def require_drawing(path: Path) -> None:
    """Raise an error unless a figure of this name can be drawn: matplotlib is there, and has the format."""
    if path.suffix.lower() not in FORMATS:
        raise InvalidArgument.of("out", f"expected a name that ends in {', '.join(FORMATS)}, got {path.name}")
    with required("a figure"):
        import matplotlib.figure  # noqa: F401


def draw_pixel(path: Path, question: Question, explanation: PixelExplanation, context: int) -> None:
    """Write the figure of a pixel: the image, its patch, and the training patches with their weights."""
    window = _around(question, explanation.pixel, context)
    panels = [(window, "measured")]
    panels += [(_crop_of(one), _caption(one, one.weight)) for one in explanation.contributors]
    row, column = explanation.pixel
    of = "".join(f" {v:.3f} ± {s:.3f}" for v, s in zip(explanation.value, explanation.spread, strict=True))
    title = f"row {row}, column {column}: posterior{of}; effective sample size {explanation.ess:.1f}"
    _draw(path, question, (slice(row, row + 1), slice(column, column + 1)), panels, title, context)


def draw_region(path: Path, question: Question, explanation: RegionExplanation, context: int) -> None:
    """Write the figure of a region: the image, and a patch of each of the training images with its share."""
    panels = [(_crop_of(one.heaviest), _caption(one.heaviest, one.share)) for one in explanation.shares]
    rows, columns = explanation.region
    title = (
        f"rows {rows.start}:{rows.stop}, columns {columns.start}:{columns.stop}: shares of training images, "
        f"each with its heaviest patch; all others {explanation.others:.1%}"
    )
    _draw(path, question, explanation.region, panels, title, context)


def _draw(
    path: Path,
    question: Question,
    region: tuple[slice, slice],
    panels: list[tuple[NDArray[np.floating], str]],
    title: str,
    context: int,
) -> None:
    """Write a figure: the image with a region outlined, and panels with the patch in their middle."""
    from matplotlib.figure import Figure

    lines = -(-len(panels) // _COLUMNS)
    figure = Figure(figsize=(3.2 * (_COLUMNS + 2), max(4.2, 2.8 * lines)), layout="constrained")
    figure.suptitle(title, parse_math=False)
    grid = figure.add_gridspec(lines, _COLUMNS + 2)
    whole = figure.add_subplot(grid[:, :2])
    rows, columns = region
    reach = question.index.patch_size // 2
    _show(whole, _measured(question), "measured image")
    # A single pixel would be too small to see: its patch is outlined.
    grow = reach if rows.stop - rows.start == columns.stop - columns.start == 1 else 0
    _outline(whole, rows.start - grow, columns.start - grow, rows.stop + grow, columns.stop + grow)
    p = question.index.patch_size
    for number, (picture, caption) in enumerate(panels):
        axes = figure.add_subplot(grid[number // _COLUMNS, 2 + number % _COLUMNS])
        _show(axes, picture, caption)
        _outline(axes, context, context, context + p, context + p)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=100, format=path.suffix[1:].lower())


def _measured(question: Question) -> NDArray[np.floating]:
    """Return the measured image, (H, W, C); black where it was not observed."""
    y, mask = question.measurement.y, question.measurement.mask
    y = y.reshape(*y.shape[:2], -1)
    return y if mask is None else np.where(mask.reshape(*mask.shape[:2], -1), y, 0)


def _around(question: Question, pixel: tuple[int, int], context: int) -> NDArray[np.floating]:
    """Return the patch of the measured image at a pixel with its surroundings, as in `Contributor.crop`."""
    y, index = _measured(question), question.index
    offsets = np.arange(index.patch_size + 2 * context) - (index.patch_size // 2 + context)
    rows, columns = (
        inside(centre + offsets, np.array(length), index.boundary)
        for centre, length in zip(pixel, y.shape[:2], strict=True)
    )
    return y[np.ix_(rows, columns)]


def _crop_of(contributor: Contributor) -> NDArray[np.floating]:
    assert contributor.crop is not None
    return contributor.crop


def _caption(contributor: Contributor, share: float) -> str:
    name = printable(contributor.source)
    name = name if len(name) <= _NAME else f"…{name[-_NAME:]}"
    turned = "" if contributor.symmetry == "identity" else f"\n{contributor.symmetry}"
    return f"{share:.1%}\n{name}\n({contributor.row}, {contributor.column}){turned}"


def _show(axes: "Axes", image: NDArray[np.floating], caption: str) -> None:
    picture: NDArray[Any] = np.clip(image if image.shape[2] == 3 else image.mean(axis=2), 0, 1)
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(caption, fontsize="small", parse_math=False)
    axes.set_axis_off()


def _outline(axes: "Axes", top: float, left: float, bottom: float, right: float) -> None:
    """Outline pixels from the top left to before the bottom right."""
    from matplotlib.patches import Rectangle

    corner = (left - 0.5, top - 0.5)
    axes.add_patch(
        Rectangle(corner, right - left, bottom - top, fill=False, edgecolor=_OUTLINE, linewidth=1.5)
    )
