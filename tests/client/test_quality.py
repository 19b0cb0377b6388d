"""Pictures of better quality, the same whether the index is remote or in this process."""

from dataclasses import replace

import numpy as np
import pytest

from lemmse.client import connect
from lemmse.client.errors import InvalidArgument, NotFound
from lemmse.index import build, open_index
from lemmse.index.storage.picture_record import Pictures, Refinement
from lemmse.server.config import ServerConfig
from lemmse.server.lifecycle import Server

IMAGE = np.random.default_rng(12).random((5, 7))


def ran(result):
    said = result.diagnostics
    return said.aggregate, said.bandwidth, said.gaussian_share


@pytest.mark.parametrize("mode", ["exact", "topk", "hybrid"])
def test_the_answer_is_what_was_asked_for_and_says_so(client, mode):
    plain = client.reconstruct(IMAGE, sigma=0.2, mode=mode)
    overlap = client.reconstruct(IMAGE, sigma=0.2, mode=mode, aggregate="overlap")
    wide = client.reconstruct(IMAGE, sigma=0.2, mode=mode, bandwidth=0.1)
    shared = client.reconstruct(IMAGE, sigma=0.2, mode=mode, gaussian_share=0.5)
    assert [ran(result) for result in (plain, overlap, wide, shared)] == [
        ("centre", 0, 0),
        ("overlap", 0, 0),
        ("centre", 0.1, 0),
        ("centre", 0, 0.5),
    ]
    for result in (overlap, wide, shared):
        assert np.abs(result.image - plain.image).max() > 1e-3


def test_with_a_wide_prior_the_measurement_is_all_that_is_left(client):
    result = client.reconstruct(IMAGE, sigma=0.01, mode="exact", bandwidth=1e3)
    np.testing.assert_allclose(result.image, IMAGE, atol=1e-4)


def test_gaussians_alone_need_no_key(client):
    result = client.reconstruct(IMAGE, sigma=0.2, gaussian_share=1)
    assert (ran(result), result.diagnostics.keys_touched) == (("centre", 0, 1), 0)


def test_what_is_said_goes_before_what_quality_says(client):
    paper = client.reconstruct(IMAGE, sigma=0.2, mode="exact")
    said = {"aggregate": "centre", "bandwidth": 0, "gaussian_share": 0}
    told = client.reconstruct(IMAGE, sigma=0.2, mode="exact", quality="best", **said)
    assert ran(told) == ("centre", 0, 0)
    np.testing.assert_array_equal(told.image, paper.image)


@pytest.mark.parametrize("option", [{"aggregate": "overlap"}, {"bandwidth": 0.1}, {"gaussian_share": 0.1}])
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


@pytest.mark.slow
def test_contributors_say_which_copy_they_were_cut_from(clients, symmetric):
    images, _ = symmetric
    one, other = (client.explain(IMAGE, sigma=0.2, pixel=(4, 0), top=576) for client in clients)
    assert one == other
    assert len({contributor.symmetry for contributor in one}) == 8
    for contributor in one:
        clean = images[contributor.image, contributor.row, contributor.column]
        assert contributor.value == pytest.approx((clean,), abs=1e-6)


def measured(folder, refinement, best_db) -> None:
    """Say in an index what a calibration is to have found at the noise of 0.02 and of 0.2."""
    index = open_index(folder)
    rows = {"best_db": best_db, "paper_db": (0.0, 0.0), "noisy_db": (0.0, 0.0)}
    pictures = Pictures(1, (0.02, 0.2), (refinement,) * 2, **rows)
    replace(index.manifest, pictures=pictures).write(index.folder)


NEAR, FAR = Refinement("centre", 0.03, 0.5), Refinement("overlap", 0.0, 0.25)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Two indexes of the same images, of which near is the better at low noise and far at high noise."""
    folder = tmp_path_factory.mktemp("compared")
    np.save(folder / "images.npy", np.random.default_rng(14).random((2, 6, 6)))
    near, far = (
        build([folder / "images.npy"], folder / name, patch_size=p) for name, p in (("near", 3), ("far", 5))
    )
    measured(near, NEAR, (40.0, 20.0))
    measured(far, FAR, (30.0, 25.0))
    return near, far


@pytest.fixture(scope="module", params=["remote", "embedded"])
def several(request, compared):
    """A client of both."""
    if request.param == "embedded":
        with connect(*compared) as client:
            yield client
        return
    server = Server(ServerConfig(indexes=compared, listen="127.0.0.1:0", threads=1))
    with connect(f"grpc://{server.address}") as client:
        yield client
    server.stop(0)


def test_several_indexes_by_name(several):
    assert [info.name for info in several.list_indexes()] == ["far", "near"]
    assert [several.get_index(name).patch_size for name in ("far", "near")] == [5, 3]
    for name in ("far", "near"):
        assert several.reconstruct(IMAGE, sigma=0.1, index=name).diagnostics.index == name
        assert len(several.explain(IMAGE, sigma=0.1, pixel=(0, 0), index=name, top=3)) == 3
    with pytest.raises(NotFound, match="expected one of far, near, got 'nope'"):
        several.reconstruct(IMAGE, sigma=0.1, index="nope")


def test_the_best_of_several_indexes_is_taken_at_each_noise(several):
    expected = {0.02: ("near", ("centre", 0.03, 0.5)), 0.2: ("far", ("overlap", 0.0, 0.25))}
    for sigma, (name, way) in expected.items():
        result = several.reconstruct(IMAGE, sigma=sigma, quality="best")
        assert (result.diagnostics.index, ran(result)) == (name, way)
        named = several.reconstruct(IMAGE, sigma=sigma, quality="best", index=name)
        np.testing.assert_array_equal(result.image, named.image)
    many = several.reconstruct_many([IMAGE] * 3, sigma=[0.2, 0.02, 0.2], quality="best")
    assert [result.diagnostics.index for result in many] == ["far", "near", "far"]


def test_a_named_index_is_taken_though_another_is_better(several):
    result = several.reconstruct(IMAGE, sigma=0.2, quality="best", index="near")
    assert (result.diagnostics.index, ran(result)) == ("near", ("centre", 0.03, 0.5))


def test_only_quality_best_chooses(several):
    for ask in (
        lambda: several.reconstruct(IMAGE, sigma=0.1),
        lambda: several.reconstruct(IMAGE, sigma=0.1, quality="paper"),
        lambda: several.explain(IMAGE, sigma=0.1, pixel=(0, 0)),
    ):
        with pytest.raises(InvalidArgument, match="index: expected one of far, near, got no name"):
            ask()


def test_a_server_and_a_folder_are_not_asked_together(server, tiny_index):
    address = f"grpc://{server.address}"
    for targets in ((address, tiny_index), (tiny_index, address), (address, address)):
        with pytest.raises(InvalidArgument, match="target: expected one server, or index folders only"):
            connect(*targets)
    with pytest.raises(
        InvalidArgument, match="target: expected grpc://HOST:PORT, grpcs://HOST:PORT or an index folder"
    ):
        connect(tiny_index, "")


def test_two_folders_of_one_name_are_refused(tiny_index):
    with pytest.raises(InvalidArgument, match="expected folders of different names, got 'tiny' twice"):
        connect(tiny_index, tiny_index)
