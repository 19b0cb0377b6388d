"""The page: its layout, and what its controls do."""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from nicegui import ui
from nicegui.elements.upload_files import FileUpload

from lemmse.client.aio import AsyncClient
from lemmse.contract.choices import MODES
from lemmse.contract.errors import LemmseError
from lemmse.contract.lines import one_line
from lemmse.contract.results import IndexInfo
from lemmse.explorer import downloads
from lemmse.explorer.batch import Batch
from lemmse.explorer.controls import Controls, heading
from lemmse.explorer.images import load_example, read_picture
from lemmse.explorer.local import LocalIndexes
from lemmse.explorer.panels import MapPanels, show_contributors, show_mode, summary
from lemmse.explorer.pictures import as_bytes, data_url, veil
from lemmse.explorer.session import Answer, Session, Settings
from lemmse.explorer.viewer import Viewer

__all__ = ["Page"]

T = TypeVar("T")

_LOG = logging.getLogger(__name__)
_STYLE = Path(__file__).with_name("explorer.css")
_THEMES = {None: "Theme: system", True: "Theme: dark", False: "Theme: light"}


class Page:
    """What one visitor sees.

    Parameters
    ----------
    client : AsyncClient
        Answers.
    local : LocalIndexes
        Shows training images.
    indexes : sequence of IndexInfo
        At least one.
    targets : sequence of str
        Arguments of `connect`, for the Python call.
    """

    def __init__(
        self, client: AsyncClient, local: LocalIndexes, indexes: Sequence[IndexInfo], targets: Sequence[str]
    ) -> None:
        self._session = Session(client, local, Settings(index=indexes[0]))
        self._targets = targets
        self._answer: Answer | None = None
        self._batch: Batch | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._answering = self._outdated = False
        self._place: tuple[int, int] | None = None
        ui.add_css(_STYLE)
        ui.colors(primary="#1976d2")  # white on it can be read, and it on black
        self._header()
        with ui.element("div").classes("lx-columns"):
            with ui.element("section").classes("lx-controls").props("aria-label=Settings"):
                self._controls = Controls(
                    self._session,
                    indexes,
                    on_change=self._look,
                    on_brush=self._set_brush,
                    on_example=self._take_example,
                    on_files=self._take_files,
                )
            with ui.element("section").classes("lx-work").props("aria-label=Results"):
                self._work()
        self._controls.show()
        ui.context.client.on_delete(self._cancel)

    def _header(self) -> None:
        dark = ui.dark_mode(None)
        themes = list(_THEMES)

        def turn() -> None:
            dark.value = themes[(themes.index(dark.value) + 1) % len(themes)]
            button.set_text(_THEMES[dark.value])

        with ui.header().style("align-items: center; padding: .4rem 1rem"):
            ui.label("lemmse explorer").props("role=heading aria-level=1").style("font-size: 1.15rem")
            ui.space()
            button = ui.button(_THEMES[None], on_click=turn).props("flat color=white no-caps")

    def _work(self) -> None:
        self._failure = ui.label().props("role=alert").classes("lx-failure")
        self._failure.set_visibility(False)
        with ui.row().style("align-items: center"):
            self._run = ui.button("Reconstruct", on_click=self._reconstruct)
            self._stop = ui.button("Cancel", on_click=self._cancel).props("outline")
            self._busy = ui.spinner(size="1.5rem").props("aria-label='At work'")
            self._state = ui.label("Drop a picture, or take an example.").props("role=status")
        self._show_busy()
        with ui.element("div").classes("lx-row"):
            with ui.element("div").classes("lx-panel"):
                heading("Measurement")
                self._measured = Viewer(
                    "Measurement", on_hover=self._read_values, on_pick=self._explain, on_paint=self._paint
                )
            with ui.element("div").classes("lx-panel"):
                heading("Reconstruction")
                self._reconstruction = Viewer(
                    "Reconstruction over the measurement", on_hover=self._read_values, on_pick=self._explain
                )
        self._values = ui.label("Point at a pixel for its values, click it for its training patches.")
        self._values.classes("lx-mono").props("role=status")
        self._maps = MapPanels(on_hover=self._read_values, on_pick=self._explain)
        self._explanation = ui.element("section").classes("lx-panel").props("aria-label=Explanation")
        with ui.row():
            self._takes = [
                ui.button("Compare modes", on_click=self._compare).props("outline"),
                ui.button("Download picture", on_click=self._download_picture).props("outline"),
                ui.button("Download everything", on_click=self._download_everything).props("outline"),
                ui.button("Show the Python call", on_click=self._show_call).props("outline"),
            ]
        for button in self._takes:
            button.disable()
        self._extra = ui.element("section").classes("lx-panel").props("aria-label='Modes and call'")
        self._files = ui.element("section").classes("lx-panel").props("aria-label=Files")

    async def _take_example(self, key: str) -> None:
        settings = self._session.settings
        picture = await self._attempt(
            asyncio.to_thread(load_example, key, settings.index, self._session.local)
        )
        if picture is not None:
            settings.simulate = self._session.can_simulate
            self._session.take(picture)
            self._controls.show()
            await self._look()

    async def _take_files(self, files: Sequence[FileUpload]) -> None:
        if len(files) > 1:
            if self._batch is not None:
                self._batch.cancel()
            self._files.clear()
            with self._files:
                self._batch = Batch(self._session, files)
            await self._batch.run()
            return
        picture = await self._attempt(asyncio.to_thread(read_picture, files[0].name, await files[0].read()))
        if picture is not None:
            self._session.settings.simulate = False
            self._session.take(picture)
            self._controls.show()
            await self._look()

    async def _look(self) -> None:
        """Show the measurement, and reconstruct it."""
        if self._session.picture is None:
            return
        try:
            y, observed = self._session.measurement(), self._session.observed()
        except LemmseError as error:
            self._fail(error)
            return
        hidden = "" if observed is None else veil(~observed)
        self._measured.show(data_url(as_bytes(y)), y.shape[:2], veil=hidden)
        await self._set_brush()
        await self._reconstruct()

    async def _set_brush(self) -> None:
        self._measured.set_brush(self._controls.brush, erase=self._controls.erase)

    async def _paint(self, stroke: dict[str, Any]) -> None:
        self._session.paint(stroke["points"], self._controls.brush, erase=self._controls.erase)
        await self._look()

    async def _reconstruct(self) -> None:
        """Reconstruct with the settings; while that is at work, note that they changed."""
        if self._session.picture is None:
            return
        self._outdated = True
        if self._answering:
            return
        self._answering = True
        try:
            while self._outdated:
                self._outdated = False
                answer = await self._attempt(self._session.reconstruct())
                if answer is not None:
                    self._show(answer)
        finally:
            self._answering = False

    def _show(self, answer: Answer) -> None:
        self._answer = answer
        image = answer.result.image
        self._reconstruction.show(
            data_url(as_bytes(answer.y)), image.shape[:2], over=data_url(as_bytes(image))
        )
        self._maps.show(answer)
        self._show_values()
        self._state.set_text(summary(answer))
        for button in self._takes:
            button.enable()

    def _read_values(self, place: dict[str, Any]) -> None:
        self._place = place["row"], place["column"]
        self._show_values()

    def _show_values(self) -> None:
        """Show the values of the pixel under the cursor."""
        answer = self._answer
        if answer is None or self._place is None:
            return
        row, column = self._place
        if row >= answer.y.shape[0] or column >= answer.y.shape[1]:
            return
        numbers = {"measurement": answer.y, "reconstruction": answer.result.image}
        numbers |= {name: values for name, values in answer.result.arrays.items() if name != "image"}
        values = [f"{name} {_numbers(array[row, column])}" for name, array in numbers.items()]
        self._values.set_text(f"row {row}, column {column}: {'; '.join(values)}")

    async def _explain(self, place: dict[str, Any]) -> None:
        answer = self._answer
        if answer is None:
            return
        row, column = place["row"], place["column"]
        contributors = await self._attempt(self._session.explain(answer, row, column))
        if contributors is None:
            return
        self._explanation.clear()
        with self._explanation:
            heading("Where this pixel comes from")
            show_contributors(
                answer,
                row,
                column,
                contributors,
                local=self._session.local,
            )

    async def _compare(self) -> None:
        self._extra.clear()
        exact: Answer | None = None
        with self._extra, ui.element("div").classes("lx-grid"):
            for mode in sorted(MODES, key="exact".__ne__):  # exact is first: the others are compared with it
                self._state.set_text(f"Reconstructing with mode {mode} …")
                answer = await self._attempt(self._session.reconstruct(mode=mode, maps=()))
                if answer is None:
                    return
                exact = exact or answer
                show_mode(mode, answer, exact)
        self._state.set_text("The modes are compared below.")

    def _download_picture(self) -> None:
        if self._answer is not None:
            content, suffix = downloads.picture(self._answer.result)
            ui.download.content(content, f"{Path(self._answer.name).stem}-reconstruction{suffix}")

    def _download_everything(self) -> None:
        if self._answer is not None:
            content = downloads.everything(self._answer, self._targets)
            ui.download.content(content, f"{Path(self._answer.name).stem}-lemmse.zip")

    def _show_call(self) -> None:
        if self._answer is not None:
            self._extra.clear()
            with self._extra:
                heading("The Python call that made this answer")
                ui.label("The files that it reads are in 'Download everything'.").classes("lx-quiet")
                with ui.element("pre").classes("lx-call").props("tabindex=0"):
                    ui.label(downloads.call(self._answer, self._targets)).style("white-space: pre")

    async def _attempt(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Return the outcome of work; show its error in a line, and return None."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        self._show_busy()
        try:
            outcome = await task
        except asyncio.CancelledError:
            self._state.set_text("Cancelled.")
            return None
        except Exception as error:
            self._fail(error)
            return None
        finally:
            self._tasks.discard(task)
            self._show_busy()
        self._failure.set_visibility(False)
        return outcome

    def _fail(self, error: Exception) -> None:
        if isinstance(error, LemmseError):
            text = one_line(error)
        else:
            _LOG.error("the explorer failed", exc_info=error)
            text = "The explorer failed; the terminal in which it runs says more."
        self._failure.set_text(text)
        self._failure.set_visibility(True)

    def _show_busy(self) -> None:
        self._busy.set_visibility(bool(self._tasks))
        self._stop.set_enabled(bool(self._tasks))

    def _cancel(self) -> None:
        self._outdated = False
        for task in self._tasks:
            task.cancel()
        if self._batch is not None:
            self._batch.cancel()


def _numbers(values: np.ndarray | np.floating) -> str:
    return " ".join(f"{value:.4g}" for value in np.atleast_1d(values))
