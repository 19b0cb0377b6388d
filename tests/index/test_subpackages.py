"""The subpackages of lemmse.index import one way, and the first ones without FAISS, Zarr, torch and numba."""

import ast
import sys
from pathlib import Path

import pytest

import lemmse.index
from tests.support.processes import run_process

ROOT = Path(lemmse.index.__file__).parent

ORDER = ("images", "files", "sources", "physics", "patches", "storage", "clustering", "reading", "building")
"""Each subpackage may import those before it, and the modules of `lemmse.index` that no list names."""

LIGHT = ("", ".images", ".files", ".sources", ".physics", ".patches")
HEAVY = ("dask", "distributed", "faiss", "numba", "torch", "zarr")


def imported(path):
    """Names of the subpackages, or modules, of lemmse.index that a module imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lemmse.index"):
            inner = node.module.split(".")[2:3]
            yield from inner or (alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[2] for a in node.names if a.name.startswith("lemmse.index."))


def test_the_order_names_every_subpackage():
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} == set(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_subpackages_import_only_those_before_them(name):
    later = set(ORDER[ORDER.index(name) + 1 :])
    for path in (ROOT / name).rglob("*.py"):
        assert not later & set(imported(path)), path


def test_shared_modules_import_no_subpackage():
    for path in ROOT.glob("*.py"):
        if path.name != "__init__.py":
            assert not set(ORDER) & set(imported(path)), path


@pytest.mark.parametrize("module", LIGHT)
def test_the_first_subpackages_are_light(module):
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({HEAVY})); import lemmse.index{module}; "
        "from lemmse.index.sources import open_source"
    )
    done = run_process([sys.executable, "-c", code])
    assert done.returncode == 0, done.stderr
