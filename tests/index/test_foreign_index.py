"""An index from somebody else, whatever is in its files: an error of this package, or an answer."""

import json
import resource
import shutil
import struct
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
import zarr
from google_crc32c import value
from hypothesis import HealthCheck, given, settings
from numcodecs.zstd import Zstd

from lemmse.calibration import calibrate
from lemmse.contract.errors import DataLoss, LemmseError
from lemmse.estimator import Reconstructor
from lemmse.index import build, open_index
from lemmse.index.reading import verify
from lemmse.index.storage.manifest import _self_checksum, checksum
from tests.support.cases import smooth
from tests.support.commands import invoke

Y = np.random.default_rng(9).random((5, 5)).astype(np.float32)
WAYS = ({"mode": "exact"}, {"mode": "topk", "k": 3}, {"estimator": "e-mmse"}, {"gaussian_share": 0.5})
SHARD = "shards/0000/arrays.zarr"
RESIDENT = 400 << 20
"""Most that the memory of the process may grow by, in bytes."""


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("foreign")
    np.save(folder / "x.npy", np.random.default_rng(0).random((4, 5, 5)).astype(np.float32))
    return build([folder / "x.npy"], folder / "index", patch_size=3)


@pytest.fixture(scope="module")
def expected(index):
    return answers(index)


def answers(folder):
    """All that is answered, each of which reads other files."""
    opened = open_index(folder)
    lemmse = Reconstructor(opened, device="cpu")
    images = [lemmse.reconstruct(Y, sigma=0.2, **options).image for options in WAYS]
    lemmse.explain(Y, sigma=0.2, pixel=(2, 2), top=4)
    return images


def copied(index, tmp_path_factory):
    return shutil.copytree(index, tmp_path_factory.mktemp("copy") / "index")


def reseal(folder, change=lambda content: None):
    """Change the manifest, and write it with all checksums as they should be."""
    version = folder / "1"
    content = json.loads((version / "manifest.json").read_text())
    content.pop("manifest_sha256")
    for name in content["files"]:
        entry = checksum(version / name)
        content["files"][name] = {"bytes": entry.bytes, "sha256": entry.sha256}
    change(content)
    content["manifest_sha256"] = _self_checksum(json.loads(json.dumps(content)))
    (version / "manifest.json").write_text(json.dumps(content))


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


FUZZ = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def damages(draw, index):
    """A change of one file, or of two: what it does to their bytes."""
    files = sorted(
        path for path in (index / "1").rglob("*") if path.is_file() and path.name != "manifest.json"
    )
    path = draw(st.sampled_from(files))
    content = path.read_bytes()
    kind = draw(st.sampled_from(["flip", "cut", "swap", "number", "extend"]))
    if kind == "swap":
        return path, draw(st.sampled_from(files)).read_bytes()
    if kind == "cut":
        return path, content[: draw(st.integers(0, len(content) - 1))]
    if kind == "extend":
        return path, content + draw(st.binary(min_size=1, max_size=20))
    if kind == "number" and len(content) >= 8:
        at = draw(st.integers(0, (len(content) - 8) // 8)) * 8
        number = draw(st.sampled_from([0, 1, -1, 1 << 31, 1 << 62, -(1 << 63)]))
        return path, content[:at] + struct.pack("<q", number) + content[at + 8 :]
    at = draw(st.integers(0, len(content) - 1))
    return path, content[:at] + bytes([content[at] ^ draw(st.integers(1, 255))]) + content[at + 1 :]


@pytest.mark.parametrize("sealed", [False, True], ids=["as it was sealed", "sealed again"])
@pytest.mark.filterwarnings("ignore")  # of NumPy and Zarr, about what they find
def test_damaged_files(index, expected, tmp_path_factory, sealed):
    @FUZZ
    @given(damages(index))
    def check(damage):
        path, content = damage
        folder = copied(index, tmp_path_factory)
        own = folder / path.relative_to(index)
        same = own.read_bytes() == content
        own.write_bytes(content)
        before, refused = peak(), ""
        if sealed:
            reseal(folder)
        try:
            found = answers(folder)
            verify(open_index(folder))
        except LemmseError as error:
            refused = str(error)
        if refused:
            assert not same
        else:
            assert sealed or same  # otherwise it is another index, whose checksums are right
            assert [image.shape for image in found] == [image.shape for image in expected]
        assert "\n" not in refused
        assert peak() - before < RESIDENT
        shutil.rmtree(folder.parent)

    check()


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrated")
    np.save(folder / "x.npy", np.stack([smooth(k, 16, 16, 1)[..., 0] for k in range(12)]))
    index = open_index(build([folder / "x.npy"], folder / "index", patch_size=3))
    return index.folder.parent, calibrate(index, sigmas=[0.2])


@pytest.mark.parametrize(
    ("array", "number", "answers"),
    [("target_high", np.nan, False), ("variance", np.nan, True), ("variance", 3e38, True)],
)
@pytest.mark.filterwarnings("ignore")  # of NumPy, about the numbers
def test_statistics_that_no_keys_have(calibrated, tmp_path_factory, array, number, answers):
    """Hybrid gives an image of numbers, or is refused."""
    index, curve = calibrated
    folder = copied(index, tmp_path_factory)
    stored = zarr.open_group(str(folder / "1" / SHARD / "leaves"), mode="r+")[array]
    numbers = stored[:]
    numbers.flat[::7] = number
    stored[:] = numbers
    reseal(folder)
    damaged = open_index(folder)
    damaged = replace(damaged, manifest=replace(damaged.manifest, calibration=curve))
    asked = {"sigma": 0.2, "mode": "hybrid", "accuracy_db": 50, "maps": ["error"]}
    y = smooth(500, 24, 24, 1)[..., 0] + 0.2 * np.random.default_rng(1).standard_normal((24, 24))
    if answers:
        result = Reconstructor(damaged, device="cpu").reconstruct(y, **asked)
        assert np.isfinite([result.image, result.error]).all()
    else:
        with pytest.raises(DataLoss, match="the answer is not a number"):
            Reconstructor(damaged, device="cpu").reconstruct(y, **asked)


_NUMBERS = st.one_of(
    st.integers(-(1 << 70), 1 << 70),
    st.floats(),
    st.sampled_from([0, 1, 2, 3, 35, 36, 37, 1 << 31, None, True, "", "9", [], {}]),
)
_MEANING = {"lemmse", "sources", "digest", "seed", "condition", "boundary", "physics", "pre_inverse"}
"""Fields that tell how the numbers came about, or what they mean: with others, it is another index."""


@pytest.mark.filterwarnings("ignore")
def test_altered_manifests(index, expected, tmp_path_factory):
    fields = sorted(
        json.loads((index / "1" / "manifest.json").read_text()).keys() - {"manifest_sha256", "files"}
    )

    @FUZZ
    @given(st.sampled_from(fields), _NUMBERS)
    def check(field, value):
        folder = copied(index, tmp_path_factory)
        before, found, refused = peak(), [], ""
        reseal(folder, lambda content: content.update({field: value}))
        try:
            found = answers(folder)
        except LemmseError as error:
            refused = str(error)
        for a, b in zip(found, expected, strict=not refused):
            assert a.shape == b.shape
            if field not in _MEANING:
                np.testing.assert_array_equal(a, b)
        assert "\n" not in refused
        assert peak() - before < RESIDENT
        shutil.rmtree(folder.parent)

    check()


def metadata(folder, array, change):
    """Change the metadata of an array."""
    path = folder / "1" / array / "zarr.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def larger(content):
    content["shape"][0] = 1 << 40


def chunked(content):
    content["chunk_grid"]["configuration"]["chunk_shape"][0] = 1 << 30
    content["codecs"][0]["configuration"]["chunk_shape"][0] = 1 << 30


@pytest.mark.parametrize(
    ("array", "change", "words"),
    [
        ("arrays.zarr/images/pixels", larger, "claim"),
        (f"{SHARD}/cells/keys", larger, "claim"),
        (f"{SHARD}/keys", larger, "metadata that no build writes"),
        (f"{SHARD}/ids", chunked, "metadata that no build writes"),
        (
            f"{SHARD}/ids",
            lambda content: content.update(data_type="int64"),
            "ids: expected int32 any × 3, got int64",
        ),
        (f"{SHARD}/ids", lambda content: content.update(data_type="string"), "ids has damaged metadata"),
    ],
)
def test_a_claim_is_refused_before_memory_is_taken(index, tmp_path_factory, array, change, words):
    folder = copied(index, tmp_path_factory)
    metadata(folder, array, change)
    reseal(folder)
    before = peak()
    status, _, stderr = invoke("inspect", folder, "--verify")
    assert (status, words in stderr, stderr.count("\n")) == (2, True, 1)
    assert peak() - before < RESIDENT


def test_a_chunk_that_would_decode_to_more_is_refused(index, tmp_path_factory):
    folder = copied(index, tmp_path_factory)
    path = folder / "1" / SHARD / "counts" / "c" / "0"
    frame = Zstd(level=1, checksum=True).encode(bytes(1 << 28))
    table = struct.pack("<QQ", 0, len(frame))
    path.write_bytes(frame + table + struct.pack("<I", value(table)))
    reseal(folder)
    before = peak()
    with pytest.raises(DataLoss, match="counts/c/0 has chunks of another size"):
        open_index(folder)
    assert peak() - before < RESIDENT / 4


def test_a_large_manifest_is_not_read(index, tmp_path_factory):
    folder = copied(index, tmp_path_factory)
    with (folder / "1" / "manifest.json").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(DataLoss, match=r"manifest\.json is damaged"):
        open_index(folder)
    (folder / "1" / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(DataLoss, match=r"manifest\.json is damaged"):
        open_index(folder)


@pytest.mark.parametrize("name", ["../x.npy", "/etc/passwd", "a//b", "a/../b", "manifest.json", "a\n", ""])
def test_files_outside_are_not_named(index, tmp_path_factory, name):
    folder = copied(index, tmp_path_factory)
    entry = {"bytes": 0, "sha256": "0" * 64}
    reseal(folder, lambda content: content["files"].update({name: entry}))
    with pytest.raises(DataLoss, match=r"manifest\.json: files has a value"):
        open_index(folder)


@pytest.mark.parametrize("array", ["cells/keys", "cells/leaves", "leaves/keys", "leaves/patches"])
@pytest.mark.parametrize("numbers", [{0: 1}, {-1: 1 << 40}, {1: -1}, {1: 1 << 40}, {0: 5, 1: 0}])
def test_offsets_that_lead_nowhere_are_refused(index, tmp_path_factory, array, numbers):
    folder = copied(index, tmp_path_factory)
    group = zarr.open_group(str(folder / "1" / SHARD), mode="r+")
    offsets = group[array][:]
    for place, number in numbers.items():
        offsets[place] = number
    group[array][:] = offsets
    reseal(folder)
    with pytest.raises(DataLoss, match=r"leads nowhere|do not begin with a leaf|expected int64"):
        open_index(folder)


def test_ids_of_other_images_are_refused(index, tmp_path_factory):
    for number in (-1, 4, 1 << 30):
        folder = copied(index, tmp_path_factory)
        group = zarr.open_group(str(folder / "1" / SHARD), mode="r+")
        group["ids"][:] = number
        reseal(folder)
        lemmse = Reconstructor(open_index(folder), device="cpu")
        with pytest.raises(DataLoss, match="does not exist"):
            lemmse.explain(Y, sigma=0.2, pixel=(2, 2))
