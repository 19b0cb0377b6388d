"""Threads of OpenMP sleep where they wait, unless the environment says how they wait."""

import os
import sys

import pytest

from tests.support.processes import run_process

NAMES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")

SECONDS = """
import time
x = torch.ones(1 << 17)
x.add_(1)
began = time.process_time()
for _ in range(200):
    x.add_(1)
    time.sleep(0.003)
print(time.process_time() - began)
"""
"""Prints the processor seconds of work whose threads wait nearly all of the time."""

THREADS = """
import os
print(len(os.listdir("/proc/self/task")))
"""


def output(code: str, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    done = run_process([sys.executable, "-c", code], env=environment | variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize("package", ["lemmse.index", "lemmse.estimator"])
@pytest.mark.parametrize("first", ["torch", "lemmse"])
def test_threads_that_wait_take_no_processor(package, first):
    imports = ["import torch\n", f"import {package}\n"]
    code = "".join(imports if first == "torch" else reversed(imports)) + SECONDS
    # Some 0.02; with threads that spin it is more than 1 on two cores.
    assert float(output(code)) < 0.3


@pytest.mark.parametrize(
    ("variables", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
    ids=["default", "spins", "policy"],
)
def test_what_the_environment_says_stays(variables, expected):
    code = "import os; from lemmse.contract.threads import keep_threads_from_spinning as keep; keep()\n"
    code += "print(os.environ.get('GOMP_SPINCOUNT'))"
    assert output(code, **variables) == expected


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts threads through /proc")
@pytest.mark.parametrize("variables", [{"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "active"}])
def test_no_thread_is_added_where_the_environment_says_how_to_wait(variables):
    before, after = (
        output("import torch, faiss" + package + THREADS, **variables) for package in ("", ", lemmse.index")
    )
    assert before == after


def test_the_command_prepares_threads():
    code = "import sys; sys.argv = ['lemmse', '--version']\n"
    code += "import atexit, os; atexit.register(lambda: print(os.environ['GOMP_SPINCOUNT']))\n"
    code += "from lemmse.client.cli import main; main()"
    assert output(code).endswith("1000")
