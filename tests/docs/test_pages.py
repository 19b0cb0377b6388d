"""The README and the tutorials do what they say, and no page names a flag that does not exist."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

from lemmse.client import cli
from tests.support.pages import ROOT, Page

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    monkeypatch.chdir(tmp_path)
    page = Page()
    yield page
    page.close()


def test_first_five_minutes(page: Page) -> None:
    page.run(ROOT / "docs/start.md")
    assert page.names["after"] > page.names["before"] + 3


def test_microscope(page: Page) -> None:
    page.run(ROOT / "docs/tutorials/microscope.md")
    assert page.names["after"] < page.names["before"] / 2


def test_unknown_noise(page: Page) -> None:
    page.run(ROOT / "docs/tutorials/unknown-noise.md")
    names = page.names
    assert abs(names["estimate"].sigma[0] - 0.08) < 0.004
    assert abs(names["d"].expected_psnr_db - names["psnr"](names["r"].image)) < 5
    assert names["other"].misfit > 10 * names["d"].misfit
    assert abs(names["r"].diagnostics.gain - 1 / 40) < 0.005


def test_deblur(page: Page) -> None:
    page.run(ROOT / "docs/tutorials/deblur.md")
    assert page.names["after"] > page.names["before"] + 2


def test_masks(page: Page) -> None:
    page.run(ROOT / "docs/tutorials/masks.md")
    for image in ("demosaicked", "inpainted"):
        assert page.names["psnr"](page.names[image]) > 24


def test_unlike(page: Page) -> None:
    page.run(ROOT / "docs/tutorials/unlike.md")
    assert page.names["marked"].mean() > 0.1


def test_sampling(page: Page) -> None:
    page.run(ROOT / "docs/sampling.md")
    assert np.asarray(Image.open("grid.png")).shape == (49, 49)
    np.testing.assert_array_equal(np.load("stack.npy"), page.names["images"])
    known, images, completed = (page.names[name] for name in ("known", "images", "completed"))
    np.testing.assert_allclose(completed[:, known], images[[0, 0]][:, known], atol=1e-6)
    assert (completed[:, ~known] != images[[0, 0]][:, ~known]).mean() > 0.5
    error = lambda one: np.square(one - images[0]).mean()  # noqa: E731
    assert error(page.names["possible"]) < error(page.names["noisy"]) / 2


@pytest.mark.slow
def test_batch(page: Page) -> None:
    page.run(ROOT / "docs/tutorials/batch.md")
    assert sorted(path.name for path in Path("denoised").iterdir()) == [f"{n}.tif" for n in range(4)]
    assert "broken.tif" in str(page.names["failures"])
    assert [isinstance(one, page.names["LemmseError"]) for one in page.names["results"]] == [
        False,
        False,
        True,
        False,
    ]


@pytest.mark.slow
def test_readme(page: Page) -> None:
    rng = np.random.default_rng(0)
    Path("photos").mkdir()
    for number in range(2):
        Image.fromarray(rng.integers(0, 255, (12, 12), np.uint8)).save(f"photos/{number}.png")
    Image.fromarray(rng.integers(0, 255, (16, 16), np.uint8)).save("noisy.png")
    page.run(ROOT / "README.md")
    assert page.names["r"].variance.shape == (16, 16)
    assert Path("clean.png").exists()
    assert page.printed.getvalue().count(".png") == 3
    page.names["lemmse"].close()


def commands() -> list[tuple[str, str]]:
    """Pages and the lines in which they call `lemmse`, continued lines joined."""
    found = []
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        fenced = "\n".join(re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
        lines = re.findall(r"^ {4}(lemmse [a-z].*)$", text, re.MULTILINE)
        lines += re.findall(r"^(lemmse [a-z].*)$", fenced, re.MULTILINE)
        found += [(page.name, line) for line in lines]
    return found


def test_every_flag_in_a_page_is_one_of_its_command() -> None:
    lines = commands()
    assert len(lines) > 40
    context = click.Context(cli.main)
    for page, line in lines:
        name = line.split()[1]
        command = cli.main.get_command(context, name)
        assert command, (page, line)
        known = {flag for one in command.params for flag in (*one.opts, *one.secondary_opts)} | {"--help"}
        named = set(re.findall(r"(?<=\s)--[a-z][a-z-]*", line.partition("#")[0]))
        assert named <= known, (page, line)


def test_targets_of_make_in_the_readme_exist() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"\bmake ([a-z-]+)", (ROOT / "README.md").read_text())
    assert set(named) == {"demo", "test", "docs"}
    assert set(named) <= set(targets)


def test_links_to_files_lead_somewhere() -> None:
    """Of the pages that the site does not check: the README is read where the repository is."""
    links = re.findall(r"\]\((?!http)([^)#]+)", (ROOT / "README.md").read_text())
    assert links
    for link in links:
        assert (ROOT / link).exists(), link
