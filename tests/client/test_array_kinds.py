"""Arrays of other libraries: every client takes them, and returns the image and its maps as what y was."""

from collections.abc import Callable
from typing import Any

import array_api_strict
import dask.array as da
import numpy as np
import pytest
import torch
import xarray as xr

from lemmse.client import Client, Result
from lemmse.client.errors import InvalidArgument
from lemmse.contract.arrays import as_numpy, restorer
from tests.support.blocking import Blocking

RNG = np.random.default_rng(3)
SHAPE = (6, 8, 1)
Y = RNG.random(SHAPE, np.float32)
MAPS = ("variance", "ess")

Make = Callable[[np.ndarray], Any]


def with_coordinates(values: Any) -> xr.DataArray:
    dims = ("y", "x", "band")[: values.ndim]
    coords = {"y": np.linspace(50.0, 51, 6), "x": np.arange(8)} | (
        {"band": ["red"]} if values.ndim > 2 else {}
    )
    y = xr.DataArray(values, coords, dims, name="scene", attrs={"units": "1"})
    return y.assign_coords(time=5, latitude=(("y", "x"), np.ones((6, 8))))


def in_chunks(values: np.ndarray) -> da.Array:
    return da.from_array(values, chunks=(4, 3, 1)[: values.ndim])


KINDS: dict[str, tuple[Make, type]] = {
    "torch": (torch.from_numpy, torch.Tensor),
    "strict": (array_api_strict.asarray, type(array_api_strict.asarray(0.0))),
    "dask": (in_chunks, da.Array),
    "xarray": (with_coordinates, xr.DataArray),
    "xarray of dask": (lambda values: with_coordinates(in_chunks(values)), xr.DataArray),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> tuple[Make, type]:
    return KINDS[request.param]


def assert_same(found: Result, expected: Result, kind: type) -> None:
    assert found.arrays.keys() == expected.arrays.keys()
    for name, values in found.arrays.items():
        assert type(values) is kind, name
        np.testing.assert_array_equal(np.asarray(values), expected.arrays[name], err_msg=name)


@pytest.mark.parametrize("options", [{}, {"progress": lambda done, total: None}], ids=["whole", "tiles"])
def test_results_are_of_the_kind_of_y(
    client: Client | Blocking, kind: tuple[Make, type], options: dict[str, Any]
) -> None:
    make, type_ = kind
    expected = client.reconstruct(Y, sigma=0.2, maps=MAPS, **options)
    assert_same(client.reconstruct(make(Y), sigma=0.2, maps=MAPS, **options), expected, type_)


def test_integers_come_back_in_their_range(client: Client | Blocking, kind: tuple[Make, type]) -> None:
    make, type_ = kind
    stored = np.rint(255 * Y[..., 0]).astype(np.uint8)
    found = client.reconstruct(make(stored), sigma=0.2, maps=MAPS)
    assert found.white_level == 255
    assert_same(found, client.reconstruct(stored, sigma=0.2, maps=MAPS), type_)


@pytest.mark.parametrize("options", [{}, {"progress": lambda done, total: None}], ids=["whole", "tiles"])
def test_sigma_and_mask_may_be_of_any_kind(
    embedded: Client, kind: tuple[Make, type], options: dict[str, Any]
) -> None:
    make, type_ = kind
    sigma, mask = RNG.uniform(0.1, 0.3, SHAPE[:2]), RNG.random(SHAPE[:2]) > 0.2
    expected = embedded.reconstruct(Y, sigma=sigma, mask=mask, **options)
    found = embedded.reconstruct(Y, sigma=make(sigma), mask=make(mask), **options)
    assert_same(found, expected, np.ndarray)
    assert_same(embedded.reconstruct(make(Y), sigma=sigma, mask=make(mask), **options), expected, type_)


def test_a_batch_of_several_kinds(client: Client | Blocking) -> None:
    batch = [Y, *(make(Y) for make, _ in KINDS.values()), Y[..., 0].tolist()]
    sigma = torch.full((len(batch),), 0.2)
    expected = client.reconstruct(Y, sigma=sigma[0])
    types = [np.ndarray, *(type_ for _, type_ in KINDS.values())]
    *found, of_a_list = client.reconstruct_many(batch, sigma=sigma)
    for result, type_ in zip(found, types, strict=True):
        assert_same(result, expected, type_)
    assert type(of_a_list.image) is np.ndarray


def test_one_array_may_be_the_batch(embedded: Client) -> None:
    expected = embedded.reconstruct(Y, sigma=0.2)
    for result in embedded.reconstruct_many(torch.from_numpy(np.stack([Y, Y])), sigma=0.2):
        assert_same(result, expected, torch.Tensor)
    series = xr.concat([with_coordinates(Y).assign_coords(time=time) for time in (5, 6)], "time")
    results = list(embedded.reconstruct_many(series, sigma=0.2))
    xr.testing.assert_identical(xr.concat([result.image for result in results], "time").time, series.time)


class TestTorch:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
    def test_results_are_float32(self, embedded: Client, dtype: torch.dtype) -> None:
        y = torch.from_numpy(Y).to(dtype)
        found = embedded.reconstruct(y, sigma=0.2)
        assert found.image.dtype == torch.float32
        expected = embedded.reconstruct(y.double().numpy(), sigma=0.2)
        np.testing.assert_allclose(found.image, expected.image, rtol=0, atol=1e-6)

    def test_results_can_be_written_to(self, remote: Client) -> None:
        y = torch.from_numpy(Y)
        image = remote.reconstruct(y, sigma=0.2).image
        image.zero_()
        np.testing.assert_array_equal(y, Y)

    @pytest.mark.parametrize("options", [{}, {"progress": lambda done, total: None}], ids=["whole", "tiles"])
    @pytest.mark.parametrize(
        ("y", "message"),
        [
            (torch.zeros(6, 8, requires_grad=True), r"y: expected an array, got a Tensor: .*detach\(\)"),
            (torch.zeros(6, 8, device="meta"), "y: expected an array, got a Tensor: .*no data"),
            (torch.zeros(6, 8, dtype=torch.int64), "y: expected floats .*got int64"),
            (torch.zeros(6, 8).to_sparse(), "y: expected an array, got a Tensor"),
        ],
        ids=["gradient", "meta", "int64", "sparse"],
    )
    def test_tensors_that_are_refused(
        self, embedded: Client, y: torch.Tensor, message: str, options: dict[str, Any]
    ) -> None:
        with pytest.raises(InvalidArgument, match=message):
            embedded.reconstruct(y, sigma=0.2, **options)

    def test_out_takes_no_tensor(self, embedded: Client) -> None:
        with pytest.raises(
            InvalidArgument, match=r"out: expected an array of NumPy .* for image, got a Tensor"
        ):
            embedded.reconstruct(Y, sigma=0.2, out=torch.zeros(SHAPE))

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
    def test_results_are_on_the_device_of_y(self, remote: Client) -> None:
        y = torch.from_numpy(Y).cuda()
        expected = remote.reconstruct(Y, sigma=0.2, maps=MAPS)
        found = remote.reconstruct(y, sigma=torch.tensor(0.2, device="cuda"), maps=MAPS)
        for name, values in found.arrays.items():
            assert values.device == y.device
            np.testing.assert_array_equal(as_numpy(name, values), expected.arrays[name])
        assert "<img" in found._repr_html_()


class TestDask:
    def test_results_have_the_chunks_of_y(self, embedded: Client) -> None:
        y = in_chunks(Y)
        found = embedded.reconstruct(y, sigma=0.2, maps=MAPS)
        assert found.image.chunks == found.variance.chunks == y.chunks
        assert found.ess.chunks == y.chunks[:2]

    def test_chunks_of_unknown_sizes(self, embedded: Client) -> None:
        y = in_chunks(Y[..., 0])
        some = y[y[:, 0] >= 0]
        assert np.isnan(some.shape[0])
        assert_same(
            embedded.reconstruct(some, sigma=0.2), embedded.reconstruct(Y[..., 0], sigma=0.2), da.Array
        )


class TestXarray:
    @pytest.mark.parametrize("chunks", [None, {"y": 4, "x": 3}])
    def test_the_image_is_y_with_other_numbers(self, embedded: Client, chunks: dict[str, int] | None) -> None:
        y = with_coordinates(Y) if chunks is None else with_coordinates(Y).chunk(chunks)
        y.encoding = {"dtype": "uint8"}
        found = embedded.reconstruct(y, sigma=0.2, maps=MAPS)
        expected = embedded.reconstruct(Y, sigma=0.2, maps=MAPS)
        xr.testing.assert_identical(found.image, y.copy(data=expected.image))
        assert found.image.encoding == {}
        assert found.image.chunks == y.chunks
        for name in MAPS:
            values = found.arrays[name]
            assert (values.name, values.attrs) == (name, {})
            wanted = y if name == "variance" else y.isel(band=0, drop=True)
            xr.testing.assert_equal(values, wanted.copy(data=expected.arrays[name]))
            assert values.chunks == wanted.chunks

    def test_y_is_left_as_it_is(self, embedded: Client) -> None:
        y = with_coordinates(Y)
        before = y.copy(deep=True)
        image = embedded.reconstruct(y, sigma=0.2).image
        image[:] = 0
        image["x"] = np.zeros(8)
        image.attrs["units"] = "2"
        xr.testing.assert_identical(y, before)

    def test_the_channels_of_a_coordinate_are_not_those_of_a_map(self, embedded: Client) -> None:
        y = with_coordinates(Y).assign_coords(gain=(("y", "band"), np.ones((6, 1))))
        found = embedded.reconstruct(y, sigma=0.2, maps=["ess"])
        assert set(found.image.coords) == {"y", "x", "band", "time", "latitude", "gain"}
        assert set(found.ess.coords) == {"y", "x", "time", "latitude"}

    @pytest.mark.parametrize("options", [{}, {"progress": lambda done, total: None}], ids=["whole", "tiles"])
    @pytest.mark.parametrize("argument", ["sigma", "mask"])
    def test_maps_are_at_the_places_of_y(
        self, embedded: Client, argument: str, options: dict[str, Any]
    ) -> None:
        y = with_coordinates(Y[..., 0])
        ones = xr.ones_like(y)
        arguments = {"sigma": 0.2, **options}
        with pytest.raises(
            InvalidArgument, match=rf"{argument}: expected the dimensions of y, \('y', 'x'\), got"
        ):
            embedded.reconstruct(y, **(arguments | {argument: ones.T}))
        with pytest.raises(InvalidArgument, match=f"{argument}: expected the coordinates of y: .*'y'"):
            embedded.reconstruct(y, **(arguments | {argument: ones.assign_coords(y=y.y + 1)}))
        without = xr.DataArray(np.ones(y.shape), dims=y.dims)
        assert embedded.reconstruct(y, **(arguments | {argument: without})).image.shape == y.shape

    def test_the_maps_of_a_volume_have_no_channels(self) -> None:
        y = xr.DataArray(np.zeros((2, 3, 4, 2)), {"z": [5, 6]}, ("z", "y", "x", "c"))
        restore = restorer(y)
        assert restore is not None
        xr.testing.assert_identical(
            restore(np.ones((2, 3, 4), np.float32), "ess"),
            xr.DataArray(np.ones((2, 3, 4), np.float32), {"z": [5, 6]}, ("z", "y", "x"), name="ess"),
        )

    def test_a_vector_is_at_the_places_of_y(self, embedded: Client) -> None:
        y = with_coordinates(Y[..., 0])
        with pytest.raises(InvalidArgument, match="vector: expected the dimensions of y"):
            embedded.vjp(y, sigma=0.2, vector=y.T)

    def test_a_data_set_is_no_array(self, embedded: Client) -> None:
        with pytest.raises(InvalidArgument, match=r"y: expected an array, got a Dataset: .*to_dataarray"):
            embedded.reconstruct(with_coordinates(Y).to_dataset(), sigma=0.2)


def test_a_result_of_any_kind_is_shown_and_saved(
    embedded: Client, kind: tuple[Make, type], tmp_path: Any
) -> None:
    make, _ = kind
    found = embedded.reconstruct(make(Y), sigma=0.2, maps=MAPS)
    expected = embedded.reconstruct(Y, sigma=0.2, maps=MAPS)
    shown, wanted = (page._repr_html_().split("<table>")[0] for page in (found, expected))
    assert shown == wanted
    found.save(tmp_path / "found.npz")
    with np.load(tmp_path / "found.npz") as saved:
        assert {name: values.tolist() for name, values in saved.items()} == {
            name: values.tolist() for name, values in expected.arrays.items()
        }


def test_explanations_and_estimates_of_any_kind(client: Client | Blocking, kind: tuple[Make, type]) -> None:
    make, _ = kind
    asked = {"sigma": 0.2, "pixel": (1, 2), "top": 3}
    assert client.explain(make(Y), **asked) == client.explain(Y, **asked)
    assert client.estimate_noise(make(Y)) == client.estimate_noise(Y)


def test_derivatives_are_of_the_kind_of_y(client: Client | Blocking, kind: tuple[Make, type]) -> None:
    make, type_ = kind
    vector = RNG.normal(size=SHAPE)
    expected = client.vjp(Y, sigma=0.2, vector=vector)
    for given in (vector, make(vector)):
        found = client.vjp(make(Y), sigma=0.2, vector=given)
        assert type(found) is type_
        np.testing.assert_array_equal(np.asarray(found), expected)


def test_counts_of_any_kind(
    client: Client | Blocking, kind: tuple[Make, type], monkeypatch: pytest.MonkeyPatch
) -> None:
    make, type_ = kind
    stored = np.rint(4000 * Y).astype(np.int32)
    noise = {"noise": "poisson-gaussian", "gain": 0.02, "sigma": 0.05, "range": (100, 4000)}
    for options in (noise, noise | {"progress": lambda done, total: None}):
        expected = client.reconstruct(stored, maps=MAPS, **options)
        assert_same(client.reconstruct(make(stored), maps=MAPS, **options), expected, type_)
    # As of an image that does not fit into a message, of which a remote client sends the surroundings.
    for module in ("remote", "aio.remote"):
        monkeypatch.setattr(f"lemmse.client.{module}.INLINE_BYTES", 100)
    asked = {"pixel": (1, 2), "top": 3, **noise}
    assert client.explain(make(stored), **asked) == client.explain(stored, **asked)
