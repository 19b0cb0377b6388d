"""Sections of an index: together they are the index, and each is an index of its own."""

import pickle

import numpy as np
import pytest

from lemmse.contract.errors import DataLoss
from lemmse.index.reading.shard_view import split_shards
from tests.support.index_cases import CASES
from tests.support.indexes import everything
from tests.support.moments import moments_of

pytestmark = pytest.mark.slow


@pytest.fixture(
    scope="module", params=[case for case in CASES if case.several_shards], ids=lambda case: case.name
)
def index(request, tmp_path_factory):
    return request.param.build(tmp_path_factory.mktemp("sections") / "in")


@pytest.fixture(params=[1, 2, 3, 10**6])
def sections(request, index):
    found = split_shards(index, request.param)
    assert len(found) == min(request.param, index.manifest.shards)
    return found


def test_sections_are_the_index(index, sections):
    for array, parts in zip(everything(index), zip(*map(everything, sections), strict=True), strict=True):
        np.testing.assert_array_equal(np.concatenate(parts), array)
    parts = [moments_of(section.leaf_groups(), index.patch_length) for section in sections]
    for name, array in moments_of(index.leaf_groups(), index.patch_length).items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), array)
    for name in ("keys", "distinct", "cells", "leaves", "shards"):
        assert sum(getattr(s.manifest, name) for s in sections) == getattr(index.manifest, name)


def test_a_section_is_counted_from_0(index, sections):
    for section in sections:
        manifest = section.manifest
        assert (
            section.cell_keys[-1] == section.leaf_keys[-1] == manifest.distinct == len(section.multiplicity)
        )
        assert section.cell_leaves[-1] == len(section.leaf_keys) - 1 == manifest.leaves
        assert section.key_patches[-1] == manifest.keys
        assert section.stratum_cells[-1] == len(section.cell_keys) - 1 == manifest.cells


def test_patches_of_some_keys_are_told_in_their_order(sections):
    for section in sections:
        last = section.manifest.distinct - 1
        for keys in (np.array([last // 2, last, 0, last // 2]), np.arange(0)):
            expected = np.stack([section.key_patches[keys], section.key_patches[keys + 1]], axis=1)
            np.testing.assert_array_equal(section.patch_ranges(keys), expected)


def test_some_patches_are_read_in_their_order(sections):
    for section in sections:
        m = section.manifest.keys
        rows = np.array([m - 1, 0, m // 2, m - 1])
        np.testing.assert_array_equal(section.ids_of(rows), section.ids(0, m)[rows])
        np.testing.assert_array_equal(section.symmetries_of(rows), section.symmetries(0, m)[rows])


def test_keys_keep_their_stratum(index, sections):
    stratum = np.repeat(np.arange(len(index.strata)), np.diff(index.cell_keys[index.stratum_cells]))
    for section in sections:
        own = np.repeat(np.arange(len(index.strata)), np.diff(section.cell_keys[section.stratum_cells]))
        first = section.first_key
        np.testing.assert_array_equal(own, stratum[first : first + len(own)])


def test_sections_hold_about_as_much(index):
    sizes = [section.manifest.distinct for section in split_shards(index, 2)]
    edges = index.shard_offsets()[0]
    assert max(sizes) - min(sizes) <= np.diff(edges).max()


def test_another_process_reads_the_same(index):
    for section in split_shards(index, 2):
        assert section.leaf_keys.size  # what was read stays behind
        sent = pickle.dumps(section)
        assert len(sent) < len(pickle.dumps(section.manifest)) + 1000
        for a, b in zip(everything(pickle.loads(sent)), everything(section), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_section_is_verified_by_itself(tmp_path):
    case = next(case for case in CASES if case.several_shards)
    index = case.build(tmp_path / "in")
    first, *others = split_shards(index, index.manifest.shards)
    (index.folder / "shards/0000/neighbours.faiss").write_bytes(b"")
    with pytest.raises(DataLoss, match=r"index 'index' version 1: shards/0000/neighbours.faiss: expected"):
        first.verify()
    for other in others:
        other.verify()
    index.folder.rename(tmp_path / "elsewhere")
    with pytest.raises(DataLoss, match="every worker must see it there"):
        others[0].verify()
