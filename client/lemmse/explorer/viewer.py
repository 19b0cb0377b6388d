"""The element that shows a picture: its layers, a wipe between two of them, a cursor and a brush."""

from collections.abc import Awaitable, Callable
from typing import Any

from nicegui.element import Element
from nicegui.events import GenericEventArguments

__all__ = ["Viewer"]

Handler = Callable[[dict[str, Any]], Awaitable[None] | None]
"""What is called with the arguments of an event."""


class Viewer(Element, component="viewer.js"):
    """A picture, enlarged without smoothing; what the pointer does, the arrow keys and Enter do too.

    Parameters
    ----------
    label : str
        What the picture shows, for those who do not see it.
    on_hover : callable, optional
        Called with the row and column under the cursor.
    on_pick : callable, optional
        Called with the row and column that were clicked.
    on_paint : callable, optional
        Called with the points of a stroke, if there is a brush.
    """

    def __init__(
        self,
        label: str,
        *,
        on_hover: Handler | None = None,
        on_pick: Handler | None = None,
        on_paint: Handler | None = None,
    ) -> None:
        super().__init__()
        self._props.update(label=label, under="", over="", veil="", height=1, width=1, brush=0, erase=False)
        for name, handler in (("hover", on_hover), ("pick", on_pick), ("paint", on_paint)):
            if handler is not None:
                self.on(name, _with_arguments(handler), throttle=0.05 if name == "hover" else 0.0)

    def show(self, under: str, size: tuple[int, int], *, over: str = "", veil: str = "") -> None:
        """Show layers of a size (height, width): the lowest, one that is wiped over it, and a veil."""
        height, width = size
        self._props.update(under=under, over=over, veil=veil, height=height, width=width)
        self.update()

    def set_label(self, label: str) -> None:
        """Say what the picture shows."""
        self._props["label"] = label
        self.update()

    def set_brush(self, radius: float, *, erase: bool = False) -> None:
        """Let strokes paint, with a brush of a radius in pixels, or pick if it is 0."""
        self._props.update(brush=radius, erase=erase)
        self.update()


def _with_arguments(handler: Handler) -> Callable[[GenericEventArguments], Awaitable[None] | None]:
    return lambda event: handler(event.args)
