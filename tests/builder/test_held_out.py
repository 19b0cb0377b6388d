"""What is held out is new to what is left: images of one file leave together."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmse.calibration import calibrate, hold_out
from lemmse.contract.errors import InvalidArgument
from lemmse.index import build, open_index
from tests.support.cases import smooth


def built(folder, counts, **options):
    """An index of files of so many images each."""
    sources = []
    for number, count in enumerate(counts):
        sources.append(folder / f"{number}.npy")
        np.save(sources[-1], np.stack([smooth(100 * number + k, 6, 6, 1) for k in range(count)]))
    return open_index(build(sources, folder / "index", patch_size=3, **options))


def held_out_of(counts, folder, most, seed=0):
    """Files that were left out, and files of the images to measure on."""
    file = np.repeat(np.arange(len(counts)), counts)
    view, images = hold_out(built(folder, counts), seed, most)
    left = np.unique(view.ids(0, view.manifest.keys)[:, 0])
    assert not np.intersect1d(left, view.images_out).size
    assert left.size + view.images_out.size == len(file)
    assert np.isin(images, view.images_out).all()
    return file[view.images_out], file[images]


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(
    counts=st.lists(st.integers(1, 4), min_size=2, max_size=8),
    most=st.integers(1, 6),
    seed=st.integers(0, 9),
)
def test_a_file_is_out_as_a_whole_or_not_at_all(tmp_path_factory, counts, most, seed):
    out, measured = held_out_of(counts, tmp_path_factory.mktemp("in"), most, seed)
    assert 1 <= len(out) <= sum(counts) // 2
    assert 1 <= len(measured) <= most
    for number in np.unique(out):
        assert np.count_nonzero(out == number) == counts[number] or counts[number] > sum(counts) // 2


def test_several_files_are_measured_on(tmp_path):
    out, measured = held_out_of([3] * 10, tmp_path, most=2)
    assert len(np.unique(out)) == 4
    assert len(measured) == 2 == len(np.unique(measured))


def test_images_of_one_file_are_each_for_themselves(tmp_path):
    out, _ = held_out_of([10], tmp_path, most=5)
    assert len(out) == 5


def test_a_file_of_many_images_is_a_collection(tmp_path):
    out, _ = held_out_of([65, 65, 65], tmp_path, most=5)
    assert len(out) == 5


@pytest.mark.slow
def test_tiles_of_a_photograph_leave_together(tmp_path):
    index = open_index(build(["sample:photos"], tmp_path / "index", patch_size=1))
    view, images = hold_out(index, seed=0)
    shown = np.array([label.partition("[")[0] for label in index.labels])
    kept = np.setdiff1d(np.arange(len(shown)), view.images_out)
    assert len(images) == 16
    assert not np.intersect1d(shown[view.images_out], shown[kept]).size
    assert len(np.unique(shown[images])) == len(np.unique(shown[view.images_out])) == 2


def test_every_stratum_keeps_keys(tmp_path):
    """The second image alone holds a patch, and the seed has it leave."""
    np.save(tmp_path / "small.npy", smooth(0, 4, 4, 1)[None])
    np.save(tmp_path / "large.npy", smooth(1, 7, 7, 1)[None])
    sources = [tmp_path / "small.npy", tmp_path / "large.npy"]
    index = open_index(build(sources, tmp_path / "index", patch_size=7, boundary="valid"))
    with pytest.raises(InvalidArgument, match="of which one can be held out, got too few"):
        hold_out(index, seed=0, most=1)


def test_both_measurements_share_what_was_computed(tmp_path):
    index = built(tmp_path, [3, 3])
    held_out = hold_out(index, seed=0)
    curve = calibrate(index, held_out=held_out, sigmas=[0.5])
    known = held_out.view.with_calibration(curve)
    assert (known.manifest.calibration, held_out.view.manifest.calibration) == (curve, None)
    assert known.sketch is held_out.view.sketch
    assert known.packed_keys is held_out.view.packed_keys
    assert curve.images == len(held_out.numbers)
