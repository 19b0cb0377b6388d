"""The example in JavaScript against a server: the answers of the Python client, and errors in one line.

`make test-integrations` installs what it needs; elsewhere `npm ci` in examples/javascript does.
"""

import shutil
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import PIL.Image
import pytest

from lemmse.client import Client, connect
from lemmse.index import build
from lemmse.server.config import ServerConfig
from lemmse.server.lifecycle import Server
from tests.support.processes import run_process

EXAMPLE = Path(__file__).parents[2] / "examples" / "javascript"
RNG = np.random.default_rng(4)

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or not (EXAMPLE / "node_modules").is_dir(),
    reason="needs node, and npm ci in examples/javascript",
)


def run(*arguments: object) -> CompletedProcess[str]:
    return run_process(["node", EXAMPLE / "reconstruct.js", *arguments])


# Of 800 × 700 pixels, image and answer take several messages each.
@pytest.mark.parametrize(("shape", "sigma"), [((9, 7), 0.1), ((800, 700), 0.3), ((40, 30), None)])
def test_the_answer_is_that_of_the_python_client(
    server: Server, remote: Client, tmp_path: Path, shape: tuple[int, int], sigma: float | None
) -> None:
    y = RNG.integers(0, 256, shape, np.uint8)
    PIL.Image.fromarray(y).save(tmp_path / "noisy.png")
    done = run(server.address, tmp_path / "noisy.png", tmp_path / "clean.png", *filter(None, [sigma]))
    assert done.returncode == 0, done.stderr
    expected = remote.reconstruct(y, sigma=sigma or "auto", maps=["ess"])
    with PIL.Image.open(tmp_path / "clean.png") as found:
        assert found.mode == "L"
        # Halves are rounded up here, and to even there.
        np.testing.assert_allclose(found, expected.image, rtol=0, atol=0.501)
    said = f"MODE_EXACT on tiny, {expected.ess.mean():.1f} effective patches per pixel"
    assert done.stdout == f"{tmp_path / 'clean.png'}: {said}\n"


def test_colours_of_an_image_with_transparency(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", RNG.random((2, 6, 6, 3), np.float32))
    index = build([tmp_path / "images.npy"], tmp_path / "colours", patch_size=3)
    y = RNG.integers(0, 256, (5, 7, 4), np.uint8)
    PIL.Image.fromarray(y).save(tmp_path / "noisy.png")
    server = Server(ServerConfig(indexes=(index,), listen="127.0.0.1:0", threads=1))
    try:
        done = run(server.address, tmp_path / "noisy.png", tmp_path / "clean.png", 0.2)
        with connect(f"grpc://{server.address}") as client:
            expected = client.reconstruct(y[..., :3], sigma=0.2)
    finally:
        server.stop(0)
    assert done.returncode == 0, done.stderr
    with PIL.Image.open(tmp_path / "clean.png") as found:
        assert found.mode == "RGB"
        np.testing.assert_allclose(found, expected.image, rtol=0, atol=0.501)


def test_errors_are_one_line(server: Server, tmp_path: Path) -> None:
    PIL.Image.fromarray(RNG.integers(0, 256, (5, 7), np.uint8)).save(tmp_path / "noisy.png")
    output = tmp_path / "clean.png"
    for arguments, message in {
        (server.address, tmp_path / "noisy.png", output, -1): "sigma: expected",
        (server.address, tmp_path / "missing.png", output, 0.1): "ENOENT",
        (server.address, __file__, output, 0.1): "PNG",
        ("127.0.0.1:1", tmp_path / "noisy.png", output, 0.1): "No connection established",
        (server.address,): "usage: ",
    }.items():
        done = run(*arguments)
        assert done.returncode == 1
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    assert not output.exists()
