import json
import os
import signal
from pathlib import Path
from subprocess import PIPE, CompletedProcess

import imageio.v3 as iio
import numpy as np
import pytest

from lemmse.client.serving import LEMMSE
from tests.support.processes import run_process, start_process


def run(*arguments: str) -> CompletedProcess[str]:
    return run_process([*LEMMSE, *arguments])


def children(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CompletedProcess[str]]:
    """The folder of a first run, and what it said."""
    out = tmp_path_factory.mktemp("demo") / "out"
    return out, run("demo", "--out", str(out), "--size", "16")


@pytest.mark.slow
def test_the_demo_reconstructs_and_a_second_run_takes_the_index_that_is_there(
    demo: tuple[Path, CompletedProcess[str]],
) -> None:
    out, first = demo
    assert first.returncode == 0, first.stderr
    assert "built from sample:photos" in first.stdout
    rows = {
        cells[0]: cells
        for line in first.stdout.splitlines()
        if len(cells := [cell.strip() for cell in line.split("│")[1:-1]]) == 4
    }
    noisy, exact, topk = (float(rows[mode][1]) for mode in ("noisy input", "exact", "topk"))
    assert noisy == pytest.approx(20, abs=1)
    assert exact > noisy + 3
    assert topk == pytest.approx(exact, abs=0.1)
    assert float(rows["hybrid"][3]) > 40
    assert rows["exact"][3] == "identical"
    assert "auto → exact" in rows
    assert first.stdout.splitlines()[-1] == f"try more  lemmse explore --index {out / 'index'}"
    panel = iio.imread(out / "demo.png")
    assert panel.shape[1] > 4 * panel.shape[0]
    assert np.ptp(panel[..., :3]) == 255

    (out / "demo.png").unlink()
    second = run("demo", "--out", str(out), "--size", "16", "--sigma", "0.2")
    assert second.returncode == 0, second.stderr
    assert "found there" in second.stdout
    assert (out / "demo.png").exists()


@pytest.mark.slow
def test_an_index_of_other_images_is_left_alone(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 8, 8), np.uint8))
    built = run(
        "build", str(tmp_path / "a.npy"), "--out", str(tmp_path / "index"), "--json", "--no-calibrate"
    )
    assert built.returncode == 0, built.stderr
    answer = run("demo", "--out", str(tmp_path), "--size", "16")
    assert answer.returncode == 2
    assert "expected an index of sample:photos" in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    described = run("inspect", str(tmp_path / "index"), "--json")
    assert json.loads(described.stdout)["digest"] == json.loads(built.stdout)["digest"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the server through /proc")
def test_an_interrupt_ends_the_server(demo: tuple[Path, CompletedProcess[str]]) -> None:
    command = [*LEMMSE, "demo", "--out", demo[0], "--size", "144"]
    with start_process(command, stdout=PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("server"):
                break
        (server,) = children(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
    with pytest.raises(ProcessLookupError):
        os.kill(server, 0)
