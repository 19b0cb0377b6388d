"""The widget: where to reconstruct, what and how, and what a pixel is made of."""

import math
import os
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from magicgui.widgets import (
    CheckBox,
    ComboBox,
    Container,
    FileEdit,
    FloatSpinBox,
    Image,
    Label,
    LineEdit,
    ProgressBar,
    PushButton,
    RadioButtons,
    Select,
    Table,
    Widget,
)
from napari import layers
from napari.utils.notifications import show_error
from napari.viewer import Viewer

from lemmse.client.targets import as_server
from lemmse.contract.choices import MAPS, MODES
from lemmse.contract.errors import InvalidArgument, LemmseError
from lemmse.contract.limits import LARGE_PIXELS
from lemmse.contract.results import Contributor, Diagnostics, IndexInfo, Result
from lemmse.integrations.napari.calls import Call, Connection, start
from lemmse.integrations.napari.layers import Measured, pixel_at
from lemmse.integrations.napari.patches import CONTEXT, picture, table

__all__ = ["ReconstructWidget"]

_SERVER, _FOLDER = "server", "index folder"
_TOP = 12
"""Training patches that are shown for a pixel."""


@dataclass(frozen=True, slots=True, eq=False)
class _Answer:
    """What the layers of a result were asked for with."""

    connection: Connection
    index: str
    measured: Measured
    sigma: float | str
    white_level: float


class ReconstructWidget(Container[Widget]):
    """Reconstructs image layers of a viewer, and shows the training patches of a pixel that is clicked.

    Parameters
    ----------
    viewer : napari.Viewer
        The viewer, which napari passes.
    """

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._connection: Connection | None = None
        self._indexes: dict[str, IndexInfo] = {}
        self._answers: dict[UUID, _Answer] = {}  # napari passes plugins other objects for the same layer
        self._call: Call | None = None
        self._explaining = False
        server = os.environ.get("LEMMSE_SERVER", "127.0.0.1:50051")
        self._at = RadioButtons(
            name="at", label="where", choices=[_SERVER, _FOLDER], value=_SERVER, orientation="horizontal"
        )
        self._server = LineEdit(name="server", value=server)
        self._folder = FileEdit(name="folder", mode="d")
        self._connect = PushButton(name="connect", text="Connect")
        self._index = ComboBox(name="index_name", label="index", choices=self._index_names)
        self._layer = ComboBox(name="layer", choices=self._image_layers)
        self._estimate = CheckBox(name="estimate", text="estimate σ", value=True)
        self._sigma = FloatSpinBox(
            name="sigma", label="σ, where white is 1", value=0.1, min=0.0001, max=100, step=0.0001
        )
        self._mode = ComboBox(name="mode", choices=list(MODES))
        self._maps = Select(name="maps", choices=list(MAPS))
        self._maps.max_height = 110
        self._run = PushButton(name="run", text="Reconstruct")
        self._cancel = PushButton(name="cancel", text="Cancel")
        self._progress = ProgressBar(name="progress")
        self._summary = Label(name="summary")
        self._pixel = Label(name="pixel")
        self._picture = Image(name="picture")
        # In a layout with others, the picture alone would get no room.
        self._frame = Container(name="frame", widgets=[self._picture], labels=False)
        self._frame.margins = (0, 0, 0, 0)
        self._table = Table(name="table")
        self._table.read_only = True
        super().__init__(
            widgets=[
                Container(
                    name="settings",
                    widgets=[
                        *(self._at, self._server, self._folder, self._connect, self._index),
                        *(self._layer, self._estimate, self._sigma, self._mode, self._maps),
                    ],
                ),
                Container(
                    name="buttons", widgets=[self._run, self._cancel], layout="horizontal", labels=False
                ),
                Container(
                    name="answer",
                    widgets=[self._progress, self._summary, self._pixel, self._frame, self._table],
                    labels=False,
                ),
            ],
            labels=False,
        )
        self._at.changed.connect(self._show)
        self._estimate.changed.connect(self._show)
        self._connect.changed.connect(self._connect_to_target)
        self._run.changed.connect(self._reconstruct)
        self._cancel.changed.connect(self._stop)
        viewer.mouse_drag_callbacks.append(self._on_mouse)
        self.native.destroyed.connect(self._end)
        self._show()

    def _show(self) -> None:
        """Show the controls that apply now."""
        busy = self._call is not None
        self._server.visible = self._at.value == _SERVER
        self._folder.visible = self._at.value == _FOLDER
        self._sigma.enabled = not self._estimate.value
        self._connect.enabled = not busy
        self._run.enabled = not busy and bool(self._indexes)
        self._cancel.enabled = self._progress.visible = busy
        for one in (self._pixel, self._frame, self._table):
            one.visible = bool(self._pixel.value)

    def _index_names(self, gui: Any) -> list[str]:
        return list(self._indexes)

    def _image_layers(self, gui: Any) -> list[layers.Image]:
        return [layer for layer in self._viewer.layers if isinstance(layer, layers.Image)]

    def _connect_to_target(self) -> None:
        self._disconnect()
        target = as_server(self._server.value) if self._at.value == _SERVER else str(self._folder.value)
        self._connection = Connection(target)
        self._start(self._connection.ask("list_indexes"), self._take_indexes)

    def _take_indexes(self, found: list[IndexInfo]) -> None:
        self._indexes = {info.name: info for info in found}
        self._index.reset_choices()
        self._summary.value = f"connected: {len(found)} index{'es' * (len(found) != 1)}"

    def _reconstruct(self) -> None:
        connection, info, layer = self._connection, self._indexes.get(self._index.value), self._layer.value
        if connection is None or info is None or layer is None:
            show_error("layer: expected an image layer, got none; open an image")
            return
        try:
            measured = Measured.of(layer, info)
        except InvalidArgument as error:
            show_error(str(error))
            return
        sigma = "auto" if self._estimate.value else self._sigma.value
        options = {"sigma": sigma, "index": info.name, "mode": self._mode.value, "maps": self._maps.value}
        pixels: deque[tuple[int, int]] = deque(maxlen=1)
        if info.patch_depth == 1 and math.prod(measured.y.shape[:2]) > LARGE_PIXELS:
            options["progress"] = lambda done, total: pixels.append((done, total))
        call = connection.ask("reconstruct", measured.y, **options)
        self._start(call, partial(self._take_result, connection, measured, sigma), pixels)

    def _take_result(
        self, connection: Connection, measured: Measured, sigma: float | str, result: Result
    ) -> None:
        diagnostics = result.diagnostics
        if len(diagnostics.sigma) == 1:
            sigma = diagnostics.sigma[0]
        answer = _Answer(connection, diagnostics.index, measured, sigma, result.white_level)
        known = {layer.unique_id for layer in self._viewer.layers}
        self._answers = {one: of for one, of in self._answers.items() if one in known}
        for data, arguments in measured.layers(result):
            self._answers[self._viewer.add_image(data, **arguments).unique_id] = answer
        self._summary.value = _summary(diagnostics)

    def _on_mouse(self, viewer: Any, event: Any) -> Generator[None, None, None]:
        """Explain a pixel of a result that is clicked, not dragged, while planes are shown."""
        layer = viewer.layers.selection.active
        answer = self._answers.get(layer.unique_id) if layer is not None else None
        if answer is None or event.button != 1 or viewer.dims.ndisplay != 2:
            return
        yield
        while event.type == "mouse_move":
            if event.is_dragging:
                return
            yield
        pixel = pixel_at(layer, event.position)
        if pixel is not None and (self._call is None or self._explaining):
            self._explain(answer, layer, pixel)

    def _explain(self, answer: _Answer, layer: layers.Image, pixel: tuple[int, ...]) -> None:
        if answer.connection is not self._connection:
            show_error(
                f"{layer.name}: expected a result of this connection, got an earlier one; reconstruct again"
            )
            return
        self._stop()
        call = answer.connection.ask(
            "explain",
            answer.measured.y,
            sigma=answer.sigma,
            index=answer.index,
            pixel=pixel,
            top=_TOP,
            context=CONTEXT,
        )
        limits = (0.0, answer.white_level) if answer.measured.rgb else answer.measured.look["contrast_limits"]
        self._start(call, partial(self._take_patches, pixel, limits))
        self._explaining = True

    def _take_patches(
        self, pixel: tuple[int, ...], limits: tuple[float, float], found: list[Contributor]
    ) -> None:
        share = sum(one.weight for one in found)
        place = ", ".join(map(str, pixel))
        self._pixel.value = f"pixel {place}: {len(found)} training patches with {share:.1%} of the weight"
        shown = picture(found, limits)
        self._picture.set_data(shown)
        self._frame.min_height, self._frame.min_width = shown.shape[:2]
        self._table.value = table(found)

    def _start(self, call: "Future[Any]", take: Callable[[Any], None], pixels: Any = ()) -> None:
        """Wait for a call without blocking, and take its result, or show its error in a line."""

        def returned(done: "Future[Any]") -> None:
            if self._call is own:
                try:
                    take(done.result())
                except LemmseError as error:
                    show_error(str(error))

        def finished() -> None:
            if self._call is own:
                self._call = None
                self._show()

        def yielded(pixels: tuple[int, int]) -> None:
            if self._call is own:
                self._advance(*pixels)

        self._explaining = False
        self._advance(0, 0)
        own = self._call = start(call, returned=returned, finished=finished, yielded=yielded, pixels=pixels)
        self._show()

    def _advance(self, done: int, total: int) -> None:
        """Show the progress; a bar that only moves if there is no total."""
        self._progress.max = 100 if total else 0
        self._progress.value = 100 * done // total if total else 0

    def _stop(self) -> None:
        """Cancel what is under way."""
        call, self._call = self._call, None
        if call is not None:
            call.quit()
            self._show()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection, self._indexes = None, {}
        self._index.reset_choices()

    def _end(self) -> None:
        """Cancel what is under way and close the client, when the widget is gone."""
        call, self._call = self._call, None
        if call is not None:
            call.quit()
        if self._connection is not None:
            self._connection.close()
        self._viewer.mouse_drag_callbacks.remove(self._on_mouse)


def _summary(diagnostics: Diagnostics) -> str:
    """Return how a result was computed, in a line."""
    parts = [f"mode {diagnostics.mode}", f"{diagnostics.seconds:.2g} s"]
    if diagnostics.sigma:
        parts.append(f"σ {', '.join(f'{sigma:.3g}' for sigma in diagnostics.sigma)}")
    if diagnostics.expected_psnr_db is not None:
        parts.append(f"PSNR {diagnostics.expected_psnr_db:.1f} dB expected")
    return "; ".join(parts)
