"""Images in tiles: the answer is that for the whole image, whatever the tiles, boundary and client."""

import dask.array as da
import imageio.v3 as iio
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from lemmse.client import connect, mosaic
from lemmse.client.errors import DeadlineExceeded, InvalidArgument, LemmseError
from lemmse.client.mosaic import Mosaic
from lemmse.client.tiles import Span, Tiling, tile_side
from lemmse.contract.measurement import Measurement
from lemmse.contract.options import Options
from lemmse.index import build

RNG = np.random.default_rng(5)
MAPS = ("variance", "ess", "log_density")
COUNTS = {"noise": "poisson-gaussian", "gain": 0.05}


def tiled(client, y, side, *, sigma=0.2, mask=None, out=None, index="", noise=None, **options):
    """The answer of a client in tiles of this side."""
    options = Options(**options)
    image = Mosaic(y, sigma=sigma, mask=mask, maps=options.maps, out=out, side=side, **noise or {})
    return client.assemble(index, image, options, None)


def assert_same(one, other, *, rounding=0.0):
    """Assert that two results are the same to the bit, or up to rounding."""
    assert one.arrays.keys() == other.arrays.keys()
    for name, values in one.arrays.items():
        np.testing.assert_allclose(values, other.arrays[name], rtol=rounding, atol=rounding, err_msg=name)


@pytest.fixture
def small(monkeypatch):
    """Images above 100 pixels are large, and tiles 8 × 8."""
    monkeypatch.setattr(mosaic, "LARGE_PIXELS", 100)
    monkeypatch.setattr("lemmse.client.tiles._SIDE", 8)


@pytest.fixture(scope="module", params=["reflect", "valid", "circular"])
def boundary(request, tmp_path_factory):
    """A boundary, and a client for an index of it: patches of 4 × 4, of colours."""
    folder = tmp_path_factory.mktemp(request.param)
    np.save(folder / "images.npy", np.random.default_rng(0).random((2, 8, 8, 3), np.float32))
    index = build([folder / "images.npy"], folder / "index", patch_size=4, boundary=request.param)
    with connect(index) as client:
        yield request.param, client


class TestGeometry:
    @given(
        length=st.integers(1, 12),
        side=st.integers(1, 13),
        halo=st.integers(0, 15),
        circular=st.booleans(),
    )
    @settings(deadline=None)
    def test_tiles_cover_an_axis_and_are_read_with_their_halo(self, length, side, halo, circular):
        axis = np.arange(length)
        found = []
        for start in range(0, length, side):
            stop = min(start + side, length)
            span = Span.of(start, stop, length=length, halo=halo, circular=circular)
            read = np.concatenate([axis[piece] for piece in span.pieces])
            found += read[span.inner].tolist()
            before = read[: span.inner.start][::-1][:halo]
            wanted = [(start - 1 - i) % length for i in range(halo) if circular or start - 1 - i >= 0]
            assert before.tolist() == wanted[: len(before)]
            assert len(before) == len(wanted) or len(read) == length
        assert found == axis.tolist()

    def test_tiles_are_whole_chunks(self):
        assert tile_side(np.empty((5, 5))) == (512, 512)
        assert tile_side(da.zeros((3000, 3000), chunks=(700, 1000))) == (700, 1000)
        assert tile_side(zarr.zeros(shape=(900, 900, 3), chunks=(100, 64, 3))) == (500, 512)
        assert tile_side(zarr.zeros(shape=(9000, 900), chunks=(9000, 1))) == (512, 512)

    def test_tiles_are_numbered_by_row(self):
        tiling = Tiling((5, 7), (3, 4), 1, circular=False)
        assert [tile.pixels for tile in tiling] == [12, 9, 8, 6]
        assert len(tiling) == 4


class TestSameAnswer:
    @pytest.mark.parametrize("aggregate", ["centre", "overlap"])
    @pytest.mark.parametrize("mode", ["exact", "hybrid"])
    def test_for_any_boundary(self, boundary, mode, aggregate):
        name, client = boundary
        y = RNG.random((19, 13, 3), np.float32)
        options = {"mode": mode, "aggregate": aggregate, "maps": ("ess",) if mode == "hybrid" else MAPS}
        whole = client.reconstruct(y, sigma=0.2, **options)
        # Matrix products of few rows are rounded in another way, and so is the sum of the patches of a pixel
        # in another order.
        same = mode == "hybrid" and (name, aggregate) != ("circular", "overlap")
        for side in ((19, 13), (7, 5), (6, 1)):
            found = tiled(client, y, side, **options)
            assert found.diagnostics.mode == whole.diagnostics.mode == mode
            assert_same(found, whole, rounding=0 if same else 1e-5)

    def test_of_epll_without_gaussians(self, boundary):
        _, client = boundary
        y = RNG.random((25, 47, 3), np.float32)
        options = {"mode": "exact", "aggregate": "epll", "gaussian_share": 0}
        whole = client.reconstruct(y, sigma=0.2, **options)
        assert_same(tiled(client, y, (9, 11), **options), whole, rounding=1e-5)

    @pytest.mark.parametrize("aggregate", ["centre", "overlap"])
    def test_to_the_bit(self, boundary, aggregate):
        name, client = boundary
        y = RNG.random((61, 67, 3), np.float32)
        options = {"mode": "exact", "aggregate": aggregate, "maps": MAPS}
        whole = client.reconstruct(y, sigma=0.2, **options)
        found = tiled(client, y, (33, 40), **options)
        assert_same(found, whole, rounding=1e-5 if (name, aggregate) == ("circular", "overlap") else 0)

    def test_with_a_map_and_a_mask(self, boundary):
        _, client = boundary
        y, sigma = RNG.random((11, 12, 3)), RNG.uniform(0.05, 0.4, (11, 12))
        mask = np.ones((11, 12, 3), bool)
        mask[2:5, 3:8] = False
        for arguments in (
            {"sigma": sigma},
            {"mask": mask},
            {"sigma": sigma, "mask": mask[..., 0]},
            {"sigma": sigma[..., None]},
        ):
            arguments = {"sigma": 0.2} | arguments
            whole = client.reconstruct(y, maps=MAPS, **arguments)
            assert_same(tiled(client, y, (4, 5), maps=MAPS, **arguments), whole, rounding=1e-5)
        masked = np.ma.masked_array(y, ~mask)
        whole = client.reconstruct(masked, sigma=0.2, maps=MAPS)
        assert_same(tiled(client, masked, (4, 5), maps=MAPS), whole, rounding=1e-5)

    @pytest.mark.parametrize("kind", ["offset", "blur"])
    def test_of_other_indexes(self, tmp_path, kind):
        np.save(tmp_path / "a.npy", RNG.random((2, 8, 8), np.float32))
        options = {"equivariance": "offset"} if kind == "offset" else {"physics": "blur:gaussian:1.0"}
        with connect(build([tmp_path / "a.npy"], tmp_path / "index", patch_size=3, **options)) as client:
            y = RNG.random((9, 10), np.float32)
            assert_same(tiled(client, y, (4, 4)), client.reconstruct(y, sigma=0.2), rounding=1e-6)

    def test_what_depends_on_all_of_the_image_is_not_divided(self, tmp_path):
        np.save(tmp_path / "a.npy", RNG.random((2, 8, 8), np.float32))
        index = build(
            [tmp_path / "a.npy"],
            tmp_path / "index",
            patch_size=3,
            physics="blur:gaussian:1.0",
            pre_inverse="wiener:0.1",
        )
        with connect(index) as client:
            y = RNG.random((8, 8), np.float32)
            assert_same(tiled(client, y, (4, 4)), client.reconstruct(y, sigma=0.2))
            assert_same(
                tiled(client, y, (4, 4), estimator="mmse"),
                client.reconstruct(y, sigma=0.2, estimator="mmse"),
            )
            large = np.broadcast_to(np.float32(0), (8192, 8192))
            with pytest.raises(InvalidArgument, match=r"pre-inverse wiener:0\.1 needs all of the image"):
                client.reconstruct(large, sigma=0.2)

    def test_of_every_client(self, small, client, embedded):
        y = RNG.integers(0, 255, (21, 9), np.uint8)
        seen = []
        found = client.reconstruct(
            y, sigma=0.2, mode="hybrid", maps=["ess"], progress=lambda done, total: seen.append((done, total))
        )
        assert seen == [(done, 189) for done in (0, 64, 72, 136, 144, 184, 189)]
        options = Options(mode="hybrid", maps=["ess"])
        measurement = Measurement.checked(y, sigma=0.2, mask=None)
        assert_same(found, embedded._reconstruct("", measurement, options, None))


class TestCounts:
    """Poisson-Gaussian noise, whose map is found in each tile."""

    @pytest.mark.parametrize("aggregate", ["centre", "overlap"])
    def test_a_tile_has_all_on_which_its_map_depends(self, boundary, aggregate, monkeypatch):
        """After one map, the answer is that for the whole image, if all begin with the same white noise."""
        monkeypatch.setattr("lemmse.estimator.signal_noise.MOST_MAPS", 1)
        _, client = boundary
        rows = RNG.random((52, 15, 3))
        y = np.stack([rows, 1 - rows], axis=2).reshape(52, 30, 3)  # pairs of mean 1/2, which no tile divides
        options = {"aggregate": aggregate, "mode": "exact"}
        whole = client.reconstruct(y, sigma=0.1, **COUNTS, **options)
        found = tiled(client, y, (12, 10), sigma=0.1, noise=COUNTS, **options)
        assert_same(found, whole, rounding=1e-5)

    @pytest.mark.parametrize("aggregate", ["centre", "overlap"])
    def test_maps_settle_as_in_the_whole_image(self, boundary, aggregate):
        name, client = boundary
        x = np.linspace(0.1, 0.9, 23)[:, None, None] * np.ones((1, 17, 3))
        y = 0.05 * RNG.poisson(x / 0.05)
        options = {"aggregate": aggregate, "mode": "exact"}
        whole = client.reconstruct(y, sigma=0.1, **COUNTS, **options)
        found = tiled(client, y, (12, 9), sigma=0.1, noise=COUNTS, **options)
        stated = Measurement.checked(y, sigma=0.1, mask=None, **COUNTS)
        circular = name == "circular"
        one, other = (stated.with_noise_at(each.image, 4, circular=circular).sigma for each in (found, whole))
        assert np.sqrt(np.square(one / other - 1).mean()) <= 0.01  # what counts as settled

    def test_the_noise_is_estimated_once(self, boundary, monkeypatch):
        _, client = boundary
        monkeypatch.setattr(mosaic, "_SAMPLED", 12)
        y = RNG.random((20, 18, 3))
        noise = {"noise": "poisson-gaussian"}
        sample = client.estimate_noise(y[4:16, 3:15], **noise)
        found = tiled(client, y, (12, 9), sigma="auto", noise=noise)
        diagnostics = found.diagnostics
        assert (diagnostics.gain, diagnostics.sigma) == (sample.gain, sample.sigma)
        image = Mosaic(y, sigma="auto", mask=None, maps=(), side=(12, 9), **noise)
        image.settle(sample)
        image.begin(client.list_indexes()[0], Options())
        stated = [(one.gain, one.sigma) for one in image.measurements()]
        assert stated == [(sample.gain or None, sample.sigma[0])] * 4

    def test_numbers_with_an_offset(self, small, client):
        y = RNG.random((11, 12))
        numbers = np.rint(100 + 4000 * y).astype(np.uint16)
        out = np.empty(y.shape, np.float32)
        asked = {"sigma": 0.1, "range": (100, 4100), "mode": "exact", **COUNTS}
        found = client.reconstruct(numbers, **asked, out=out)
        assert (found.black_level, found.white_level) == (100, 4100)
        plain = client.reconstruct((numbers - 100.0) / 4000, sigma=0.1, mode="exact", **COUNTS)
        np.testing.assert_allclose(out, 100 + 4000 * plain.image, atol=0.5)

    def test_one_pixel_has_the_noise_at_the_mean_of_the_image(self):
        y = np.ma.masked_array(np.full((30, 30), 150, np.uint16), np.arange(900).reshape(30, 30) < 450)
        y[:15] = 9000
        y[:15] = np.ma.masked
        image = Mosaic(y, sigma=0.1, mask=None, maps=(), side=(8, 8), range=(100, 200), **COUNTS)
        assert image.probe.gain is None
        expected = np.sqrt(0.05 * (0.5 + 0.375 * 0.05) + 0.01)
        np.testing.assert_allclose(image.probe.sigma, [[expected]])


class TestArrays:
    def test_anything_that_takes_slices(self, small, embedded, tmp_path):
        y = RNG.random((21, 17), np.float32)
        whole = embedded.reconstruct(y, sigma=0.2, mode="exact")
        np.save(tmp_path / "y.npy", y)
        for source in (
            da.from_array(y, chunks=(8, 8)),
            zarr.array(y, chunks=(8, 4)),
            np.load(tmp_path / "y.npy", mmap_mode="r"),
        ):
            assert_same(embedded.reconstruct(source, sigma=0.2, mode="exact"), whole)
        for sigma in (np.float64(0.2), np.float32(0.2), np.array(0.2)):
            assert_same(embedded.reconstruct(y, sigma=sigma, mode="exact"), whole, rounding=1e-6)
        maps = zarr.array(np.full((21, 17), 0.2), chunks=(8, 8)), da.ones((21, 17), chunks=5)
        expected = embedded.reconstruct(y, sigma=np.asarray(maps[0]), mask=np.ones((21, 17)))
        assert_same(embedded.reconstruct(zarr.array(y), sigma=maps[0], mask=maps[1]), expected)

    def test_out(self, small, embedded, tmp_path):
        y = RNG.integers(0, 255, (21, 17), np.uint8)
        whole = embedded.reconstruct(y, sigma=0.2, maps=["ess"], mode="exact")
        image = zarr.create_array(tmp_path / "image.zarr", shape=y.shape, chunks=(8, 8), dtype="uint8")
        ess = np.lib.format.open_memmap(tmp_path / "ess.npy", "w+", np.float32, y.shape)
        seen = []
        result = embedded.reconstruct(
            y,
            sigma=0.2,
            maps=["ess"],
            mode="exact",
            out={"image": image, "ess": ess},
            progress=lambda *pixels: seen.append(pixels),
        )
        assert result.image is image
        assert result.white_level == 255
        result.save(tmp_path / "image.png")
        np.testing.assert_array_equal(iio.imread(tmp_path / "image.png"), image[:])
        assert result._repr_html_().count("<figure") == 2
        assert result.ess is ess
        np.testing.assert_array_equal(image[:], np.rint(whole.image).astype(np.uint8))
        np.testing.assert_array_equal(np.load(tmp_path / "ess.npy"), whole.ess)
        assert seen[0] == (0, 357)
        assert seen[-1] == (357, 357)
        assert [done for done, _ in seen] == sorted({done for done, _ in seen})
        for wrong in (np.empty((21, 16)), {"variance": np.empty(y.shape)}, {"ess": np.empty((21,))}, 5):
            with pytest.raises(InvalidArgument, match=r"^out: expected "):
                embedded.reconstruct(y, sigma=0.2, maps=["ess"], out=wrong)

    def test_errors(self, small, client):
        y = RNG.random((21, 17))
        for wrong, said in (
            ({"sigma": np.ones((21, 16))}, r"^sigma: expected shape \(21, 17\), that of y, got \(21, 16\)"),
            ({"mask": np.ones((2, 2))}, "^mask: expected shape"),
            ({"sigma": -1.0}, "^sigma: expected a number in"),
            ({"sigma": "much"}, "^sigma: expected a number"),
            ({"index": "none"}, "none"),
        ):
            with pytest.raises(LemmseError, match=said):
                client.reconstruct(y, **({"sigma": 0.2} | wrong))
        y[20, 16] = np.nan
        with pytest.raises(InvalidArgument, match=r"^y: expected finite numbers, got nan"):
            client.reconstruct(y, sigma=0.2)
        with pytest.raises(InvalidArgument, match="got int64"):
            client.reconstruct(np.ones((21, 17), np.int64), sigma=0.2)
        with pytest.raises(DeadlineExceeded):
            client.reconstruct(np.ones((21, 17)), sigma=0.2, timeout=1e-9)
