"""The cells, leaves and moments of an index, and of an index without some of its images."""

from dataclasses import fields
from itertools import pairwise

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmse.estimator import Reconstructor
from lemmse.index import Index
from lemmse.index.clustering.groups import Groups
from lemmse.index.clustering.moments import Moments
from lemmse.index.reading.held_out_view import leave_out
from lemmse.index.storage.inverted_lists import to_search
from tests.support.cases import smooth
from tests.support.index_cases import CASES, Case, P, cases
from tests.support.indexes import everything
from tests.support.moments import EPS, moments_of, moments_oracle
from tests.support.oracle import agreement, patch

FAST = ("grey", "images of unequal size", "strata that exclude", "several shards of equal keys")


@pytest.fixture(scope="module", params=cases(FAST))
def case(request) -> Case:
    return request.param


@pytest.fixture(scope="module")
def whole(case, made_once) -> Index:
    return case.built(made_once)


@pytest.fixture(scope="module")
def rest(case, whole) -> Index:
    return leave_out(whole, np.array(case.held_out))


@pytest.fixture(scope="module")
def fresh(case, made_once) -> Index:
    """Built without the images."""
    return case.built(made_once, leave_out=case.held_out)


@pytest.fixture(scope="module", params=["whole", "rest"])
def index(request, whole, rest) -> Index:
    return {"whole": whole, "rest": rest}[request.param]


def kept(case, whole) -> list[int]:
    """Numbers of the keys whose images are left."""
    ids = whole.ids(0, whole.manifest.keys)
    return [number for number, (k, _, _) in enumerate(ids.tolist()) if k not in case.held_out]


def keys_of_cell(neighbours, cell) -> np.ndarray:
    """The keys of a cell, as FAISS has them."""
    lists = neighbours.invlists
    size = lists.list_size(cell)
    codes = (
        faiss.rev_swig_ptr(lists.get_codes(cell), size * lists.code_size) if size else np.zeros(0, np.uint8)
    )
    kind = np.uint8 if lists.code_size == neighbours.d else np.float32
    return codes.view(kind).reshape(size, neighbours.d)


def assert_same_lists(found, wanted) -> None:
    assert found.nlist == wanted.nlist
    for cell in range(found.nlist):
        np.testing.assert_array_equal(keys_of_cell(found, cell), keys_of_cell(wanted, cell))


def test_cells_and_leaves_tile_the_keys(index):
    m = index.manifest.distinct
    assert (index.leaf_keys[0], index.leaf_keys[-1]) == (0, m)
    assert (np.diff(index.leaf_keys) > 0).all()
    assert (index.cell_keys[0], index.cell_keys[-1]) == (0, m)
    assert (np.diff(index.cell_keys) >= 0).all()
    assert len(index.cell_keys) == len(index.cell_leaves) == index.manifest.cells + 1
    np.testing.assert_array_equal(index.leaf_keys[index.cell_leaves], index.cell_keys)
    assert index.cell_leaves[-1] == len(index.leaf_keys) - 1


def test_manifest_counts_leaves_and_keys(index):
    assert index.manifest.leaves == len(index.leaf_keys) - 1
    assert index.manifest.keys == len(index.ids(0, index.manifest.keys)) == index.key_patches[-1]
    assert index.manifest.distinct == len(index.keys(0, index.manifest.distinct)) == len(index.multiplicity)


def test_keys_are_distinct_in_their_stratum(case, index):
    edges = index.cell_keys[index.stratum_cells]
    keys = index.keys(0, index.manifest.distinct)
    for start, stop in pairwise(edges):
        assert len(np.unique(keys[start:stop], axis=0)) == stop - start
    assert (index.multiplicity > 0).all()
    if case.equal:
        assert index.manifest.distinct < index.manifest.keys


def test_patches_of_a_key_are_in_order(index):
    ids = index.ids(0, index.manifest.keys).tolist()
    assert len({tuple(row) for row in ids}) == len(ids)
    for start, stop in pairwise(index.key_patches):
        assert ids[start:stop] == sorted(ids[start:stop])


def test_patches_of_some_keys_are_told_in_their_order(index):
    keys = np.random.default_rng(0).permutation(index.manifest.distinct)[:100]
    expected = np.stack([index.key_patches[keys], index.key_patches[keys + 1]], axis=1)
    np.testing.assert_array_equal(index.patch_ranges(keys), expected)


def test_some_patches_are_read_in_their_order(index):
    rows = np.random.default_rng(0).permutation(index.manifest.keys)[:100]
    np.testing.assert_array_equal(index.ids_of(rows), index.ids(0, index.manifest.keys)[rows])
    assert not index.symmetries_of(rows).any()


def test_neighbours_have_the_keys_of_each_cell(index):
    keys = to_search(index.packed_keys.rows(0, index.manifest.distinct), index.quantization)
    for cell, (start, stop) in enumerate(pairwise(index.cell_keys)):
        # In the order of the keys, since a key is named by its cell and its place there.
        np.testing.assert_array_equal(keys_of_cell(index.neighbours, cell), keys[start:stop])
    index.neighbours.nprobe = index.neighbours.nlist
    squared, _ = index.neighbours.search(keys[::7], 1)
    assert (squared == 0).all()


def test_shards_are_as_many_as_are_there(case, whole):
    folders = sorted(path.name for path in (whole.folder / "shards").iterdir())
    assert folders == [f"{number:04}" for number in range(whole.manifest.shards)]
    assert (whole.manifest.shards > 1) == case.several_shards


def test_moments_of_leaves_are_those_of_the_stored_keys(index):
    keys, targets, _ = everything(index)
    rotated = (keys.astype(float) - index.basis.mean) @ index.basis.axes.astype(float)
    expected = moments_oracle(rotated, targets, index.key_patches[index.leaf_keys].tolist())
    # A coordinate is a sum of P products in float32: off by some EPS of the length of a key.
    off = 4 * np.sqrt(index.patch_length) * EPS * np.linalg.norm(rotated, axis=1).max()
    spread = np.ptp(rotated, axis=0).max()
    atol = {"mean": off, "variance": off * spread, "low": off, "high": off, "cross": off}
    moments = moments_of(index.leaf_groups(), index.patch_length)
    for field in fields(Moments):
        found = moments[field.name]
        assert found.dtype == np.float32
        np.testing.assert_allclose(
            found, expected[field.name], rtol=0, atol=atol.get(field.name, 8 * EPS), err_msg=field.name
        )


def test_keys_and_targets_are_those_of_the_image_at_the_ids(case, index):
    some = slice(None, None, 1 + index.manifest.keys // 1000)
    for v, t, (k, row, column) in zip(*(array[some] for array in everything(index)), strict=True):
        if case.physics == "identity":  # others are of what is measured, and white
            np.testing.assert_array_equal(v, patch(case.images[k], row, column, P).astype(np.float32))
        np.testing.assert_array_equal(t, case.images[k][row, column])


def test_cells_keep_to_their_stratum(case, index):
    assert index.manifest.strata == len(index.strata) == len(index.stratum_cells) - 1
    assert (index.manifest.strata > 1) == case.name.startswith("strata")
    _, _, ids = everything(index)
    edges = index.key_patches[index.cell_keys[index.stratum_cells]]
    for stratum, (start, stop) in enumerate(pairwise(edges)):
        for k, row, column in ids[start:stop].tolist():
            if case.name.startswith("strata"):
                scale = patch(index.problem.scale(case.images[k].shape), row, column, P)
                np.testing.assert_array_equal(scale, index.strata.scale[stratum])
    assert edges[-1] == len(ids)


def test_lacks_the_keys_of_the_images_and_no_other(case, whole, rest):
    numbers = kept(case, whole)
    assert rest.manifest.keys == len(numbers)
    assert (len(numbers) < whole.manifest.keys) == (case.name != "an image without keys")
    for found, of_whole in zip(everything(rest), everything(whole), strict=True):
        np.testing.assert_array_equal(found, of_whole[numbers])


@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_reads_any_run_of_keys(rest, data):
    u, m = rest.manifest.distinct, rest.manifest.keys
    for read, count in ((rest.keys, u), (rest.targets, m), (rest.ids, m)):
        start = data.draw(st.integers(0, count))
        stop = data.draw(st.integers(start, count))
        np.testing.assert_array_equal(read(start, stop), read(0, count)[start:stop])


def test_cells_and_leaves_stay_as_they_were_cut(case, whole, rest):
    numbers = np.array(kept(case, whole))

    def counts(edges):
        return [int(np.sum((start <= numbers) & (numbers < stop))) for start, stop in pairwise(edges)]

    in_leaves = counts(whole.key_patches[whole.leaf_keys])
    np.testing.assert_array_equal(np.diff(rest.key_patches[rest.leaf_keys]), [n for n in in_leaves if n])
    np.testing.assert_array_equal(
        np.diff(rest.key_patches[rest.cell_keys]), counts(whole.key_patches[whole.cell_keys])
    )
    left = [sum(n > 0 for n in in_leaves[first:end]) for first, end in pairwise(whole.cell_leaves)]
    np.testing.assert_array_equal(np.diff(rest.cell_leaves), left)
    np.testing.assert_array_equal(rest.stratum_cells, whole.stratum_cells)


def test_the_same_over_many_shards(tmp_path, monkeypatch):
    case = CASES[-1]
    expected = case.build(tmp_path / "one")
    monkeypatch.setattr("lemmse.index.storage.zarr_store.SHARD", 64)
    monkeypatch.setattr("lemmse.index.storage.zarr_store.CHUNK", 16)
    monkeypatch.setattr("lemmse.index.ranges.CHUNK", 16)
    whole = case.build(tmp_path / "many")
    view, expected_view = (leave_out(index, np.array(case.held_out)) for index in (whole, expected))
    for found, wanted in ((whole, expected), (view, expected_view)):
        np.testing.assert_array_equal(found.leaf_keys, wanted.leaf_keys)
        np.testing.assert_array_equal(found.multiplicity, wanted.multiplicity)
        for a, b in zip(everything(found), everything(wanted), strict=True):
            np.testing.assert_array_equal(a, b)
        assert_same_lists(found.neighbours, wanted.neighbours)
        for name, a, b in zip(Groups._fields, found.leaf_groups(), wanted.leaf_groups(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=16 * EPS, err_msg=name)


def test_without_no_image_is_the_index(whole):
    view = leave_out(whole, np.array([], np.int64))
    for a, b in zip(everything(view), everything(whole), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(view.leaf_keys, whole.leaf_keys)
    assert_same_lists(view.neighbours, whole.neighbours)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"mode": "exact"}, {"mode": "topk", "k": 10**6}], ids=["exact", "topk"])
def test_reconstructs_as_an_index_that_never_had_the_images(case, rest, fresh, options):
    view, built = Reconstructor(rest, device="cpu"), Reconstructor(fresh, device="cpu")
    clean = smooth(70, *case.sizes[0], case.channels)[:12, :12]
    for sigma in (0.01, 0.2, 0.8):
        y = clean + sigma * np.random.default_rng(2).standard_normal(clean.shape)
        found, expected = (
            lemmse.reconstruct(y, sigma=sigma, maps=["variance", "log_density"], **options)
            for lemmse in (view, built)
        )
        assert agreement(found.image, expected.image) > 80
        assert agreement(found.variance, expected.variance) > 80
        np.testing.assert_allclose(found.log_density, expected.log_density, atol=1e-2)
        assert found.diagnostics.keys == expected.diagnostics.keys


def test_contributors_are_of_the_images_that_are_left(case, rest):
    y = smooth(70, *case.sizes[0], case.channels)
    explanation = Reconstructor(rest, device="cpu").explain(y, sigma=0.5, pixel=(4, 5), top=50)
    for contributor in explanation.contributors:
        assert contributor.image not in case.held_out
        value = case.images[contributor.image][contributor.row, contributor.column]
        np.testing.assert_array_equal(contributor.value, value)
        assert contributor.source == rest.labels[contributor.image] == f"{contributor.image}.npy[0]"
