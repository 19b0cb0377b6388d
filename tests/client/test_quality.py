"""Pictures of better quality, the same whether the index is remote or in this process."""

import numpy as np
import pytest

from lemmse.client import connect
from lemmse.client.errors import InvalidArgument
from lemmse.index import build
from lemmse.server.config import ServerConfig
from lemmse.server.lifecycle import Server

IMAGE = np.random.default_rng(12).random((5, 7))


def ran(result):
    return result.diagnostics.aggregate, result.diagnostics.bandwidth


@pytest.mark.parametrize("mode", ["exact", "topk", "hybrid"])
def test_the_answer_is_what_was_asked_for_and_says_so(client, mode):
    plain = client.reconstruct(IMAGE, sigma=0.2, mode=mode)
    overlap = client.reconstruct(IMAGE, sigma=0.2, mode=mode, aggregate="overlap")
    wide = client.reconstruct(IMAGE, sigma=0.2, mode=mode, bandwidth=0.1)
    assert [ran(result) for result in (plain, overlap, wide)] == [
        ("centre", 0),
        ("overlap", 0),
        ("centre", 0.1),
    ]
    for result in (overlap, wide):
        assert np.abs(result.image - plain.image).max() > 1e-3


def test_with_a_wide_prior_the_measurement_is_all_that_is_left(client):
    result = client.reconstruct(IMAGE, sigma=0.01, mode="exact", bandwidth=1e3)
    np.testing.assert_allclose(result.image, IMAGE, atol=1e-4)


def test_what_is_said_goes_before_what_quality_says(client):
    paper = client.reconstruct(IMAGE, sigma=0.2, mode="exact")
    told = client.reconstruct(IMAGE, sigma=0.2, mode="exact", quality="best", aggregate="centre", bandwidth=0)
    assert ran(told) == ("centre", 0)
    np.testing.assert_array_equal(told.image, paper.image)


@pytest.mark.parametrize("option", [{"aggregate": "overlap"}, {"bandwidth": 0.1}])
@pytest.mark.parametrize("estimator", ["mmse", "e-mmse"])
def test_whole_images_have_no_patches(client, option, estimator):
    (name,) = option
    with pytest.raises(InvalidArgument, match=f"^{name}: expected"):
        client.reconstruct(np.zeros((6, 6)), sigma=0.1, estimator=estimator, **option)


@pytest.fixture(scope="module")
def symmetric(tmp_path_factory):
    """An index of all copies of two images, the second of which is grey all over, whatever their level."""
    folder = tmp_path_factory.mktemp("symmetric")
    images = np.stack([np.random.default_rng(13).random((6, 6)), np.full((6, 6), 0.5)])
    np.save(folder / "images.npy", images)
    source = [folder / "images.npy"]
    return images, build(
        source, folder / "symmetric", patch_size=3, equivariance="offset", augment="dihedral"
    )


@pytest.fixture(scope="module")
def clients(symmetric):
    _, folder = symmetric
    server = Server(ServerConfig(indexes=(folder,), listen="127.0.0.1:0", threads=1))
    with connect(f"grpc://{server.address}") as remote, connect(folder) as embedded:
        yield remote, embedded
    server.stop(0)


def test_what_an_index_is_equivariant_to(clients):
    one, other = (client.get_index("symmetric") for client in clients)
    assert one == other
    assert (one.equivariance, one.augment) == ("offset", "dihedral")
    assert one.keys == 8 * 2 * 36
    assert one.distinct <= 8 * 36 + 1


def test_contributors_say_which_copy_they_were_cut_from(clients, symmetric):
    images, _ = symmetric
    one, other = (client.explain(IMAGE, sigma=0.2, pixel=(4, 0), top=576) for client in clients)
    assert one == other
    assert len({contributor.symmetry for contributor in one}) == 8
    for contributor in one:
        clean = images[contributor.image, contributor.row, contributor.column]
        assert contributor.value == pytest.approx((clean,), abs=1e-6)
