"""The settings of a reconstruction, as controls of the page."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from nicegui import events, ui
from nicegui.elements.upload_files import FileUpload

from lemmse.contract.choices import MAPS, MODES, QUALITIES
from lemmse.contract.results import IndexInfo
from lemmse.explorer.images import examples
from lemmse.explorer.session import Session

__all__ = ["Controls", "heading"]

_LARGEST_FILE = 64 * 2**20
"""Bytes of the largest file that can be dropped."""
_TASKS = {False: "Reconstruct all of it", True: "Inpaint what I paint"}

Change = Callable[[], Awaitable[None]]
# In quotes, since it is generic in newer releases of NiceGUI only.
Event: TypeAlias = "events.ValueChangeEventArguments[Any]"


def heading(text: str) -> ui.label:
    """Add a heading of a part of the page."""
    return ui.label(text).props("role=heading aria-level=2").classes("lx-heading")


class Controls:
    """The column of controls. They write to the settings of a session, and report what changed.

    Parameters
    ----------
    session : Session
        Its settings are shown and changed.
    indexes : sequence of IndexInfo
        The indexes to choose from.
    on_change : coroutine function
        Called when another answer is needed.
    on_brush : coroutine function
        Called when the brush changed.
    on_example : coroutine function
        Called with the key of an example.
    on_files : coroutine function
        Called with files that were dropped.
    """

    def __init__(
        self,
        session: Session,
        indexes: Sequence[IndexInfo],
        *,
        on_change: Change,
        on_brush: Change,
        on_example: Callable[[str], Awaitable[None]],
        on_files: Callable[[Sequence[FileUpload]], Awaitable[None]],
    ) -> None:
        self._session = session
        self._indexes = {info.name: info for info in indexes}
        self._on_change, self._on_brush = on_change, on_brush
        self._on_example, self._on_files = on_example, on_files
        self.radius = 2.0
        """Radius of the brush, in pixels."""
        self.erase = False
        """Whether the brush takes off."""
        self._picture()
        self._problem()
        self._noise()
        self._method()

    @property
    def brush(self) -> float:
        """Radius of the brush; 0 if there is none."""
        return self.radius if self._session.settings.inpaint and self._session.can_inpaint else 0.0

    def show(self) -> None:
        """Show the settings, and the controls that apply to the index."""
        settings, session = self._session.settings, self._session
        self._simulate.set_value(settings.simulate)
        self._simulate.set_enabled(session.can_simulate)
        self._task.set_visibility(session.can_inpaint)
        self._brush.set_visibility(self.brush > 0)
        self._sigma.set_enabled(settings.simulate or not settings.estimate)
        self._number.set_enabled(settings.simulate or not settings.estimate)
        self._facts.set_text(_facts(settings.index))

    def _picture(self) -> None:
        heading("Picture")
        self._upload = (
            ui.upload(
                label="Drop pictures here, or press +",
                multiple=True,
                auto_upload=True,
                max_file_size=_LARGEST_FILE,
                on_multi_upload=self._dropped,
                on_rejected=lambda: ui.notify("This file is larger than 64 MB", type="negative"),
            )
            .props("flat bordered")
            .style("width: 100%")
        )
        self._example = ui.select(
            self._examples_of(self._session.settings.index),
            label="Or take an example",
            on_change=self._took_example,
        ).style("width: 100%")

    def _problem(self) -> None:
        heading("Problem")
        settings = self._session.settings
        chosen = ui.select(
            list(self._indexes), value=settings.index.name, label="Index", on_change=self._took_index
        ).style("width: 100%")
        chosen.set_enabled(len(self._indexes) > 1)
        self._facts = ui.label().classes("lx-quiet")
        self._task = ui.radio(_TASKS, value=settings.inpaint, on_change=self._taking("inpaint"))
        with ui.column().classes("lx-panel") as self._brush:
            ui.label("Radius of the brush in pixels").classes("lx-quiet")
            ui.slider(min=0.5, max=12, step=0.5, value=self.radius, on_change=self._took_radius).props(
                "label aria-label='Radius of the brush in pixels'"
            )
            with ui.row():
                ui.checkbox("Erase", on_change=self._took_erase)
                ui.button("Clear", on_click=self._clear).props("flat")

    def _noise(self) -> None:
        heading("Noise")
        settings = self._session.settings
        ui.label("Standard deviation σ, of intensities in [0, 1]").classes("lx-quiet")
        self._sigma = ui.slider(min=0.01, max=0.6, step=0.01, value=settings.sigma).props(
            "label aria-label='Standard deviation of the noise'"
        )
        self._sigma.on_value_change(self._took_sigma)
        self._number = ui.number("σ", value=settings.sigma, min=0.001, max=10, step=0.01).style("width: 100%")
        self._number.bind_value(self._sigma)
        ui.switch("Estimate σ from the picture", on_change=self._taking("estimate"))
        self._simulate = ui.switch("The picture is clean: add this noise", on_change=self._taking("simulate"))

    def _method(self) -> None:
        heading("Method")
        settings = self._session.settings
        ui.select(list(MODES), value=settings.mode, label="Mode", on_change=self._taking("mode")).style(
            "width: 100%"
        ).tooltip("exact sums all training patches, topk the nearest, hybrid as many as needed; auto chooses")
        ui.select(
            list(QUALITIES), value=settings.quality, label="Quality", on_change=self._taking("quality")
        ).style("width: 100%").tooltip("paper is the formula of the paper; best is better by calibration")
        ui.select(
            list(MAPS), value=list(settings.maps), label="Maps", multiple=True, on_change=self._taking("maps")
        ).props("use-chips").style("width: 100%")

    def _examples_of(self, index: IndexInfo) -> dict[str, str]:
        return examples(index, self._session.local)

    async def _dropped(self, event: events.MultiUploadEventArguments) -> None:
        self._upload.reset()
        await self._on_files(event.files)

    async def _took_example(self, event: Event) -> None:
        if event.value is not None:
            await self._on_example(event.value)

    async def _took_index(self, event: Event) -> None:
        self._example.set_options(self._examples_of(self._indexes[event.value]), value=None)
        await self._took("index", self._indexes[event.value])

    async def _took_sigma(self, event: Event) -> None:
        if event.value:  # None while the number is being typed
            await self._took("sigma", float(event.value))

    async def _took(self, name: str, value: Any) -> None:
        """Change a setting, if it is another one."""
        settings = self._session.settings
        if value != getattr(settings, name):
            setattr(settings, name, value)
            self.show()
            await self._on_change()

    def _taking(self, name: str) -> Callable[[Event], Awaitable[None]]:
        """Return the handler of the control of a setting."""
        return lambda event: self._took(name, event.value)

    async def _took_radius(self, event: Event) -> None:
        self.radius = event.value
        await self._on_brush()

    async def _took_erase(self, event: Event) -> None:
        self.erase = event.value
        await self._on_brush()

    async def _clear(self) -> None:
        self._session.painted[:] = False
        await self._on_change()


def _facts(index: IndexInfo) -> str:
    """Return what an index is for, and of what size, in a line."""
    operator, _, rest = index.physics.partition(":")
    problem = {"identity": "denoises", "blur": f"deblurs ({rest})", "inpaint": f"fills in ({rest})"}
    return (
        f"{problem.get(operator, index.physics)}; {index.images:,} training images, "
        f"{index.keys:,} patches of {index.patch_size} × {index.patch_size}, "
        f"{'grey' if index.channels == 1 else f'{index.channels} channels'}"
    )
