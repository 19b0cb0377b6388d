"""Who may import whom, that the client stays light, and what test modules share."""

import ast
import sys
from pathlib import Path

import pytest

from tests.support.processes import run_process

ROOT = Path(__file__).parents[1]

# A package may import itself and these.
ALLOWED = {
    "v1": {"v1"},
    "contract": {"v1"},
    "client": {"contract", "v1"},
    "integrations": {"client", "contract"},
    "explorer": {"client", "contract", "index"},
    "index": {"contract"},
    "estimator": {"contract", "index"},
    "calibration": {"estimator", "index", "contract"},
    "builder": {"calibration", "client", "contract", "index"},
    "server": {"contract", "estimator", "index", "v1"},
}

# The client's modules that are imported on demand may import more.
ON_DEMAND = {
    "client/lemmse/client/demo.py": {"index"},
    "client/lemmse/client/embedded.py": {"estimator", "index"},
    # Image files, whose module is light.
    "client/lemmse/client/explain.py": {"index"},
    "client/lemmse/client/explain_figure.py": {"index"},
    "client/lemmse/client/jobs.py": {"index"},
    "client/lemmse/client/estimate_noise.py": {"index"},
    "client/lemmse/client/reconstruct.py": {"index"},
    "client/lemmse/client/large_files.py": {"index"},
    "client/lemmse/client/sample.py": {"index"},
    "client/lemmse/client/work.py": {"index"},
    "client/lemmse/integrations/deepinv.py": {"index"},
    "client/lemmse/client/slabs.py": {"index"},
}

HEAVY = {"dask", "faiss", "matplotlib", "nicegui", "numba", "skimage", "torch", "xarray", "zarr"} | {
    f"lemmse.{package}"
    for package in ("builder", "calibration", "estimator", "index.reading", "index.storage", "server")
}


def packages():
    return {path.name: path for path in sorted(ROOT.glob("*/lemmse/*")) if any(path.glob("*.py"))}


def imported(path: Path):
    """Names of our packages that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            if node.module == "lemmse":
                yield from (alias.name for alias in node.names)
            elif node.module.startswith("lemmse."):
                yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("lemmse."))


def test_every_package_has_its_rule():
    assert packages().keys() == ALLOWED.keys()


@pytest.mark.parametrize("name", ALLOWED)
def test_packages_import_only_what_they_may(name):
    modules = list(packages()[name].rglob("*.py"))
    assert modules
    for path in modules:
        place = path.relative_to(ROOT).as_posix()
        surplus = set(imported(path)) - ALLOWED[name] - {name} - ON_DEMAND.get(place, set())
        assert not surplus, f"{place} imports {surplus}"


def test_no_relative_imports():
    for folder in packages().values():
        for path in folder.rglob("*.py"):
            nodes = ast.walk(ast.parse(path.read_text()))
            assert not [n for n in nodes if isinstance(n, ast.ImportFrom) and n.level], path


@pytest.mark.parametrize(
    "stub", sorted((ROOT / "protos/lemmse/v1").glob("*_pb2*.py")), ids=lambda path: path.stem
)
def test_each_generated_module_can_be_imported_first(stub):
    done = run_process([sys.executable, "-c", f"import lemmse.v1.{stub.stem}"])
    assert done.returncode == 0, done.stderr


def loaded_by(*modules: str) -> set[str]:
    """Names of the modules in a new process that has imported these."""
    code = f"import sys, {', '.join(f'lemmse.{module}' for module in modules)}; print(*sys.modules)"
    done = run_process([sys.executable, "-c", code])
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_client_is_light():
    names = ("aio.remote", "cli", "demo", "estimate_noise", "reconstruct", "remote")
    assert not HEAVY & loaded_by("client", *(f"client.{name}" for name in names))


def test_to_build_and_to_inspect_an_index_takes_no_torch():
    assert not {"numba", "torch"} & loaded_by("builder.build", "builder.inspect", "index", "index.reading")


def imported_names(path: Path) -> set[str]:
    """Full names of what a module imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return modules | {
        f"{node.module}.{alias.name}"
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


TEST_FILES = sorted((ROOT / "tests").rglob("*.py"))


def test_test_modules_share_only_what_is_in_support():
    for path in TEST_FILES:
        surplus = {n for n in imported_names(path) if n.startswith("tests.") and ".support." not in n}
        assert not surplus, f"{path.relative_to(ROOT)} imports {surplus}"


def test_tests_start_processes_with_a_time_limit():
    """Only tests/support/processes.py starts any."""
    harmless = {f"subprocess.{name}" for name in ("PIPE", "DEVNULL", "CompletedProcess", "TimeoutExpired")}
    for path in TEST_FILES:
        surplus = {n for n in imported_names(path) if n.startswith("subprocess")} - harmless
        assert not surplus or path.name == "processes.py", f"{path.relative_to(ROOT)} imports {surplus}"
