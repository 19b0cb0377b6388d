"""`lemmse explain`: the contributors of a pixel, the images of a region, and their figures."""

import json
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from tests.support.commands import apart, invoke

Y = np.random.default_rng(6).random((6, 5), np.float32)
SIGMA = 0.2


@pytest.fixture(params=["remote", "embedded"])
def where(request, server, tiny_index):
    """Options that say who answers."""
    return ["--server", server.address] if request.param == "remote" else ["--index", str(tiny_index)]


@pytest.fixture
def run(tmp_path, monkeypatch, where):
    """Exit status, stdout and stderr of `lemmse explain y.npy`, but for its progress."""
    monkeypatch.chdir(tmp_path)
    np.save("y.npy", Y)

    def run(*arguments):
        status, stdout, stderr = invoke("explain", "y.npy", "--sigma", SIGMA, *where, *arguments)
        return status, stdout, apart(stderr)[1]

    return run


def test_a_pixel(run, embedded):
    status, stdout, stderr = run("--pixel", "5,0", "--top", 3, "--json", "--out", "new/pixel.png")
    assert (status, stderr) == (0, "")
    found = json.loads(stdout)
    expected = embedded.reconstruct(Y, sigma=SIGMA, mode="exact", maps=["ess", "variance"])
    assert found["pixel"] == [5, 0]
    assert found["value"] == pytest.approx([expected.image[5, 0]], abs=1e-6)
    assert found["spread"] == pytest.approx([np.sqrt(expected.variance[5, 0])], abs=1e-5)
    assert found["ess"] == pytest.approx(expected.ess[5, 0], rel=1e-4)
    contributors = embedded.explain(Y, sigma=SIGMA, pixel=(5, 0), top=3)
    assert [one["source"] for one in found["contributors"]] == [one.source for one in contributors]
    assert [one["weight"] for one in found["contributors"]] == pytest.approx([c.weight for c in contributors])
    assert "crop" not in found["contributors"][0]
    figure = iio.imread("new/pixel.png")
    assert figure.shape[0] > 100
    assert np.ptp(figure) > 100
    assert sorted(path.name for path in Path("new").iterdir()) == ["pixel.png"]


def test_a_pixel_in_words(run, embedded):
    status, stdout, _ = run("--pixel", "2,3", "--top", 2)
    assert status == 0
    first, second, third = stdout.splitlines()
    assert first.startswith("value 0.")
    assert "effective sample size" in first
    for line, one in zip((second, third), embedded.explain(Y, sigma=SIGMA, pixel=(2, 3), top=2), strict=True):
        assert line == f"{one.weight:8.2%}  {one.source}  row {one.row}, column {one.column}"


def test_sigma_is_estimated_in_the_whole_image(run, where, embedded):
    status, stdout, _ = run("--sigma", "auto", "--pixel", "2,3", "--top", 2, "--json")
    assert status == 0
    (sigma,) = embedded.estimate_noise(Y).sigma
    expected = embedded.explain(Y, sigma=sigma, pixel=(2, 3), top=2)
    found = json.loads(stdout)["contributors"]
    assert [one["weight"] for one in found] == pytest.approx([one.weight for one in expected], rel=1e-3)
    assert invoke("explain", "y.npy", *where, "--pixel", "2,3", "--top", 2, "--json")[1] == stdout


def test_a_region(run, embedded):
    status, stdout, stderr = run("--region", "4:6,1:4", "--top", 1, "--json", "--out", "region.pdf")
    assert (status, stderr) == (0, "")
    found = json.loads(stdout)
    shares = np.zeros(2)
    for pixel in np.ndindex(2, 3):
        for one in embedded.explain(Y, sigma=SIGMA, pixel=(pixel[0] + 4, pixel[1] + 1), top=72):
            shares[one.image] += one.weight / 6
    (only,) = found["shares"]
    assert only["image"] == shares.argmax()
    assert only["share"] == pytest.approx(shares.max())
    assert found["others"] == pytest.approx(shares.min())
    source = embedded.reconstruct(Y, sigma=SIGMA, mode="exact", maps=["source"]).source
    np.testing.assert_array_equal(found["source"], source[4:6, 1:4])
    at = tuple(only["pixel"])
    heaviest = embedded.explain(Y, sigma=SIGMA, pixel=at, top=72)
    assert only["heaviest"]["weight"] == pytest.approx(
        max(c.weight for c in heaviest if c.image == only["image"])
    )
    assert Path("region.pdf").read_bytes().startswith(b"%PDF")


def test_a_masked_image(run, embedded):
    mask = np.ones(Y.shape, np.uint8)
    mask[2] = 0
    np.save("mask.npy", mask)
    status, stdout, _ = run("--pixel", "2,2", "--mask", "mask.npy", "--json", "--top", 1, "--out", "m.svg")
    assert status == 0
    (one,) = embedded.explain(Y, sigma=SIGMA, mask=mask, pixel=(2, 2), top=1)
    assert json.loads(stdout)["contributors"][0]["weight"] == pytest.approx(one.weight)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "expected either --pixel or --region"),
        (("--pixel", "1,1", "--region", "0:1,0:1"), "expected either --pixel or --region"),
        (("--pixel", "1"), "expected ROW,COLUMN, such as 12,30, got '1'"),
        (("--pixel", "6,0"), "pixel: expected numbers >= 0 and below (6, 5), got (6, 0)"),
        (("--region", "1,2"), "expected ROW:ROW,COLUMN:COLUMN, such as 8:16,20:28, got '1,2'"),
        (("--region", "0:7,0:5"), "region: expected rows within 0:6 and columns within 0:5, got 0:7,0:5"),
        (("--region", "3:3,0:5"), "region: expected rows within"),
        (
            ("--pixel", "1,1", "--out", "x.jpg"),
            "out: expected a name that ends in .png, .pdf, .svg, got x.jpg",
        ),
        (("--pixel", "-1,1"), "pixel: expected numbers >= 0 and below (6, 5), got (-1, 1)"),
        (("--pixel", "1,1", "--out", "there.png"), "there.png exists; --overwrite replaces it"),
    ],
)
def test_bad_input(run, arguments, message):
    Path("there.png").write_text("kept")
    status, stdout, stderr = run(*arguments)
    assert (status, stdout) == (2, "")
    assert message in stderr
    assert stderr.count("\n") == 1
    assert Path("there.png").read_text() == "kept"


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.stack([Y, Y, Y], axis=2), "y.npy: expected 1 channels, as the index has, got 3 (YXS (6, 5, 3))"),
        (np.stack([Y[None], Y[None]]), "expected an image (H, W) or (H, W, C), got (2, 1, 6, 5)"),
    ],
)
def test_other_arrays_are_refused(run, y, message):
    np.save("y.npy", y)
    status, _, stderr = run("--pixel", "1,1")
    assert status == 2
    assert message in stderr
