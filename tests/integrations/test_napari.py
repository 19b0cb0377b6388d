"""The plugin for napari, without a display; run by `make test-integrations`."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from magicgui.widgets import Widget
from napari.components import ViewerModel
from napari.qt import get_qapp
from napari.utils._proxies import PublicOnlyProxy
from napari.utils.interactions import (
    mouse_move_callbacks,
    mouse_press_callbacks,
    mouse_release_callbacks,
)
from napari.utils.notifications import notification_manager
from npe2 import PluginManifest
from prometheus_client import REGISTRY
from qtpy.compat import isalive
from qtpy.QtCore import QCoreApplication, QEvent

from lemmse.client import Client, connect
from lemmse.index import build
from lemmse.integrations.napari import ReconstructWidget
from lemmse.server.config import ServerConfig
from lemmse.server.lifecycle import Server

RNG = np.random.default_rng(5)
GREY = RNG.random((7, 9), np.float32)


@pytest.fixture(scope="session", autouse=True)
def app() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QT_QPA_PLATFORM", "offscreen")
        patch.setenv("NAPARI_CONFIG", "")  # no settings are read or written
        yield get_qapp()


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def errors() -> Iterator[list[str]]:
    """The messages of the notifications of errors."""
    shown: list[str] = []

    def take(notification: Any) -> None:
        assert notification.severity.value == "error"
        shown.append(notification.message)

    notification_manager.notification_ready.connect(take)
    yield shown
    notification_manager.notification_ready.disconnect(take)


@pytest.fixture
def widget(viewer: ViewerModel, app: Any) -> Iterator[ReconstructWidget]:
    before = list(viewer.mouse_drag_callbacks)
    widget = ReconstructWidget(PublicOnlyProxy(viewer))  # as napari passes it to plugins
    for event in (viewer.layers.events.inserted, viewer.layers.events.removed):
        event.connect(widget.reset_choices)  # as napari does for a widget in its window
    yield widget
    destroy(widget)
    assert viewer.mouse_drag_callbacks == before


def destroy(widget: Widget) -> None:
    """Remove a widget as napari does when its dock is closed."""
    if isalive(widget.native):
        widget.native.deleteLater()
        until(lambda: not isalive(widget.native))


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Handle events until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        get_qapp().processEvents()
        QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)


def idle(widget: ReconstructWidget) -> bool:
    return not widget.buttons.cancel.enabled


def press(widget: ReconstructWidget, button: str) -> None:
    """Press a button, and wait for what it starts."""
    (widget.settings if button == "connect" else widget.buttons)[button].changed.emit(True)
    until(lambda: idle(widget))


def connect_to(widget: ReconstructWidget, target: Path | str) -> None:
    settings = widget.settings
    settings.at.value = "index folder" if isinstance(target, Path) else "server"
    (settings.folder if isinstance(target, Path) else settings.server).value = target
    press(widget, "connect")


def given_sigma(widget: ReconstructWidget, sigma: float) -> None:
    widget.settings.estimate.value = False
    widget.settings.sigma.value = sigma


def click(viewer: ViewerModel, position: tuple[float, ...], *, dragged: bool = False) -> None:
    """Press and release the mouse at a position of the world, after moving it or not."""
    event = Mouse(position)
    mouse_press_callbacks(viewer, event)
    event.type, event.is_dragging = "mouse_move", True
    if dragged:
        mouse_move_callbacks(viewer, event)
    event.type = "mouse_release"
    mouse_release_callbacks(viewer, event)


class Mouse:
    """What a callback of napari reads of an event."""

    def __init__(self, position: tuple[float, ...]) -> None:
        self.type, self.is_dragging, self.button = "mouse_press", False, 1
        self.position, self.modifiers, self.handled = position, (), False


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("colour")
    np.save(folder / "images.npy", RNG.random((3, 8, 8, 3), np.float32))
    return build([folder / "images.npy"], folder / "colour", patch_size=3)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("volumes")
    np.save(folder / "images.npy", RNG.random((2, 4, 6, 6), np.float32))
    return build([folder / "images.npy"], folder / "volumes", patch_size=3, patch_depth=3)


def test_napari_finds_the_widget() -> None:
    manifest = PluginManifest.from_distribution("lemmse")
    (command,) = manifest.contributions.commands
    (widget,) = manifest.contributions.widgets
    assert widget.command == command.id
    assert command.python_name == f"{ReconstructWidget.__module__.rpartition('.')[0]}:ReconstructWidget"


@pytest.mark.parametrize(("dtype", "white"), [(np.float32, 1), (np.uint8, 255), (np.uint16, 65535)])
def test_layers_are_the_clients_answer(
    widget: ReconstructWidget, viewer: ViewerModel, server: Server, remote: Client, dtype: type, white: int
) -> None:
    y = np.round(GREY * white).astype(dtype) if white > 1 else GREY
    viewer.add_image(
        y,
        name="noisy",
        scale=(2, 0.5),
        translate=(10, -3),
        contrast_limits=(0.1 * white, 0.7 * white),
        colormap="green",
    )
    connect_to(widget, server.address)
    assert widget.settings.index_name.value == "tiny"
    given_sigma(widget, 0.1)
    widget.settings.mode.value = "exact"
    widget.settings.maps.value = ["variance", "source"]
    press(widget, "run")
    expected = remote.reconstruct(y, sigma=0.1, mode="exact", maps=("variance", "source"))
    names = {"image": "noisy reconstructed", "variance": "noisy variance", "source": "noisy source"}
    for name, values in expected.arrays.items():
        layer = viewer.layers[names[name]]
        np.testing.assert_array_equal(layer.data, values)
        np.testing.assert_array_equal(layer.scale, (2, 0.5))
        np.testing.assert_array_equal(layer.translate, (10, -3))
    image = viewer.layers["noisy reconstructed"]
    assert image.contrast_limits == [0.1 * white, 0.7 * white]
    assert image.colormap.name == "green"
    assert viewer.layers.selection.active is image
    assert widget.answer.summary.value.startswith("mode exact; ")


def test_the_noise_is_estimated(
    widget: ReconstructWidget, viewer: ViewerModel, tiny_index: Path, embedded: Client
) -> None:
    viewer.add_image(GREY, name="noisy")
    connect_to(widget, tiny_index)
    press(widget, "run")
    expected = embedded.reconstruct(GREY, sigma="auto")
    np.testing.assert_array_equal(viewer.layers["noisy reconstructed"].data, expected.image)
    assert f"σ {expected.diagnostics.sigma[0]:.3g}" in widget.answer.summary.value


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_colours(widget: ReconstructWidget, viewer: ViewerModel, colour: Path, dtype: type) -> None:
    y = RNG.random((6, 7, 4), np.float32)
    y = np.rint(y * 255).astype(dtype) if dtype == np.uint8 else y
    viewer.add_image(y, rgb=True, name="photo", scale=(3, 3))
    connect_to(widget, colour)
    given_sigma(widget, 0.2)
    widget.settings.maps.value = ["variance"]
    press(widget, "run")
    with connect(colour) as client:
        expected = client.reconstruct(y[..., :3], sigma=0.2, maps=("variance",))
    image, variance = viewer.layers["photo reconstructed"], viewer.layers["photo variance"]
    assert image.rgb
    assert image.data.dtype == dtype
    assert not variance.rgb
    shown = np.rint(expected.image) if dtype == np.uint8 else expected.image
    np.testing.assert_array_equal(image.data, shown)
    np.testing.assert_array_equal(variance.data, expected.variance.mean(axis=-1))
    np.testing.assert_array_equal(image.scale, (3, 3))


def test_volumes(widget: ReconstructWidget, viewer: ViewerModel, volumes: Path) -> None:
    y = RNG.random((3, 6, 5), np.float32)
    viewer.add_image(y, name="stack", scale=(4, 1, 1))
    connect_to(widget, volumes)
    given_sigma(widget, 0.2)
    press(widget, "run")
    with connect(volumes) as client:
        expected = client.reconstruct(y, sigma=0.2).image
        contributors = client.explain(y, sigma=0.2, pixel=(1, 2, 3), top=12, context=4)
    np.testing.assert_array_equal(viewer.layers["stack reconstructed"].data, expected)
    np.testing.assert_array_equal(viewer.layers["stack reconstructed"].scale, (4, 1, 1))
    click(viewer, (4, 2, 3))
    until(lambda: idle(widget))
    assert widget.answer.pixel.value.startswith("pixel 1, 2, 3: ")
    assert column(widget, "source") == [one.source for one in contributors]


def column(widget: ReconstructWidget, name: str) -> list[Any]:
    """A column of the table of training patches."""
    return list(widget.answer.table.to_dict("list")[name])


def test_a_click_shows_the_training_patches(
    widget: ReconstructWidget, viewer: ViewerModel, colour: Path
) -> None:
    training = np.load(colour.parent / "images.npy")
    y = np.clip(training[1] + 0.01 * RNG.standard_normal(training[1].shape), 0, 1).astype(np.float32)
    viewer.add_image(y, rgb=True, name="photo", scale=(2, 0.5), translate=(10, 20))
    connect_to(widget, colour)
    given_sigma(widget, 0.05)
    press(widget, "run")
    click(viewer, (10 + 2 * 5, 20 + 0.5 * 2), dragged=True)
    click(viewer, (0, 0))
    viewer.dims.ndisplay = 3
    click(viewer, (10 + 2 * 5, 20 + 0.5 * 2))
    viewer.dims.ndisplay = 2
    assert idle(widget)
    click(viewer, (10 + 2 * 5.2, 20 + 0.5 * 1.9))
    assert not idle(widget)
    until(lambda: idle(widget))
    with connect(colour) as client:
        expected = client.explain(y, sigma=0.05, pixel=(5, 2), top=12, context=4)
    assert (expected[0].image, expected[0].row, expected[0].column) == (1, 5, 2)
    assert widget.answer.pixel.value.startswith("pixel 5, 2: 12 training patches with ")
    for name in ("image", "row", "column", "source", "symmetry"):
        assert column(widget, name) == [getattr(one, name) for one in expected]
    assert column(widget, "weight")[0] == f"{expected[0].weight:.1%}"
    picture = widget.answer.frame.picture.image_data
    zoom = 72 // (3 + 2 * 4)
    side = zoom * (3 + 2 * 4) + 4
    assert picture.shape == (3 * side, 4 * side, 3)
    # In the middle of each patch is its centre, in reading order.
    middles = picture[side // 2 - 2 :: side, side // 2 - 2 :: side].reshape(-1, 3)
    np.testing.assert_array_equal(middles, np.rint([255 * np.array(one.value) for one in expected]))


@pytest.fixture
def busy(
    widget: ReconstructWidget, viewer: ViewerModel, larger_index: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ReconstructWidget]:
    """A widget that reconstructs tile by tile what takes minutes, and has begun."""
    for module in ("client.mosaic", "integrations.napari.widget"):
        monkeypatch.setattr(f"lemmse.{module}.LARGE_PIXELS", 100)
    monkeypatch.setattr("lemmse.client.tiles._SIDE", 16)
    server = Server(ServerConfig(indexes=(larger_index,), listen="127.0.0.1:0", threads=1))
    viewer.add_image(np.zeros((600, 600), np.float32), name="large")
    connect_to(widget, server.address)
    given_sigma(widget, 0.1)
    widget.settings.mode.value = "exact"
    widget.buttons.run.changed.emit(True)
    until(lambda: widget.answer.progress.value > 0)
    assert widget.answer.progress.max == 100
    assert waiting() > 0
    yield widget
    server.stop(0)


def waiting() -> float | None:
    """Images that the server has not answered."""
    return REGISTRY.get_sample_value("lemmse_queue_length")


def test_cancelling(busy: ReconstructWidget, viewer: ViewerModel, errors: list[str]) -> None:
    press(busy, "cancel")
    until(lambda: waiting() == 0)
    assert [layer.name for layer in viewer.layers] == ["large"]
    viewer.layers["large"].data = GREY[:3, :3]
    press(busy, "run")
    assert viewer.layers["large reconstructed"].data.shape == (3, 3)
    assert errors == []


def test_closing_the_widget_cancels(busy: ReconstructWidget, errors: list[str]) -> None:
    destroy(busy)
    until(lambda: waiting() == 0)
    assert errors == []


def test_quitting_napari_cancels(busy: ReconstructWidget) -> None:
    """It tells all threads to quit, and waits for them without handling events."""
    from napari.qt.threading import WorkerBase

    WorkerBase.await_workers(20_000)
    until(lambda: waiting() == 0)


def test_no_server(widget: ReconstructWidget, errors: list[str], tmp_path: Path) -> None:
    connect_to(widget, "localhost")
    connect_to(widget, "127.0.0.1:1")
    connect_to(widget, tmp_path)
    assert [one.partition(":")[0] for one in errors] == ["target", "127.0.0.1", "index"]
    assert not [one for one in errors if "\n" in one]
    assert not widget.buttons.run.enabled


WRONG = {
    "values": (
        np.full((8, 8), 200.0),
        r"layer: expected floats in \[0, 1\], up to noise, got 0 to 200; divide .*",
    ),
    "dtype": (
        np.zeros((8, 8), np.int32),
        r"y: expected floats in \[0, 1\], uint8 or uint16, got int32; for others state their range",
    ),
    "axes": (np.zeros((4, 8, 8)), r"layer: expected a layer of 2 axes .* index tiny is of images, got 3; .*"),
    "colours": (np.zeros((8, 8, 3)), r"y: expected an image of shape \(H, W\).*"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_says_what_is_wrong_in_a_line(
    widget: ReconstructWidget, viewer: ViewerModel, tiny_index: Path, errors: list[str], kind: str
) -> None:
    data, message = WRONG[kind]
    viewer.add_image(data, name="layer", rgb=kind == "colours")
    connect_to(widget, tiny_index)
    press(widget, "run")
    (error,) = errors
    assert re.fullmatch(message, error)  # "." is no line break
    assert len(viewer.layers) == 1
