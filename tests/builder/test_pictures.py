"""Which pictures are best, measured on held-out images, and `quality="best"`, which takes them."""

from dataclasses import replace

import numpy as np
import pytest

from lemmse.calibration import calibrate, measure_pictures
from lemmse.contract.errors import InvalidArgument
from lemmse.estimator import Reconstructor
from lemmse.index import build, open_index
from lemmse.index.storage.picture_record import Pictures, Refinement
from tests.support.cases import smooth

SIGMAS = (0.02, 0.2)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    np.save(folder / "images.npy", np.stack([smooth(k, 16, 16, 1) for k in range(10)]))
    return open_index(build([folder / "images.npy"], folder / "index", patch_size=3))


@pytest.fixture(scope="module")
def pictures(index):
    return measure_pictures(index, calibrate(index, sigmas=SIGMAS), sigmas=SIGMAS)


@pytest.fixture(scope="module")
def reconstructor(index, pictures):
    return Reconstructor(replace(index, manifest=replace(index.manifest, pictures=pictures)))


def ran(result) -> Refinement:
    said = result.diagnostics
    return Refinement(said.aggregate, said.bandwidth, said.gaussian_share)


def psnr(a, b) -> float:
    return float(-10 * np.log10(np.square(a - b).mean()))


def test_the_best_is_no_worse_than_the_paper(pictures):
    assert pictures.sigmas == SIGMAS
    assert pictures.images == 5  # no more than half of the images are taken out
    for best, paper in zip(pictures.best_db, pictures.paper_db, strict=True):
        assert best >= paper
    np.testing.assert_allclose(pictures.noisy_db, [34, 14], atol=0.5)


def test_noise_below_the_distance_of_patches_takes_gaussians(pictures):
    assert pictures.refinements[0].gaussian_share > 0
    assert pictures.best_db[0] > pictures.paper_db[0] + 3


@pytest.mark.parametrize("sigma", SIGMAS)
def test_quality_best_is_better_on_images_never_seen(reconstructor, pictures, sigma):
    rng = np.random.default_rng(9)
    gains = []
    for seed in range(100, 105):
        x = smooth(seed, 16, 16, 1)
        y = (x + sigma * rng.standard_normal(x.shape)).astype(np.float32)
        best, paper = (reconstructor.reconstruct(y, sigma=sigma, quality=q) for q in ("best", "paper"))
        assert ran(best) == pictures.best(sigma)
        assert ran(paper) == Refinement()
        gains.append(psnr(best.image, x) - psnr(paper.image, x))
    assert np.mean(gains) > 0


def test_a_mask_takes_the_best_of_the_noise_of_what_was_observed(reconstructor, pictures):
    x = smooth(100, 8, 8, 1)
    result = reconstructor.reconstruct(x, sigma=0.2, mask=x > 0.3, quality="best")
    assert ran(result) == pictures.best(0.2)


def test_pictures_are_what_the_manifest_restores(index, pictures, tmp_path):
    replace(index.manifest, pictures=pictures).write(tmp_path)
    assert type(index.manifest).read(tmp_path).pictures == pictures


def test_best_needs_a_measurement(index):
    with pytest.raises(
        InvalidArgument, match="quality: expected paper, since index 'index' was not calibrated"
    ):
        Reconstructor(index).reconstruct(smooth(100, 8, 8, 1), sigma=0.1, quality="best")


def test_where_there_is_one_way_best_is_the_paper(tmp_path):
    np.save(tmp_path / "images.npy", np.stack([smooth(k, 8, 8, 1) for k in range(2)]))
    folder = build([tmp_path / "images.npy"], tmp_path / "index", patch_size=3, physics="blur:gaussian:0.6")
    result = Reconstructor(open_index(folder)).reconstruct(smooth(3, 8, 8, 1), sigma=0.1, quality="best")
    assert ran(result) == Refinement()


@pytest.mark.parametrize(
    ("sigma", "expected"),
    [
        (0.001, Refinement("centre", 0.04, 1.0)),
        (0.02, Refinement("centre", 0.04, 1.0)),
        (0.2, Refinement("overlap", 0.0, 0.01)),
        (5.0, Refinement("overlap", 0.0, 0.01)),
        (np.sqrt(0.02 * 0.2) * 0.99, Refinement("centre", pytest.approx(0.02, abs=1e-3), 1.0)),
        (np.sqrt(0.02 * 0.2) * 1.01, Refinement("overlap", pytest.approx(0.02, abs=1e-3), 0.01)),
    ],
)
def test_between_two_sigmas(sigma, expected):
    ways = Refinement("centre", 0.04, 1.0), Refinement("overlap", 0.0, 0.01)
    pictures = Pictures(1, SIGMAS, ways, best_db=(30.0, 20.0), paper_db=(0.0, 0.0), noisy_db=(0.0, 0.0))
    assert pictures.best(sigma) == expected
    assert pictures.expected_db(sigma) == pytest.approx(30 - 10 * np.clip(np.log10(sigma / 0.02), 0, 1))
