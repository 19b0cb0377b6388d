"""Several files: their progress, their errors, and one download of all results."""

import asyncio
from collections.abc import Sequence

from nicegui import ui
from nicegui.elements.upload_files import FileUpload

from lemmse.contract.errors import LemmseError
from lemmse.contract.lines import one_line
from lemmse.contract.results import Result
from lemmse.explorer import downloads
from lemmse.explorer.controls import heading
from lemmse.explorer.images import read_picture
from lemmse.explorer.session import Session

__all__ = ["Batch"]


class Batch:
    """Files that are reconstructed one after the other, with the settings of a session.

    Parameters
    ----------
    session : Session
        Its settings are those at the start.
    files : sequence
        The files that were dropped.
    """

    def __init__(self, session: Session, files: Sequence[FileUpload]) -> None:
        self._session, self._files = session, files
        self._results: dict[str, Result] = {}
        self._task: asyncio.Task[None] | None = None
        heading(f"{len(files)} files")
        self._bar = ui.linear_progress(0, show_value=False).props("aria-label='Files that are finished'")
        self._state = ui.label().props("role=status").classes("lx-quiet")
        with ui.row():
            self._stop = ui.button("Cancel", on_click=self.cancel)
            self._download = ui.button("Download all results", on_click=self._take)
        self._download.disable()
        self._errors = ui.column().props("role=alert")

    async def run(self) -> None:
        """Reconstruct all files; return when that is done or cancelled."""
        self._task = asyncio.create_task(self._all())
        try:
            await self._task
        except asyncio.CancelledError:
            self._state.set_text(f"Cancelled: {len(self._results)} of {len(self._files)} are reconstructed.")
        finally:
            self._stop.disable()
            self._download.set_enabled(bool(self._results))

    def cancel(self) -> None:
        """Stop; what is reconstructed stays."""
        if self._task is not None:
            self._task.cancel()

    async def _all(self) -> None:
        failed = 0
        for number, file in enumerate(self._files):
            self._state.set_text(f"{number} of {len(self._files)}: {file.name}")
            self._bar.set_value(number / len(self._files))
            try:
                picture = await asyncio.to_thread(read_picture, file.name, await file.read())
                answer = await self._session.of(picture).reconstruct()
            except LemmseError as error:
                failed += 1
                with self._errors:
                    message = error.message.removeprefix(f"{file.name}: ")
                    ui.label(one_line(f"{file.name}: {message}")).classes("lx-failure")
            else:
                self._results[f"{number + 1:03}-{file.name.rpartition('.')[0]}"] = answer.result
        self._bar.set_value(1)
        self._state.set_text(
            f"{len(self._results)} of {len(self._files)} are reconstructed, {failed} failed."
        )

    def _take(self) -> None:
        ui.download.content(downloads.several(self._results), "lemmse-results.zip")
