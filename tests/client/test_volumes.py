"""Volumes over the wire and by the command: what the estimator answers, whoever asks."""

import json

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner

from lemmse.client import aio, connect, mosaic, slabs
from lemmse.client.cli import main
from lemmse.client.crop import middle
from lemmse.client.errors import InvalidArgument
from lemmse.client.slabs import Slabs, parts
from lemmse.contract.limits import INLINE_BYTES
from lemmse.contract.measurement import Measurement
from lemmse.index import build
from lemmse.index.files import Layout
from lemmse.server.config import ServerConfig
from lemmse.server.lifecycle import Server
from tests.support.blocking import Blocking
from tests.support.commands import apart

MAPS = ("variance", "ess", "log_density")
RNG = np.random.default_rng(8)
GREY = RNG.integers(0, 256, (2, 5, 6, 7), np.uint8)
COLOUR = RNG.integers(0, 256, (1, 4, 5, 6, 3), np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Indexes of grey volumes, mirrored and circular, and of colour volumes."""
    folder = tmp_path_factory.mktemp("volumes")
    np.save(folder / "grey.npy", GREY)
    np.save(folder / "colour.npy", COLOUR)
    options = {"patch_size": 3, "patch_depth": 3}
    return {
        "grey": build([folder / "grey.npy"], folder / "grey", boundary="reflect", **options),
        "circular": build([folder / "grey.npy"], folder / "circular", **options),
        "colour": build([folder / "colour.npy"], folder / "colour", boundary="reflect", **options),
    }


@pytest.fixture(scope="module")
def server(folders):
    server = Server(ServerConfig(indexes=tuple(folders.values()), listen="127.0.0.1:0", threads=1))
    yield server
    server.stop(0)


@pytest.fixture(scope="module")
def clients(folders, server, loop):
    with (
        connect(*folders.values()) as embedded,
        connect(f"grpc://{server.address}") as remote,
        Blocking(loop, lambda: aio.connect(f"grpc://{server.address}")) as aio_remote,
    ):
        yield embedded, remote, aio_remote


def noisy(volume, sigma=0.1):
    return volume / 255 + sigma * RNG.standard_normal(volume.shape)


@pytest.mark.parametrize(("index", "volume"), [("grey", GREY[0]), ("colour", COLOUR[0])])
def test_all_clients_agree(clients, index, volume):
    y = noisy(volume)
    given = {"sigma": np.full(y.shape, 0.1), "mask": RNG.random(volume.shape[:3]) < 0.8}
    for options in ({"sigma": 0.1}, given):
        results = [one.reconstruct(y, index=index, maps=MAPS, **options) for one in clients]
        for result in results:
            assert result.image.shape == result.variance.shape == y.shape
            assert result.ess.shape == result.log_density.shape == y.shape[:3]
            for name in ("image", *MAPS):
                np.testing.assert_array_equal(getattr(result, name), getattr(results[0], name))


def test_all_clients_explain(clients):
    y = noisy(GREY[1], 1e-3)
    for one in clients:
        (heaviest,) = one.explain(y, sigma=1e-3, pixel=(4, 2, 3), top=1, index="grey")
        assert (heaviest.image, heaviest.source) == (9, "grey.npy[1] plane 4")
        assert (heaviest.row, heaviest.column) == (2, 3)
        assert heaviest.value == pytest.approx([GREY[1, 4, 2, 3] / 255])


def test_a_crop_explains_a_volume_larger_than_a_message(clients, monkeypatch):
    y = noisy(GREY[1], 1e-3)
    _, remote, _ = clients
    for index in ("grey", "circular"):
        for pixel in ((0, 0, 0), (4, 5, 6), (2, 3, 1)):
            whole = remote.explain(y, sigma=1e-3, pixel=pixel, top=2, index=index)
            with monkeypatch.context() as patched:
                patched.setattr("lemmse.client.remote.INLINE_BYTES", 0)
                cropped = remote.explain(y, sigma=1e-3, pixel=pixel, top=2, index=index)
            assert [(c.image, c.row, c.column) for c in cropped] == [
                (c.image, c.row, c.column) for c in whole
            ]


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.zeros((6, 7)), r"y: expected a volume of shape \(D, H, W\) or \(D, H, W, 1\), got \(6, 7\)"),
        (
            np.zeros((2, 2, 2, 2, 1)),
            r"y: expected an image of shape .*, or a volume .*, got \(2, 2, 2, 2, 1\)",
        ),
    ],
)
def test_all_clients_refuse(clients, y, message):
    for one in clients:
        with pytest.raises(InvalidArgument, match=message):
            one.reconstruct(y, sigma=0.1, index="grey")


@pytest.mark.parametrize("large", [False, True])
def test_all_clients_refuse_tiles_of_volumes(clients, monkeypatch, large):
    monkeypatch.setattr(mosaic, "LARGE_PIXELS", 4)
    options = {} if large else {"progress": print}
    mask = np.arange(7) > 2
    for one in clients:
        for y in (GREY[0], GREY[0, 0], np.ma.masked_array(GREY[0], np.broadcast_to(mask, GREY[0].shape))):
            with pytest.raises(
                InvalidArgument, match=r"^y: expected an image.* grey is of volumes; send vol"
            ):
                one.reconstruct(y, sigma=0.1, index="grey", **options)
        for option in ({"progress": print}, {"out": np.empty(COLOUR[0].shape)}):
            with pytest.raises(InvalidArgument, match=r"got \(4, 5, 6, 3\); send a volume without them"):
                one.reconstruct(COLOUR[0], sigma=0.1, index="colour", **option)


def test_a_file_of_large_planes_is_read_in_slabs(tmp_path, folders, monkeypatch):
    monkeypatch.setattr("lemmse.client.work.LARGE_PIXELS", 40)
    monkeypatch.setattr("lemmse.index.files.open.LARGE_PIXELS", 40)
    monkeypatch.setattr(slabs, "_LEAST", 2)
    monkeypatch.setattr(slabs, "_PIXELS", 1)
    sigma = RNG.uniform(0.1, 0.2, GREY.shape[2:])
    np.save(tmp_path / "sigma.npy", sigma)
    np.save(tmp_path / "in.npy", GREY[0])
    arguments = [tmp_path / "in.npy", "--out", tmp_path / "out.npy", "--index", folders["grey"]]
    told = command([*arguments, "--sigma", tmp_path / "sigma.npy", "--journal", tmp_path / "journal"])
    assert told["planes"] == 5
    with connect(folders["grey"]) as client:
        whole = client.reconstruct(GREY[0], sigma=np.broadcast_to(sigma, GREY[0].shape))
    assert np.abs(np.load(tmp_path / "out.npy") - whole.image).max() <= 0.501


def test_the_description_has_the_planes(clients):
    for one in clients:
        assert {info.patch_depth for info in one.list_indexes()} == {3}


def test_voxels_are_limited(folders):
    config = ServerConfig(indexes=(folders["grey"],), listen="127.0.0.1:0", max_pixels=100)
    server = Server(config)
    try:
        with connect(f"grpc://{server.address}") as client:
            assert client.reconstruct(np.zeros((4, 5, 5)), sigma=0.1).image.shape == (4, 5, 5)
            with pytest.raises(InvalidArgument, match="expected at most 100 pixels on this server, got 125"):
                client.reconstruct(np.zeros((5, 5, 5)), sigma=0.1)
    finally:
        server.stop(0)


@pytest.mark.parametrize("index", ["grey", "circular"])
@pytest.mark.parametrize("options", [{}, {"aggregate": "overlap"}])
def test_a_file_in_slabs_equals_the_volume(tmp_path, folders, monkeypatch, index, options):
    monkeypatch.setattr(slabs, "_LEAST", 2)
    monkeypatch.setattr(slabs, "_PIXELS", 1)
    volume = RNG.integers(0, 256, (9, 6, 7), np.uint8)
    mask = (RNG.random((6, 7)) < 0.8).astype(np.uint8)
    tifffile.imwrite(tmp_path / "stack.tif", volume, imagej=True, metadata={"axes": "ZYX"})
    np.save(tmp_path / "mask.npy", mask)
    flags = [f"--{name}={value}" for name, value in options.items()]
    told = command(
        [
            *(tmp_path / "stack.tif", "--out", tmp_path / "out.tif", "--index", folders[index]),
            *("--maps", "ess", "--mask", tmp_path / "mask.npy", *flags),
        ]
    )
    with connect(folders[index]) as client:
        whole = np.broadcast_to(mask, volume.shape)
        expected = client.reconstruct(volume, sigma=0.1, mask=whole, maps=["ess"], **options)
    assert told["planes"] == 9
    written = tifffile.imread(tmp_path / "out.tif")
    assert written.dtype == np.uint8
    assert np.abs(written - expected.image).max() <= 0.501
    np.testing.assert_allclose(tifffile.imread(tmp_path / "out.ess.tiff"), expected.ess, rtol=1e-5)


@pytest.mark.parametrize("remote", [False, True])
def test_the_noise_of_a_volume_in_slabs_is_estimated_once(tmp_path, folders, server, monkeypatch, remote):
    monkeypatch.setattr(slabs, "_LEAST", 4)
    monkeypatch.setattr(slabs, "_PIXELS", 1)
    volumes = RNG.integers(0, 256, (2, 12, 6, 7), np.uint8)
    mask = (RNG.random((6, 7)) < 0.9).astype(np.uint8)
    np.save(tmp_path / "in.npy", volumes)
    np.save(tmp_path / "one.npy", volumes[0])
    np.save(tmp_path / "mask.npy", mask)
    where = ["--server", server.address, "--index-name", "grey"] if remote else ["--index", folders["grey"]]
    asked = [*where, "--mask", tmp_path / "mask.npy"]
    command([tmp_path / "in.npy", "--out", tmp_path / "out.npy", "--sigma", "auto", *asked])
    arguments = ["estimate-noise", tmp_path / "in.npy", "--json", *asked]
    lines = CliRunner().invoke(main, list(map(str, arguments))).stdout.splitlines()
    with connect(folders["grey"]) as client:
        whole = np.broadcast_to(mask, volumes[0].shape)
        for k, volume in enumerate(volumes):
            found = client.estimate_noise(volume[4:8], mask=whole[4:8])
            assert json.loads(lines[k])["volume"] == k
            assert json.loads(lines[k])["sigma"] == list(found.sigma)
            expected = client.reconstruct(volume, sigma=found.sigma[0], mask=whole)
            assert np.abs(np.load(tmp_path / "out.npy")[k] - expected.image).max() <= 0.501
        found = client.estimate_noise(volumes[0, 4:8], mask=whole[4:8], noise="poisson-gaussian")
    counts = ["--sigma", "auto", "--noise", "poisson-gaussian"]
    told = command([tmp_path / "one.npy", "--out", tmp_path / "one.out.npy", *counts, *asked])
    assert (told["sigma"], told["gain"]) == ([found.sigma[0]], found.gain)


def test_a_volume_larger_than_a_message_shows_its_middle(clients):
    y = np.zeros((40, 200, 300), np.float32)
    measurement = middle(Measurement.checked(y, sigma="auto", mask=None), INLINE_BYTES)
    assert 0.8 * INLINE_BYTES < measurement.nbytes <= INLINE_BYTES
    assert measurement.y.shape[0] == 40
    assert measurement.y.shape[2] == 300
    assert middle(Measurement.checked(GREY[0] / 255, sigma="auto", mask=None), 10**6).y.shape == GREY[0].shape


def test_a_time_series_of_colour_volumes(tmp_path, folders):
    volumes = np.stack([COLOUR[0], COLOUR[0][::-1]])
    np.save(tmp_path / "in.npy", volumes)
    told = command([tmp_path / "in.npy", "--out", tmp_path / "out.npy", "--index", folders["colour"]])
    assert told["planes"] == 8
    with connect(folders["colour"]) as client:
        expected = [client.reconstruct(x, sigma=0.1).image for x in volumes]
    assert np.abs(np.load(tmp_path / "out.npy") - np.array(expected)).max() <= 0.501


def test_one_plane_is_no_volume(tmp_path, folders):
    tifffile.imwrite(tmp_path / "plane.tif", GREY[0, 0])
    result = run([tmp_path / "plane.tif", "--out", tmp_path / "out.tif", "--index", folders["grey"]])
    assert result.exit_code == 2
    assert "expected a volume, with an axis Z or T, got YX (6, 7)" in apart(result.stderr)[1]


def command(arguments):
    result = run([*arguments, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def run(arguments):
    return CliRunner().invoke(main, ["reconstruct", "--sigma", "0.1", *map(str, arguments)])


def test_slabs_cover_each_plane_once(monkeypatch):
    monkeypatch.setattr(slabs, "_LEAST", 3)
    monkeypatch.setattr(slabs, "_PIXELS", 1)
    layout = Layout("ZCYX", (11, 2, 4, 5))
    for circular in (False, True):
        found = list(parts(layout, Slabs(2, circular)))
        assert sorted(k for part in found for k, _ in part.planes) == list(range(22))
        for part in found:
            assert len({k % 2 for k in part.read}) == 1  # planes of one volume
            inner = part.kept.start >= 2 and len(part.read) - part.kept.stop >= 2
            assert inner or (not circular and {part.read[0] // 2, part.read[-1] // 2} & {0, 10})


def test_a_build_refuses(tmp_path):
    np.save(tmp_path / "volumes.npy", GREY)
    for size, message in [
        ("2x3x3", "expected an odd number of planes, got 2"),
        ("0x3x3", "expected an odd number of planes, got 0"),
        ("3x3x5", "expected a side, such as 5, or planes and twice a side"),
        ("3x", "expected a side, such as 5, or planes and twice a side"),
        ("63x63x63", "expected patches of at most 4096 pixels, got 63x63x63"),
    ]:
        arguments = ["build", tmp_path / "volumes.npy", "--out", tmp_path / "index", "--patch-size", size]
        result = CliRunner().invoke(main, list(map(str, arguments)))
        assert result.exit_code == 2
        assert message in result.stderr
        assert not (tmp_path / "index").exists()
