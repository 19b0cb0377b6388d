"""Compiled loops are found, or made, where nothing can be written."""

import os
import sys
from pathlib import Path

import pytest

from tests.support.processes import run_process

CODE = """
import os, sys, tempfile
from pathlib import Path
if not os.path.isdir(sys.argv[1]):
    tempfile.tempdir = sys.argv[1]
# Folders in which nobody may write, root neither.
import numba.core.caching as caching
def refuse(locator):
    folder = Path(locator.get_cache_path())
    if not str(folder).startswith(sys.argv[1]):
        raise PermissionError(folder)
    os.makedirs(folder, exist_ok=True)
caching._CacheLocator.ensure_cache_path = refuse
import numba
from lemmse.estimator.hybrid import kernel_cache, numbers
print(numba.config.CACHE_DIR)
print(len(numbers.aligned(8)))
print(*sorted(path.name for path in Path(sys.argv[1]).glob("**/numbers.aligned*.nb?")))
print(sum(numbers.aligned.stats.cache_hits.values()))
"""
"""Asks for a loop in a process that can write to the folder that it is given, and nowhere else."""


def ask(writable, **environment):
    """The folder for compiled loops, what is in it at the end, and how many were found compiled."""
    done = run_process(
        [sys.executable, "-c", CODE, writable],
        env=os.environ | {"TMPDIR": str(writable), "HOME": "/dev/null"} | environment,
    )
    assert done.returncode == 0, done.stderr
    folder, value, files, hits = done.stdout.splitlines()
    assert value == "8"
    return folder, files.split(), int(hits)


@pytest.mark.slow
def test_a_temporary_folder_takes_the_place_of_one_that_cannot_be_written(tmp_path):
    (tmp_path / "image").mkdir()
    (tmp_path / "run").mkdir()
    image = str(tmp_path / "image")
    folder, made, hits = ask(tmp_path / "image", NUMBA_CACHE_DIR=image)  # as when an image is made
    assert (folder, len(made), hits) == (image, 2, 0)
    folder, found, hits = ask(tmp_path / "run", NUMBA_CACHE_DIR=image)
    assert Path(folder).parent == tmp_path / "run"
    assert (found, hits) == (made, 1)
    assert not list((tmp_path / "run").iterdir())  # removed at the end


@pytest.mark.slow
def test_nothing_is_kept_where_no_folder_can_be_written():
    folder, found, hits = ask("/dev/null", NUMBA_CACHE_DIR="/dev/null")
    assert (folder, found, hits) == ("/dev/null", [], 0)
