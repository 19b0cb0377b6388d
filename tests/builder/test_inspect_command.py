"""`lemmse inspect`: at once, and all of an index."""

import json
import shutil
from dataclasses import replace

import faiss
import pytest

from lemmse.index import open_index
from lemmse.index.storage.manifest import Manifest, checksum
from tests.support.commands import apart, invoke

pytestmark = pytest.mark.slow


@pytest.fixture
def index(tiny_index, tmp_path):
    shutil.copytree(tiny_index, tmp_path / "tiny")
    return tmp_path / "tiny"


def files_of(index):
    return [index / "1" / name for name in open_index(index).manifest.files]


def require_loss(result, words):
    status, stdout, stderr = result
    assert (status, stdout) == (2, "")
    (line,) = stderr.splitlines()
    assert line.startswith("lemmse: error: index 'tiny' version 1: ")
    assert words in line


def test_verify_reads_all_and_says_so(index):
    status, stdout, stderr = invoke("inspect", index, "--verify", "--json")
    lines, rest = apart(stderr)
    assert (status, rest) == (0, "")
    told = json.loads(stdout)
    assert told["verified"] is True
    ends = {line["stage"]: line["total"] for line in lines if line["done"] == line["total"]}
    assert ends.keys() == {"compare checksums", "decode chunks"}
    assert ends["compare checksums"] == told["bytes"] == sum(path.stat().st_size for path in files_of(index))
    # 72 keys of 9, targets, 3 ids, counts, pixels, and more.
    assert ends["decode chunks"] > 72 * 4 * (9 + 1 + 3 + 1 + 1)
    status, stdout, stderr = invoke("inspect", index, "--json")
    assert (status, json.loads(stdout), stderr) == (0, told | {"verified": False}, "")
    for arguments, word in (([], "no"), (["--verify"], "yes")):
        status, stdout, stderr = invoke("inspect", index, *arguments)
        assert (status, stderr) == (0, "")
        assert ["verified", word] in [line.split() for line in stdout.splitlines()]


def test_a_flipped_bit_is_found_by_verify(index):
    for path in files_of(index):
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        quick = invoke("inspect", index)
        if quick[0] != 0:  # metadata and offsets are read
            require_loss(quick, "arrays.zarr")
        require_loss(invoke("inspect", index, "--verify"), f"{path.relative_to(index / '1')} is altered")
        path.write_bytes(content)
    assert invoke("inspect", index, "--verify")[0] == 0


@pytest.mark.parametrize("arguments", [[], ["--verify"]], ids=["quick", "full"])
def test_what_is_missing_or_shortened_is_found(index, tmp_path, arguments):
    for path in files_of(index):
        content = path.read_bytes()
        path.write_bytes(content[:-1])
        require_loss(invoke("inspect", index, *arguments), f"{path.relative_to(index / '1')}: expected")
        path.unlink()
        require_loss(invoke("inspect", index, *arguments), f"{path.relative_to(index / '1')} is missing")
        path.write_bytes(content)


def test_an_altered_manifest_is_found_at_once(index):
    manifest = index / "1" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"keys": 72', '"keys": 73'))
    require_loss(invoke("inspect", index), "manifest.json is damaged")


def expect(index, path):
    """Have the manifest expect a file as it is now."""
    manifest = Manifest.read(index / "1")
    files = dict(manifest.files) | {str(path.relative_to(index / "1")): checksum(path)}
    replace(manifest, files=files).write(index / "1")


def test_a_chunk_that_was_stored_wrong_is_found_by_decoding(index):
    chunks = [path for path in files_of(index) if "c" in path.parts]
    assert len(chunks) > 10
    for path in chunks:
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        expect(index, path)
        array = str(path.relative_to(index / "1")).partition("/c/")[0]
        _, stdout, stderr = invoke("inspect", index, "--verify", "--json")
        require_loss((2, stdout, apart(stderr)[1]), f"{array}")
        path.write_bytes(content)
        expect(index, path)
    assert invoke("inspect", index, "--verify")[0] == 0


def test_a_faiss_index_of_other_keys_is_found(index):
    path = index / "1" / "shards" / "0000" / "neighbours.faiss"
    content, neighbours = path.read_bytes(), faiss.read_index(str(path))
    size = len(content)
    path.write_bytes(
        content[:-20] + bytes([content[-20] ^ 1]) + content[-19:]
    )  # a number, which nobody reads
    expect(index, path)
    assert invoke("inspect", index, "--verify")[0] == 0
    lists = 72 * (neighbours.code_size + 8)
    path.write_bytes(content[:-lists] + bytes([content[-lists] ^ 1]) + content[1 - lists :])
    expect(index, path)
    require_loss(invoke("inspect", index, "--verify"), "neighbours.faiss: cell 0 has other keys")
    neighbours.reset()
    faiss.write_index(neighbours, str(path))
    expect(index, path)
    require_loss(
        invoke("inspect", index), f"neighbours.faiss: expected {lists} bytes or more for 72 keys, got"
    )
    path.write_bytes(content[: size // 2])
    expect(index, path)
    require_loss(invoke("inspect", index), "neighbours.faiss: expected")
