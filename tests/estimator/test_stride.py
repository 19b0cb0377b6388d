"""Patches at a stride: the posterior over these patches, as the oracle has it, in every mode."""

import numpy as np
import pytest

from lemmse.contract.errors import InvalidArgument
from lemmse.estimator import Reconstructor
from lemmse.index import build, open_index, update
from lemmse.index.images.symmetries import SYMMETRIES, apply
from lemmse.index.reading.held_out_view import leave_out
from tests.support.cases import smooth
from tests.support.indexes import by_cell, everything, few_at_a_time
from tests.support.oracle import agreement, oracle, patch
from tests.support.problems import P, Problem, gaussian, grid, random
from tests.support.quality_oracle import quality_oracle

MODES = {
    "exact": {"mode": "exact"},
    "topk of all": {"mode": "topk", "k": 10**6},
    "hybrid": {"mode": "hybrid", "accuracy_db": 120},
}
MAPS = ("variance", "ess", "log_density")
SIZES = ((7, 9), (8, 8), (5, 12), (3, 3))

pytestmark = pytest.mark.usefixtures("topk_is_searched")

STRIDED = [
    Problem("denoise", "identity", "identity", stride=2),
    Problem("denoise, more than the image", "identity", "identity", stride=100),
    Problem("denoise, reflect", "identity", "identity", boundary="reflect", steps=65535, stride=4),
    Problem("denoise, valid", "identity", "identity", boundary="valid", steps=0, stride=2),
    Problem("blur, wiener", "blur:gaussian:1.0", "wiener:0.05", kernel=gaussian(1.0), stride=2),
    Problem("grid, mask", "inpaint:FILE", "mask", mask=grid((6, 6, 1)), stride=3),
    Problem("random, epsilon", "inpaint:FILE", "epsilon:0.1", mask=random((6, 6, 1)), stride=2),
]


@pytest.fixture(params=STRIDED, ids=lambda problem: problem.name, scope="module")
def problem(request) -> Problem:
    return request.param


@pytest.fixture(scope="module")
def lemmse(problem, tmp_path_factory) -> Reconstructor:
    return Reconstructor(problem.build(tmp_path_factory.mktemp("problem")))


@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
@pytest.mark.parametrize("sigma", [0.05, 0.5])
def test_agrees_with_the_oracle(problem, lemmse, options, sigma):
    result = lemmse.reconstruct(problem.measurement(sigma), sigma=sigma, maps=MAPS, **options)
    expected = problem.expected(sigma)
    assert agreement(result.image, expected.image) >= problem.decibels
    if options["mode"] != "hybrid":
        slack = 1e-4 + 1e-6 / sigma**2
        np.testing.assert_allclose(result.ess, expected.ess, rtol=10 * slack)
        np.testing.assert_allclose(result.variance, expected.variance, rtol=10 * slack, atol=1e-5)


def test_the_density_is_that_of_the_patches_that_are_there(tmp_path):
    problem = STRIDED[0]
    result = Reconstructor(problem.build(tmp_path)).reconstruct(
        problem.measurement(0.2), sigma=0.2, mode="exact", maps=["log_density"]
    )
    expected = oracle(problem.training, problem.measurement(0.2), 0.2, P, stride=2)
    np.testing.assert_allclose(result.log_density, expected.log_density, rtol=1e-4)


def test_contributors_have_their_place_in_the_training_image(problem, lemmse):
    expected = problem.expected(0.1)
    weights = dict(zip(expected.ids, expected.weights[1, 2], strict=True))
    named = lemmse.explain(problem.measurement(0.1), sigma=0.1, pixel=(1, 2), top=5).contributors
    assert named
    for c in named:
        assert c.weight == pytest.approx(weights[c.image, c.row, c.column], rel=1e-2, abs=1e-9)


@pytest.mark.parametrize("boundary", ["circular", "valid"])
@pytest.mark.parametrize("augment", ["none", "dihedral"])
@pytest.mark.parametrize(("p", "stride"), [(3, 2), (4, 3)])
def test_an_index_holds_every_patch_of_the_grid_once(tmp_path, boundary, augment, p, stride):
    images = [np.rint(255 * smooth(seed, *size, 1)).astype(np.uint8) for seed, size in enumerate(SIZES)]
    index = index_of(tmp_path, images, patch_size=p, boundary=boundary, augment=augment, stride=stride)
    border, outside = (p // 2, p - 1) if boundary == "valid" else (0, 0)
    expected = []
    for k, image in enumerate(images):
        for s in range(len(SYMMETRIES) if augment == "dihedral" else 1):
            copy = apply((image / 255).astype(np.float32), s)
            places = apply(np.stack(np.indices(image.shape[:2]), axis=-1), s)
            height, width = copy.shape[:2]
            expected += [
                (*patch(copy, i, j, p), *copy[i, j], k, *places[i, j])
                for i in range(border, height - outside + border, stride)
                for j in range(border, width - outside + border, stride)
            ]
    found = [(*v, *t, *i) for v, t, i in zip(*everything(index), strict=True)]
    assert sorted(found) == sorted(expected)
    assert index.manifest.keys == len(expected)


def test_blocks_of_images_hold_no_more_pixels_for_a_stride(tmp_path, monkeypatch):
    few_at_a_time(monkeypatch, 100)
    images = [np.rint(255 * smooth(seed, 8, 8, 1)).astype(np.uint8) for seed in range(5)]
    whole = index_of(tmp_path, images, patch_size=3, stride=4)
    assert whole.manifest.keys == 5 * 4
    assert whole.corpus(np.arange(5), 100).blocks.tolist() == [0, 1, 2, 3, 4, 5]
    assert whole.corpus(np.arange(5), 130).blocks.tolist() == [0, 2, 4, 5]


@pytest.mark.parametrize("equivariance", ["none", "offset"])
@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
def test_overlap_and_offset_agree_with_the_oracle(tmp_path, equivariance, options):
    images = [smooth(seed, 6, 6, 3) for seed in range(3)]
    index = index_of(tmp_path, images, patch_size=3, equivariance=equivariance, stride=2)
    y, sigma = smooth(71, 5, 4, 3).astype(np.float64), 0.1
    result = Reconstructor(index).reconstruct(y, sigma=sigma, aggregate="overlap", **options)
    expected = quality_oracle(
        images, y, np.full(y.shape, sigma), 3, aggregate="overlap", equivariance=equivariance, stride=2
    )
    assert agreement(result.image, expected.image) >= 80


@pytest.mark.parametrize("estimator", ["mmse", "e-mmse"])
def test_whole_images_take_no_notice(tmp_path, estimator):
    images = [smooth(seed, 6, 7, 1) for seed in range(4)]
    (tmp_path / "all").mkdir()
    strided = Reconstructor(index_of(tmp_path, images, patch_size=3, stride=3))
    whole = Reconstructor(index_of(tmp_path / "all", images, patch_size=3))
    y = smooth(80, 6, 7, 1)
    a, b = (lemmse.reconstruct(y, sigma=0.3, estimator=estimator, maps=MAPS) for lemmse in (strided, whole))
    for name in ("image", *MAPS):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_equal_patches_are_counted(tmp_path):
    image = np.tile(np.rint(255 * smooth(0, 4, 4, 1)).astype(np.uint8), (3, 2, 1))  # of period 4
    index = index_of(tmp_path, [image, image], patch_size=3, stride=2)
    assert (index.manifest.keys, index.manifest.distinct) == (2 * 6 * 4, 4)
    assert index.multiplicity.tolist() == [12] * 4


def test_an_update_has_the_stride_of_the_index(tmp_path):
    images = [np.rint(255 * smooth(seed, 9, 8, 1)).astype(np.uint8) for seed in range(6)]
    (tmp_path / "all").mkdir()
    fresh = index_of(tmp_path / "all", images, patch_size=3, stride=3)
    index = index_of(tmp_path, images[:4], patch_size=3, stride=3)
    for k in (4, 5):
        np.save(tmp_path / f"{k}.npy", images[k][None])
    updated = open_index(update([tmp_path / "4.npy", tmp_path / "5.npy"], tmp_path / "index"))
    assert index.manifest.stride == updated.manifest.stride == 3
    assert updated.manifest.digest == fresh.manifest.digest
    assert by_cell(updated) == by_cell(fresh)


def test_a_view_without_an_image_has_the_stride(tmp_path):
    images = [smooth(seed, 9, 8, 1) for seed in range(4)]
    view = leave_out(index_of(tmp_path, images, patch_size=3, stride=2), np.array([1]))
    assert view.manifest.keys == 3 * 5 * 4
    assert len(view.corpus(np.array([0, 2, 3]), 1000)) == 3 * 5 * 4
    assert view.mixture is not None


@pytest.mark.parametrize(
    ("problem", "where"),
    [
        (Problem("", "inpaint:center:3", "mask", (8, 8, 1), stride=2), r"\(\d, \d\)"),
        (Problem("", "inpaint:FILE", "mask", mask=grid((6, 6, 1)), stride=2), r"\(0, 1\)"),
        (Problem("", "inpaint:FILE", "mask", mask=grid((6, 6, 1)), stride=4, boundary="valid"), r"\(0, 0\)"),
    ],
)
def test_a_mask_with_patterns_beside_the_grid_is_refused(tmp_path, problem, where):
    with pytest.raises(
        InvalidArgument,
        match=rf"stride: expected 1 for physics 'inpaint:.*' and pre-inverse 'mask', got "
        rf"{problem.stride}: in images of .* no patch at that stride misses the pixels that the one around "
        rf"{where} does",
    ):
        problem.build(tmp_path)
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("stride", [0, -1, 4097, 10**30])
def test_no_stride(tmp_path, stride):
    with pytest.raises(
        InvalidArgument, match=rf"stride: expected a whole number in \[1, 4096\], got {stride}"
    ):
        index_of(tmp_path, [smooth(0, 6, 6, 1)], stride=stride)


def index_of(folder, images, **options):
    sources = []
    for k, image in enumerate(images):
        sources.append(folder / f"{k}.npy")
        np.save(sources[-1], image[None])
    return open_index(build(sources, folder / "index", **options))
