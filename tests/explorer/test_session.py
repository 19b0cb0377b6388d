"""What the explorer asks a client, and how it shows arrays; no browser."""

import asyncio
import io
import socket

import numpy as np
import PIL.Image
import pytest

from lemmse.client import aio, connect
from lemmse.contract.errors import FailedPrecondition, InvalidArgument
from lemmse.explorer import downloads
from lemmse.explorer.images import Picture, examples, load_example, read_picture
from lemmse.explorer.local import LocalIndexes
from lemmse.explorer.pictures import Colours, as_bytes, outlined
from lemmse.explorer.session import Session, Settings
from lemmse.index import build
from tests.support.commands import invoke


def picture(pixels) -> Picture:
    pixels = np.atleast_3d(np.asarray(pixels, np.float32))
    return Picture("p.png", pixels, np.ones(pixels.shape[:2], bool))


@pytest.fixture
def session(embedded, aio_embedded, tiny_index) -> Session:
    (info,) = embedded.list_indexes()
    return Session(aio_embedded, LocalIndexes([str(tiny_index)]), Settings(index=info, maps=["error"]))


def test_without_a_picture_there_is_nothing_to_reconstruct(session):
    with pytest.raises(FailedPrecondition, match="expected a picture, got none"):
        session.measurement()


def test_a_measured_picture_is_taken_as_it_is(session):
    pixels = np.random.default_rng(0).random((5, 7, 1), np.float32)
    session.take(picture(pixels))
    np.testing.assert_array_equal(session.measurement(), pixels)
    assert session.observed() is None


def test_a_clean_picture_gets_the_noise_of_sigma(session):
    session.take(picture(np.full((200, 200), 0.5)))
    session.settings.simulate, session.settings.sigma = True, 0.2
    noise = session.measurement() - np.float32(0.5)
    assert noise.std() == pytest.approx(0.2, rel=0.02)
    np.testing.assert_array_equal(session.measurement() - np.float32(0.5), noise)


def test_a_clean_picture_is_measured_by_the_operator_of_the_index(tmp_path, aio_embedded):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((2, 6, 6), np.float32))
    folder = build([tmp_path / "a.npy"], tmp_path / "holes", patch_size=3, physics="inpaint:center:2")
    with connect(folder) as client:
        (info,) = client.list_indexes()
    local = LocalIndexes([str(folder)])
    session = Session(aio_embedded, local, Settings(index=info, simulate=True, sigma=1e-9))
    session.take(picture(np.ones((6, 6))))
    expected = np.ones((6, 6))
    expected[2:4, 2:4] = 0
    np.testing.assert_allclose(session.measurement()[..., 0], expected, atol=1e-7)
    assert not session.can_inpaint
    # A server does not tell its operator.
    away = Session(aio_embedded, LocalIndexes([]), Settings(index=info, simulate=True))
    assert not away.can_simulate
    away.take(picture(np.ones((6, 6))))
    np.testing.assert_array_equal(away.measurement(), np.ones((6, 6, 1)))


def test_painted_pixels_are_missing_and_can_be_erased(session):
    session.take(picture(np.zeros((5, 5))))
    session.settings.inpaint = True
    session.paint([(2, 2)], 1, erase=False)
    cross = np.zeros((5, 5), bool)
    cross[2, 1:4] = cross[1:4, 2] = True
    np.testing.assert_array_equal(~session.observed(), cross)
    session.paint([(2, 2)], 1, erase=True)
    assert session.observed() is None


def test_keywords_are_those_of_the_client(session):
    settings = session.settings
    assert settings.keywords() == {
        "sigma": 0.1,
        "index": "tiny",
        "mode": "auto",
        "quality": "paper",
        "maps": ("error",),
    }
    settings.estimate = True
    assert settings.keywords()["sigma"] == "auto"
    assert settings.keywords(mode="topk")["maps"] == ()


def test_an_answer_and_its_program(tiny_index, tmp_path, monkeypatch):
    async def ask():
        async with aio.connect(tiny_index) as client:
            (info,) = await client.list_indexes()
            session = Session(client, LocalIndexes([]), Settings(index=info))
            session.take(picture(np.random.default_rng(1).random((6, 8), np.float32)))
            return await session.reconstruct()

    answer = asyncio.run(ask())
    monkeypatch.chdir(tmp_path)
    np.save("measurement.npy", answer.y)
    exec(downloads.call(answer, [str(tiny_index)]), {})
    with np.load("again.npz") as again:
        assert set(again) == {"image", "variance", "ess"}
        np.testing.assert_array_equal(again["image"], answer.result.image)


@pytest.mark.parametrize(
    ("have", "want", "expected"), [(1, 3, [0.4, 0.4, 0.4]), (3, 1, [0.4]), (3, 3, [0.3, 0.4, 0.5])]
)
def test_channels_follow_the_index(have, want, expected):
    pixel = np.array([[[0.4] if have == 1 else [0.3, 0.4, 0.5]]], np.float32)
    found = picture(pixel).with_channels(want)
    np.testing.assert_allclose(found[0, 0], expected, rtol=1e-6)


def test_channels_that_are_no_colours_are_refused():
    with pytest.raises(InvalidArgument, match="expected a picture of 1 channels, as the index has, got 2"):
        picture(np.zeros((2, 2, 2))).with_channels(1)


def test_a_file_is_read_in_intensities_and_nan_is_missing():
    content = io.BytesIO()
    np.save(content, np.array([[0.25, np.nan]], np.float32))
    found = read_picture("a.npy", content.getvalue())
    assert found.pixels.tolist() == [[[0.25], [0.0]]]
    assert found.observed.tolist() == [[True, False]]
    content = io.BytesIO()
    PIL.Image.fromarray(np.array([[0, 51]], np.uint8)).save(content, "PNG")
    np.testing.assert_allclose(read_picture("B.PNG", content.getvalue()).pixels[..., 0], [[0, 0.2]])


@pytest.mark.parametrize("name", ["../../x.png", "x", "x.py", "x.png", "", "x.zarr"])
def test_what_is_no_picture_is_one_line_without_a_path(name):
    with pytest.raises(InvalidArgument) as error:
        read_picture(name, b"junk")
    assert str(error.value).startswith(f"{name}: ")
    assert "lemmse-explore" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_picture_that_is_too_large_is_refused():
    content = io.BytesIO()
    np.save(content, np.zeros((2001, 2001), np.uint8))
    with pytest.raises(InvalidArgument, match="expected at most 4,000,000 pixels"):
        read_picture("a.npy", content.getvalue())


def test_examples_are_photographs_and_training_images(embedded, tiny_index):
    (info,) = embedded.list_indexes()
    local = LocalIndexes([str(tiny_index)])
    found = examples(info, local)
    assert {"32:chelsea", "whole:chelsea", "training:0", "training:1"} <= set(found)
    assert not [key for key in examples(info, LocalIndexes([])) if key.startswith("training")]
    images = np.load(tiny_index.parent / "images.npy")
    np.testing.assert_array_equal(load_example("training:1", info, local).pixels[..., 0], images[1])
    assert load_example("32:chelsea", info, local).pixels.shape == (32, 32, 3)


def test_colours_run_from_dark_to_bright():
    painted = Colours(1.0, 100.0, True).paint(np.array([[1.0, 10.0, 100.0, 1000.0]])).astype(int).sum(axis=2)
    assert painted[0, 0] < painted[0, 1] < painted[0, 2] == painted[0, 3]
    constant = Colours.of("variance", np.zeros((2, 2)))
    np.testing.assert_array_equal(constant.paint(np.zeros((2, 2))), np.full((2, 2, 3), [68, 1, 84]))
    assert Colours.of("variance", np.full((1, 1), np.inf)) == Colours(0.0, 1.0, False)


def test_pictures_have_bytes_that_can_be_shown():
    assert as_bytes(np.array([[[-1.0], [0.2], [2.0], [np.nan]]])).tolist() == [[0, 51, 255, 0]]
    assert as_bytes(np.zeros((2, 3, 4))).shape == (2, 3, 3)


@pytest.mark.parametrize("corner", [(0, 0), (8, 8), (4, 4)])
def test_a_patch_at_an_edge_is_outlined(corner):
    image = np.full((9, 9, 1), 0.5, np.float32)
    assert outlined(image, *corner, 5, margin=2, zoom=4).startswith("data:image/png")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "expected either --server or --index, got neither"),
        (["--index", "a", "--server", "b:1"], "got both"),
        (["--index", "a", "--listen", "here"], "expected HOST:PORT for --listen, got 'here'"),
        (["--index", "/nowhere", "--listen", "127.0.0.1:0"], "/nowhere"),
    ],
)
def test_a_bad_command_line_is_one_line(arguments, words, monkeypatch):
    monkeypatch.delenv("LEMMSE_SERVER", raising=False)
    status, stdout, stderr = invoke("explore", "--no-browser", *arguments)
    assert (status, stdout) == (2, "")
    (line,) = stderr.splitlines()
    assert words in line


def test_a_port_that_is_taken_is_one_line(tiny_index):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        status, stdout, stderr = invoke("explore", "--index", tiny_index, "--listen", address, "--no-browser")
    assert (status, stdout) == (1, "")
    assert f"cannot listen on {address}: Address already in use" in stderr
