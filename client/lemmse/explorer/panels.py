"""Parts of the page that show answers: maps, modes, and where a pixel comes from."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
from nicegui import ui
from numpy.typing import NDArray

from lemmse.contract.results import Contributor
from lemmse.explorer.controls import heading
from lemmse.explorer.local import LocalIndexes
from lemmse.explorer.pictures import Colours, as_bytes, data_url, outlined
from lemmse.explorer.session import Answer, psnr
from lemmse.explorer.viewer import Viewer

__all__ = ["MapPanels", "show_contributors", "show_mode", "summary"]

TITLES = {
    "variance": "Posterior variance",
    "ess": "Effective sample size",
    "log_density": "Log density",
    "error": "Error bound",
}
_MARGIN = 8
"""Pixels that are shown around a training patch."""
_ZOOM = 6

Event = Callable[[dict[str, Any]], Awaitable[None] | None]


class MapPanels:
    """The maps of the answer, with their colours.

    Parameters
    ----------
    on_hover, on_pick : callable
        As of `Viewer`.
    """

    def __init__(self, *, on_hover: Event, on_pick: Event) -> None:
        self._events = {"on_hover": on_hover, "on_pick": on_pick}
        self._row = ui.element("div").classes("lx-grid")
        self._panels: dict[str, tuple[Viewer, Sequence[ui.label]]] = {}

    def show(self, answer: Answer) -> None:
        """Show the maps of an answer."""
        maps = {name: values for name, values in answer.result.arrays.items() if name != "image"}
        if list(maps) != list(self._panels):
            self._row.clear()
            with self._row:
                self._panels = {name: self._panel(name) for name in maps}
        for name, values in maps.items():
            plane = values.mean(axis=2) if values.ndim == 3 else values
            colours = Colours.of(name, plane)
            viewer, ends = self._panels[name]
            viewer.show(data_url(colours.paint(plane)), plane.shape)
            for label, value in zip(ends, (colours.low, colours.middle, colours.high), strict=True):
                label.set_text(f"{value:.3g}")

    def _panel(self, name: str) -> tuple[Viewer, Sequence[ui.label]]:
        title = TITLES.get(name, name)
        with ui.element("div").classes("lx-panel"):
            heading(title)
            viewer = Viewer(title, **self._events)
            ui.element("div").classes("lx-bar").style(f"background: {Colours.gradient()}").props(
                f"role=img aria-label='Colours of {title}, dark to bright'"
            )
            with ui.element("div").classes("lx-ends"):
                return viewer, [ui.label() for _ in range(3)]


def summary(answer: Answer) -> str:
    """Return what happened, in a line."""
    diagnostics = answer.result.diagnostics
    parts = [f"mode {diagnostics.mode}", f"{answer.seconds * 1000:.0f} ms"]
    parts.append(f"{diagnostics.keys_touched:,.0f} patches read per pixel")
    estimated = getattr(diagnostics, "sigma", ())
    if answer.keywords["sigma"] == "auto" and estimated:
        parts.append(f"σ estimated {np.mean(estimated):.3g}")
    if answer.clean is not None:
        before, after = psnr(answer.y, answer.clean), psnr(answer.result.image, answer.clean)
        parts.append(f"PSNR {before:.2f} → {after:.2f} dB")
    return ", ".join(parts)


def show_mode(mode: str, answer: Answer, exact: Answer) -> None:
    """Add the answer of a mode, and how far it is from that of mode exact."""
    with ui.element("div").classes("lx-panel"):
        heading(mode)
        image = answer.result.image
        Viewer(f"Reconstruction of mode {mode}").show(data_url(as_bytes(image)), image.shape[:2])
        ui.label(summary(answer)).classes("lx-quiet")
        distance = psnr(image, exact.result.image)
        agreement = "identical to exact" if np.isinf(distance) else f"{distance:.1f} dB to exact"
        ui.label(agreement).classes("lx-quiet")


def show_contributors(
    answer: Answer,
    row: int,
    column: int,
    contributors: Sequence[Contributor],
    *,
    local: LocalIndexes,
) -> None:
    """Add the training patches that made a pixel, heaviest first, in their images if those are here."""
    share = sum(contributor.weight for contributor in contributors)
    ui.label(
        f"Pixel at row {row}, column {column}: these {len(contributors)} training patches have "
        f"{share:.1%} of the weight."
    ).classes("lx-quiet")
    index = answer.index.name
    patch_size = answer.index.patch_size
    with ui.element("div").classes("lx-patches").props("role=list"):
        with _card():
            query = outlined(answer.y, row, column, patch_size, margin=_MARGIN, zoom=_ZOOM)
            _image(query, f"The measured patch at row {row}, column {column}")
            ui.label("measured")
        for contributor in contributors:
            with _card():
                place = f"row {contributor.row}, column {contributor.column}"
                if index in local:
                    image = local.training_image(index, contributor.image)
                    crop = outlined(
                        image, contributor.row, contributor.column, patch_size, margin=_MARGIN, zoom=_ZOOM
                    )
                    _image(crop, f"Training image {contributor.image} around {place}")
                else:
                    _swatch(contributor.value)
                ui.label(f"{contributor.weight:.2%}").style("font-weight: 600")
                ui.label(f"image {contributor.image}, {place}")
                if contributor.symmetry != "identity":
                    ui.label(contributor.symmetry)
                ui.label(contributor.source).tooltip("The source of the training image")


def _card() -> ui.element:
    return ui.element("div").classes("lx-patch").props("role=listitem")


def _image(address: str, text: str) -> None:
    element = ui.element("img")
    element.props["src"], element.props["alt"] = address, text


def _swatch(value: Sequence[float]) -> None:
    pixel: NDArray[Any] = np.asarray(value, np.float32)[None, None]
    red, green, blue = np.broadcast_to(np.atleast_1d(as_bytes(pixel)[0, 0]), 3)
    element = ui.element("div").classes("lx-swatch").style(f"background: rgb({red} {green} {blue})")
    element.props["role"], element.props["aria-label"] = "img", "Colour of the patch's centre"
