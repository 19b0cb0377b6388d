"""Versions without some training images: what they hold, and that nothing of the images is left in them."""

import json
import shutil
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmse.contract.errors import InvalidArgument
from lemmse.estimator import Reconstructor
from lemmse.index import Index, build, open_index, remove
from lemmse.index.reading import verify
from lemmse.index.storage.folder import current_version
from tests.support.cases import smooth
from tests.support.index_cases import Case, cases
from tests.support.indexes import everything
from tests.support.oracle import agreement, oracle

FAST = ("grey", "strata that exclude", "several shards", "several shards of equal keys", "all but one")
MAPS = ("variance", "ess", "log_density")


@pytest.fixture(scope="module", params=cases(FAST))
def case(request) -> Case:
    return request.param


@pytest.fixture(scope="module")
def rest(case, made_once, tmp_path_factory) -> Index:
    whole = case.built(made_once).folder.parent
    own = shutil.copytree(whole, tmp_path_factory.mktemp("whole") / "index")
    return open_index(remove([f"{k}.npy" for k in case.held_out], own))


@pytest.fixture(scope="module")
def fresh(case, made_once) -> Index:
    return case.built(made_once, leave_out=case.held_out)


def rows(index: Index) -> set[tuple]:
    return {(*v, *t, *i) for v, t, i in zip(*(array.tolist() for array in everything(index)), strict=True)}


def test_has_the_patches_of_a_fresh_build(case, rest, fresh):
    verify(rest)
    assert rest.version == "2"
    assert rows(rest) == rows(fresh)
    assert rest.labels == fresh.labels
    for name in ("digest", "images", "keys", "distinct", "strata", "channels", "dtype"):
        assert getattr(rest.manifest, name) == getattr(fresh.manifest, name), name
    assert [source.rpartition("/")[2] for source in rest.manifest.sources] == [
        source.rpartition("/")[2] for source in fresh.manifest.sources
    ]
    assert rest.manifest.removed == len(case.held_out)
    for k in range(rest.manifest.images):
        np.testing.assert_array_equal(rest.image(k), fresh.image(k))
    np.testing.assert_array_equal(rest.patches_of_images, fresh.patches_of_images)


@pytest.mark.parametrize("options", [{"mode": "exact"}, {"mode": "topk", "k": 10**6}], ids=["exact", "topk"])
def test_answers_as_a_fresh_build(case, rest, fresh, options):
    one, other = (Reconstructor(index, device="cpu") for index in (rest, fresh))
    y = smooth(70, *case.sizes[0], case.channels)
    for sigma in (0.02, 0.4):
        found, expected = (
            lemmse.reconstruct(y, sigma=sigma, maps=MAPS, **options) for lemmse in (one, other)
        )
        assert agreement(found.image, expected.image) > 80
        assert agreement(found.variance, expected.variance) > 80
        np.testing.assert_allclose(found.ess, expected.ess, rtol=1e-3)
        np.testing.assert_allclose(found.log_density, expected.log_density, atol=1e-2)
    if case.physics == "identity":
        bound = one.reconstruct(y, sigma=0.2, mode="hybrid", maps=["error"], error="certified")
        exact = other.reconstruct(y, sigma=0.2, mode="exact")
        assert (np.abs(bound.image - exact.image) <= bound.error).all()


def pictures(folder, training) -> list:
    sources = []
    for k, image in enumerate(training):
        sources.append(folder / f"{k}.npy")
        np.save(sources[-1], image[None])
    return sources


@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_removals_one_after_the_other_are_the_formula_of_what_is_left(tmp_path_factory, data):
    count, equal = data.draw(st.integers(3, 6)), data.draw(st.integers(0, 2))
    folder = tmp_path_factory.mktemp("in")
    training = [smooth(max(0, k - equal), 6, 5, 1) for k in range(count)]
    augment = data.draw(st.sampled_from(["none", "dihedral"]))
    index = build(pictures(folder, training), folder / "index", patch_size=3, augment=augment)
    left = list(range(count))
    for _ in range(2):
        out = data.draw(st.sets(st.sampled_from(left), min_size=1, max_size=len(left) - 1))
        left = [k for k in left if k not in out]
        remove([f"{k}.npy[0]" for k in out], index)
        if len(left) == 1:
            break
    turns = range(8) if augment == "dihedral" else range(1)
    copies = [
        np.rot90(x[:, ::-1] if s >= 4 else x, s % 4) for x in (training[k] for k in left) for s in turns
    ]
    y = smooth(9, 4, 4, 1)
    found = Reconstructor(open_index(index), device="cpu").reconstruct(y, sigma=0.1, mode="exact", maps=MAPS)
    expected = oracle(copies, y, 0.1, 3)
    assert agreement(found.image, expected.image) > 80
    np.testing.assert_allclose(found.ess, expected.ess, rtol=1e-3)
    np.testing.assert_allclose(found.log_density, expected.log_density, atol=1e-2)


@pytest.fixture
def index(tmp_path):
    training = [smooth(k, 9, 9, 1) for k in range(5)]
    return build(pictures(tmp_path, training), tmp_path / "index", patch_size=3)


def test_refit_is_a_fresh_build(tmp_path, index):
    remove(["1.npy"], index)
    before = open_index(index)
    fitted = open_index(remove(["3.npy"], index, refit=True))
    sources = [tmp_path / f"{k}.npy" for k in (0, 2, 4)]
    fresh = open_index(build(sources, tmp_path / "fresh" / "index", patch_size=3))
    assert (before.manifest.removed, fitted.manifest.removed, fitted.version) == (1, 0, "3")
    assert fitted.manifest.sources == fresh.manifest.sources
    assert fitted.manifest.files == fresh.manifest.files
    again = open_index(remove([], index, refit=True))
    assert again.manifest.files == fresh.manifest.files


def test_nothing_of_the_images_is_left_once_older_versions_are_deleted(tmp_path):
    name = "someone's secret.npy"
    training = [np.zeros((9, 9, 1), np.float32), smooth(1, 9, 9, 1)]
    training[0][:] = np.frombuffer(b"\x2a\x13\x37\x3f", "<f4")
    for file, image in zip((name, "other.npy"), training, strict=True):
        np.save(tmp_path / file, image[None])
    index = build([tmp_path / name, tmp_path / "other.npy"], tmp_path / "index", patch_size=1)
    remove([name], index)
    shutil.rmtree(index / "1")
    rest = open_index(index)
    assert not np.isin(rest.keys(0, rest.manifest.distinct), training[0]).any()
    for path in index.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"secret" not in content, path
            if "centroids" not in str(path):  # what was fitted holds a trace
                assert training[0][0, 0].tobytes() not in content, path
    assert Reconstructor(rest, device="cpu").reconstruct(training[1], sigma=0.1).image.shape == (9, 9, 1)


def test_shards_without_a_patch_of_the_images_are_linked(tmp_path, monkeypatch):
    monkeypatch.setattr("lemmse.index.building.removal.IN_MEMORY", 100)
    bright = [np.full((8, 8, 1), 0.9, np.float32) * smooth(k, 8, 8, 1) ** 0.01 for k in range(3)]
    dark = [0.1 * smooth(k, 8, 8, 1) for k in range(3)]
    monkeypatch.setattr("lemmse.index.building.state.BuildState._capacity", lambda state, channels: 150)
    index = build(pictures(tmp_path, bright + dark), tmp_path / "index", patch_size=3)
    whole = open_index(index)
    of_shard = [set(view_ids[:, 0]) for view_ids in _ids_of_shards(whole)]
    untouched = [number for number, images in enumerate(of_shard) if 0 not in images]
    assert untouched
    remove(["0.npy"], index)
    rest = open_index(index)
    verify(rest)
    assert rest.manifest.shards == whole.manifest.shards
    for number in range(whole.manifest.shards):
        keys = f"shards/{number:04}/arrays.zarr/keys/c/0/0/0"
        same = (index / "1" / keys).stat().st_ino == (index / "2" / keys).stat().st_ino
        assert same == (number in untouched)
    verify(open_index(index, version="1"))


def _ids_of_shards(index: Index):
    _, patches, _, _ = index.shard_offsets()
    return [index.ids(a, b) for a, b in pairwise(patches.tolist())]


def test_an_interrupted_removal_begins_again(index, monkeypatch):
    class Stopped(Exception):
        pass

    def stop(stage, done, total):
        if stage == "write shards" and done == 1:
            raise Stopped

    with pytest.raises(Stopped):
        remove(["1.npy"], index, progress=stop)
    assert current_version(index)[0] == "1"
    with pytest.raises(InvalidArgument, match=r"^remove: expected 1.npy to go on .*, got 2.npy"):
        remove(["2.npy"], index)
    rest = open_index(remove(["1.npy"], index))
    assert rest.labels == [f"{k}.npy[0]" for k in (0, 2, 3, 4)]
    assert not (index.parent / ".index.building").exists()


def test_the_calibration_stays_with_a_tenth_removed_at_most(index, monkeypatch):
    from lemmse.calibration import calibrate_index

    calibrated, _ = calibrate_index(open_index(index))
    monkeypatch.setattr("lemmse.index.building.removal._CALIBRATED", 0.2)
    assert open_index(remove(["1.npy"], index)).manifest.calibration == calibrated
    assert open_index(remove(["2.npy"], index)).manifest.calibration is None


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["1.npx"], r"remove: expected the source .* of 'index', got '1.npx'; did you mean '1.npy' or"),
        (["nothing like it"], "got 'nothing like it'; lemmse inspect --images lists them"),
        ([], "expected names of images to remove, got none"),
        ([f"{k}.npy" for k in range(5)], "expected some images of 'index' to remain, got all 5"),
    ],
)
def test_names_that_stand_for_nothing_are_refused(index, names, message):
    with pytest.raises(InvalidArgument, match=message):
        remove(names, index)
    assert current_version(index)[0] == "1"


def test_an_image_without_which_a_pattern_of_the_mask_is_lost_needs_a_refit(tmp_path):
    sources = pictures(tmp_path, [smooth(0, 6, 6, 1), smooth(1, 8, 8, 1)])
    options = {"patch_size": 3, "physics": "inpaint:random:30", "pre_inverse": "mask"}
    index = build(sources, tmp_path / "index", **options)
    with pytest.raises(InvalidArgument, match=r"strata to remain.*use --refit"):
        remove(["0.npy"], index)
    rest = open_index(remove(["0.npy"], index, refit=True))
    fresh = open_index(build(sources[1:], tmp_path / "fresh" / "index", **options))
    assert rest.manifest.files == fresh.manifest.files


def test_a_manifest_without_the_number_of_removed_images_is_read(index):
    from lemmse.index.storage.manifest import _self_checksum

    file = index / "1" / "manifest.json"
    content = json.loads(file.read_text())
    del content["removed"], content["manifest_sha256"]
    content["manifest_sha256"] = _self_checksum(content)
    file.write_text(json.dumps(content))
    assert open_index(index).manifest.removed == 0
