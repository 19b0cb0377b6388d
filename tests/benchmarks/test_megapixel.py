"""Parts of an image, and that the program measures every method on them."""

import argparse
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.megapixel import ACCURACIES, BATCH, as_size, centre, crop, inside, main, read_image
from lemmse.index.sources import photograph

SIDE = 24


def numbered(height, width):
    return np.arange(height * width * 1.0).reshape(height, width, 1)


def test_a_size_is_width_and_height():
    assert as_size("256x128") == (128, 256)
    assert as_size("all") is None


@pytest.mark.parametrize("text", ["256", "0x4", "4x", "axb", "1x2x3", "-1x2"])
def test_another_size_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match=f"expected WIDTHxHEIGHT .*, got {text}"):
        as_size(text)


def test_the_centre_is_in_the_middle():
    image = numbered(8, 11)
    np.testing.assert_array_equal(centre(image, (2, 3)), image[3:5, 4:7])
    np.testing.assert_array_equal(centre(image, (20, 3)), image[:, 4:7])


def test_the_inside_has_no_border():
    image = numbered(8, 11)
    np.testing.assert_array_equal(inside(image, 2), image[2:6, 2:9])
    np.testing.assert_array_equal(inside(image, 0), image)


def test_crops_differ_and_are_no_larger_than_the_image():
    rng = np.random.default_rng(0)
    crops = [crop(numbered(40, 50), rng) for _ in range(4)]
    assert {part.shape for part in crops} == {(32, 32, 1)}
    assert len({part[0, 0, 0] for part in crops}) > 1
    assert crop(numbered(8, 50), rng).shape == (8, 32, 1)


def test_a_sample_is_a_photograph():
    np.testing.assert_allclose(read_image("sample:coffee") * 255, photograph("coffee"), atol=1e-4)


@pytest.fixture
def halves(monkeypatch):
    """A package bm3d that halves the image."""

    def halve(y, sigma):
        return y / 2

    monkeypatch.setitem(sys.modules, "bm3d", SimpleNamespace(bm3d=halve, bm3d_rgb=halve))


def run(monkeypatch, index, out):
    np.save(out / "test.npy", np.random.default_rng(7).random((1, SIDE, SIDE), np.float32))
    options = ["--sigmas", "0.1", "--part", "8", "--size", f"20x{SIDE}", "--out", str(out)]
    arguments = ["--index", str(index), "--test", str(out / "test.npy"), *options]
    monkeypatch.setattr(sys, "argv", ["benchmarks.megapixel", *arguments])
    main()
    return json.loads((out / "megapixel.json").read_text())


def test_every_method_is_measured(tiny_index, tmp_path, monkeypatch, halves, capsys):
    stored = run(monkeypatch, tiny_index, tmp_path)
    rows = {row["method"]: row for row in stored["rows"]}
    hybrids = [f"hybrid {db:g} dB" for db in ACCURACIES]
    assert list(rows) == ["noisy", *hybrids, "BM3D", "NLM", "exact"]
    assert stored["size"] == [SIDE, 20]
    assert rows["noisy"]["psnr"] == pytest.approx(20, abs=1)
    assert rows["noisy"]["seconds_per_megapixel"] is None
    assert rows["BM3D"]["bm3d_ratio"] == 1
    for name in hybrids:
        assert rows[name]["agreement_db"] > 60  # of 72 keys it sums all
        assert rows[name]["part_psnr"] == pytest.approx(rows["exact"]["part_psnr"], abs=0.1)
        ratio = rows["BM3D"]["seconds_per_megapixel"] / rows[name]["seconds_per_megapixel"]
        assert rows[name]["bm3d_ratio"] == pytest.approx(ratio)
    (batch,) = stored["batches"]
    assert (batch["sigma"], batch["crops"]) == (0.1, BATCH)
    assert batch["ratio"] == pytest.approx(batch["seconds_of_batch"] / batch["seconds_of_one"])
    printed = capsys.readouterr().out
    assert f"20×{SIDE} pixels, 72 keys, p = 3" in printed
    assert all(name in printed for name in rows)


def test_what_bm3d_answers_is_compared_with_the_clean_image(tiny_index, tmp_path, monkeypatch, halves):
    stored = run(monkeypatch, tiny_index, tmp_path)
    (found,) = (row["psnr"] for row in stored["rows"] if row["method"] == "BM3D")
    x = np.load(tmp_path / "test.npy")[0, :, 2:22, None].astype(np.float64)
    noise = 0.1 * np.random.default_rng([100000]).standard_normal(x.shape)
    off = np.clip((x + noise) / 2, 0, 1) - x
    assert found == pytest.approx(-10 * np.log10(np.mean(off**2)))


def test_without_bm3d_the_others_are_measured(tiny_index, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "bm3d", None)
    stored = run(monkeypatch, tiny_index, tmp_path)
    assert "BM3D" not in [row["method"] for row in stored["rows"]]
    assert {row["bm3d_ratio"] for row in stored["rows"]} == {None}
    assert "left out: BM3D needs bm3d, which is not installed: pip install '.[benchmarks]'" in (
        capsys.readouterr().out
    )
