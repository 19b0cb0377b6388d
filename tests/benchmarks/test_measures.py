"""What several programs share: decibels, tables, and the index that is given or built."""

import argparse

import numpy as np
import pytest

from benchmarks.inputs import add_index_options, index_folder, read_images
from benchmarks.measures import decibels, print_rows, timed
from lemmse.index import open_index


def parsed(*arguments):
    parser = argparse.ArgumentParser()
    add_index_options(parser)
    return parser.parse_args(list(map(str, arguments)))


def test_a_tenth_is_20_db():
    assert decibels(np.full((2, 3), 0.1**2)) == pytest.approx(20)


def test_what_is_equal_has_the_most_decibels():
    assert decibels(np.zeros(3)) == 100
    assert decibels(np.zeros(3), most=120) == pytest.approx(120)


def test_a_call_is_timed():
    outcome, seconds = timed(lambda: "done")
    assert outcome == "done"
    assert 0 <= seconds < 1


def test_a_table_has_a_line_for_each_row(capsys):
    print_rows([{"method_name": "a", "db": 12.3456}, {"method_name": "b", "db": None}], "Title")
    printed = capsys.readouterr().out
    assert [word for word in printed.split() if word.isalnum()] == ["Title", "method", "name", "db", "a", "b"]
    assert "12.3 " in printed


def test_a_large_number_has_all_its_digits(capsys):
    print_rows([{"seconds": 8312.4}], "Title")
    assert "8312 " in capsys.readouterr().out


def test_a_given_index_is_used_as_it_is(tiny_index):
    before = {path: path.stat().st_mtime_ns for path in tiny_index.rglob("*")}
    with index_folder(parsed("--index", tiny_index)) as folder:
        assert folder == tiny_index
    assert {path: path.stat().st_mtime_ns for path in tiny_index.rglob("*")} == before


def test_a_source_is_built_and_calibrated_for_the_run(tmp_path):
    np.save(tmp_path / "images.npy", np.random.default_rng(0).random((5, 6, 6), np.float32))
    options = ["--source", tmp_path / "images.npy", "--limit", 4, "--patch-size", 3]
    with index_folder(parsed(*options)) as folder:
        manifest = open_index(folder).manifest
    assert (manifest.images, manifest.patch_size) == (4, 3)
    assert manifest.calibration is not None
    assert not folder.exists()


def test_one_of_index_and_source_is_given(tiny_index):
    for arguments in ([], ["--index", tiny_index, "--source", "images.npy"]):
        with pytest.raises(SystemExit):
            parsed(*arguments)


def test_as_many_images_are_read_as_there_are(tmp_path):
    np.save(tmp_path / "images.npy", np.full((3, 4, 5), 51, np.uint8))
    images = read_images(str(tmp_path / "images.npy"), 2)
    assert [image.shape for image in images] == [(4, 5, 1)] * 2
    assert images[0].dtype == np.float64
    np.testing.assert_allclose(images[0], 0.2, rtol=1e-6)
    assert len(read_images(str(tmp_path / "images.npy"), 9)) == 3
