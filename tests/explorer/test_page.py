"""The explorer's page in a browser without a screen, against what the client answers."""

import base64
import io
import re
import shutil
import sys
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from subprocess import PIPE

import numpy as np
import PIL.Image
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from lemmse.client import Client, connect
from lemmse.client.serving import LEMMSE
from lemmse.server.lifecycle import Server
from tests.support.processes import run_process, start_process

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None, reason="needs Debian's chromium: make browser, or apt-get install chromium"
    ),
]
PATIENCE = 60_000
"""Milliseconds that the page has for each step."""


@contextmanager
def explorer(*arguments: object) -> Iterator[str]:
    """Run the command, and yield the address of its page."""
    command = [*LEMMSE, "explore", *arguments, "--listen", "127.0.0.1:0", "--no-browser"]
    with start_process(command, 600, stdout=PIPE) as process:
        assert process.stdout is not None
        _, address = process.stdout.readline().split()
        yield address
        process.terminate()


@pytest.fixture(scope="module")
def address(larger_index: Path) -> Iterator[str]:
    with explorer("--index", larger_index) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def visit(browser: Browser) -> Page:
    page = browser.new_page(viewport={"width": 1360, "height": 1400})
    page.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    return page


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """A new visit, which must load nothing from elsewhere and end without an error in a script."""
    page = visit(browser)
    elsewhere: list[str] = []
    errors: list[object] = []
    page.on("request", lambda request: elsewhere.append(request.url))
    page.on("pageerror", lambda error: errors.append(error))  # it takes no built-in
    page.goto(address)
    yield page
    page.close()
    assert {url for url in elsewhere if not url.startswith((address, "data:", "blob:"))} == set()
    assert errors == []


@pytest.fixture(scope="module")
def client(larger_index: Path) -> Iterator[Client]:
    with connect(larger_index) as client:
        yield client


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (12, 16), np.uint8)


def png(picture: np.ndarray) -> bytes:
    content = io.BytesIO()
    PIL.Image.fromarray(picture).save(content, "PNG")
    return content.getvalue()


def drop(page: Page, files: dict[str, bytes]) -> None:
    """Drop files on the page, as a hand does."""
    encoded = {name: base64.b64encode(content).decode() for name, content in files.items()}
    transfer = page.evaluate_handle(
        """files => {
            const transfer = new DataTransfer();
            for (const [name, content] of Object.entries(files))
                transfer.items.add(new File([Uint8Array.from(atob(content), c => c.charCodeAt(0))], name));
            return transfer;
        }""",
        encoded,
    )
    # The first event raises the target on which files are dropped.
    page.dispatch_event(".q-uploader", "dragover", {"dataTransfer": transfer})
    page.dispatch_event(".q-uploader__dnd", "drop", {"dataTransfer": transfer})


def drop_one(page: Page, picture: np.ndarray) -> None:
    drop(page, {"dropped.png": png(picture)})
    expect(page.locator(".viewer-over")).to_have_count(1)


def shown(page: Page, layer: str) -> np.ndarray:
    """The pixels of a layer of the page."""
    address = page.locator(layer).get_attribute("src")
    assert address is not None
    return np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))


def point(page: Page, frame: int, row: int, column: int, shape: tuple[int, int]) -> tuple[float, float]:
    """The place of a pixel on the screen."""
    box = page.locator(".viewer-frame").nth(frame).bounding_box()
    assert box is not None
    return (
        box["x"] + box["width"] * (column + 0.5) / shape[1],
        box["y"] + box["height"] * (row + 0.5) / shape[0],
    )


def download(page: Page, button: str) -> bytes:
    with page.expect_download() as found:
        page.get_by_role("button", name=button).click()
    return Path(found.value.path()).read_bytes()


def test_a_dropped_picture_is_reconstructed_and_explained(
    page: Page, client: Client, picture: np.ndarray
) -> None:
    drop_one(page, picture)
    y = picture / np.float32(255)
    answer = client.reconstruct(y, sigma=0.1, maps=("variance", "ess"))
    expected = np.rint(np.clip(answer.image, 0, 1) * 255)
    np.testing.assert_array_equal(shown(page, ".viewer-over"), expected)

    page.mouse.click(*point(page, 1, 3, 4, picture.shape))
    values = page.locator(".lx-mono")
    assert answer.ess is not None
    expect(values).to_contain_text(
        f"row 3, column 4: measurement {y[3, 4]:.4g}; reconstruction {answer.image[3, 4]:.4g}"
    )
    expect(values).to_contain_text(f"ess {answer.ess[3, 4]:.4g}")
    cards = page.locator(".lx-patch")
    contributors = client.explain(y, sigma=0.1, pixel=(3, 4), top=12)
    expect(cards).to_have_count(1 + len(contributors))
    for number, contributor in enumerate(contributors):
        card = cards.nth(1 + number)
        expect(card).to_contain_text(f"{contributor.weight:.2%}")
        expect(card).to_contain_text(
            f"image {contributor.image}, row {contributor.row}, column {contributor.column}"
        )


def test_sigma_changes_the_answer_and_keys_move_the_cursor(
    page: Page, client: Client, picture: np.ndarray
) -> None:
    drop_one(page, picture)
    page.get_by_label("σ", exact=True).fill("0.37")
    answer = client.reconstruct(picture / np.float32(255), sigma=0.37)
    page.locator(".viewer-frame").nth(1).focus()
    page.keyboard.press("ArrowRight")
    values = page.locator(".lx-mono")
    expect(values).to_contain_text(
        re.compile(rf"^row 6, column 9: .* reconstruction {answer.image[6, 9]:.4g}")
    )
    page.keyboard.press("Enter")
    expect(page.get_by_text("Pixel at row 6, column 9: ")).to_be_visible()


def test_what_is_painted_is_filled_in_and_taken_along(
    page: Page, client: Client, picture: np.ndarray, tmp_path: Path
) -> None:
    drop_one(page, picture)
    page.get_by_text("Inpaint what I paint").click()
    expect(page.get_by_text("Radius of the brush")).to_be_visible()
    page.mouse.move(*point(page, 0, 5, 5, picture.shape))
    page.mouse.down()
    page.mouse.move(*point(page, 0, 5, 9, picture.shape))
    page.mouse.up()
    expect(page.locator(".viewer-frame").first.locator("img")).to_have_count(2)  # the veil is there

    rows, columns = np.indices(picture.shape)
    observed = (rows - 5) ** 2 + np.clip(np.maximum(5 - columns, columns - 9), 0, None) ** 2 > 4
    answer = client.reconstruct(picture / np.float32(255), sigma=0.1, mask=observed, maps=("variance", "ess"))
    page.mouse.move(*point(page, 1, 5, 7, picture.shape))
    values = page.locator(".lx-mono")
    expect(values).to_contain_text(
        re.compile(rf"^row 5, column 7: .* reconstruction {answer.image[5, 7]:.4g}")
    )

    with zipfile.ZipFile(io.BytesIO(download(page, "Download everything"))) as archive:
        archive.extractall(tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "mask.npy"), observed)
    with np.load(tmp_path / "result.npz") as taken:
        assert set(taken) == {"image", "variance", "ess"}
        np.testing.assert_array_equal(taken["image"][..., 0], answer.image)
        again = run_process([sys.executable, "call.py"], cwd=tmp_path)
        assert again.returncode == 0, again.stderr
        with np.load(tmp_path / "again.npz") as repeated:
            np.testing.assert_array_equal(repeated["variance"], taken["variance"])
    saved = np.asarray(PIL.Image.open(tmp_path / "reconstruction.png"))
    np.testing.assert_array_equal(saved, np.rint(np.clip(answer.image, 0, 1) * 255))


def test_modes_are_compared_on_an_example_that_is_measured_with_noise(page: Page) -> None:
    page.get_by_label("Or take an example").click()
    page.get_by_role("option", name="training image 0 ").click()
    expect(page.get_by_role("status").first).to_contain_text(re.compile(r"PSNR 1\d\.\d\d → "))
    page.get_by_role("button", name="Compare modes").click()
    # Mode hybrid may have to compile its loops.
    expect(page.get_by_text("The modes are compared below.")).to_be_visible(timeout=5 * PATIENCE)
    headings = page.get_by_label("Modes and call").get_by_role("heading")
    expect(headings).to_have_text(["exact", "auto", "topk", "hybrid"])
    expect(page.get_by_text("identical to exact").first).to_be_visible()


def test_work_is_cancelled_and_the_page_goes_on(page: Page, picture: np.ndarray) -> None:
    page.get_by_label("Or take an example").click()
    page.get_by_role("option", name="chelsea, 150").click()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("Cancelled.")).to_be_visible()
    drop_one(page, picture)


def test_several_files_have_their_own_results_and_errors(
    page: Page, client: Client, picture: np.ndarray
) -> None:
    drop(page, {"a.png": png(picture), "b.png": b"not a picture", "c.png": png(picture[:8])})
    expect(page.get_by_text("2 of 3 are reconstructed, 1 failed.")).to_be_visible()
    expect(page.get_by_role("alert").filter(has_text="b.png: ")).to_be_visible()
    with zipfile.ZipFile(io.BytesIO(download(page, "Download all results"))) as archive:
        assert sorted(archive.namelist()) == ["001-a.npz", "001-a.png", "003-c.npz", "003-c.png"]
        with np.load(io.BytesIO(archive.read("003-c.npz"))) as taken:
            expected = client.reconstruct(picture[:8] / np.float32(255), sigma=0.1).image
            np.testing.assert_array_equal(taken["image"][..., 0], expected)


def test_an_error_is_one_line_and_goes_with_the_next_answer(page: Page, picture: np.ndarray) -> None:
    drop(page, {"bad.png": b"not a picture"})
    failure = page.locator(".lx-failure")
    expect(failure).to_contain_text("bad.png: ")
    text = failure.inner_text()
    assert "\n" not in text
    assert "/tmp" not in text
    drop_one(page, picture)
    expect(failure).to_be_hidden()


def test_a_server_shows_colours_in_place_of_its_training_images(
    browser: Browser, server: Server, remote: Client, picture: np.ndarray
) -> None:
    with explorer("--server", server.address) as address, closing(visit(browser)) as page:
        page.goto(address)
        drop_one(page, picture)
        page.mouse.click(*point(page, 1, 2, 3, picture.shape))
        (first, *_) = remote.explain(picture / np.float32(255), sigma=0.1, pixel=(2, 3))
        level = round(255 * first.value[0])
        colour = page.get_by_label("Colour of the patch's centre").first
        expect(colour).to_have_css("background-color", f"rgb({level}, {level}, {level})")
        page.get_by_role("button", name="Show the Python call").click()
        expect(page.locator("pre")).to_contain_text(f"connect('grpc://{server.address}')")


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "/_nicegui/../../../etc/passwd", "/_nicegui/auto/static/etc/passwd"]
)
def test_files_of_the_machine_are_not_offered(address: str, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(address + path, timeout=60)
    with error.value:
        assert error.value.code in (400, 404)


def test_a_name_from_elsewhere_is_refused(address: str) -> None:
    request = urllib.request.Request(address, headers={"Host": "rebound.example"})
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request, timeout=60)
    with error.value:
        assert error.value.code == 400
