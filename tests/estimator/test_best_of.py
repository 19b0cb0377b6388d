"""Which of several indexes of different images answers: the one that describes the image."""

from dataclasses import replace

import numpy as np
import pytest

from lemmse.contract.errors import InvalidArgument
from lemmse.contract.measurement import Measurement
from lemmse.contract.options import Options
from lemmse.estimator import Reconstructor, Registry
from lemmse.estimator.best_of import BestOf
from lemmse.index import build, open_index
from lemmse.index.storage.picture_record import Pictures, Refinement

BEST = Options(quality="best")


def stripes(seed: int, along: int) -> np.ndarray:
    """An image of steps along one axis."""
    rng = np.random.default_rng(seed)
    image = np.empty((16, 16, 1), np.float32)
    image[...] = rng.choice([0.1, 0.5, 0.9], 16)[:, None, None]
    return image if along == 0 else image.transpose(1, 0, 2)


def index_of(folder, name, images, best_db, **options):
    np.save(folder / f"{name}.npy", np.stack(images))
    index = open_index(build([folder / f"{name}.npy"], folder / name, **{"patch_size": 3} | options))
    rows = {"best_db": (best_db,), "paper_db": (0.0,), "noisy_db": (0.0,)}
    pictures = Pictures(1, (0.1,), (Refinement(gaussian_share=0.01),), **rows)
    return Reconstructor(replace(index, manifest=replace(index.manifest, pictures=pictures)), device="cpu")


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """Indexes of stripes across and down; of the latter also one that calibration found worse."""
    folder = tmp_path_factory.mktemp("stripes")
    across, down = ([stripes(seed, along) for seed in range(8)] for along in (0, 1))
    found = [
        index_of(folder, "across", across, 20.0),
        index_of(folder, "down", down, 30.0),
        index_of(folder, "larger", down, 25.0, patch_size=5),
    ]
    return Registry({one.name: one for one in found})


@pytest.mark.parametrize("sigma", [0.03, 0.1, 0.3, "auto"])
@pytest.mark.parametrize("along", [0, 1])
def test_the_index_that_describes_the_image_answers(registry, along, sigma):
    noise = 0.1 if sigma == "auto" else sigma
    for seed in range(20, 24):
        y = stripes(seed, along) + noise * np.random.default_rng(seed).standard_normal((16, 16, 1))
        measurement = Measurement.checked(y, sigma=sigma, mask=None)
        best = registry.choose("", "best", measurement)
        assert isinstance(best, BestOf)
        assert best.name == "across,down,larger"
        found = best.answer(measurement, BEST)
        assert found.diagnostics.index == ("across", "down")[along]
        assert bool(found.diagnostics.sigma) == (sigma == "auto")
        if sigma != "auto":
            told = registry.get(found.diagnostics.index).answer(measurement, BEST)
            np.testing.assert_array_equal(found.image, told.image)


@pytest.mark.parametrize("along", [0, 1])
def test_at_high_noise_the_density_of_patches_tells(registry, along):
    for seed in range(20, 24):
        y = stripes(seed, along) + 0.6 * np.random.default_rng(seed).standard_normal((16, 16, 1))
        measurement = Measurement.checked(y, sigma=0.6, mask=None)
        found = registry.choose("", "best", measurement).answer(measurement, BEST).diagnostics.index
        densities = {
            name: registry.get(name).reconstruct(y, sigma=0.6, maps=("log_density",), gaussian_share=0.01)
            for name in ("across", "down")
        }
        assert found == max(densities, key=lambda name: densities[name].log_density.mean())
        assert found == ("across", "down")[along]


@pytest.mark.parametrize("along", [0, 1])
def test_patches_of_two_sizes_are_judged_by_the_error_to_expect(tmp_path, along):
    across = index_of(tmp_path, "across", [stripes(seed, 0) for seed in range(8)], 20.0)
    down = index_of(tmp_path, "down", [stripes(seed, 1) for seed in range(8)], 30.0, patch_size=5)
    both = Registry({"across": across, "down": down})
    y = stripes(20, along) + 0.1 * np.random.default_rng(20).standard_normal((16, 16, 1))
    measurement = Measurement.checked(y, sigma=0.1, mask=None)
    found = both.choose("", "best", measurement).answer(measurement, BEST).diagnostics.index
    assert found == ("across", "down")[along]


def test_masks_and_noise_maps(registry):
    y, s = stripes(30, 1), np.full((16, 16), 0.1)
    mask = np.random.default_rng(0).random((16, 16)) < 0.7
    for asked in ({"sigma": 0.1, "mask": mask}, {"sigma": s, "mask": None}, {"sigma": "auto", "mask": mask}):
        measurement = Measurement.checked(y, **asked)
        best = registry.choose("", "best", measurement)
        assert best.answer(measurement, BEST).diagnostics.index == "down"


@pytest.mark.parametrize("gain", [0.01, "auto"])
def test_counts(registry, gain, tmp_path):
    """An index that takes no noise maps does not answer, although calibration found it best."""
    offset = index_of(tmp_path, "offset", [stripes(k, 1) for k in range(8)], 40.0, equivariance="offset")
    both = Registry({one.name: one for one in (*registry, offset)})
    y = 0.01 * np.random.default_rng(3).poisson(stripes(30, 1) / 0.01)
    measurement = Measurement.checked(y, sigma=0.05, noise="poisson-gaussian", gain=gain, mask=None)
    best = both.choose("", "best", measurement)
    found = best.answer(measurement, BEST).diagnostics
    assert found.index == "down"
    assert (found.gain is None) == (gain != "auto")
    told = replace(measurement, gain=found.gain or gain, sigma=found.sigma[0] if found.sigma else 0.05)
    expected = both.get("down").differentiate(told, y, BEST)
    np.testing.assert_array_equal(best.differentiate(measurement, y, BEST), expected)


def test_the_other_estimators(registry):
    measurement = Measurement.checked(stripes(30, 1), sigma=0.1, mask=None)
    best = registry.choose("", "best", measurement)
    assert best.answer(measurement, replace(BEST, estimator="mmse")).diagnostics.index == "down"


def test_its_work_is_that_of_an_answer_and_of_a_sample_by_each(registry):
    measurement = Measurement.checked(stripes(1, 0), sigma=0.1, mask=None)
    work = [one.work(measurement, BEST) for one in registry]
    assert registry.choose("", "best", measurement).work(measurement, BEST) == max(work) + sum(work) / 4


@pytest.mark.parametrize("sigma", [0.1, "auto"])
def test_a_derivative_is_that_of_the_index_that_answers(registry, sigma):
    y, vector = np.random.default_rng(4).standard_normal((2, 16, 16, 1))
    measurement = Measurement.checked(stripes(20, 1) + 0.1 * y, sigma=sigma, mask=None)
    best = registry.choose("", "best", measurement)
    answer = best.answer(measurement, BEST).diagnostics
    told = replace(measurement, sigma=answer.sigma[0] if answer.sigma else sigma)
    expected = registry.get(answer.index).differentiate(told, vector, BEST)
    np.testing.assert_array_equal(best.differentiate(measurement, vector, BEST), expected)
    work = [one.derivative_work(measurement, BEST) for one in registry]
    assert best.derivative_work(measurement, BEST) == max(work) + sum(work) / 4
    with pytest.raises(InvalidArgument, match=r"^exclude: expected none without the name of an index"):
        best.differentiate(measurement, vector, replace(BEST, exclude=("0",)))
