"""Noise maps, masks, estimators and ranges, the same whether the index is remote or in this process."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from lemmse.client import Client, LemmseError, Result, connect
from lemmse.client.errors import InvalidArgument
from lemmse.index import build, open_index
from lemmse.server.config import ServerConfig
from lemmse.server.lifecycle import Server
from tests.support.oracle import agreement, oracle

MAPS = ("variance", "ess", "log_density")
RNG = np.random.default_rng(7)
GREY = RNG.random((6, 6))
COLOUR = RNG.random((6, 6, 3))

OPTIONS = {
    "grey": {},
    "colour": {},
    "mirrored": {"boundary": "reflect"},
    "inside": {"boundary": "valid"},
    "deblur": {"physics": "blur:gaussian:1", "pre_inverse": "wiener:0.01"},
    "inpaint": {"physics": "inpaint:center:2", "pre_inverse": "mask"},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """An index of each kind, of three images of 6 × 6 and patches of 3 × 3."""
    folder = tmp_path_factory.mktemp("kinds")
    rng = np.random.default_rng(8)
    np.save(folder / "grey.npy", rng.random((3, 6, 6), np.float32))
    np.save(folder / "colour.npy", rng.random((3, 6, 6, 3), np.float32))
    return {
        name: build(
            [folder / ("colour.npy" if name == "colour" else "grey.npy")],
            folder / name,
            patch_size=3,
            **options,
        )
        for name, options in OPTIONS.items()
    }


@dataclass(frozen=True)
class Asked:
    """The clients of all kinds of index: one of a server that has them all, one for each in this process."""

    remote: Client
    embedded: dict[str, Client]

    def clients(self, index: str) -> list[Client]:
        return [self.remote, self.embedded[index]]

    def reconstruct(self, index: str, y, **arguments) -> Result:
        """The result, which both agree about."""
        one, other = (c.reconstruct(y, index=index, maps=MAPS, **arguments) for c in self.clients(index))
        assert_same(one, other)
        return other

    def refused(self, index: str, y, words: str, **arguments) -> None:
        for client in self.clients(index):
            with pytest.raises(InvalidArgument, match=words):
                client.reconstruct(y, index=index, **arguments)


def assert_same(one: Result, other: Result) -> None:
    for name in ("image", *MAPS):
        # To the rounding of float64: a BLAS adds up in another order for memory of another alignment.
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-9, atol=1e-12)
    assert one.diagnostics.mode == other.diagnostics.mode


@pytest.fixture(scope="module")
def asked(folders) -> Iterator[Asked]:
    server = Server(ServerConfig(indexes=tuple(folders.values()), listen="127.0.0.1:0", threads=1))
    embedded = {name: connect(folder) for name, folder in folders.items()}
    with connect(f"grpc://{server.address}") as remote:
        yield Asked(remote, embedded)
    server.stop(0)


@pytest.mark.parametrize("mode", ["exact", "topk"])
def test_a_map_of_one_sigma_is_that_sigma(asked, mode):
    one = asked.reconstruct("grey", GREY, sigma=0.2, mode=mode)
    everywhere = asked.reconstruct("grey", GREY, sigma=np.full((6, 6), 0.2), mask=np.ones((6, 6)), mode=mode)
    assert agreement(one.image, everywhere.image) > 100
    np.testing.assert_allclose(one.ess, everywhere.ess, rtol=1e-3)


def test_what_is_masked_is_not_looked_at(asked):
    mask = RNG.random((6, 6)) < 0.5
    results = [
        asked.reconstruct("grey", np.where(mask, GREY, hidden), sigma=0.1, mask=mask)
        for hidden in (np.nan, np.inf, 0.7)
    ]
    for result in results[1:]:
        assert_same(results[0], result)
    assert agreement(asked.reconstruct("grey", GREY, sigma=0.1).image, results[0].image) < 40


def test_a_mask_of_channels_is_a_mosaic(asked):
    bayer = np.zeros((6, 6, 3), bool)
    bayer[::2, ::2, 0] = bayer[::2, 1::2, 1] = bayer[1::2, ::2, 1] = bayer[1::2, 1::2, 2] = True
    mosaic = asked.reconstruct("colour", np.where(bayer, COLOUR, np.nan), sigma=0.1, mask=bayer)
    by_noise = asked.reconstruct("colour", COLOUR, sigma=np.where(bayer, 0.1, 1e5))
    assert agreement(mosaic.image, by_noise.image) > 60


def test_a_pixel_without_any_observation_is_the_mean_of_the_training_pixels(asked, folders):
    nothing = asked.reconstruct("grey", np.full((6, 6), np.nan), sigma=0.1, mask=np.zeros((6, 6)))
    training = np.load(folders["grey"].parent / "grey.npy")
    np.testing.assert_allclose(nothing.image, training.mean(), atol=1e-5)
    np.testing.assert_allclose(nothing.ess, training.size, rtol=1e-4)


@pytest.mark.parametrize("index", ["deblur", "inpaint"])
def test_masks_and_maps_need_an_index_of_the_identity(asked, index):
    asked.refused(index, GREY, "^mask: .*identity", sigma=0.1, mask=np.eye(6))
    asked.refused(index, GREY, "^sigma: .*identity", sigma=np.full((6, 6), 0.1))
    assert asked.reconstruct(index, GREY, sigma=0.1).image.shape == (6, 6)


@pytest.mark.parametrize("index", ["grey", "colour", "deblur", "inpaint"])
@pytest.mark.parametrize("estimator", ["e-mmse", "mmse"])
def test_the_family(asked, folders, index, estimator):
    """At low noise all that is left of the posterior is the training image that was measured."""
    clean = np.load(folders["grey"].parent / f"{'colour' if index == 'colour' else 'grey'}.npy")[1]
    operator = open_index(folders[index]).problem
    measured = operator.measure(clean.reshape(6, 6, -1)).reshape(clean.shape)
    result = asked.reconstruct(index, measured, sigma=0.001, estimator=estimator)
    assert agreement(result.image, clean) > 60
    np.testing.assert_allclose(result.ess, 1, rtol=1e-3)
    assert result.diagnostics.mode == "exact"


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535)])
@pytest.mark.parametrize("mode", ["exact", "topk"])
def test_integers_come_back_in_their_range(asked, folders, dtype, white, mode):
    y = RNG.integers(0, white + 1, (6, 6), dtype)
    result = asked.reconstruct("grey", y, sigma=0.1, mode=mode)
    intensities = asked.reconstruct("grey", np.float32(y / np.float32(white)), sigma=0.1, mode=mode)
    np.testing.assert_allclose(result.image, intensities.image * white, rtol=1e-6)
    np.testing.assert_allclose(result.variance, intensities.variance * white**2, rtol=1e-6)
    np.testing.assert_array_equal(result.ess, intensities.ess)
    np.testing.assert_array_equal(result.log_density, intensities.log_density)
    if mode == "exact":
        training = np.load(folders["grey"].parent / "grey.npy")[..., None]
        truth = oracle(training, y[..., None] / white, 0.1, 3).image
        assert agreement(result.image / white, truth[..., 0]) > 80


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535)])
def test_a_bandwidth_is_in_intensities_whatever_the_range_of_the_image(asked, dtype, white):
    y = RNG.integers(0, white + 1, (6, 6), dtype)
    stored = asked.reconstruct("grey", y, sigma=0.1, bandwidth=0.05)
    intensities = asked.reconstruct("grey", np.float32(y / np.float32(white)), sigma=0.1, bandwidth=0.05)
    np.testing.assert_allclose(stored.image, intensities.image * white, rtol=1e-6)
    assert stored.diagnostics.bandwidth == intensities.diagnostics.bandwidth


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535)])
def test_a_share_of_gaussians_is_no_intensity(asked, dtype, white):
    y = RNG.integers(0, white + 1, (6, 6), dtype)
    options = {"sigma": 0.1, "gaussian_share": 0.3, "aggregate": "overlap"}
    stored = asked.reconstruct("grey", y, **options)
    intensities = asked.reconstruct("grey", np.float32(y / np.float32(white)), **options)
    np.testing.assert_allclose(stored.image, intensities.image * white, rtol=1e-6)
    np.testing.assert_allclose(stored.variance, intensities.variance * white**2, rtol=1e-6)
    assert stored.diagnostics.gaussian_share == intensities.diagnostics.gaussian_share == 0.3


@pytest.mark.parametrize("index", ["colour", "mirrored", "inside"])
def test_gaussians_take_masks_and_noise_maps(asked, index):
    y = COLOUR if index == "colour" else GREY
    mask = RNG.random((6, 6)) < 0.7
    options = {"gaussian_share": 0.3, "bandwidth": 0.05}
    asked.reconstruct(index, y, sigma=0.1, mask=mask, **options)
    asked.reconstruct(index, y, sigma=RNG.random((6, 6)) + 0.1, **options)


@pytest.mark.parametrize("index", ["deblur", "inpaint"])
def test_gaussians_need_an_index_of_the_identity(asked, index):
    words = (
        "^gaussian_share: a share of Gaussians needs an index of physics identity and pre-inverse identity"
    )
    asked.refused(index, GREY, words, sigma=0.1, gaussian_share=0.5)


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535)])
def test_an_error_comes_back_in_the_range_of_the_image(asked, dtype, white):
    y = RNG.integers(0, white + 1, (6, 6), dtype)
    for client in asked.clients("grey"):
        stored, intensities = (
            client.reconstruct(
                image, sigma=0.1, mode="hybrid", budget=20, maps=["error"], error="certified", index="grey"
            )
            for image in (y, np.float32(y / np.float32(white)))
        )
        np.testing.assert_allclose(stored.error, intensities.error * white, rtol=1e-6)
        assert stored.diagnostics.certified == intensities.diagnostics.certified


def test_explain_in_the_range_of_the_image(asked):
    y = np.rint(GREY * 255).astype(np.uint8)
    for client in asked.clients("grey"):
        stored = client.explain(y, sigma=0.1, pixel=(2, 3), top=108, index="grey")
        floats = client.explain(
            np.float32(y / np.float32(255)), sigma=0.1, pixel=(2, 3), top=108, index="grey"
        )
        assert [c.weight for c in stored] == [c.weight for c in floats]
        np.testing.assert_allclose(
            [c.value for c in stored], np.multiply([c.value for c in floats], 255), rtol=1e-6
        )
        mean = sum(c.weight * c.value[0] for c in stored)
        image = client.reconstruct(y, sigma=0.1, mode="exact", index="grey").image
        assert mean == pytest.approx(image[2, 3], abs=1e-3)


@pytest.mark.parametrize("mode", ["exact", "topk"])
def test_everything_at_once_in_chunks(asked, mode):
    """y, a map of sigma and a mask, each larger than a message or nearly so."""
    shape = (700, 700, 3)
    rng = np.random.default_rng(9)
    y, sigma, mask = rng.random(shape, np.float32), rng.random(shape) + 0.2, rng.random(shape) < 0.7
    kept = {"k": 5, "nprobe": 2} if mode == "topk" else {}
    asked.reconstruct("colour", np.where(mask, y, np.nan), sigma=sigma, mask=mask, mode=mode, **kept)


def test_many_with_their_own_noise_and_masks(asked):
    rng = np.random.default_rng(10)
    mask = rng.random((6, 6)) < 0.5
    images = [GREY, np.rint(GREY * 255).astype(np.uint8), GREY[:4], GREY]
    sigmas = [0.1, np.full((6, 6), 0.2), 0.3, -1]
    masks = [mask, None, mask, None]
    for client in asked.clients("grey"):
        outcomes = list(client.reconstruct_many(images, sigma=sigmas, mask=masks, index="grey", maps=MAPS))
        for position in (0, 1):
            single = client.reconstruct(
                images[position], sigma=sigmas[position], mask=masks[position], index="grey", maps=MAPS
            )
            assert_same(outcomes[position], single)
        assert [o.violations[0].field for o in outcomes[2:] if isinstance(o, LemmseError)] == [
            "mask",
            "sigma",
        ]
        for shared in (0.2, np.full((6, 6), 0.2)):
            for outcome in client.reconstruct_many(
                [GREY, GREY], sigma=shared, mask=mask, index="grey", maps=MAPS
            ):
                assert_same(
                    outcome, client.reconstruct(GREY, sigma=shared, mask=mask, index="grey", maps=MAPS)
                )


def test_many_with_another_number_of_sigmas(asked):
    for client in asked.clients("grey"):
        with pytest.raises(InvalidArgument, match="sigma: expected one for each of the 2 images, got 3"):
            client.reconstruct_many([GREY, GREY], sigma=[0.1, 0.2, 0.3])


@pytest.mark.parametrize("index", ["grey", "mirrored", "inside"])
@pytest.mark.parametrize("pixel", [(0, 0), (0, 1099), (1099, 550), (17, 23)])
def test_explain_in_an_image_larger_than_a_message(asked, index, pixel):
    rng = np.random.default_rng(11)
    y, sigma, mask = rng.random((1100, 1100)), rng.random((1100, 1100)) + 0.1, rng.random((1100, 1100)) < 0.6
    for arguments in ({"sigma": 0.3}, {"sigma": sigma, "mask": mask}):
        one, other = (c.explain(y, pixel=pixel, index=index, **arguments) for c in asked.clients(index))
        assert one == other


def test_a_large_image_is_not_cropped_where_all_of_it_counts(asked):
    y = np.zeros((1100, 1100))
    with pytest.raises(InvalidArgument, match=r"pre-inverse wiener:0\.01 needs all of it"):
        asked.remote.explain(y, sigma=0.1, pixel=(0, 0), index="deblur")
    assert asked.remote.explain(y[:6, :6], sigma=0.1, pixel=(0, 0), index="deblur")


def test_what_an_index_expects(asked):
    for index, options in OPTIONS.items():
        one, other = (client.get_index(index) for client in asked.clients(index))
        assert one == other
        assert (one.physics, one.pre_inverse, one.boundary) == (
            options.get("physics", "identity"),
            options.get("pre_inverse", "identity"),
            options.get("boundary", "circular"),
        )
        assert (one.image_height, one.image_width) == (6, 6)


def test_sizes_that_differ_are_zero(tmp_path):
    for size in (6, 7):
        np.save(tmp_path / f"{size}.npy", np.zeros((1, 6, size), np.float32))
    folder = build([tmp_path / "6.npy", tmp_path / "7.npy"], tmp_path / "sizes", patch_size=3)
    with connect(folder) as client:
        info = client.get_index("sizes")
        assert (info.image_height, info.image_width) == (0, 0)
        with pytest.raises(InvalidArgument, match="estimator: expected"):
            client.reconstruct(np.zeros((6, 6)), sigma=0.1, estimator="mmse")
